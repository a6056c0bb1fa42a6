"""Compressed JSON ticks of about 300 bytes, with context takeover, as whole messages.

``inflate``: the floor feeds frames that it has compressed beforehand; the contestant is a client
that takes each message as bytes. ``deflate``: the contestant is a client that compresses and sends
256 messages at a time; the floor only counts them. The floor's windows have 12 bits, its level is
1; picows of PyPI takes part with its ``picows.websockets``, and each library's level is its default
one. compression.py, beside run.py, measures what each of our settings costs, without sockets.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row


def cells() -> tuple[Cell, ...]:
    found = []
    for role in ("inflate", "deflate"):
        for loop in LOOPS:
            group = Group(role, role, loop)
            name = cell_name("compression", group, role)
            found.append(Cell(name, group, 0, (role,), quick=loop == "uvloop"))
    return tuple(found)


ROW = Row(cells())
