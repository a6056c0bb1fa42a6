"""run.py without the suite: what it expects, and that it tells every difference."""

from __future__ import annotations

import sys

import pytest
from autobahn import run
from autobahn.run import Verdict

INFORMATIONAL = ["7.1.6", "7.13.1", "7.13.2"]


def found(verdict: Verdict) -> dict[str, object]:
    """A case as wstest's index.json has it."""
    code = None if verdict.code == "-" else int(verdict.code)
    return {
        "behavior": verdict.behavior,
        "behaviorClose": verdict.closing,
        "remoteCloseCode": code,
    }


@pytest.fixture
def index():
    """What the suite finds when all is as expected."""
    return {case: found(verdict) for case, verdict in run.load_expected(["*"]).items()}


@pytest.fixture
def go(monkeypatch, tmp_path, capsys, index):
    """Run with such an index; returns the exit code and what was printed."""

    def go(*arguments: str, judge=lambda self, run, cases: index) -> tuple[int, str]:
        monkeypatch.setattr(run.Suite, "judge", judge)
        monkeypatch.setattr(sys, "argv", ["run.py", "--reports", str(tmp_path), *arguments])
        code = run.main()
        printed = capsys.readouterr().out
        assert (tmp_path / "summary.txt").read_text() in printed
        return code, printed

    return go


def test_all_cases_pass_strictly():
    expected = run.load_expected(["*"])
    assert len(expected) == 517
    assert [case for case in expected if "INFORMATIONAL" in expected[case]] == INFORMATIONAL
    for case, verdict in expected.items():
        kind = "INFORMATIONAL" if case in INFORMATIONAL else "OK"
        assert verdict[:2] == (kind, kind)


def test_as_expected(go):
    code, printed = go()
    assert code == 0
    runs = len(run.SIDES) * len(run.APIS) * len(run.LOOPS)
    rows = [line.split() for line in printed.splitlines()]
    counts = [row[3:8] for row in rows if row[:1] in (["server"], ["client"])]
    assert counts == [["517", "514", "3", "0", "0"]] * runs


@pytest.mark.parametrize(
    ("verdict", "counts"),
    [
        (Verdict("NON-STRICT", "OK", "1000"), ["513", "3", "1", "0"]),
        (Verdict("FAILED", "OK", "1000"), ["513", "3", "0", "1"]),
        (Verdict("OK", "WRONG CODE", "1000"), ["513", "3", "0", "1"]),
        (Verdict("OK", "FAILED BY CLIENT", "-"), ["513", "3", "0", "1"]),
        (Verdict("UNIMPLEMENTED", "OK", "1000"), ["513", "3", "0", "1"]),
        (Verdict("OK", "OK", "1001"), ["514", "3", "0", "0"]),
        (Verdict("OK", "OK", "-"), ["514", "3", "0", "0"]),
    ],
)
def test_difference(go, index, verdict, counts):
    index["12.1.1"] = found(verdict)
    code, printed = go("--sides", "client", "--apis", "message", "--loops", "asyncio")
    assert code == 1
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("client ")]
    assert row[4:9] == [*counts, "1"]
    assert f"client-message-asyncio 12.1.1: {verdict}, not OK OK 1000\n" in printed


def test_missing_case(go, index):
    del index["7.13.2"]
    code, printed = go()
    assert code == 1
    assert "7.13.2: is missing, not INFORMATIONAL INFORMATIONAL 1002\n" in printed


def test_unknown_case(go, index):
    index["14.1"] = found(Verdict("OK", "OK", "1000"))
    code, printed = go()
    assert code == 1
    assert "14.1: OK OK 1000, not among the expected\n" in printed


def test_testee_that_complains(go, tmp_path):
    folder = tmp_path / "server-message-uvloop"
    folder.mkdir()
    (folder / "testee.log").write_text("Traceback (most recent call last):\n  ...\n")
    code, printed = go("--sides", "server", "--apis", "message")
    assert code == 1
    assert "server-message-uvloop printed 2 lines: see " in printed


def test_only_what_was_asked_for_can_be_missing(go, index):
    index.clear()
    code, printed = go("--cases", "1.1.* 10.1.1", "--sides", "server", "--loops", "uvloop")
    assert code == 1
    wanted = [*(f"1.1.{number}:" for number in range(1, 9)), "10.1.1:"]
    lines = [line.split() for line in printed.splitlines() if "is missing" in line]
    for api in run.APIS:
        assert [line[1] for line in lines if line[0] == f"server-{api}-uvloop"] == wanted


@pytest.mark.parametrize(
    ("asked", "cases"),
    [
        ("*", ["*"]),
        ("12.*.1 1.1.1", ["1.1.1", "12.1.1", "12.2.1", "12.3.1", "12.4.1", "12.5.1"]),
    ],
)
def test_suite_is_told_the_very_cases(go, asked, cases):
    told = []
    go("--cases", asked, judge=lambda self, run, cases: told.append(cases) or {})
    assert told
    assert all(one == cases for one in told)


def test_no_such_case(go):
    with pytest.raises(SystemExit):
        go("--cases", "8.*")


def test_quick_is_a_few_dozen_of_every_kind():
    patterns = run.patterns_from("quick 9.*")
    assert patterns[-1] == "9.*"
    quick = run.load_expected(patterns[:-1])
    assert {run.case_key(case)[0] for case in quick} == {1, 2, 3, 4, 5, 6, 7, 12, 13}
    # Each pattern names cases that exist.
    assert all(run.load_expected([pattern]) for pattern in patterns)
