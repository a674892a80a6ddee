"""The scheduled handlers, one a job: EventBridge invokes each as a Lambda function, the streaming host calls the same ones.

An event may come twice, late, or on many hosts: its time says which slot it is for, and `Jobs` runs each slot once.
Registered by app.py in the services role.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from chalice.app import Blueprint, CloudWatchEvent, Cron

from nas_gateway.jobs import Deadline
from nas_gateway.jobs.jobs import Jobs
from nas_gateway.jobs.standard import PLANS, Plan

# What the handlers' names begin with in app.py, which has other things by the names of jobs.
HANDLER = "job_"


def blueprint(jobs: Callable[[], Jobs], plans: tuple[Plan, ...] = PLANS) -> Blueprint:
    """The blueprint over jobs that are wired when the first event comes."""
    bp = Blueprint("app")  # where Lambda finds the handlers by their names
    for plan in plans:
        bp.schedule(expression(plan), name=plan.name, description=f"Depot {plan.about}")(_handler(plan.name, jobs))
    return bp


def expression(plan: Plan) -> Cron:
    """When its events are sent, in UTC: every five minutes, or every hour."""
    return Cron(f"{plan.minute}/5" if plan.frequent else plan.minute, "*", "*", "*", "?", "*")


def _handler(name: str, jobs: Callable[[], Jobs]) -> Callable[[CloudWatchEvent], dict[str, Any]]:
    def handler(event: CloudWatchEvent) -> dict[str, Any]:
        """Raises `LedgerUnavailable` when the run did not begin: Lambda sends the same event again then."""
        at = datetime.fromisoformat(event.time).timestamp()
        return jobs().fire(name, at, Deadline.of(event.context)).to_json()

    handler.__name__ = HANDLER + name  # the last part of the function's handler string
    return handler
