"""The documents keep up with the code."""

import re
from pathlib import Path

import pytest

from infra import docs

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", docs.PAGES)
def test_printed_pages_are_as_the_code_prints_them(name):
    assert (docs.DOCS / name).read_text() == docs.PAGES[name](), "run: python -m infra.docs"


def test_every_setting_that_is_read_is_documented():
    source = (ROOT / "chalicelib" / "config.py").read_text()
    read = set(re.findall(r'"([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)"', source))
    assert len(read) > 15
    documented = (docs.DOCS / "settings.md").read_text()
    assert [name for name in sorted(read) if f"`{name}`" not in documented] == []


def test_every_link_in_the_documents_leads_somewhere():
    for page in [ROOT / "README.md", *docs.DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_has_exactly_two_set_up_commands():
    section = (ROOT / "README.md").read_text().split("## Set up")[1].split("##")[0]
    assert re.findall(r"^    make (\w+)", section, re.MULTILINE) == ["run", "test"]
