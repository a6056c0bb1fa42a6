"""A client that reads small frames as fast as the floor can send them, from another core.

The sender never sleeps while it feeds. The Python listener takes each payload as bytes and counts;
the Cython listener adds up sizes and touches a byte of each payload.
"""

from harness.plan import LOOPS, Cell, Group, cell_name
from harness.rows import Row

SIZES = {False: (64, 200, 1000), True: (200,)}  # bytes, by TLS
QUICK = {("asyncio", "python", False), ("uvloop", "python", False)}
QUICK |= {("uvloop", "python", True), ("uvloop", "cython", False)}


def cells() -> tuple[Cell, ...]:
    found = []
    for loop in LOOPS:
        for tls, sizes in SIZES.items():
            for listener, role in (("python", "feed"), ("cython", "feed-cython")):
                group = Group(role, "feed", loop, tls)
                for size in sizes:
                    what = f"{size} B{' over TLS' if tls else ''}"
                    kinds = (f"feed, {listener} listener", f"feed, {what}, {listener} listener")
                    name = cell_name("feed", group, size, listener)
                    quick = size == 200 and (loop, listener, tls) in QUICK
                    found.append(Cell(name, group, size, kinds, quick))
    return tuple(found)


ROW = Row(cells())
