"""Round trips: one connection with one message in flight, the contestant as client and as server.

Both ends are pinned to one core, since one of them always waits: a second core would add wake-ups
and no work. Wall time of a message is then the CPU time of both sides.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

SIZES = (32, 256, 8 * 1024, 100_000, 1_000_000)  # bytes
LARGE = 100_000  # bytes; from here on copies and masking decide
QUICK = {("asyncio", False, 256), ("uvloop", False, 256), ("uvloop", False, LARGE)}
QUICK |= {("uvloop", True, 256)}


def cells() -> tuple[Cell, ...]:
    found = []
    for role in ("echo-client", "echo-server"):
        for loop in LOOPS:
            for tls in (False, True):
                group = Group(role, "echo", loop, tls, one_core=True)
                for size in SIZES:
                    label = "100 KB and more" if size >= LARGE else "up to 8 KiB"
                    kinds = ("echo, both sides", role, f"{role}, {label}")
                    name = cell_name(role, group, size)
                    found.append(Cell(name, group, size, kinds, (loop, tls, size) in QUICK))
    return tuple(found)


ROW = Row(cells())
