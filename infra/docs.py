"""The pages of docs/ that are printed from the code's own tables: `python -m infra.docs` writes them, a test compares."""

from __future__ import annotations

from pathlib import Path

from chalicelib.auth.policy import ROLES, Permission
from chalicelib.errors import DepotError, table
from chalicelib.metrics import TABLE

DOCS = Path(__file__).parents[1] / "docs"


def errors_page() -> str:
    """docs/errors.md: every error code, its status, whether trying again can help, and the usual message."""
    lines = [
        "# Errors",
        "",
        "Printed from `chalicelib/errors.py` by `python -m infra.docs`. The form is the same on both tiers:",
        '`{"error": {"code", "message", "request_id"}}`. *Again* says whether the same call may succeed later unchanged.',
        "",
        "| code | status | again | message |",
        "|---|---|---|---|",
    ]

    def row(cls: type[DepotError]) -> str:
        return f"| `{cls.code}` | {cls.status} | {'yes' if cls.retryable else 'no'} | {cls.default} |"

    lines += [row(cls) for _, cls in sorted(table().items(), key=lambda item: (item[1].status, item[0]))]
    return "\n".join(lines) + "\n"


def roles_page() -> str:
    """docs/roles.md: the table of roles and permissions that the code enforces."""
    lines = [
        "# Roles",
        "",
        "Printed from `chalicelib/auth/policy.py` by `python -m infra.docs`. *own* counts for the cohorts a user belongs to.",
        "",
        "| role | for | " + " | ".join(permission.value for permission in Permission) + " |",
        "|---|---|" + "---|" * len(Permission),
    ]
    for name, rule in ROLES.items():
        where = "all" if rule.everywhere else "own"
        cells = [where if permission in rule.permissions else "" for permission in Permission]
        lines.append(f"| {name} | {rule.about} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """docs/metrics.md: every metric, when to alarm, and what to do then."""
    lines = [
        "# Metrics and alarms",
        "",
        "Printed from `chalicelib/metrics.py` by `python -m infra.docs`. No label holds a file name, a path, a user or a cohort.",
        "",
        "**On a host** each process answers `GET /metrics` in Prometheus' text format, on both tiers, to who sends",
        "`Authorization: Bearer` with the setting `METRICS_TOKEN`; without the setting the address is 404. A process tells what",
        "it counted itself since it began: add up the counters of all processes, and take the highest of a gauge.",
        "",
        "**Under Lambda** each invocation, a scheduled one too, prints CloudWatch's embedded metric format at its end:",
        "namespace `Depot`, dimension `service` (`depot-web` or `depot-services`) and the labels. The template of the services",
        "tier has an alarm for each name marked \\*, which goes to the SNS topic `AlarmTopic` of the stack: subscribe somebody.",
        "",
        "| metric | kind | unit | labels | what it is | alarm when | what to do |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in TABLE.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        star = " \\*" if metric.watch else ""
        lines.append(
            f"| `{metric.name}`{star} | {metric.kind} | {_UNITS[metric.unit]} | {labels} | {metric.about} | {metric.alarm} "
            f"| {metric.act} |"
        )
    return "\n".join(lines) + "\n"


_UNITS = {"1": "", "By": "bytes", "s": "seconds", "h": "hours"}

PAGES = {"errors.md": errors_page, "roles.md": roles_page, "metrics.md": metrics_page}


def main() -> None:
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())


if __name__ == "__main__":
    main()
