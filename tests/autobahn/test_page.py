"""docs/conformance.rst: its tables are those of results/, and what these say of ours."""

from __future__ import annotations

import re

import pytest
from autobahn import page, run
from autobahn.page import ALL, Kept
from autobahn.run import RESULTS, ROOT, Verdict, load_expected

MESSAGE, PEER = run.OURS[0], run.THEIRS[0]


@pytest.fixture
def result():
    """A run of all cases, all of them OK but for those that are told; None leaves a case out."""

    def result(one=MESSAGE, **verdicts: Verdict | None) -> Kept:
        cases = dict.fromkeys(ALL, Verdict("OK", "OK", "1000"))
        cases |= {name[1:].replace("_", "."): verdict for name, verdict in verdicts.items()}
        told = {case: verdict for case, verdict in cases.items() if verdict is not None}
        return Kept(one, "25.10.1", "2026-11-20", {"picows": "1.0", "Python": "3.13"}, 9, told)

    return result


def rows_of(text: str, first: str) -> list[list[str]]:
    """The other cells of the rows that begin with this one."""
    return [
        re.findall(r"     - (.*)\n", cells)
        for cells in re.findall(rf"   \* - {re.escape(first)}\n((?:     - .*\n)+)", text)
    ]


def test_page_shows_what_is_kept():
    assert page.TABLES.read_text() == page.tables(page.load(RESULTS)), "run `make conformance`"
    assert page.TABLES.name in (ROOT / "docs" / "conformance.rst").read_text()


def test_ours_is_kept_as_it_must_be():
    expected = load_expected(["*"])
    for one, kept in page.load(RESULTS).items():
        assert kept.suite == run.suite_version(), one.name
        assert set(kept.verdicts) == set(expected), one.name
        if not one.is_peer:
            assert run.differences(kept.verdicts, expected) == [], one.name


def test_results_are_of_runs_that_exist():
    names = {path.name for path in RESULTS.glob("*")}
    assert names <= {f"{one.name}.json" for one in run.OURS + run.THEIRS}


def test_run_that_was_not_made_is_said_so(result):
    text = page.tables({PEER: result(PEER)})
    for name in ("picows, message mode, asyncio", "picows.sansio, uvloop", "aiohttp"):
        assert rows_of(text, name) == [["not run", "not run"]]
    assert rows_of(text, "websockets") == [["517 OK", "not run"]]
    ours, theirs = ["not run"] * 4, ["not run"] * 2
    assert rows_of(text, "1 Framing") == [ours, ours, ["16 OK", "not run"], theirs, theirs]


def test_counts(result):
    kept = result(
        c3_1=Verdict("FAILED", "FAILED", "-"),
        c3_2=Verdict("OK", "WRONG CODE", "1002"),
        c3_3=Verdict("NON-STRICT", "OK", "1002"),
        c3_4=Verdict("INFORMATIONAL", "INFORMATIONAL", "1002"),
        c3_5=Verdict("UNIMPLEMENTED", "OK", "1000"),
        c3_6=None,
    )
    text = page.tables({MESSAGE: kept})
    others = "1 INFORMATIONAL, 1 NON-STRICT, 1 UNIMPLEMENTED, 3 FAILED"
    assert rows_of(text, "picows, message mode, asyncio") == [[f"511 OK, {others}", "not run"]]
    assert rows_of(text, "3 Reserved bits")[0] == [f"1 OK, {others}", *["not run"] * 3]
    told = [line.strip() for line in text.splitlines() if line.startswith("  * ")]
    assert told == [
        "* INFORMATIONAL: 3.4",
        "* NON-STRICT: 3.3",
        "* UNIMPLEMENTED: 3.5",
        "* FAILED: 3.1",
        "* OK, closing WRONG CODE: 3.2",
        "* FAILED, closing not in the report: 3.6",
    ]


def test_sections_are_those_of_the_suite():
    assert list(page.SECTIONS) == list(dict.fromkeys(case.split(".")[0] for case in ALL))
    assert sum(len(page.cases_of(section)) for section in page.SECTIONS) == len(ALL)


@pytest.mark.parametrize(
    ("patterns", "text"),
    [
        (["1.1.2", "7.13.1"], "1.1.2, 7.13.1"),
        (["13.*"], "13.*"),
        (["1.1.*", "1.2.3", "10.1.1"], "1.1.*, 1.2.3, 10.1.1"),
        (["12.1.1", "12.1.1?"], "12.1.1, 12.1.10 to 12.1.18"),
        (["6.4.1", "6.4.2", "6.4.3"], "6.4.1 to 6.4.3"),
        (["2.10", "2.11"], "2.10, 2.11"),
    ],
)
def test_listing(patterns, text):
    assert page.listing(list(load_expected(patterns))) == text
