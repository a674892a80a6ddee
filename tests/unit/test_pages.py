"""The pages' small parts: what people read of sizes and times, where signing in leads, who is offered what, static files."""

from __future__ import annotations

import doctest
import gzip
import re

import pytest

from chalicelib.auth.policy import ROLES, Permission, Principal
from chalicelib.web.pages import assets, entry, kit, render, system


@pytest.mark.parametrize("module", [render, entry, system], ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_the_examples_in_the_documentation_hold(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 1024**2 - 1, 1024**3, 5 * 1024**4, 10**18])
def test_a_size_is_short_and_in_the_right_unit(size: int) -> None:
    text = render.in_bytes(size)
    assert re.fullmatch(r"[\d.]+ (bytes?|KiB|MiB|GiB|TiB)", text)
    number, unit = text.split()
    power = {"byte": 0, "bytes": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}[unit]
    assert abs(float(number) * 1024**power - size) <= 0.05 * 1024**power + 1


def test_what_is_not_known_is_a_dash() -> None:
    assert render.in_bytes(None) == render.moment(None) == render.moment("") == "\N{EM DASH}"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example", "/\\evil.example", "https://evil.example/app/", "/app/../../x", "/app//evil.example", "/appx",
        "/app/%2F%2Fevil.example", "/app/?next=x", "/app/\r\nSet-Cookie: x", "/app/é", "javascript:alert(1)", "app/files",
    ],
)  # fmt: skip
def test_signing_in_leads_to_a_page_of_ours_alone(path: str) -> None:
    assert entry.within(path) == kit.HOME


@pytest.mark.parametrize("path", ["/app/audit", "/app/files/0123456789abcdef", "/app/cleanup/0123abcd"])
def test_signing_in_leads_back(path: str) -> None:
    assert entry.within(path) == path


def offered(role: str, *cohorts: str) -> set[str]:
    return {name for _, name in kit.places(Principal("somebody", role, frozenset(cohorts)))}


def test_the_navigation_offers_what_the_table_of_roles_allows() -> None:
    assert offered("superuser") == offered("administrator") == {
        "Upload", "Files", "Audit trail", "Report", "Clean-up", "Holds", "People", "System",
    }  # fmt: skip
    assert offered("cohort_manager", "VACS") == {"Upload", "Files", "Audit trail", "Report"}
    assert offered("auditor") == {"Files", "Audit trail", "Report", "Holds"}
    assert offered("operator") == {"Files", "Report", "Clean-up", "System"}
    assert offered("uploader", "VACS") == {"Upload", "Files"}
    assert offered("cohort_manager") == set(), "of no cohort"
    assert offered("no such role", "VACS") == set()
    assert kit.places(None) == []


def test_cohorts_to_choose_from_are_those_of_the_role() -> None:
    manager = Principal("somebody", "cohort_manager", frozenset({"B", "A"}))
    assert kit.cohorts_of(manager, Permission.UPLOAD) == ["A", "B"]
    assert kit.cohorts_of(Principal("root", "superuser"), Permission.UPLOAD) is None
    assert all(kit.cohorts_of(Principal("x", role), Permission.CLEANUP) in ([], None) for role in ROLES)


def test_the_next_page_asks_the_same_question() -> None:
    assert kit.following({"cohort": "A & B", "name": "", "cursor": "old"}, "new=") == "cohort=A%20%26%20B&cursor=new%3D"
    assert kit.following({"cohort": "A"}, None) is None


def test_every_static_file_is_served_as_what_it_is_and_unpacks_to_itself() -> None:
    found = assets.assets()
    assert {"depot.css", "depot.js", "depot.svg"} <= set(found)
    for name, asset in found.items():
        assert gzip.decompress(asset.packed) == asset.content
        assert assets.url(name) == f"/static/{asset.version}/{name}"
        assert asset.type.split(";")[0] in ("text/css", "text/javascript", "image/svg+xml")


def test_no_template_runs_or_styles_anything_inline() -> None:
    """The pages' policy would stop it: it would look right to nobody but its author."""
    for path in render.TEMPLATES.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|<script(?![^>]* src=)[^>]*>|\sstyle=|\son[a-z]+=|javascript:|https?://", text), (
            path.name
        )
        assert "| safe" not in text or path.name == "report.html", path.name
