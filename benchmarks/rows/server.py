"""A server with 100 connections, one message in flight on each; the client is on another core."""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

CONNECTIONS = 100
SIZES = (256, 8 * 1024)  # bytes


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        group = Group("echo-server", "echo", loop, connections=CONNECTIONS)
        for size in SIZES:
            name = cell_name("server", group, size, f"1x{CONNECTIONS}")
            quick = loop == "uvloop" or size == 256
            found.append(Cell(name, group, size, ("server", f"server, {size} B"), quick))
    return tuple(found)


ROW = Row(cells())
