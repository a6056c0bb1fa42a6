"""What may be measured: contestants, groups, cells; what was decided before any figure was seen.

The statistic, fixed beforehand: a cell is measured once a round for every contestant; the round
is cut into slices, and the contestants take turns slice by slice, so that what the machine does to
one it does to all. A round's ratio is a contestant's messages per second over those of PyPI picows
in the same round; the cell's figure is the median of these ratios over all rounds. Where a cell
measures an amount (bytes of memory, share of a core), the ratio is PyPI picows' amount over the
contestant's, so that more is better everywhere. No round is left out.

Always true here: a cell names everything that has an influence on its figure, and two cells of one
group differ in the size of their messages only, so they can share processes.
"""

from __future__ import annotations

from dataclasses import dataclass

BASELINE = "pypi"
FLOOR = "floor"
STATISTIC = (
    "median over all rounds of the ratio, in one round, of a contestant's messages per second to "
    "those of PyPI picows (of an amount: of PyPI picows' to the contestant's)"
)
LOOPS = ("asyncio", "uvloop")


@dataclass(frozen=True)
class Contestant:
    """A library in an interpreter of its own. ``worker`` is None for the floor."""

    name: str
    worker: str | None
    environment: str  # "ours", "ours-zlib-ng", "peers", "socketify" or "floor"
    package: str = ""
    options: tuple[str, ...] = ()  # for its worker
    cython: bool = False
    roles: frozenset[str] | None = None  # that its worker can play; None: all but feed-cython
    deflating: tuple[str, ...] = ()  # worker and options where compression is another API

    def plays(self, role: str) -> bool:
        return self.worker is None or (
            role in self.roles if self.roles is not None else self.cython or role != "feed-cython"
        )


CONTESTANTS = {
    c.name: c
    for c in (
        Contestant("ours", "picows_worker.py", "ours", "picows", cython=True),
        Contestant(
            "pypi",
            "picows_worker.py",
            "peers",
            "picows",
            cython=True,
            deflating=("websockets_worker.py", "--api", "picows.websockets"),
        ),
        Contestant("websockets", "websockets_worker.py", "peers", "websockets"),
        Contestant("aiohttp", "aiohttp_worker.py", "peers", "aiohttp"),
        Contestant(
            "socketify",
            "socketify_worker.py",
            "socketify",
            "socketify",
            roles=frozenset({"echo-server", "broadcast-server"}),
        ),
        Contestant("floor", None, "floor"),
        # What picows.broadcast is worth.
        Contestant(
            "ours-send-loop",
            "picows_worker.py",
            "ours",
            "picows",
            ("--send-loop",),
            roles=frozenset({"broadcast-server"}),
        ),
        Contestant(
            "ours-zlib-ng",
            "picows_worker.py",
            "ours-zlib-ng",
            "picows",
            roles=frozenset({"inflate", "deflate"}),
        ),
        # On request only: what coalescing alone is worth.
        Contestant(
            "ours-coalesce-off", "picows_worker.py", "ours", "picows", ("--coalesce", "off")
        ),
        Contestant("ours-coalesce-on", "picows_worker.py", "ours", "picows", ("--coalesce", "on")),
    )
}
DEFAULT_CONTESTANTS = (
    "ours",
    "pypi",
    "websockets",
    "aiohttp",
    "socketify",
    "floor",
    "ours-send-loop",
    "ours-zlib-ng",
)


@dataclass(frozen=True)
class Group:
    """Cells that share their processes."""

    role: str  # what the contestant's worker does
    work: str  # what the floor does at the other end
    loop: str
    tls: bool = False
    connections: int = 1
    depth: int = 1  # messages in flight on each connection
    window: int = 0  # or, when not 0, on all of them together
    one_core: bool = False  # both ends are pinned to the measured core
    contestants: frozenset[str] | None = None  # that take part; None: all that can
    options: tuple[str, ...] = ()  # for the contestant's worker
    plain_malloc: bool = False  # Python's own allocator is off
    ticks_are_alike: bool = False  # of compression: each is nearly the one before

    @property
    def contestant_serves(self) -> bool:
        return self.role.endswith("-server")

    def admits(self, contestant: Contestant) -> bool:
        if contestant.name == "socketify" and self.tls:
            return False
        return contestant.plays(self.role) and (
            self.contestants is None or contestant.name in self.contestants
        )


@dataclass(frozen=True)
class Cell:
    name: str
    group: Group
    size: int  # bytes of payload
    kinds: tuple[str, ...]  # the sets of cells that a promise is made about
    quick: bool = False  # belongs to the selection of --quick
    unit: str = "message"


def cell_name(row: str, group: Group, *rest: object) -> str:
    return "/".join([row, group.loop, "tls" if group.tls else "plain", *map(str, rest)])
