"""People: users, cohorts, tokens, second factors and broken glasses. Every change is one transaction with its event."""
