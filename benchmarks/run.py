"""Measures our picows against its peers and against a C floor, in one interleaved run.

    python benchmarks/run.py [--only echo,feed] [--quick] [--match TEXT] [--json OUT]

README.rst says how it is made and how to read it. This file owns the command line and the order of
things: round after round, group after group, and in a group the contestants take turns slice by
slice. Always true: measurements that were made are written to the JSON file, also when the run is
interrupted or a contestant fails.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.machinery import (
    HERE,
    ROOT,
    BenchmarkError,
    Environment,
    Machinery,
    Pair,
    processes_of,
)
from harness.plan import (
    CONTESTANTS,
    DEFAULT_CONTESTANTS,
    STATISTIC,
    Cell,
    Group,
)
from harness.report import (
    Measurement,
    figures_of,
    summaries_of,
    summary_table_of,
    table_of,
)
from harness.rows import Row, find_rows

FULL = {"rounds": 5, "seconds": 1.0, "slices": 4, "whole_rounds": 2}
QUICK = {"rounds": 3, "seconds": 0.2, "slices": 2, "whole_rounds": 1}
BUSY_LOAD = 0.3  # of a core, before anything was started
PLACEMENT = (
    "echo and flat/turn: both ends on the measured core; else the contestant alone on it, the "
    "floor on the other"
)
ZLIB_NG = ROOT / "build" / "release-zlib-ng" / "tree"  # of `make zlib-ng`
BAR = 30  # characters
DISTURBED = 0.05  # of the wall time, where the contestants alone would fill the core


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="rows, with commas: files of rows/ (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="a selection of cells, 3 rounds of 0.2 s: a first look"
    )
    parser.add_argument("--rounds", type=int, help="rounds instead of 5 (3 with --quick)")
    parser.add_argument("--seconds", type=float, help="of a round, instead of 1 (0.2 with --quick)")
    parser.add_argument("--match", default="", help="only cells with this in their name")
    parser.add_argument(
        "--contestants",
        default=",".join(DEFAULT_CONTESTANTS),
        help=f"with commas, among {', '.join(CONTESTANTS)}",
    )
    parser.add_argument("--json", type=Path, help="where the results go (default: results/)")
    parser.add_argument(
        "--python-ours",
        type=Path,
        help="interpreter with our picows installed (default: .venv, which has this working tree)",
    )
    parser.add_argument(
        "--python-peers", type=Path, help="interpreter with the peers (default: .venv-peers)"
    )
    parser.add_argument(
        "--python-socketify",
        type=Path,
        help="interpreter with socketify (default: .venv-socketify)",
    )
    parser.add_argument("--cores", help="MEASURED,OTHER (default: the last two)")
    parser.add_argument("--list", action="store_true", help="print the cells and leave")
    return parser.parse_args()


class Progress:
    """One line on a terminal's stderr, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._shown = sys.stderr.isatty()

    def step(self, text: str) -> None:
        self._done += 1
        self.say(text)

    def say(self, text: str) -> None:
        if not self._shown:
            return
        elapsed = time.monotonic() - self._start
        left = elapsed / self._done * (self._total - self._done) / 60 if self._done else 0
        filled = round(self._done / self._total * BAR)
        bar = "#" * filled + "." * (BAR - filled)
        remaining = f"{left:.0f} min left" if self._done else ""
        sys.stderr.write(f"\r\x1b[K[{bar}] {self._done / self._total:4.0%}  {remaining}  {text}")
        sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")


def choose_cores(text: str | None) -> tuple[int, int]:
    """Interrupts mostly land on the first core, so the last one is measured."""
    available = sorted(os.sched_getaffinity(0))
    if text:
        measured, other = (int(part) for part in text.split(","))
        if not {measured, other} <= set(available):
            raise BenchmarkError(f"--cores {text}: this process may run on {available}")
        return measured, other
    if len(available) < 2:
        print("WARNING: one core only; inflight and feed say little here", file=sys.stderr)
        return available[-1], available[-1]
    return available[-1], available[-2]


def environments(args: argparse.Namespace) -> dict[str, Environment]:
    """By a contestant's `environment`; what is missing is installed, as far as it can be."""
    ours = args.python_ours or ROOT / ".venv" / "bin" / "python"
    peers = args.python_peers or ROOT / ".venv-peers" / "bin" / "python"
    socketify = args.python_socketify or ROOT / ".venv-socketify" / "bin" / "python"
    if not peers.exists() and not args.python_peers:
        install(peers.parent.parent, ROOT / "requirements" / "peers.txt")
    if not socketify.exists() and not args.python_socketify:
        try:
            install(socketify.parent.parent, HERE / "requirements-socketify.txt")
        except BenchmarkError as error:
            print(f"socketify cannot be installed: {error}", file=sys.stderr)
    return {
        "ours": Environment(ours.absolute()),
        "ours-zlib-ng": Environment(ours.absolute(), ZLIB_NG),
        "peers": Environment(peers.absolute()),
        "socketify": Environment(socketify.absolute()),
    }


def install(target: Path, requirements: Path) -> None:
    print(f"installing {requirements} into {target}", file=sys.stderr)
    Environment(Path(sys.executable)).run("-m", "venv", str(target))
    python = Environment(target / "bin" / "python")
    python.run("-m", "pip", "install", "--quiet", "-r", str(requirements))


def present(machinery: Machinery, names: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The contestants that can be imported, and what they are."""
    found: dict[str, Any] = {}
    for name in names:
        contestant = CONTESTANTS[name]
        if contestant.worker is None:
            found[name] = {"file": str(machinery.floor)}
            continue
        if contestant.environment == "ours-zlib-ng" and not ZLIB_NG.exists():
            # Else it would be the picows without.
            print(f"without {name}: make zlib-ng", file=sys.stderr)
            continue
        try:
            found[name] = machinery.environment(contestant).probe(contestant.package)
        except BenchmarkError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return list(found), found


def build_listeners(machinery: Machinery, names: list[str]) -> list[str]:
    failures = []
    for name in names:
        if CONTESTANTS[name].cython:
            try:
                machinery.build_listener(CONTESTANTS[name])
            except BenchmarkError as error:
                failures.append(f"Cython listener of {name}: {error}")
                print(f"FAILED {failures[-1]}", file=sys.stderr)
    return failures


def turns(names: list[str], number: int) -> list[str]:
    """The order of a slice: another one begins each time, and every second slice runs backwards."""
    shift = number // 2 % len(names)
    order = names[shift:] + names[:shift]
    return order[::-1] if number % 2 else order


def measure_cell(
    cell: Cell,
    row: Row,
    pairs: dict[str, Pair],
    failures: dict[str, str],
    settings: dict[str, Any],
    number: int,
) -> Iterator[Measurement]:
    slices: dict[str, list[dict[str, float]]] = {name: [] for name in pairs}
    count = settings["slices"] if row.in_slices else 1
    seconds = row.fixed_seconds or settings["seconds"]
    for i in range(count):
        for name in turns(list(pairs), number * count + i):
            if name in failures:
                continue
            try:
                slices[name].append(row.measure(pairs[name], cell, seconds / count))
            except BenchmarkError as error:
                failures[name] = str(error)
    for name, parts in slices.items():
        if len(parts) == count:
            total = {key: sum(part[key] for part in parts) for key in parts[0]}
            yield Measurement(
                round=number,
                cell=cell.name,
                contestant=name,
                count=int(total["count"]),
                wall=total["wall"],
                cpu=total["cpu"],
                other_cpu=total["other_cpu"],
                one_core=cell.group.one_core,
                slices=tuple(parts),
                sender_never_sleeps=cell.group.work == "feed",
                amount=total.get("amount"),
                ratio=parts[-1].get("ratio"),
            )


def measure(
    machinery: Machinery,
    rows: dict[str, Row],
    cells: list[Cell],
    names: list[str],
    settings: dict[str, Any],
) -> Iterator[Measurement | str]:
    """All rounds; a failure comes as a text and costs its contestant the rest of the group."""
    groups: dict[tuple[str, Group], list[Cell]] = {}
    for name, row in rows.items():
        for cell in row.cells:
            if cell in cells:
                groups.setdefault((name, cell.group), []).append(cell)
    plan = [
        (number, key)
        for number in range(settings["rounds"])
        for key in groups
        if number < rows[key[0]].most_rounds
        and (rows[key[0]].in_slices or number < settings["whole_rounds"])
    ]
    progress = Progress(sum(len(groups[key]) for _, key in plan))
    for number, key in plan:
        row, group, members = rows[key[0]], key[1], groups[key]
        chosen = [name for name in names if machinery.can_join(CONTESTANTS[name], group)]
        progress.say(f"round {number + 1}, {members[0].name}")
        with processes_of(machinery, group, chosen) as (pairs, failures):
            for cell in members:
                yield from measure_cell(cell, row, pairs, failures, settings, number)
                progress.step(f"round {number + 1}, {cell.name}")
            for name, why in failures.items():
                yield f"round {number + 1}, {members[0].name} and its like: {name}: {why}"
    progress.end()


def machine() -> dict[str, Any]:
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform()}


def warn_if_disturbed(measurements: list[Measurement]) -> None:
    shares = [m.disturbance for m in measurements if m.disturbance is not None]
    if shares and statistics.median(shares) > DISTURBED:
        print(
            f"WARNING: {statistics.median(shares):.0%} of the cores' time went to other programs;"
            " trust the CPU ratios more than the rates, and measure again on a quiet machine",
            file=sys.stderr,
        )


def report(results: dict[str, Any], measurements: list[Measurement], cells: list[Cell]) -> str:
    """Complete the results and put them into words."""
    figures = figures_of(measurements, cells)
    summaries = summaries_of(figures, cells)
    results["loadavg_end"] = os.getloadavg()
    results["figures"] = [asdict(f) for f in figures]
    results["summaries"] = [asdict(s) for s in summaries]
    results["measurements"] = [m.as_json() for m in measurements]
    legend = (
        f"x: {STATISTIC}\n"
        f"   {PLACEMENT}\n"
        "   (CPU x: the same of the contestant's CPU time; min, max: over the rounds, below over\n"
        "   the cells, whose ratios are joined as a geometric mean; busy: share of the wall time\n"
        "   that the measured core worked for the contestant)"
    )
    return "\n".join([table_of(figures), "", legend, "", summary_table_of(summaries)])


def main() -> int:
    args = parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    rows = find_rows()
    only = args.only.split(",") if args.only else list(rows)
    names = args.contestants.split(",")
    if unknown := (set(only) - set(rows)) | (set(names) - set(CONTESTANTS)):
        raise BenchmarkError(f"unknown: {', '.join(sorted(unknown))}")
    cells = [
        cell
        for name in only
        for cell in rows[name].cells
        if args.match in cell.name and (cell.quick or not args.quick)
    ]
    if args.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    settings: dict[str, Any] = dict(QUICK if args.quick else FULL)
    if args.rounds is not None:
        settings["rounds"] = args.rounds
    if args.seconds is not None:
        settings["seconds"] = args.seconds
    load = os.getloadavg()
    print(f"load average at the start: {' '.join(f'{x:.2f}' for x in load)}", file=sys.stderr)
    if load[0] > BUSY_LOAD:
        print("WARNING: the machine is busy; expect noise", file=sys.stderr)

    now = datetime.datetime.now(datetime.timezone.utc)
    target = args.json or HERE / "results" / f"{now:%Y%m%d-%H%M%S}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    measurements: list[Measurement] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="picows-benchmark-") as scratch:
        cores = choose_cores(args.cores)
        machinery = Machinery(environments(args), cores, Path(scratch))
        machinery.build_floor()
        machinery.make_certificates()
        machinery.write_ticks()
        names, found = present(machinery, names)
        if any(cell.group.role == "feed-cython" for cell in cells):
            failures += build_listeners(machinery, names)
        results: dict[str, Any] = {
            "date": now.isoformat(timespec="seconds"),
            "statistic": STATISTIC,
            "settings": settings,
            "machine": machine(),
            "cores": {"measured": cores[0], "other": cores[1], "placement": PLACEMENT},
            "loadavg_start": load,
            "contestants": found,
            "failures": failures,
        }
        os.sched_setaffinity(0, {cores[1]})  # out of the way of the measured core
        try:
            for outcome in measure(machinery, rows, cells, names, settings):
                if isinstance(outcome, str):
                    print(f"\nFAILED {outcome}", file=sys.stderr)
                    failures.append(outcome)
                else:
                    measurements.append(outcome)
        except KeyboardInterrupt:
            failures.append("interrupted")
            print("\ninterrupted: the report is of what was measured so far", file=sys.stderr)
        finally:
            if measurements:
                text = report(results, measurements, cells)
                target.write_text(json.dumps(results, indent=1) + "\n")
                print(text)
                warn_if_disturbed(measurements)
                print(f"\nall rounds: {target}")
    return 1 if failures or not measurements else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"benchmarks: {error}")
