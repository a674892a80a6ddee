"""Scheduled jobs: what runs when, one winner a slot of time, a record of each run. Fired by `schedules` and the CLI.

`Deadline` is what a job is handed: folders below this one import it for type checking alone.
"""

from nas_gateway.jobs.deadline import Deadline, Incomplete

__all__ = ["Deadline", "Incomplete"]
