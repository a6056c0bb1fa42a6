"""The tables of docs/conformance.rst, from results/: what run.py kept of its runs of all cases.

    cd tests; ../.venv/bin/python -m autobahn.page

A run that was not made is said to be so. test_page.py tells when the tables are not those of the
results.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from autobahn.run import (
    HERE,
    KINDS,
    OURS,
    RESULTS,
    SEPARATOR,
    SIDES,
    THEIRS,
    Run,
    Verdict,
    load_expected,
)

TABLES = HERE / "tables.rst"

IMPLEMENTATIONS = {
    "message": "picows, message mode",
    "sansio": "picows.sansio",
    "websockets": "websockets",
    "aiohttp": "aiohttp",
    "pypi_picows": "PyPI's picows.websockets",
}
SECTIONS = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Closing",
    "9": "Limits and performance",
    "10": "Automatic fragmentation",
    "12": "Compression, payloads",
    "13": "Compression, parameters",
}
ALL = tuple(load_expected(["*"]))
MISSING = Verdict("FAILED", "not in the report", "-")


class Kept(NamedTuple):
    """What is committed of a run."""

    run: Run
    suite: str
    date: str
    testee: dict[str, str]
    seconds: int
    verdicts: dict[str, Verdict]

    def count(self, section: str | None = None) -> dict[str, int]:
        """How many cases are of each kind."""
        found = [self.verdict(case).kind for case in cases_of(section)]
        return {kind: found.count(kind) for kind in KINDS}

    def verdict(self, case: str) -> Verdict:
        return self.verdicts.get(case, MISSING)


def cases_of(section: str | None) -> list[str]:
    return [case for case in ALL if section is None or case.startswith(f"{section}.")]


def load(folder: Path) -> dict[Run, Kept]:
    found = {}
    for run in OURS + THEIRS:
        path = folder / f"{run.name}.json"
        if path.exists():
            row: dict[str, Any] = json.loads(path.read_text())
            cases = {
                case: Verdict(*text.split(SEPARATOR)) for case, text in row.pop("cases").items()
            }
            found[run] = Kept(run=run, verdicts=cases, **row)
    return found


def tables(kept: dict[Run, Kept]) -> str:
    lines = [".. Made by tests/autobahn/page.py: do not edit.", ""]
    lines += totals(kept)
    for api, title in IMPLEMENTATIONS.items():
        runs = [run for run in OURS + THEIRS if run.api == api]
        lines += ["", title, "~" * len(title), ""]
        lines += by_section(runs, kept)
        lines += [""]
        lines += remarks(runs, kept)
    return "\n".join(lines) + "\n"


def totals(kept: dict[Run, Kept]) -> list[str]:
    rows = [["Implementation", *SIDES]]
    for api, loop in dict.fromkeys((run.api, run.loop) for run in OURS + THEIRS):
        runs = [Run(api, loop, side) for side in SIDES]
        title = IMPLEMENTATIONS[api] if runs[0].is_peer else f"{IMPLEMENTATIONS[api]}, {loop}"
        rows.append([title, *(cell(kept.get(run)) for run in runs)])
    return list_table(rows)


def by_section(runs: list[Run], kept: dict[Run, Kept]) -> list[str]:
    rows = [["Section", *(label(run, runs) for run in runs)]]
    for section, title in SECTIONS.items():
        rows.append([f"{section} {title}", *(cell(kept.get(run), section) for run in runs)])
    return list_table(rows)


def cell(found: Kept | None, section: str | None = None) -> str:
    if found is None:
        return "not run"
    counts = found.count(section)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def label(run: Run, runs: list[Run]) -> str:
    return run.side if len({other.loop for other in runs}) == 1 else f"{run.loop}, {run.side}"


def remarks(runs: list[Run], kept: dict[Run, Kept]) -> list[str]:
    """When and with what each run was made, and the cases that are not OK."""
    lines = []
    for run in runs:
        if run not in kept:
            continue
        found = kept[run]
        testee = ", ".join(f"{name} {version}" for name, version in found.testee.items())
        lines.append(f"* {label(run, runs)}, {found.date}, {testee}, {found.seconds} seconds")
        exceptions: dict[str, list[str]] = {}
        for case in sorted(ALL, key=lambda case: KINDS.index(found.verdict(case).kind)):
            verdict = found.verdict(case)
            if verdict.kind != "OK":
                exceptions.setdefault(words_for(verdict), []).append(case)
        lines += [""]
        lines += [f"  * {words}: {listing(cases)}" for words, cases in exceptions.items()]
        lines += [""]
    return lines


def words_for(verdict: Verdict) -> str:
    if verdict.closing in ("OK", verdict.behavior):
        return verdict.behavior
    return f"{verdict.behavior}, closing {verdict.closing}"


def listing(cases: list[str]) -> str:
    """In the suite's order: "13.*", "13.2.*", "6.4.1 to 6.4.3", "7.1.5"."""
    words = []
    left = set(cases)
    for case in cases:
        if case in left:
            word, covered = widest(case, left)
            words.append(word)
            left.difference_update(covered)
    return ", ".join(words)


def widest(case: str, left: set[str]) -> tuple[str, list[str]]:
    """The word for this case, and for as many that follow it, and these."""
    parts = case.split(".")
    for depth in range(1, len(parts)):
        prefix = ".".join(parts[:depth])
        whole = cases_of(prefix)
        if len(whole) > 1 and left.issuperset(whole):
            return f"{prefix}.*", whole
    parent, _, number = case.rpartition(".")
    following = (f"{parent}.{n}" for n in itertools.count(int(number)))
    row = list(itertools.takewhile(left.__contains__, following))
    return (f"{row[0]} to {row[-1]}", row) if len(row) > 2 else (case, [case])


def list_table(rows: list[list[str]]) -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for first, *others in rows:
        lines += [f"   * - {first}", *(f"     - {other}" for other in others)]
    return lines


if __name__ == "__main__":
    TABLES.write_text(tables(load(RESULTS)))
