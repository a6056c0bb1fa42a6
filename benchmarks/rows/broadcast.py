"""A server that hands each message on to 1,000 connections: one, or four that came together.

The floor's client, on another core, sends from one of its connections, four messages in one
segment, and sends again when every connection has got all. The contestant uses the best it has:
``picows.broadcast`` where the package knows it, ``websockets``' ``broadcast``, socketify's topics;
else a loop over send, which ``ours-send-loop`` does in any case. Count is deliveries.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

SIZE, CONNECTIONS, TOGETHER = 200, 1000, (1, 4)


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        for depth in TOGETHER:
            group = Group(
                "broadcast-server", "broadcast", loop, connections=CONNECTIONS, depth=depth
            )
            kinds = (f"broadcast, {depth} message(s) together",)
            name = cell_name("broadcast", group, SIZE, f"{depth}x{CONNECTIONS}")
            found.append(Cell(name, group, SIZE, kinds, loop == "uvloop", "delivery"))
    return tuple(found)


ROW = Row(cells())
