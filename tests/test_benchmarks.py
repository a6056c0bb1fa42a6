"""The benchmarks can be run by any Python, and know their rows, which are not run here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def cells(*arguments: str) -> list[str]:
    # With the standard library alone, as on a machine where nothing is installed.
    command = [sys.executable, "-E", "-S", str(BENCHMARKS / "run.py"), "--list", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_every_row_has_cells_with_names_of_their_own() -> None:
    rows = [path.stem for path in (BENCHMARKS / "rows").glob("[a-z]*.py")]
    by_row = [cell for row in rows for cell in cells("--only", row)]
    assert sorted(by_row) == sorted(set(cells())) == sorted(cells())


def test_without_io_all_contestants_do_the_same_work() -> None:
    """sansio.py compares their results before it measures."""
    command = [sys.executable, str(BENCHMARKS / "sansio.py"), "--rounds", "1"]
    env = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    assert [line.split()[0] for line in lines.splitlines()[2:]] == 2 * (
        6 * ["receive"] + 2 * ["send"]
    )


def test_the_selection_leaves_no_kind_of_work_out_but_the_minute_long_one() -> None:
    selected, all_cells = cells("--quick"), cells()
    assert set(selected) < set(all_cells)
    rows = {cell.partition("/")[0] for cell in all_cells}
    assert rows - {cell.partition("/")[0] for cell in selected} == {"idle"}
