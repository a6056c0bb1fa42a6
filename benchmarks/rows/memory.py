"""Bytes that a server takes for an idle connection: the slope between few and many connections.

``rss`` is what the process keeps resident. ``malloc`` is what malloc has given out while Python's
own allocator is off (PYTHONMALLOC=malloc), so every object is in it: what was asked for, without
what the allocators keep in reserve. The kernel's buffers are in neither. A message went over no
connection yet.
"""

from harness.machinery import Pair, resident_bytes
from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

FEW, MANY = 500, 2500


def measure(pair: Pair, cell: Cell, seconds: float) -> dict[str, float]:
    pair.client.ask(f"open {FEW}", seconds)
    few = taken(pair, cell)
    pair.client.ask(f"open {MANY}", seconds)
    many = taken(pair, cell)
    amount = (many - few) / (MANY - FEW)
    return {"count": MANY - FEW, "wall": 0.0, "cpu": 0.0, "other_cpu": 0.0, "amount": amount}


def taken(pair: Pair, cell: Cell) -> float:
    """Bytes. The question comes first: the server collects its garbage before it answers."""
    given_out = pair.server.ask("memory", 0)["malloc"]
    return given_out if cell.group.plain_malloc else resident_bytes(pair.server.pid)


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        for tls in (False, True):
            for what in ("rss", "malloc"):
                group = Group("echo-server", "idle", loop, tls, plain_malloc=what == "malloc")
                kinds = (f"memory, {'TLS' if tls else 'plain'}, {what}",)
                quick = loop == "asyncio" and what == "rss"
                name = cell_name("memory", group, what)
                found.append(Cell(name, group, 0, kinds, quick, "byte a connection"))
    return tuple(found)


ROW = Row(cells(), measure, in_slices=False)
