"""Opening handshakes that a server answers, 16 under way at a time; the client then hangs up.

The floor's client, on another core, does the least: connect, a request that is always the same,
one read of the answer, close. What the server does for the end of a connection is in the figure.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

AT_A_TIME = 16


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        group = Group("echo-server", "handshake", loop, connections=AT_A_TIME)
        name = cell_name("handshake", group, AT_A_TIME)
        found.append(Cell(name, group, 0, ("handshake",), quick=True, unit="handshake"))
    return tuple(found)


ROW = Row(cells())
