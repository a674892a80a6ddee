"""The PHI ledger: who moved which file when, in hash chains that an auditor can check.

`events` and `chain` know the format and nothing of AWS; `tables` holds the DynamoDB classes; `append` writes to a chain;
`ledger` is what use-cases call; `queries` reads. `docs/ledger-format.md` describes the format for others.
"""
