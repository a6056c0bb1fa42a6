"""A server with 16 messages in flight on each connection; the floor's client on another core.

The client sends one message for each echo, those of one read in one system call.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

SIZE, DEPTH, CONNECTIONS = 256, 16, (1, 100)


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        for connections in CONNECTIONS:
            group = Group("echo-server", "echo", loop, connections=connections, depth=DEPTH)
            kinds = ("inflight", f"inflight, {connections} connection(s)")
            name = cell_name("inflight", group, SIZE, f"{DEPTH}x{connections}")
            quick = loop == "uvloop" or connections > 1
            found.append(Cell(name, group, SIZE, kinds, quick))
    return tuple(found)


ROW = Row(cells())
