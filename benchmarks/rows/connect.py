"""A client that connects, upgrades, sends CLOSE, waits for its echo and is gone; one after another.

The server is the floor's, on another core, so the wall time has two wake-ups a read in it.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        for tls in (False, True):
            group = Group("connect", "connect", loop, tls)
            kinds = ("connect", f"connect, {'TLS' if tls else 'plain'}")
            name = cell_name("connect", group)
            found.append(Cell(name, group, 0, kinds, loop == "uvloop", "connection"))
    return tuple(found)


ROW = Row(cells())
