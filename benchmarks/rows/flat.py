"""What a message costs a server with 1, 100, 1,000 or 10,000 connections, as many as may be open.

``turn``: one message of 256 B is in flight in all, each time on the next connection, both ends on
one core: the same system calls whatever the number of connections, so what grows is what
connections cost. ``all``: one message in flight on every connection, the client on another core.
Look at the CPU time of a message.
"""

import resource

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

SIZE, CONNECTIONS = 256, (1, 100, 1000, 10_000)
RESERVE = 100  # file descriptors for everything else


def cells() -> tuple[Cell, ...]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVE
    contestants = frozenset({"ours", "pypi", "floor"})
    found = []
    for how in ("turn", "all"):
        for loop in LOOPS:
            for connections in CONNECTIONS:
                if connections > most:
                    continue
                group = Group(
                    "echo-server",
                    "echo",
                    loop,
                    connections=connections,
                    window=int(how == "turn"),
                    one_core=how == "turn",
                    contestants=contestants,
                )
                name = cell_name("flat", group, how, connections)
                quick = how == "turn" and loop == "uvloop" and connections in (1, 1000)
                found.append(Cell(name, group, SIZE, (f"flat, {how}",), quick))
    return tuple(found)


ROW = Row(cells())
