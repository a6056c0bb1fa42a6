"""The Autobahn TestSuite against our server and our client: `make autobahn`.

    python -m autobahn.run --wstest ../.venv-autobahn/bin/wstest --cases "1.* 6.4.*" \\
        --only "message-*-server websockets-*"

A run is one testee of agent.py on one side: the suite's fuzzing client goes through its cases
against the server, or the client goes through those of its fuzzing server. By default all runs of
ours are made. What the suite says of each case is compared with expected.txt; a difference, a
missing case too, or a testee that prints an error makes the exit code 1. Of a peer nothing is
expected. build/autobahn/ gets summary.txt, and for each run a folder with the suite's own reports
(index.html) and what the processes printed.

All 517 cases take some nine minutes of one processor, nearly all of them for 12.* and 13.*
(compression), and there for wstest itself. It waits for the testee and the testee for it, so that
one run is not made faster; but as many go at a time as there are processors (`--jobs`).

A run of all 517 cases is kept in results/, which is committed; page.py makes the tables of
docs/conformance.rst of it. `--cases quick` is what test_replay.py replays in CI, where there is no
suite: it needs a Python 2.7, which Debian does not have any more. record.py makes the recording.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import fnmatch
import functools
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
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from autobahn.agent import APIS, LOOPS, PEERS

import picows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results"
REPORTS = ROOT / "build" / "autobahn"
WSTEST = ROOT / ".venv-autobahn" / "bin" / "wstest"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
SIDES = ("server", "client")
# What a case is in the tables, the better first. The suite has more words for what failed.
KINDS = ("OK", "INFORMATIONAL", "NON-STRICT", "UNIMPLEMENTED", "FAILED")

# Between the parts of a Verdict in results/; the suite's words have spaces in them.
SEPARATOR = " / "

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
    code: str  # of the testee's CLOSE; "-" where there was none

    def __str__(self) -> str:
        return " ".join(self)

    @property
    def kind(self) -> str:
        """The worse of the two that the suite gives a case."""
        both = [word if word in KINDS else "FAILED" for word in (self.behavior, self.closing)]
        return max(both, key=KINDS.index)


class Run(NamedTuple):
    api: str
    loop: str
    side: str

    @property
    def is_peer(self) -> bool:
        return self.api in PEERS

    @property
    def name(self) -> str:
        return f"{self.api}-{self.side}" if self.is_peer else "-".join(self)


OURS = tuple(Run(*names) for names in itertools.product(APIS, LOOPS, SIDES))
# The one loop that their documentation uses.
THEIRS = tuple(Run(*names) for names in itertools.product(PEERS, LOOPS[:1], SIDES))


class Result(NamedTuple):
    run: Run
    verdicts: dict[str, Verdict]
    seconds: float
    differences: list[str]


class Broken(Exception):
    """A run that came to no end."""


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
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def stop(self) -> None:
        """From another thread: the runs that are on their way end."""
        self._stopped = True
        for process in tuple(self._running):
            process.terminate()

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
        report = folder / "index.json"
        if not report.exists():
            raise Broken(f"has no report: see {folder}/wstest.log")
        index: dict[str, Any] = json.loads(report.read_text())
        found: dict[str, dict[str, Any]] = index[run.name]
        return found

    def _fuzz_server(
        self, run: Run, cases: list[str], folder: Path, way: Callable[[int], int]
    ) -> None:
        with self._process(folder, "testee", *agent_command(run), stdout=subprocess.PIPE) as ours:
            assert ours.stdout is not None
            line = ours.stdout.readline().decode()
            if not line.startswith("listening on "):
                raise Broken(f"did not start: see {folder}/testee.log")
            url = f"ws://127.0.0.1:{way(int(line.rpartition(':')[2]))}"
            spec = {"servers": [{"agent": run.name, "url": url}]}
            with self._wstest(folder, "fuzzingclient", cases, spec) as theirs:
                self._wait(theirs)
            if ours.poll() is not None:
                raise Broken(f"ended early: see {folder}/testee.log")

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
                if self._wait(ours) != 0:
                    raise Broken(f"failed: see {folder}/testee.log")

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise Broken(f"took more than {self.limit:.0f} seconds") from None

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
        if command[0] != sys.executable:  # it has nothing to do with our packages
            env.pop("PYTHONPATH", None)
        if name == "wstest":  # Python 2, and where `make autobahn` put it
            env.update(PYTHONUSERBASE=str(self.wstest.parent.parent), PYTHONWARNINGS="ignore")
        with open(folder / f"{name}.log", "wb") as log:
            kwargs.setdefault("stdout", log)
            process = subprocess.Popen(command, cwd=HERE.parent, env=env, stderr=log, **kwargs)
            self._running.add(process)
            with process:
                try:
                    if self._stopped:
                        raise Broken("was stopped")
                    yield process
                finally:
                    self._running.discard(process)
                    process.terminate()
                    try:
                        process.wait(START_LIMIT)
                    except subprocess.TimeoutExpired:
                        process.kill()


def agent_command(run: Run) -> list[str]:
    python = str(PEERS_PYTHON) if run.is_peer else sys.executable
    module = [python, "-m", "autobahn.agent", run.side]
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
    raise Broken("wstest did not start: see its wstest.log")


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
        f"Autobahn TestSuite {suite_version()}, picows {picows.__version__} ({revision()})",
        "",
        f"{'run':24}{'cases':>6}"
        + "".join(f"{kind.lower():>14}" for kind in KINDS)
        + f"{'unexpected':>12}{'seconds':>9}",
    ]
    for run, verdicts, seconds, unexpected in results:
        kinds = [verdict.kind for verdict in verdicts.values()]
        lines.append(
            f"{run.name:24}{len(kinds):6}"
            + "".join(f"{kinds.count(kind):14}" for kind in KINDS)
            + f"{len(unexpected):12}{seconds:9.0f}"
        )
    for result in results:
        lines += [f"{result.run.name} {difference}" for difference in result.differences]
    return "\n".join(lines) + "\n"


def keep(folder: Path, result: Result) -> None:
    """What page.py needs of a run of all cases."""
    told = {
        "suite": suite_version(),
        "date": datetime.date.today().isoformat(),
        "testee": versions(result.run),
        "seconds": round(result.seconds),
        "cases": {case: SEPARATOR.join(verdict) for case, verdict in result.verdicts.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result.run.name}.json").write_text(json.dumps(told, indent=1) + "\n")


def versions(run: Run) -> dict[str, str]:
    """Of what the testee is made of."""
    if not run.is_peer:
        found = {"picows": f"{picows.__version__} ({revision()})"}
        if run.loop == "uvloop":
            found["uvloop"] = version("uvloop")
        return found | {"Python": platform.python_version()}
    package = run.api.removeprefix("pypi_")
    code = (
        "import platform, sys; from importlib.metadata import version;"
        "print(version(sys.argv[1]), platform.python_version())"
    )
    command = [agent_command(run)[0], "-I", "-c", code, package]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip((package, "Python"), done.stdout.split(), strict=True))


def suite_version() -> str:
    lines = (ROOT / "requirements" / "autobahn.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("autobahntestsuite"))


@functools.cache
def revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "no git here"


def patterns_from(text: str) -> list[str]:
    patterns: list[str] = []
    for word in text.split():
        patterns += QUICK if word == "quick" else [word]
    return patterns


def runs_from(text: str) -> list[Run]:
    """Names of runs, patterns of such, "ours", "peers"."""
    wanted = []
    for word in text.split():
        groups = {"ours": OURS, "peers": THEIRS}
        found = groups.get(word) or [
            run for run in OURS + THEIRS if fnmatch.fnmatchcase(run.name, word)
        ]
        if not found:
            raise ValueError(f"no run is called {word}")
        wanted += [run for run in found if run not in wanted]
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description="run the Autobahn TestSuite")
    parser.add_argument("--wstest", type=Path, default=WSTEST)
    parser.add_argument("--cases", default="*", help='"1.* 6.4.1", "quick"; by default all of them')
    parser.add_argument(
        "--only",
        default="ours",
        help=f'"peers", "*-client", "{OURS[0].name} {THEIRS[0].name}"; by default "ours"',
    )
    # wstest and the testee wait for each other, so that a run keeps about one processor busy.
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at the same time")
    parser.add_argument("--reports", type=Path, default=REPORTS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="for runs of all cases")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one run")
    args = parser.parse_args()
    # As Ctrl-C does, so that no process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    try:
        runs = runs_from(args.only)
    except ValueError as exc:
        parser.error(str(exc))
    patterns = patterns_from(args.cases)
    expected = load_expected(patterns)
    if not expected:
        parser.error(f"there is no such case: {args.cases}")
    # wstest takes "12.*.1" for 12.1.10 as well. All of them stay "*": then new ones are seen.
    cases = patterns if patterns == ["*"] else list(expected)
    suite = Suite(args.wstest.resolve(), args.reports.resolve(), args.limit)
    results = []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        try:
            for result in pool.map(lambda run: make(suite, run, cases, expected), runs):
                results.append(result)
                if cases == ["*"] and result.verdicts:
                    keep(args.results, result)
                # After each run, so that an hour of them is not lost with the last one.
                (suite.reports / "summary.txt").write_text(summary(results))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            suite.stop()
            raise
    print(summary(results), end="")
    print(f"reports: {suite.reports}/*/index.html")
    return 1 if any(result.differences for result in results) else 0


def make(suite: Suite, run: Run, cases: list[str], expected: dict[str, Verdict]) -> Result:
    print(f"{run.name} ...", flush=True)
    start = time.monotonic()
    try:
        verdicts = verdicts_of(suite.judge(run, cases))
    except Broken as exc:
        return Result(run, {}, time.monotonic() - start, [str(exc)])
    seconds = time.monotonic() - start
    if run.is_peer:
        return Result(run, verdicts, seconds, [])
    unexpected = differences(verdicts, expected)
    unexpected += complaints(suite.reports / run.name / "testee.log")
    return Result(run, verdicts, seconds, unexpected)


if __name__ == "__main__":
    sys.exit(main())
