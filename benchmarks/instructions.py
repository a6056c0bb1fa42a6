"""Counts the user instructions that a message takes, and compares them with the committed figures.

    python benchmarks/instructions.py [--update] [--peer]

Callgrind counts, so a busy machine does not matter. workers/instructions_worker.py is what runs;
README.rst says what is in the figures. The exit status is 1 when something grew by more than 3 %.

Always true here: the interpreter that runs this is the one that is measured, with the picows of
this working tree; hash seed and environment are fixed; an interval begins and ends at a mark of the
worker, so that imports, connecting and the end of the process are in none.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORKER = HERE / "workers" / "instructions_worker.py"
COMMITTED = HERE / "instructions.json"
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"

LIMIT = 0.03
# The least counts: a timer that expires or a pool that is filled again is not in every interval.
INTERVALS = 5
# Seldom (once in 40 counts) echo on asyncio takes 2 % more in every interval of a process. The
# cause is not known; perhaps names share a slot of CPython's method cache, where it matters how
# they lie in memory. So what seems to have grown is counted again with other strings before them.
LAYOUTS = 3

Counts = dict[str, dict[str, float]]  # by work, then by kind: "picows", "floor", "pypi"


class CountingError(Exception):
    """Something that the user can act on."""


def count(python: Path | str, packages: Path | None, layout: int = 0) -> Counts:
    """What the picows of this interpreter takes, or that of the folder `packages`."""
    if shutil.which("valgrind") is None:
        raise CountingError("valgrind is missing: apt-get install valgrind")
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    options = [text for i in range(layout * 7) for text in ("-X", f"layout={i}")]
    with tempfile.TemporaryDirectory(prefix="picows-instructions-") as folder:
        profile = Path(folder, "profile")
        valgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={profile}"]
        valgrind += ["--dump-line=no", "--dump-before=getsid"]
        command = [*valgrind, str(python), *options, str(WORKER), str(INTERVALS)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise CountingError(f"{python}: {(done.stderr or 'failed').strip()[-2000:]}")
        head, *works = map(json.loads, done.stdout.splitlines())
        if packages is not None and packages not in Path(head["file"]).parents:
            raise CountingError(f"{head['file']} would be counted, not the picows in {packages}")
        return counts_of(works, totals_of(profile))


def totals_of(profile: Path) -> Iterator[int]:
    """The instructions before each mark since the one before."""
    number = 1
    while (part := profile.with_name(f"{profile.name}.{number}")).exists():
        (line,) = (x for x in part.read_text().splitlines() if x.startswith("totals:"))
        yield int(line.split()[1])
        number += 1


def counts_of(works: list[dict[str, Any]], totals: Iterator[int]) -> Counts:
    counts: Counts = {}
    for work in works:
        next(totals)  # what came before the first mark
        least = min(next(totals) for _ in range(INTERVALS))
        counts.setdefault(work["work"], {})[work["kind"]] = round(least / work["messages"], 1)
    return counts


def growth_of(counted: dict[str, float], committed: dict[str, float]) -> float:
    """Of one work. What the floor takes more or less is the interpreter's doing, not ours."""
    others_doing = counted["floor"] - committed["floor"]
    return (counted["picows"] - others_doing) / committed["picows"] - 1


def compare(counted: Counts, committed: Counts) -> list[str]:
    """The works that grew too much."""
    return [
        work for work, figures in committed.items() if growth_of(counted[work], figures) > LIMIT
    ]


def count_ours(committed: Counts) -> Counts:
    """In as many layouts as it takes to see nothing that grew."""
    best: Counts = {}
    for layout in range(LAYOUTS):
        counted = count(sys.executable, ROOT, layout)
        for work, figures in counted.items():
            if work not in best or figures["picows"] < best[work]["picows"]:
                best[work] = figures
        if not compare(best, committed):
            break
    return best


def add_peer(counts: Counts) -> None:
    """PyPI's picows beside it, for information, where it is there for this Python."""
    if not PEERS_PYTHON.exists():
        return
    query = "import sys; print('%d.%d' % sys.version_info[:2])"
    theirs = subprocess.run([PEERS_PYTHON, "-c", query], check=True, capture_output=True, text=True)
    if theirs.stdout.strip() == MINOR:
        for work, figures in count(PEERS_PYTHON, None).items():
            counts[work]["pypi"] = figures["picows"]


def table_of(counted: Counts, committed: Counts) -> str:
    lines = [
        f"{'instructions a message':24}{'counted':>10}{'floor':>10}{'committed':>11}{'growth':>9}"
    ]
    for work, figures in counted.items():
        line = f"{work:24}{figures['picows']:10,.0f}{figures['floor']:10,.0f}"
        if work in committed:
            line += f"{committed[work]['picows']:11,.0f}"
            line += f"{growth_of(figures, committed[work]):+9.2%}"
        if "pypi" in figures:
            line += f"   PyPI's picows {figures['pypi']:,.0f}"
        lines.append(line)
    return "\n".join(lines)


def circumstances() -> dict[str, str]:
    valgrind = subprocess.run(["valgrind", "--version"], check=True, capture_output=True, text=True)
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        "python": f"{platform.python_version()}, {platform.python_compiler()}",
        "machine": f"{platform.machine()}, {cpu_model()}, {' '.join(platform.libc_ver())}",
        "valgrind": valgrind.stdout.strip(),
        **{name: metadata.version(name) for name in ("aiofastnet", "uvloop", "Cython")},
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help=f"write {COMMITTED.name}")
    parser.add_argument("--peer", action="store_true", help="PyPI's picows beside it")
    args = parser.parse_args()
    everything: dict[str, Any] = json.loads(COMMITTED.read_text())
    committed: Counts = everything.get(MINOR, {}).get("counts", {})
    counted = count(sys.executable, ROOT) if args.update else count_ours(committed)
    if args.peer or args.update:
        add_peer(counted)
    print(table_of(counted, committed))
    if args.update:
        everything[MINOR] = {"circumstances": circumstances(), "counts": counted}
        COMMITTED.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
        return 0
    if not committed:
        raise CountingError(f"no figures for Python {MINOR} in {COMMITTED.name}: --update")
    if grown := compare(counted, committed):
        print(f"grew by more than {LIMIT:.0%}: {', '.join(grown)} (is this a release build?)")
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CountingError as error:
        sys.exit(f"instructions: {error}")
