"""The Autobahn TestSuite against our server and our client: `make autobahn`.

    python -m autobahn.run --wstest ../.venv-autobahn/bin/wstest --cases "1.* 6.4.*" --sides server

For each api, loop and side, one after the other: the suite's fuzzing client goes through its cases
against agent.py's server, or agent.py's client goes through those of its fuzzing server. What it
says of each case is compared with expected.txt; a difference, a missing case too, or a testee that
prints an error makes the exit code 1. build/autobahn/ gets summary.txt, and for each run a folder
with the suite's own reports (index.html) and what the processes printed.

All 517 cases take some twelve minutes a run, most of them for 12.* and 13.* (compression). `--cases
quick` is what test_replay.py replays in CI, where there is no suite: it needs a Python 2.7, which
Debian does not have any more. record.py makes the recording of it.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from autobahn.agent import APIS, LOOPS

import picows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REPORTS = ROOT / "build" / "autobahn"
WSTEST = ROOT / ".venv-autobahn" / "bin" / "wstest"
SIDES = ("server", "client")

# Short messages only, a few of each kind.
QUICK = (
    *("1.1.1", "1.1.2", "1.1.3", "1.1.4", "1.1.5", "1.2.1", "1.2.2", "1.2.3", "1.2.4", "1.2.5"),
    *("2.*", "3.*", "4.*", "5.*", "6.1.*", "6.2.*", "6.3.*", "6.4.*", "6.22.1", "6.23.1"),
    *("7.1.1", "7.1.2", "7.1.3", "7.1.4", "7.1.5", "7.3.*", "7.5.1", "7.7.*", "7.9.*", "7.13.*"),
    *("12.1.1", "13.1.3", "13.2.3", "13.3.3", "13.4.3", "13.5.3", "13.6.3", "13.7.3"),
)

# Seconds until the other process listens, or has ended when it was told to.
START_LIMIT = 60


class Verdict(NamedTuple):
    """What the suite says of a case."""

    behavior: str
    closing: str
    code: str  # of our CLOSE; "-" where there was none

    def __str__(self) -> str:
        return " ".join(self)


class Run(NamedTuple):
    side: str
    api: str
    loop: str

    @property
    def name(self) -> str:
        return "-".join(self)


class Result(NamedTuple):
    run: Run
    verdicts: dict[str, Verdict]
    seconds: float
    differences: list[str]


def case_key(case: str) -> list[int]:
    return [int(part) for part in case.split(".")]


def load_expected(patterns: list[str]) -> dict[str, Verdict]:
    """Of the cases that are asked for."""
    lines = (HERE / "expected.txt").read_text().splitlines()
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    return {
        case: Verdict(*verdict)
        for case, *verdict in rows
        if any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns)
    }


class Suite:
    """Runs wstest, which knows its cases, and a testee, which does not."""

    def __init__(self, wstest: Path, reports: Path, limit: float) -> None:
        self.wstest = wstest
        self.reports = reports
        self.limit = limit  # seconds of one run

    def judge(
        self, run: Run, cases: list[str], way: Callable[[int], int] = lambda port: port
    ) -> dict[str, dict[str, Any]]:
        """The suite's index of `cases`. `way(port)` may put another port before the server's."""
        folder = self.reports / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for stale in [*folder.glob("*.json"), *folder.glob("*.html")]:
            stale.unlink()
        if run.side == "server":
            self._fuzz_server(run, cases, folder, way)
        else:
            self._fuzz_client(run, cases, folder, way)
        index: dict[str, Any] = json.loads((folder / "index.json").read_text())
        found: dict[str, dict[str, Any]] = index[run.name]
        return found

    def _fuzz_server(
        self, run: Run, cases: list[str], folder: Path, way: Callable[[int], int]
    ) -> None:
        with self._process(folder, "testee", *agent_command(run), stdout=subprocess.PIPE) as ours:
            assert ours.stdout is not None
            line = ours.stdout.readline().decode()
            if not line.startswith("listening on "):
                raise SystemExit(f"{run.name} did not start: see {folder}/testee.log")
            url = f"ws://127.0.0.1:{way(int(line.rpartition(':')[2]))}"
            spec = {"servers": [{"agent": run.name, "url": url}]}
            with self._wstest(folder, "fuzzingclient", cases, spec) as theirs:
                self._wait(theirs, run)
            if ours.poll() is not None:
                raise SystemExit(f"{run.name} ended early: see {folder}/testee.log")

    def _fuzz_client(
        self, run: Run, cases: list[str], folder: Path, way: Callable[[int], int]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        spec = {"url": f"ws://127.0.0.1:{port}"}
        with self._wstest(folder, "fuzzingserver", cases, spec) as theirs:
            wait_for_port(port, theirs)
            url = f"ws://127.0.0.1:{way(port)}"
            command = [*agent_command(run), "--url", url, "--name", run.name]
            with self._process(folder, "testee", *command) as ours:
                if self._wait(ours, run) != 0:
                    raise SystemExit(f"{run.name} failed: see {folder}/testee.log")

    def _wait(self, process: subprocess.Popen[bytes], run: Run) -> int:
        try:
            return process.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{run.name} took more than {self.limit:.0f} seconds") from None

    def _wstest(
        self, folder: Path, mode: str, cases: list[str], spec: dict[str, Any]
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        spec |= {"outdir": str(folder), "cases": cases}
        spec |= {"exclude-cases": [], "exclude-agent-cases": {}}
        (folder / "spec.json").write_text(json.dumps(spec, indent=1))
        command = [self.wstest, "-m", mode, "-s", folder / "spec.json", "--webport", "0"]
        return self._process(folder, "wstest", *map(str, command))

    @contextlib.contextmanager
    def _process(
        self, folder: Path, name: str, *command: str, **kwargs: Any
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Runs for the time of the block at most; what it prints goes to `name`.log."""
        env = dict(os.environ)
        if name == "wstest":  # Python 2, and where `make autobahn` put it
            env.pop("PYTHONPATH", None)
            env.update(PYTHONUSERBASE=str(self.wstest.parent.parent), PYTHONWARNINGS="ignore")
        with open(folder / f"{name}.log", "wb") as log:
            kwargs.setdefault("stdout", log)
            process = subprocess.Popen(command, cwd=HERE.parent, env=env, stderr=log, **kwargs)
            with process:
                try:
                    yield process
                finally:
                    process.terminate()
                    try:
                        process.wait(START_LIMIT)
                    except subprocess.TimeoutExpired:
                        process.kill()


def agent_command(run: Run) -> list[str]:
    module = [sys.executable, "-m", "autobahn.agent", run.side]
    return [*module, "--api", run.api, "--loop", run.loop]


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("wstest did not start: see its wstest.log")


def verdicts_of(index: dict[str, dict[str, Any]]) -> dict[str, Verdict]:
    verdicts = {}
    for case in sorted(index, key=case_key):
        found = index[case]
        code = found["remoteCloseCode"]
        verdicts[case] = Verdict(
            found["behavior"], found["behaviorClose"], "-" if code is None else str(code)
        )
    return verdicts


def differences(verdicts: dict[str, Verdict], expected: dict[str, Verdict]) -> list[str]:
    found = []
    for case in sorted(verdicts.keys() | expected.keys(), key=case_key):
        is_now, was = verdicts.get(case), expected.get(case)
        if is_now != was:
            found.append(f"{case}: {is_now or 'is missing'}, not {was or 'among the expected'}")
    return found


def complaints(log: Path) -> list[str]:
    """A testee prints nothing, but for tracebacks and what is logged of exceptions."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [f"printed {len(lines)} lines: see {log}"] if lines else []


def summary(results: list[Result]) -> str:
    lines = [
        f"Autobahn TestSuite {suite_version()}, picows {picows.__version__} ({revision()}), "
        f"{platform.python_implementation()} {platform.python_version()}",
        "",
        f"{'side':8}{'api':10}{'loop':10}{'cases':>6}{'OK':>6}{'informational':>15}"
        f"{'non-strict':>12}{'other':>7}{'unexpected':>12}{'seconds':>9}",
    ]
    for run, verdicts, seconds, unexpected in results:
        kinds = [max_kind(verdict) for verdict in verdicts.values()]
        counts = [kinds.count(kind) for kind in ("OK", "INFORMATIONAL", "NON-STRICT")]
        lines.append(
            f"{run.side:8}{run.api:10}{run.loop:10}{len(kinds):6}{counts[0]:6}{counts[1]:15}"
            f"{counts[2]:12}{len(kinds) - sum(counts):7}{len(unexpected):12}{seconds:9.0f}"
        )
    for result in results:
        lines += [f"{result.run.name} {difference}" for difference in result.differences]
    return "\n".join(lines) + "\n"


def max_kind(verdict: Verdict) -> str:
    """The worse of the two that the suite gives a case."""
    kinds = ("OK", "INFORMATIONAL", "NON-STRICT")
    if not {verdict.behavior, verdict.closing} <= set(kinds):
        return "other"
    return max(verdict.behavior, verdict.closing, key=kinds.index)


def suite_version() -> str:
    lines = (ROOT / "requirements" / "autobahn.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("autobahntestsuite"))


def revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "no git here"


def patterns_from(text: str) -> list[str]:
    patterns: list[str] = []
    for word in text.split():
        patterns += QUICK if word == "quick" else [word]
    return patterns


def main() -> int:
    parser = argparse.ArgumentParser(description="run the Autobahn TestSuite")
    parser.add_argument("--wstest", type=Path, default=WSTEST)
    parser.add_argument("--cases", default="*", help='"1.* 6.4.1", "quick"; by default all of them')
    parser.add_argument("--apis", nargs="+", choices=APIS, default=APIS)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=LOOPS)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--reports", type=Path, default=REPORTS)
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one run")
    args = parser.parse_args()
    # As Ctrl-C does, so that no process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    cases = patterns_from(args.cases)
    expected = load_expected(cases)
    if not expected:
        parser.error(f"there is no such case: {args.cases}")
    if cases != ["*"]:
        # wstest takes "12.*.1" for 12.1.10 as well. All of them stay "*": then new ones are seen.
        cases = list(expected)
    suite = Suite(args.wstest.resolve(), args.reports.resolve(), args.limit)
    results = []
    for names in itertools.product(args.sides, args.apis, args.loops):
        run = Run(*names)
        print(f"{run.name} ...", flush=True)
        start = time.monotonic()
        verdicts = verdicts_of(suite.judge(run, cases))
        seconds = time.monotonic() - start
        unexpected = differences(verdicts, expected)
        unexpected += complaints(suite.reports / run.name / "testee.log")
        results.append(Result(run, verdicts, seconds, unexpected))
        # After each run, so that an hour of them is not lost with the last one.
        (suite.reports / "summary.txt").write_text(summary(results))
    print(summary(results), end="")
    print(f"reports: {suite.reports}/*/index.html")
    return 1 if any(result.differences for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
