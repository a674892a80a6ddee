"""Scheduled jobs: what runs when, one winner a slot of time, a record of each run. Fired by `schedules` and the CLI."""
