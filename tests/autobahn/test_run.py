"""run.py without the suite: what it expects, and that it tells every difference."""

from __future__ import annotations

import signal
import sys
import threading

import pytest
from autobahn import page, run
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
        folders = ["--reports", str(tmp_path), "--results", str(tmp_path / "results")]
        monkeypatch.setattr(sys, "argv", ["run.py", *folders, *arguments])
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
    assert counts_in(printed) == {
        one.name: ["517", "514", "3", "0", "0", "0", "0"] for one in run.OURS
    }


def counts_in(printed: str) -> dict[str, list[str]]:
    """Of each run: cases, one for each of run.KINDS, unexpected ones."""
    names = {one.name for one in run.OURS + run.THEIRS}
    rows = [line.split() for line in printed.splitlines()]
    return {row[0]: row[1:-1] for row in rows if row and row[0] in names and row[1].isdigit()}


@pytest.mark.parametrize(
    ("verdict", "counts"),
    [
        (Verdict("NON-STRICT", "OK", "1000"), ["513", "3", "1", "0", "0"]),
        (Verdict("FAILED", "OK", "1000"), ["513", "3", "0", "0", "1"]),
        (Verdict("OK", "WRONG CODE", "1000"), ["513", "3", "0", "0", "1"]),
        (Verdict("OK", "FAILED BY CLIENT", "-"), ["513", "3", "0", "0", "1"]),
        (Verdict("UNIMPLEMENTED", "OK", "1000"), ["513", "3", "0", "1", "0"]),
        (Verdict("OK", "OK", "1001"), ["514", "3", "0", "0", "0"]),
        (Verdict("OK", "OK", "-"), ["514", "3", "0", "0", "0"]),
    ],
)
def test_difference(go, index, verdict, counts):
    index["12.1.1"] = found(verdict)
    code, printed = go("--only", "message-asyncio-client")
    assert code == 1
    assert counts_in(printed) == {"message-asyncio-client": ["517", *counts, "1"]}
    assert f"message-asyncio-client 12.1.1: {verdict}, not OK OK 1000\n" in printed


@pytest.fixture
def no_peers(monkeypatch):
    """A place without .venv-peers."""
    monkeypatch.setattr(run, "versions", lambda one: {one.api: "1.2"})


def test_of_a_peer_nothing_is_expected(go, index, no_peers, tmp_path):
    index["12.1.1"] = found(Verdict("OK", "WRONG CODE", "-"))
    del index["7.13.2"]
    folder = tmp_path / "aiohttp-server"
    folder.mkdir()
    (folder / "testee.log").write_text("it talks\n")
    code, printed = go("--only", "aiohttp-server")
    assert code == 0
    assert counts_in(printed) == {"aiohttp-server": ["516", "513", "2", "0", "0", "1", "0"]}


def test_run_of_all_cases_is_kept(go, index, no_peers, tmp_path):
    index["12.1.1"] = found(Verdict("OK", "FAILED BY CLIENT", "-"))
    go("--only", "sansio-uvloop-server websockets-client")
    names = [path.name for path in (tmp_path / "results").iterdir()]
    assert sorted(names) == ["sansio-uvloop-server.json", "websockets-client.json"]
    kept = page.load(tmp_path / "results")
    assert [one.name for one in kept] == ["sansio-uvloop-server", "websockets-client"]
    for one, made in kept.items():
        assert made.run == one
        assert made.suite == "25.10.1"
        assert made.testee == {one.api: "1.2"}
        assert made.verdicts == run.verdicts_of(index)


def test_run_of_some_cases_is_not_kept(go, tmp_path):
    go("--cases", "1.* 2.* 3.*")
    assert not (tmp_path / "results").exists()


def test_broken_run_is_told_and_the_others_go_on(go, index, tmp_path):
    def judge(self, one, cases):
        if one.side == "server":
            raise run.Broken("did not start")
        return index

    code, printed = go("--only", "message-*", judge=judge)
    assert code == 1
    assert "message-uvloop-server did not start\n" in printed
    assert counts_in(printed)["message-uvloop-server"] == ["0"] * 6 + ["1"]
    assert counts_in(printed)["message-uvloop-client"][-1] == "0"
    # What was kept before is not lost to a run that brought nothing.
    assert {one.side for one in page.load(tmp_path / "results")} == {"client"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ours", [one.name for one in run.OURS]),
        ("peers", [one.name for one in run.THEIRS]),
        ("websockets-server", ["websockets-server"]),
        ("message-*-client", ["message-asyncio-client", "message-uvloop-client"]),
        (
            "aiohttp-* peers",
            [
                "aiohttp-server",
                "aiohttp-client",
                *(one.name for one in run.THEIRS if one.api != "aiohttp"),
            ],
        ),
    ],
)
def test_runs_by_name(text, names):
    assert [one.name for one in run.runs_from(text)] == names


def test_no_such_run(go):
    with pytest.raises(SystemExit):
        go("--only", "ours gorilla-server")


def test_runs_at_the_same_time(go, index):
    together = threading.Barrier(2, timeout=30)

    def judge(self, one, cases):
        together.wait()
        return index

    code, _ = go("--only", "message-asyncio-*", "--jobs", "2", judge=judge)
    assert code == 0


def test_what_is_stopped_leaves_no_process(tmp_path):
    """As SIGTERM does while other threads wait for their runs."""
    suite = run.Suite(run.WSTEST, tmp_path, 30)
    started, ended = threading.Event(), []

    def wait() -> None:
        with suite._process(tmp_path, "testee", sys.executable, "-c", "input()", stdin=-1) as one:
            started.set()
            ended.append(suite._wait(one))

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(30)
    suite.stop()
    thread.join(30)
    assert ended == [-signal.SIGTERM]
    with pytest.raises(run.Broken):
        with suite._process(tmp_path, "testee", sys.executable, "-c", "input()", stdin=-1):
            pytest.fail("it began")


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
    folder = tmp_path / "message-uvloop-server"
    folder.mkdir()
    (folder / "testee.log").write_text("Traceback (most recent call last):\n  ...\n")
    code, printed = go("--only", "message-*-server")
    assert code == 1
    assert "message-uvloop-server printed 2 lines: see " in printed


def test_only_what_was_asked_for_can_be_missing(go, index):
    index.clear()
    code, printed = go("--cases", "1.1.* 10.1.1", "--only", "*-uvloop-server")
    assert code == 1
    wanted = [*(f"1.1.{number}:" for number in range(1, 9)), "10.1.1:"]
    lines = [line.split() for line in printed.splitlines() if "is missing" in line]
    for api in run.APIS:
        assert [line[1] for line in lines if line[0] == f"{api}-uvloop-server"] == wanted


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
