"""Fires an app's `@app.schedule` handlers in this process, as EventBridge does in AWS. Used by `server` only.

Each runs on a thread of its own, so it never waits for requests nor they for it; one that is still running when its time
comes again is not started twice here, and between hosts the handler's own lease decides. The first fire of a handler is the
next time that its expression names: nothing is fired at the start. APScheduler is used for its clock alone: nothing is stored.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from apscheduler.executors.base import BaseExecutor, run_job
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from chalice.app import Cron, ScheduledEventConfig

from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.observability import log_event, log_exception

# A host sets no end to a job; but every run has one, as under Lambda (15 minutes: its quota), so that both behave alike and
# a job that goes on for ever does not keep the next ones away.
RUN_MILLISECONDS = 15 * 60 * 1000


def trigger_of(expression: Any) -> BaseTrigger:
    """APScheduler's trigger for a chalice `Cron`, in UTC. Raises `ValueError` for what is not written the same in both.

    (EventBridge counts days of the week from Sunday, APScheduler from Monday; a `Rate` has no fixed begin there.)
    """
    if not isinstance(expression, Cron) or expression.day_of_week != "?":
        raise ValueError("a schedule is a Cron with '?' as its day of the week")
    return CronTrigger(
        year=expression.year,
        month=expression.month,
        day=expression.day_of_month,
        hour=expression.hours,
        minute=expression.minutes,
        second=0,
        timezone=UTC,
    )


@dataclass(slots=True)
class ScheduleContext:
    """What a scheduled handler may ask of a Lambda context. No time is left once the host stops."""

    stopping: threading.Event
    clock: Callable[[], datetime]
    started: datetime
    aws_request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    function_name: str = "depot-host"
    function_version: str = "$LATEST"
    invoked_function_arn: str = ""
    memory_limit_in_mb: str = "0"

    def get_remaining_time_in_millis(self) -> int:
        if self.stopping.is_set():
            return 0
        gone = (self.clock() - self.started).total_seconds() * 1000
        return max(0, int(RUN_MILLISECONDS - gone))


class _Threads(BaseExecutor):  # type: ignore[misc]
    """A daemon thread a run: the pool that APScheduler brings is joined when the interpreter ends, however long that takes."""

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        threading.Thread(target=self._run, args=(job, run_times), name=f"schedule-{job.id}", daemon=True).start()

    def _run(self, job: Any, run_times: list[datetime]) -> None:
        self._run_job_success(job.id, run_job(job, job._jobstore_alias, run_times, self._logger.name))


class Scheduler:
    """The schedules of `app`. `trigger` makes APScheduler's trigger of a handler's expression."""

    def __init__(
        self,
        app: DepotApp,
        *,
        trigger: Callable[[Any], BaseTrigger] = trigger_of,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        # Its own lines would hold the messages of exceptions.
        logging.getLogger("apscheduler").addHandler(logging.NullHandler())
        logging.getLogger("apscheduler").propagate = False
        self._app, self._clock = app, clock
        self._stopping = threading.Event()
        self._lock, self._running = threading.Lock(), 0
        self._scheduler = BackgroundScheduler(timezone=UTC, executors={"default": _Threads()})
        for source in app.event_sources:
            if isinstance(source, ScheduledEventConfig):
                self._scheduler.add_job(
                    partial(self._fire, source.name),
                    trigger(source.schedule_expression),
                    id=source.name,
                    coalesce=True,  # a host that slept through several fires once
                    misfire_grace_time=None,
                    max_instances=1,
                )

    @property
    def running(self) -> int:
        """How many handlers are running."""
        return self._running

    def start(self) -> None:
        """Returns at once."""
        self._scheduler.start()
        log_event("schedules_on", count=len(self._scheduler.get_jobs()))

    def stop(self) -> None:
        """Fire nothing any more, and tell what is running that no time is left. Returns at once."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _fire(self, name: str) -> None:
        if self._stopping.is_set():
            return
        now = self._clock()
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": "",
            "time": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "region": "",
            "resources": [],
            "detail": {},
        }
        with self._lock:
            self._running += 1
        try:
            self._app.handler_map[name](event, ScheduleContext(self._stopping, self._clock, now))
        except Exception as error:  # noqa: BLE001 -- nobody is there to tell; the next event tries again
            log_exception("schedule_failed", error, job=name)
        finally:
            with self._lock:
                self._running -= 1
