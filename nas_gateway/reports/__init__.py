"""Reports: what is stored where, what grows, what is overdue. Use-cases; imported by the API, the jobs and the wiring."""
