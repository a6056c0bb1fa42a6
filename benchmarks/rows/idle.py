"""The share of a core that our server takes for 10,000 idle connections with auto ping at 60 s.

The floor's client, on another core, answers the pings. The measurement lasts a little longer than
a minute, so that each connection is pinged once in it; the share is the CPU time over 60 seconds.
"""

import resource

from harness.machinery import BenchmarkError, Pair
from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

CONNECTIONS, INTERVAL, MORE = 10_000, 60, 6  # seconds
RESERVE = 100  # file descriptors for everything else


def measure(pair: Pair, cell: Cell, seconds: float) -> dict[str, float]:
    pair.client.ask(f"open {cell.group.connections}", seconds)
    found = pair.measure(0, seconds)
    if found["count"] < cell.group.connections:
        raise BenchmarkError(f"{found['count']:.0f} pings for {cell.group.connections} connections")
    return found | {"amount": found["cpu"] / INTERVAL * 100}


def cells() -> tuple[Cell, ...]:
    connections = min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVE)
    found = []
    for loop in LOOPS:
        group = Group(
            "idle-server",
            "idle",
            loop,
            connections=connections,
            contestants=frozenset({"ours"}),
            options=("--ping-interval", str(INTERVAL)),
        )
        name = cell_name("idle", group, connections)
        found.append(Cell(name, group, 0, ("idle",), unit="% of a core"))
    return tuple(found)


ROW = Row(cells(), measure, in_slices=False, most_rounds=1, fixed_seconds=INTERVAL + MORE)
