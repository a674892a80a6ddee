"""The services tier: the only code that reaches the NAS and the ledger. Never part of the web tier's package."""
