"""What is measured: contestants, cells, and what was decided before any figure was seen.

The statistic, fixed beforehand: a cell is measured once a round for every contestant; the round
is cut into slices, and the contestants take turns slice by slice, so that what the machine does to
one it does to all. A round's ratio is a contestant's messages per second over those of PyPI picows
in the same round; the cell's figure is the median of these ratios over all rounds. No round is
left out.

Always true here: a cell names everything that has an influence on its figure, and two cells of one
group differ in the size of their messages only, so they can share processes.
"""

from __future__ import annotations

from dataclasses import dataclass

BASELINE = "pypi"
FLOOR = "floor"
STATISTIC = (
    "median over all rounds of the ratio, in one round, of a contestant's messages per second to "
    "those of PyPI picows"
)
ECHO_SIZES = (32, 256, 8 * 1024, 100_000, 1_000_000)  # bytes
LARGE = 100_000  # bytes; from here on copies and masking decide
INFLIGHT_SIZE, INFLIGHT_DEPTH, INFLIGHT_CONNECTIONS = 256, 16, (1, 100)
FEED_SIZE = 200
LOOPS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Contestant:
    """A library in an interpreter of its own. ``worker`` is None for the floor."""

    name: str
    worker: str | None
    environment: str  # "ours", "peers" or "floor"
    package: str = ""
    coalesce: str = "default"
    cython: bool = False


CONTESTANTS = {
    c.name: c
    for c in (
        Contestant("ours", "picows_worker.py", "ours", "picows", cython=True),
        Contestant("pypi", "picows_worker.py", "peers", "picows", cython=True),
        Contestant("websockets", "websockets_worker.py", "peers", "websockets"),
        Contestant("aiohttp", "aiohttp_worker.py", "peers", "aiohttp"),
        Contestant("floor", None, "floor"),
        # On request only: what coalescing alone is worth.
        Contestant("ours-coalesce-off", "picows_worker.py", "ours", "picows", coalesce="off"),
        Contestant("ours-coalesce-on", "picows_worker.py", "ours", "picows", coalesce="on"),
    )
}
DEFAULT_CONTESTANTS = ("ours", "pypi", "websockets", "aiohttp", "floor")


@dataclass(frozen=True)
class Group:
    """Cells that share their processes."""

    program: str  # "echo-client", "echo-server", "inflight" or "feed"
    loop: str
    tls: bool
    connections: int
    depth: int
    listener: str  # "python" or "cython"

    @property
    def contestant_serves(self) -> bool:
        return self.program in ("echo-server", "inflight")

    @property
    def one_core(self) -> bool:
        """One connection with one message in flight keeps one side waiting: one core is enough."""
        return self.program in ("echo-client", "echo-server")


@dataclass(frozen=True)
class Cell:
    group: Group
    size: int  # bytes of payload

    @property
    def name(self) -> str:
        group = self.group
        parts = [group.program, group.loop, "tls" if group.tls else "plain", str(self.size)]
        if group.program == "inflight":
            parts.append(f"{group.depth}x{group.connections}")
        if group.program == "feed":
            parts.append(group.listener)
        return "/".join(parts)


def cells_of(program: str) -> list[Cell]:
    """All cells of ``echo``, ``inflight`` or ``feed``, those of a group next to each other."""
    if program == "echo":
        return [
            Cell(Group(side, loop, tls, 1, 1, "python"), size)
            for side in ("echo-client", "echo-server")
            for loop in LOOPS
            for tls in (False, True)
            for size in ECHO_SIZES
        ]
    if program == "inflight":
        return [
            Cell(
                Group("inflight", loop, False, connections, INFLIGHT_DEPTH, "python"), INFLIGHT_SIZE
            )
            for loop in LOOPS
            for connections in INFLIGHT_CONNECTIONS
        ]
    if program == "feed":
        return [
            Cell(Group("feed", loop, False, 1, 1, listener), FEED_SIZE)
            for loop in LOOPS
            for listener in ("python", "cython")
        ]
    raise ValueError(f"no program {program!r}")


PROGRAMS = ("echo", "inflight", "feed")
