"""The tables of docs/conformance.rst, from results/: what run.py kept of its runs of all cases.

    cd tests; ../.venv/bin/python -m autobahn.page

A run that was not made is said to be so. test_page.py tells when the tables are not those of the
results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from autobahn.run import KINDS, OURS, RESULTS, ROOT, SEPARATOR, THEIRS, Run, Verdict, load_expected

TABLES = ROOT / "docs" / "conformance_tables.txt"

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
    rows = [["Implementation", "Loop", "Side", *KINDS]]
    for run in OURS + THEIRS:
        found = kept.get(run)
        counts = list(map(str, found.count().values())) if found else ["not run"]
        rows.append([IMPLEMENTATIONS[run.api], run.loop, run.side, *counts])
    return list_table(rows)


def by_section(runs: list[Run], kept: dict[Run, Kept]) -> list[str]:
    rows = [["Section", *(label(run, runs) for run in runs)]]
    for section, title in SECTIONS.items():
        cells = []
        for run in runs:
            counts = kept[run].count(section) if run in kept else {}
            parts = [f"{count} {kind}" for kind, count in counts.items() if count]
            cells.append(", ".join(parts) or "not run")
        rows.append([f"{section} {title}", *cells])
    return list_table(rows)


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
    """The cases; "13.*" where they are all of that section, "13.2.*" for all of a part of it."""
    words: list[str] = []
    left = list(cases)
    while left:
        parts = left[0].split(".")
        for depth in range(1, len(parts) + 1):
            prefix = ".".join(parts[:depth])
            whole = [case for case in ALL if f"{case}.".startswith(f"{prefix}.")]
            if set(whole) <= set(left):
                words.append(prefix if depth == len(parts) else f"{prefix}.*")
                left = [case for case in left if case not in whole]
                break
    return ", ".join(words)


def list_table(rows: list[list[str]]) -> list[str]:
    width = len(rows[0])
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        cells = [*row, *[""] * (width - len(row))]
        lines += [
            f"   {'* -' if at == 0 else '  -'} {cell}".rstrip() for at, cell in enumerate(cells)
        ]
    return lines


if __name__ == "__main__":
    TABLES.write_text(tables(load(RESULTS)))
