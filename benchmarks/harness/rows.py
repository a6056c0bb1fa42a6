"""A row of the table: a file in rows/ that says which cells it has and how they are measured.

Always true: the file's name is the row's, and the file defines ROW.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .machinery import HERE, Pair
from .plan import Cell

Measure = Callable[[Pair, Cell, float], dict[str, float]]


def timed(pair: Pair, cell: Cell, seconds: float) -> dict[str, float]:
    return pair.measure(cell.size, seconds)


@dataclass(frozen=True)
class Row:
    cells: tuple[Cell, ...]
    measure: Measure = timed
    in_slices: bool = True  # if not, the figure hardly varies and takes long: there are few rounds
    most_rounds: int = 100
    fixed_seconds: float | None = None


def find_rows() -> dict[str, Row]:
    """By name, in the order in which they are measured."""
    sys.path.insert(0, str(HERE))
    found: dict[str, Row] = {
        path.stem: importlib.import_module(f"rows.{path.stem}").ROW
        for path in sorted((HERE / "rows").glob("[a-z]*.py"))
    }
    return found
