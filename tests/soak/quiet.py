"""What must not be left when all connections are closed: tasks, timers, files, buffers, objects;
and how much memory there is.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import gc
import resource
from typing import Any

from aio.traffic import resident_bytes

import loops

# -- memory ----------------------------------------------------------------------------------------


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def memory_figures() -> dict[str, int]:
    """Bytes that are resident; that malloc has given out, in all its arenas (with
    PYTHONMALLOC=malloc every Python object is among them); and of other memory that is mapped, such
    as large buffers of picows.
    """
    gc.collect()
    gc.collect()  # what the finalizers of the first have let go
    figures = {}
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)
    if hasattr(libc, "mallinfo2"):  # from glibc 2.33 on
        libc.mallinfo2.restype = _Mallinfo2
        info = libc.mallinfo2()
        figures["malloc"] = info.uordblks + info.hblkhd
        with open("/proc/self/statm") as file:
            data = int(file.read().split()[5]) * resource.getpagesize()
        figures["mapped"] = data - info.arena - info.hblkhd
    figures["rss"] = resident_bytes()
    return figures


def objects_of_ours() -> collections.Counter[str]:
    """Instances that the cycle collector sees of classes of picows and of the soak test."""
    gc.collect()
    found: collections.Counter[str] = collections.Counter()
    for each in gc.get_objects():
        module = type(each).__module__
        if isinstance(module, str) and module.partition(".")[0] in ("picows", "soak"):
            found[f"{module}.{type(each).__name__}"] += 1
    return found


def loop_states() -> list[Any]:
    return [each for each in gc.get_objects() if type(each).__name__ == "LoopState"]


# -- what is left ----------------------------------------------------------------------------------


# What the first connection of a process or of a loop makes, and what stays: the state of the loop
# itself, without buffers, and the frame that the next batch would use.
OF_THE_LOOP = {
    "picows.aio.loop_state.LoopState": 1,
    "picows.aio.poller.Crowd": 1,
    "picows.wire.octets.MaskKeyPool": 1,
    "picows.wire.frame.WSFrame": 1,
}


def leftovers(
    loop: asyncio.AbstractEventLoop,
    files: dict[int, str],
    objects: collections.Counter[str],
    tasks: set[asyncio.Task[Any]],
) -> list[str]:
    """What is there without any connection, beyond `files`, `objects` and `tasks`."""
    found = []
    more_tasks = asyncio.all_tasks(loop) - tasks
    if more_tasks:
        found.append(f"tasks: {more_tasks}")
    timers = [
        each
        for each in loops.pending_timers(loop) + _timers_of_uvloop() + _timers_of_states(loop)
        if loops.Run.__name__ + "._expire" not in each  # the limit of the whole run
    ]
    if timers:
        found.append(f"timers: {timers}")
    more_files = loops.new_files(files)
    if more_files:
        found.append(f"files: {more_files}")
    if not found:
        # The expensive part comes when the rest is quiet.
        found += _objects_left(objects) + _buffers_left()
    return found


def _objects_left(before: collections.Counter[str]) -> list[str]:
    more = objects_of_ours() - before
    for name, number in OF_THE_LOOP.items():
        more[name] -= number
    return [f"{number} too many of {name}" for name, number in more.items() if number > 0]


def _buffers_left() -> list[str]:
    """The shared buffer and its window go together with all others, and the window is visible."""
    return [
        f"a LoopState has a buffer: {held!r}"
        for state in loop_states()
        for held in gc.get_referents(state)
        if isinstance(held, memoryview)
    ]


def _timers_of_uvloop() -> list[str]:
    """Handles that are neither cancelled nor done; the loop itself does not show them."""
    return [
        repr(each)
        for each in gc.get_objects()
        if type(each).__module__ == "uvloop.loop"
        and type(each).__name__ == "TimerHandle"
        and not each.cancelled()
    ]


def _timers_of_states(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Without connections the loop's state has none; loops.py overlooks those."""
    return [
        repr(handle)
        for handle in getattr(loop, "_scheduled", ())
        if not handle.cancelled()
        and type(getattr(handle._callback, "__self__", None)).__name__ in loops.LOOP_TIMER_OWNERS
    ]
