"""Compressed JSON ticks of about 300 bytes, with context takeover, as whole messages.

``inflate``: the floor feeds frames that it has compressed beforehand; the contestant is a client
that takes each message as bytes. ``inflate-alike``: the same with messages that are nearly the
one before, of which zlib makes a tenth; there it takes the least part of the time. ``deflate``:
the contestant is a client that compresses and sends 256 messages at a time; the floor only counts
them. The floor's windows have 12 bits, its level is 1; picows of PyPI takes part with its
``picows.websockets``, and each library's level is its default one. compression.py, beside run.py,
measures what each of our settings costs, without sockets.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row


def cells() -> tuple[Cell, ...]:
    found = []
    for kind in ("inflate", "inflate-alike", "deflate"):
        for loop in LOOPS:
            role = kind.partition("-")[0]
            group = Group(role, role, loop, ticks_are_alike=kind == "inflate-alike")
            name = cell_name("compression", group, kind)
            found.append(Cell(name, group, 0, (kind,), quick=loop == "uvloop"))
    return tuple(found)


ROW = Row(cells())
