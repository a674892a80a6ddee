"""Integrity: stored files are read again and compared. Use-cases; imported by the API, the jobs and the wiring."""
