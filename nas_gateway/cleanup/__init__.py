"""Clean-up as plan and apply: candidates, plans, receipts, holds. Use-cases; imported by the API, the jobs and the wiring."""
