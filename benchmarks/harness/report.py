"""What the measurements say: figures a cell, figures a program, and the table that is printed.

Always true here: a figure comes from all rounds that were measured; a ratio over 1 means faster,
or less memory, than what it is compared with.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from .plan import BASELINE, FLOOR, Cell


@dataclass(frozen=True)
class Measurement:
    """One contestant in one cell in one round."""

    round: int
    cell: str
    contestant: str
    count: int  # messages
    wall: float  # seconds
    cpu: float  # seconds, the contestant's process
    other_cpu: float  # seconds, the process at the other end
    one_core: bool  # the other end shares the contestant's core
    slices: tuple[dict[str, float], ...]
    sender_never_sleeps: bool = False
    amount: float | None = None  # in the cell's unit, where it is not messages in a time
    ratio: float | None = None  # how much smaller messages became, where they are compressed

    @property
    def rate(self) -> float:
        return self.count / max(self.wall, 1e-9)

    @property
    def goodness(self) -> float:
        """What ratios are made of: more is better."""
        return self.rate if self.amount is None else 1 / max(self.amount, 1e-9)

    @property
    def cpu_rate(self) -> float:
        """Messages per second of the contestant's CPU time."""
        return self.count / max(self.cpu, 1e-9)

    @property
    def busy(self) -> float:
        return (self.cpu + (self.other_cpu if self.one_core else 0)) / max(self.wall, 1e-9)

    @property
    def disturbance(self) -> float | None:
        """Share of a core's wall time that went to others; None where a core may well be idle."""
        if self.one_core:
            return 1 - self.busy
        return 1 - self.other_cpu / self.wall if self.sender_never_sleeps else None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Figure:
    """One contestant in one cell: medians over the rounds. Ratios are None without a partner."""

    cell: str
    contestant: str
    unit: str  # that is counted, or that the amount is in
    rounds: int
    amount: float | None
    ratio: float | None  # how much smaller messages became
    rate: float  # messages per second
    wall: float  # seconds a message
    cpu: float  # seconds a message, the contestant's process
    busy: float  # share of the wall time that the processes on the measured core worked
    to_pypi: float | None
    to_pypi_range: tuple[float, float] | None
    cpu_to_pypi: float | None
    to_floor: float | None
    cpu_to_floor: float | None


def figures_of(measurements: Iterable[Measurement], cells: Iterable[Cell]) -> list[Figure]:
    units = {cell.name: cell.unit for cell in cells}
    by_cell: dict[str, dict[str, dict[int, Measurement]]] = {}
    for m in measurements:
        by_cell.setdefault(m.cell, {}).setdefault(m.contestant, {})[m.round] = m
    return [
        _figure(cell, units[cell], name, contestants)
        for cell, contestants in by_cell.items()
        for name in contestants
    ]


def _figure(
    cell: str, unit: str, name: str, contestants: dict[str, dict[int, Measurement]]
) -> Figure:
    own = contestants[name]

    def ratios(partner: str, value: Callable[[Measurement], float]) -> list[float]:
        others = contestants.get(partner, {})
        return [value(m) / value(others[r]) for r, m in own.items() if r in others]

    shrunk = [m.ratio for m in own.values() if m.ratio is not None]
    amounts = [m.amount for m in own.values() if m.amount is not None]
    to_pypi = ratios(BASELINE, lambda m: m.goodness)
    cpu_to_pypi = [] if amounts else ratios(BASELINE, lambda m: m.cpu_rate)
    to_floor = ratios(FLOOR, lambda m: m.goodness)
    cpu_to_floor = [] if amounts else ratios(FLOOR, lambda m: m.cpu_rate)
    median = statistics.median
    return Figure(
        cell=cell,
        contestant=name,
        unit=unit,
        rounds=len(own),
        amount=median(amounts) if amounts else None,
        ratio=median(shrunk) if shrunk else None,
        rate=median(m.rate for m in own.values()),
        wall=median(m.wall / m.count for m in own.values()),
        cpu=median(m.cpu / m.count for m in own.values()),
        busy=median(m.busy for m in own.values()),
        to_pypi=median(to_pypi) if to_pypi else None,
        to_pypi_range=(min(to_pypi), max(to_pypi)) if to_pypi else None,
        cpu_to_pypi=median(cpu_to_pypi) if cpu_to_pypi else None,
        to_floor=median(to_floor) if to_floor else None,
        cpu_to_floor=median(cpu_to_floor) if cpu_to_floor else None,
    )


@dataclass(frozen=True)
class Summary:
    """One contestant over several cells."""

    cells: str
    contestant: str
    number: int
    to_pypi: float | None  # geometric mean
    to_pypi_min: float | None
    to_pypi_min_cell: str | None
    cpu_to_pypi: float | None
    to_floor: float | None
    to_floor_min: float | None


def summaries_of(figures: list[Figure], cells: list[Cell]) -> list[Summary]:
    names = list(dict.fromkeys(f.contestant for f in figures))
    return [
        _summary(label, name, chosen)
        for label, cell_names in _subsets(cells).items()
        for name in names
        if (chosen := [f for f in figures if f.contestant == name and f.cell in cell_names])
    ]


def _subsets(cells: list[Cell]) -> dict[str, set[str]]:
    """The sets of cells that a promise is made about."""
    subsets: dict[str, set[str]] = {}
    for cell in cells:
        for kind in cell.kinds:
            subsets.setdefault(kind, set()).add(cell.name)
    return subsets


def _summary(label: str, name: str, figures: list[Figure]) -> Summary:
    to_pypi = {f.cell: f.to_pypi for f in figures if f.to_pypi is not None}
    cpu_to_pypi = [f.cpu_to_pypi for f in figures if f.cpu_to_pypi is not None]
    to_floor = [f.to_floor for f in figures if f.to_floor is not None]
    worst = min(to_pypi, key=lambda cell: to_pypi[cell], default=None)
    return Summary(
        cells=label,
        contestant=name,
        number=len(figures),
        to_pypi=geometric_mean(to_pypi.values()),
        to_pypi_min=to_pypi[worst] if worst else None,
        to_pypi_min_cell=worst,
        cpu_to_pypi=geometric_mean(cpu_to_pypi),
        to_floor=geometric_mean(to_floor),
        to_floor_min=min(to_floor, default=None),
    )


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


# ---- Printing ------------------------------------------------------------------------------------


def table_of(figures: list[Figure]) -> str:
    lines = [
        f"{'cell':<34}{'contestant':<18}{'msg/s':>11}{'wall us':>10}{'CPU us':>9}{'busy':>6}"
        f"{'x pypi':>8}{'min':>7}{'max':>7}{'CPU x':>7}{'x floor':>9}{'CPU x':>7}",
    ]
    previous = ""
    for f in figures:
        low, high = f.to_pypi_range or (None, None)
        what = (
            f"{f.rate:>11,.0f}{f.wall * 1e6:>10.3f}{f.cpu * 1e6:>9.3f}{f.busy:>6.0%}"
            if f.amount is None
            else f"{f'{f.amount:,.2f} {f.unit}':>36}"
        )
        lines.append(
            f"{f.cell if f.cell != previous else '':<34}{f.contestant:<18}{what}"
            f"{_ratio(f.to_pypi):>8}{_ratio(low):>7}{_ratio(high):>7}{_ratio(f.cpu_to_pypi):>7}"
            f"{_ratio(f.to_floor):>9}{_ratio(f.cpu_to_floor):>7}"
            + (f"  {f.ratio:.2f} times smaller" if f.ratio is not None else "")
        )
        previous = f.cell
    return "\n".join(lines)


def summary_table_of(summaries: list[Summary]) -> str:
    lines = [
        f"{'cells':<40}{'contestant':<18}{'n':>3}{'x pypi':>8}{'min':>7}{'CPU x':>7}"
        f"{'x floor':>9}{'min':>7}  slowest cell to pypi",
    ]
    previous = ""
    for s in summaries:
        lines.append(
            f"{s.cells if s.cells != previous else '':<40}{s.contestant:<18}{s.number:>3}"
            f"{_ratio(s.to_pypi):>8}{_ratio(s.to_pypi_min):>7}{_ratio(s.cpu_to_pypi):>7}"
            f"{_ratio(s.to_floor):>9}{_ratio(s.to_floor_min):>7}  {s.to_pypi_min_cell or ''}"
        )
        previous = s.cells
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
