"""Reports of a fleet run: they say what the document says, in three shapes."""

from __future__ import annotations

import copy
import json
import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from lxml import etree
from synthetic import synthetic

from firmware_node.tools import fleet_html, fleet_report

_VOID = {"meta", "path", "rect"}  # written without an end tag or with their own
_OPEN_ENDED = {"td", "th"}  # HTML ends them by itself


class Reader(HTMLParser):
    """Holds tags against each other, and keeps what tests ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.rows: list[str] = []  # classes of the table's rows

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "id" in values:
            self.ids.add(str(values["id"]))
        assert not {"src", "style", "onclick"} & values.keys(), attrs
        if "href" in values:
            self.links.append(str(values["href"]))
        if tag == "tr" and re.fullmatch(r"d\d+", values.get("id") or ""):
            self.rows.append(str(values["class"]))
        if tag not in _VOID | _OPEN_ENDED:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID | _OPEN_ENDED:
            assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


# --- JSON -----------------------------------------------------------------------------------------


def test_results_are_the_same_octets_however_the_document_was_made() -> None:
    results = synthetic(homes=20)
    turned = {key: results[key] for key in reversed(results)}
    text = fleet_report.results_json(results)
    assert text == fleet_report.results_json(turned)
    assert json.loads(text) == results
    assert len(text.splitlines()) > len(results["devices"])  # a line each


# --- JUnit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["done", "running"])
def test_each_device_is_a_test_case_in_the_suite_of_its_wave(state: str) -> None:
    results = synthetic(homes=200, state=state)
    root = etree.fromstring(fleet_report.junit(results))
    totals = results["totals"]
    assert len(root.findall(".//testcase")) == totals["devices"] == int(root.get("tests", ""))
    assert int(root.get("failures", "")) == totals["failed"] == len(root.findall(".//failure"))
    assert int(root.get("errors", "")) == totals["in_flight"]
    assert int(root.get("skipped", "")) == totals["skipped"]
    suites = {suite.get("name"): suite for suite in root}
    for wave in results["waves"]:
        suite = suites[wave["name"]]
        assert len(suite.findall("testcase")) == int(suite.get("tests", "")) == wave["size"]
        assert int(suite.get("failures", "")) == wave["failed"]
        properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
        assert properties["image"] == wave["image"] and properties["seed"] == "1"


def test_a_failure_says_why_and_how_to_see_it_again() -> None:
    results = synthetic(homes=200)
    failed = next(device for device in results["devices"] if device["result"] == "failed")
    root = etree.fromstring(fleet_report.junit(results))
    case = next(one for one in root.iter("testcase") if one.get("name") == failed["entity_id"])
    failure = case.find("failure")
    assert failure is not None and failure.text is not None
    assert failure.get("type") == f"{failed['failed_in']}.{failed['cause']}"
    assert failure.get("message") == failed["words"]
    again = f"rig replay 1 --device {failed['entity_id']} --state "
    assert f"{again}fleet-synthetic" in failure.text
    folder = "runs of today/a; b"
    for told in (
        fleet_report.junit(results, folder).decode(),
        unescape(fleet_html.html(results, folder)),
    ):
        assert f"{again}'{folder}'" in told  # as a shell takes it
    assert failed["to_version"] in failure.text


def test_the_page_says_of_each_failed_device_when_why_and_what_it_said() -> None:
    results = synthetic(homes=200)
    failed = next(device for device in results["devices"] if device["result"] == "failed")
    failed["messages"] = ["CCS08 alert 8F89: transfer of 00000002, failure (<signature> valid)"]
    page = fleet_html.html(results)
    entry = next(
        part for part in page.split("<li>") if f"<code>{failed['entity_id']}</code>" in part
    ).partition("</li>")[0]
    assert f"{failed['from_version']} to {failed['to_version']}" in entry
    assert fleet_report.moment(results, failed["ended_ms"])[11:19] in entry and "UTC" in entry
    assert "(&lt;signature&gt; valid)" in entry
    count = sum(group["count"] for group in results["failures"])
    assert f"{count:,} upgrades failed of {results['totals']['offers']:,}" in page


def test_devices_that_no_wave_came_to_are_there_too() -> None:
    results = synthetic(homes=5)
    results["devices"][3] |= {"attempts": [], "result": "not_selected", "wave": None}
    root = etree.fromstring(fleet_report.junit(results))
    suite = root.find("testsuite[@name='without an attempt']")
    assert suite is not None
    assert suite.get("tests") == suite.get("skipped") == "1"
    assert int(root.get("tests", "")) == 10


def test_names_that_xml_and_html_cannot_say_harm_neither() -> None:
    results = synthetic(homes=100)
    ugly = "<b>&\x1b[31m\x00\"'"
    text = json.dumps(results).replace('"pilot-ppmid"', json.dumps(ugly))
    text = text.replace('"self_test"', json.dumps(ugly)).replace('"synthetic"', json.dumps(ugly))
    results = json.loads(text)
    root = etree.fromstring(fleet_report.junit(results))
    assert root.get("name", "").startswith("<b>&")
    page = fleet_html.html(results)
    assert "<b>&" not in page and "&lt;b&gt;&amp;" in page
    read(page)


# --- HTML -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["done", "running", "stopped"])
def test_the_page_is_well_formed_and_needs_nothing_else(state: str) -> None:
    page = fleet_html.html(synthetic(homes=100, state=state))
    reader = read(page)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", page.replace("// The table", ""))
    assert {link.removeprefix("#") for link in reader.links} <= reader.ids
    assert page.count("<style>") == page.count("<script>") == 1


def test_the_page_has_the_numbers_of_the_document() -> None:
    results = synthetic(homes=400, state="running")
    page = fleet_html.html(results)
    reader = read(page)
    for name, count in results["totals"].items():
        if name != "devices":
            assert f'id="total-{name}">{count:,}<' in page
            assert reader.rows.count(name) == (0 if name in ("off", "offers") else count)
    assert len(reader.rows) == results["totals"]["devices"]
    for wave in results["waves"]:
        assert f"{wave['done']} done, {wave['failed']} failed of {wave['size']}" in page
    for group in results["failures"] + results["skips"]:
        assert f'<span class="number">{group["count"]:,}</span>' in page
    for message in results["messages"]:
        assert f'<td class="number">{message["count"]:,}</td>' in page
    bars = re.findall(r" to [\d.: s]+: (\d+)</title>|longer than [\d.: s]+: (\d+)</title>", page)
    assert sum(int(one or other) for one, other in bars) == results["durations"]["count"]
    assert "rig replay 1 " in page


def test_a_run_of_which_nothing_is_known_yet_has_a_page() -> None:
    results = copy.deepcopy(synthetic(homes=1))
    for wave in results["waves"]:
        wave |= {"begun_ms": None, "ended_ms": None, "size": 0, "begun": 0, "done": 0, "failed": 0}
        wave |= {"timeline": [], "state": "waiting", "skipped": 0}
    for device in results["devices"]:
        nothing: dict[str, Any] = dict.fromkeys(device["attempts"][0])
        device |= nothing | {"result": "waiting", "attempts": [], "version": None}
    results |= {"failures": [], "skips": [], "messages": [], "faults": {}, "now_ms": 0}
    results["durations"] = {"count": 0} | dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "max_ms"))
    reader = read(fleet_html.html(results))
    assert reader.rows == ["waiting"] * 2
    etree.fromstring(fleet_report.junit(results))


def test_ten_thousand_devices_stay_a_page_that_a_browser_opens() -> None:
    page = fleet_html.html(synthetic(homes=5000))
    assert len(page.encode()) < 3_000_000
    assert len(read(page).rows) == 10_000


def test_of_a_very_large_fleet_the_page_shows_those_that_failed_first() -> None:
    results = synthetic(homes=200)
    rows = read(fleet_html.html(results, rows_max=50)).rows
    assert len(rows) == 50
    assert rows.count("failed") == results["totals"]["failed"]


def test_the_policy_lets_the_pages_own_style_and_script_through() -> None:
    policy = fleet_html.html_policy()
    assert policy.count("'sha256-") == 2 and "unsafe" not in policy


def test_the_same_document_gives_the_same_octets() -> None:
    assert fleet_html.html(synthetic(homes=30)) == fleet_html.html(synthetic(homes=30))
    assert fleet_report.junit(synthetic(homes=30)) == fleet_report.junit(synthetic(homes=30))
