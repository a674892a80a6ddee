"""What AWS lets the tiers do with the tables of people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chalicelib.auth.tables import MODELS, User
from chalicelib.config import Settings
from chalicelib.errors import SettingsError
from nas_gateway.files.tables import Usage

ROOT = Path(__file__).parents[2]
TABLE = "arn:aws:dynamodb:*:*:table/"
WEB = {
    "SERVER_ROLE": "web",
    "INTERNAL_API_KEY": "k" * 32,
    "SERVICES_URL": "https://services",
    "SESSION_SECRET": "s" * 32,
}


def statements(stage: str, table: str) -> dict[str, dict[str, Any]]:
    """The statement that allows each action on a table."""
    document = json.loads((ROOT / ".chalice" / f"policy-{stage}.json").read_text())
    return {
        action.removeprefix("dynamodb:"): statement
        for statement in document["Statement"]
        if statement["Effect"] == "Allow" and TABLE + table in statement["Resource"]
        for action in statement["Action"]
    }


def test_the_web_tier_reads_users_and_changes_of_them_only_what_sign_ins_count() -> None:
    allowed = statements("web", "depot-users")
    assert set(allowed) == {"GetItem", "UpdateItem"}
    condition = allowed["UpdateItem"]["Condition"]["ForAllValues:StringEquals"]
    attributes = set(condition["dynamodb:Attributes"])
    assert attributes == {"username", "failed_sign_ins", "locked_until", "totp_step", "recovery"}
    assert attributes <= set(User.get_attributes())
    assert "Condition" not in allowed["GetItem"]


def test_the_web_tier_makes_no_tokens_cohorts_or_grants() -> None:
    assert set(statements("web", "depot-tokens")) == {"GetItem", "UpdateItem"}
    assert statements("web", "depot-tokens")["UpdateItem"]["Condition"]
    assert set(statements("web", "depot-rates")) == {"GetItem", "UpdateItem"}
    for table in ("cohorts", "break-glass", "usage"):
        assert statements("web", f"depot-{table}") == {}


@pytest.mark.parametrize(("stage", "prefix"), [("services", "depot"), ("dev", "depot-dev")])
def test_the_services_tier_reaches_every_table_of_people_and_scans_none(stage: str, prefix: str) -> None:
    for model in [*MODELS, Usage]:
        allowed = statements(stage, f"{prefix}-{model.Meta.suffix}")  # type: ignore[attr-defined]
        assert "UpdateItem" in allowed
        assert "Scan" not in allowed
        if model._indexes:
            assert "Query" in statements(stage, f"{prefix}-{model.Meta.suffix}/index/*")  # type: ignore[attr-defined]


def test_trusted_proxies_are_addresses_and_networks() -> None:
    def proxies(text: str) -> list[str]:
        return [str(each) for each in Settings.from_env({**WEB, "TRUSTED_PROXIES": text}).trusted_proxies]

    assert proxies("") == ["127.0.0.1/32", "::1/128"]
    assert proxies("10.0.0.0/8, 192.0.2.1") == ["10.0.0.0/8", "192.0.2.1/32"]
    assert proxies("none") == []
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
        proxies("nginx")


def test_quotas_hold_where_they_are_set() -> None:
    made = Settings.from_env({**WEB, "QUOTA_COHORT_BYTES": "1000"})
    assert (made.quota_cohort_bytes, made.quota_cohort_files) == (1000, None)
    with pytest.raises(SettingsError, match="QUOTA_USER_UPLOADS"):
        Settings.from_env({**WEB, "QUOTA_USER_UPLOADS": "none"})
