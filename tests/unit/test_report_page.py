"""The report's page and its plots: names are text, nothing is fetched, the numbers are there for who cannot see plots."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from chalicelib.web import report_page, report_plots, report_text
from chalicelib.web.report_plots import Mark

EVIL = "<script>alert(1)</script>&\"'=cmd|' /C calc'!A0"
AGES = [(0, 1), (1, 2), (2, None)]


def named(*names):
    return [{"name": name, "files": 3 + place, "bytes": 2 ** (30 - place)} for place, name in enumerate(names)]


def report(**more):
    days = [f"2026-01-{day:02d}" for day in range(1, 31)]
    growth = [
        {"day": day, "added_files": place, "added_bytes": place * 1024, "files": None, "bytes": None}
        for place, day in enumerate(days)
    ]
    growth[-1] |= {"files": 9, "bytes": 4096}
    late = [{"name": EVIL, "files": 2, "bytes": 5, "phi_hours": 30.5, "longest": 90.0}]
    made = {
        "generated_at": "2026-01-31T00:00:00Z",
        "snapshot_at": "2026-01-30T12:00:00Z",
        "snapshot_age_hours": 12.0,
        "cohorts": None,
        "totals": {
            "files": 12,
            "bytes": 4096,
            "temporary": {"files": 2, "bytes": 5},
            "corrupt": {"files": 1, "bytes": 1},
        },
        "by_disk": named("workspace"),
        "by_cohort": named(EVIL, "", *(f"C{number}" for number in range(20))),
        "by_type": named("patient"),
        "growth": growth,
        "temporary_ages": [{"from_hours": a, "to_hours": b, "files": 1, "bytes": 2} for a, b in AGES],
        "oldest_temporary_hours": 90.0,
        "overdue": {"files": 2, "bytes": 5, "phi_hours": 30.5, "complete": False, "by_cohort": late},
        "open_intents": {"count": 3, "complete": True, "oldest": "2026-01-30T00:00:00Z"},
        "jobs": [
            {"name": "sweep", "overdue": True, "runs": []},
            {
                "name": "report",
                "overdue": False,
                "runs": [{"outcome": "completed", "finished": "2026", "started": "2"}],
            },
        ],
    }
    return made | more


class Page(HTMLParser):
    """Tags, attributes and text, as a browser takes them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "rect", "line", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def text():
    return report_page.render(report())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_names_are_text_and_never_markup(text, page):
    assert "script" not in page.tags
    assert "<script" not in text
    assert EVIL in page.text
    assert page.open == []


def test_nothing_is_fetched_and_nothing_runs(page):
    names = {name for _, name, _ in page.attributes}
    assert not names & {"src", "href", "style", "xlink:href", "action", "srcset"}
    assert not [name for name in names if name.startswith("on")]
    assert {"link", "img", "iframe", "object", "form"} & set(page.tags) == set()


def test_the_policy_allows_the_pages_own_style_and_no_more(text, page):
    policy = next(value for tag, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy == report_page.POLICY
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "url(" not in style[1]
    assert "prefers-color-scheme: dark" in style[1]


def test_every_plot_has_a_title_and_a_description_of_its_own(text):
    plots = re.findall("<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 7
    idents = []
    for plot in plots:
        root = ET.fromstring(plot)
        title, about = (root.find(name) for name in ("title", "desc"))
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {about.attrib['id']}"
        assert title.text
        assert about.text
        idents += [title.attrib["id"], about.attrib["id"]]
    assert len(set(idents)) == len(idents)


def test_what_a_plot_leaves_out_is_in_the_table(text):
    cohorts = re.search('<svg[^>]*"by_cohort-title.*?</svg>', text, re.DOTALL)[0]
    assert cohorts.count("<rect") == report_page.SHOWN
    assert "10 more are in the table" in cohorts
    for number in range(20):
        assert f'<th scope="row">C{number}</th>' in text


def test_an_empty_report_is_a_page_too():
    nothing = {"files": 0, "bytes": 0}
    empty = report(
        snapshot_at=None,
        snapshot_age_hours=None,
        cohorts=["VACS"],
        totals={**nothing, "temporary": nothing, "corrupt": nothing},
        by_disk=[],
        by_cohort=[],
        by_type=[],
        growth=[{"day": "2026-01-01", "added_files": 0, "added_bytes": 0, "files": None, "bytes": None}],
        temporary_ages=[{"from_hours": 0, "to_hours": None, "files": 0, "bytes": 0}],
        oldest_temporary_hours=None,
        overdue={**nothing, "phi_hours": 0, "complete": True, "by_cohort": []},
        open_intents={"count": 0, "complete": True, "oldest": None},
        jobs=[],
    )
    assert "Nothing has been counted yet" in report_page.render(empty)
    told = report_text.render(empty)
    assert "Nothing has been counted yet" in told
    assert "Cohorts: VACS" in told


def test_the_text_says_the_same():
    told = report_text.render(report())
    for part in (
        "12 files",
        "2 files or more  30.5 PHI-hours",
        "CORRUPT",
        "3 operations",
        "never ran",
        "OVERDUE",
        EVIL,
    ):
        assert part in told
    assert all(line == line.rstrip() for line in told.splitlines())


# --- plots --------------------------------------------------------------------------------------------------------


def widths(plot):
    return [float(value) for value in re.findall('class="bar"[^>]* width="([0-9.]+)"', plot)]


def test_bars_are_as_long_as_their_values():
    marks = [Mark("a", 200, "200"), Mark("b", 50, "50"), Mark("c", 0, "none"), Mark("d", 1e-9, "a little")]
    longest, quarter, none, little = widths(report_plots.bars("x", "t", "d", marks))
    assert quarter == pytest.approx(longest / 4)
    assert (none, little) == (0, 1)  # what is there can be seen
    assert widths(report_plots.bars("x", "t", "d", [])) == []
    assert widths(report_plots.bars("x", "t", "d", [Mark("a", 0, "0")])) == [0]


def test_a_line_has_gaps_where_nothing_was_counted():
    marks = [Mark("1", 1, "1"), Mark("2", 2, "2"), None, Mark("4", 4, "4")]
    plot = report_plots.line("x", "t", "d", marks, "4", ["1", "2", "3", "4"])
    (points,) = re.findall('points="([^"]+)"', plot)
    assert len(points.split()) == 2
    assert plot.count("<circle") == 3


def test_columns_and_their_names():
    marks = [Mark(f"day {number}", number, str(number)) for number in range(12)]
    root = ET.fromstring(report_plots.columns("x", "t", "d", marks, "11", every=4))
    heights = [float(rect.attrib["height"]) for rect in root.iter("rect")]
    assert heights == sorted(heights)
    assert [text.text for text in root.iter("text")] == ["11", "0", "day 0", "day 4", "day 8"]
