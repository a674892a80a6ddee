"""The tables of jobs: a row a job, which is its lease and says how its last run ended, and a row a run."""

from __future__ import annotations

from pynamodb.attributes import JSONAttribute, NumberAttribute, UnicodeAttribute
from pynamodb.models import Model


class JobState(Model):
    """One job. Times are epoch seconds.

    `epoch` counts the runs that have held the lease and `run` names the one that holds it; `lease_until` is when that hold
    ends unless it is renewed, 0 once it let go. `last_*` are of the last run that ended; `succeeded_at` of the last that
    completed.
    """

    class Meta:
        suffix = "jobs"
        table_name = "jobs"

    job = UnicodeAttribute(hash_key=True)
    epoch = NumberAttribute(default=0)
    lease_until = NumberAttribute(default=0)
    run = UnicodeAttribute(null=True)
    first_at = NumberAttribute(null=True)  # when its first run began
    last_run = UnicodeAttribute(null=True)
    last_outcome = UnicodeAttribute(null=True)
    last_finished = NumberAttribute(null=True)
    succeeded_at = NumberAttribute(null=True)


class JobRun(Model):
    """One run. `run` is the start of its slot of time in epoch seconds, twelve digits; a manual run adds its own id.

    So two runs for one slot cannot both be put, and a job's runs are in order of time.
    """

    class Meta:
        suffix = "job-runs"
        table_name = "job-runs"
        ttl = "expires_at"  # DynamoDB's TTL may remove the row after it; the job `expiry` does so where there is none

    job = UnicodeAttribute(hash_key=True)
    run = UnicodeAttribute(range_key=True)
    run_id = UnicodeAttribute()
    trigger = UnicodeAttribute()
    host = UnicodeAttribute()
    epoch = NumberAttribute()
    started = NumberAttribute()
    outcome = UnicodeAttribute()
    expires_at = NumberAttribute()
    finished = NumberAttribute(null=True)
    counts = JSONAttribute(null=True)
    error_code = UnicodeAttribute(null=True)


MODELS: list[type[Model]] = [JobState, JobRun]
