"""Calls at given times for the connections of one event loop, with one timer of the loop for all.

A timer of the loop's own costs each ping two objects, and with uvloop two libuv handles besides.

Always holds: the loop has one handle of ours as long as a call is to come, and no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    import asyncio

__all__ = ["Deadline", "Deadlines"]

# Cancelled calls stay where they are until there are more than these, and than the others.
_MAX_CANCELLED = 100

# Seconds. uvloop rounds to whole milliseconds, from a clock that does too: without this its timer
# may come so much too early, and the loop would turn until the time is there.
_COARSENESS = 0.0015


class Deadline:
    """One call that is to come."""

    __slots__ = ("_call", "_deadlines")

    def __init__(self, deadlines: Deadlines, callback: Callable[[], object]) -> None:
        self._deadlines = deadlines
        # None once it was made or cancelled, and with it goes what it kept alive.
        self._call: tuple[Context, Callable[[], object]] | None = (copy_context(), callback)

    @property
    def is_to_come(self) -> bool:
        return self._call is not None

    def cancel(self) -> None:
        if self._call is not None:
            self._call = None
            self._deadlines.one_was_cancelled()

    def take(self) -> tuple[Context, Callable[[], object]]:
        """The call, which is not to come any more."""
        call, self._call = self._call, None
        assert call is not None
        return call


class Deadlines:
    __slots__ = (
        "__weakref__",
        "_cancelled",
        "_handle",
        "_heap",
        "_loop_ref",
        "_number",
        "_runs_at",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weakly: a call that is never made keeps no loop.
        self._loop_ref = ref(loop)
        # When; which came first, where that is the same.
        self._heap: list[tuple[float, int, Deadline]] = []
        self._number = self._cancelled = 0
        # What brings the loop to `_run`, and when.
        self._handle: asyncio.Handle | None = None
        self._runs_at = 0.0

    def call_at(self, when: float, callback: Callable[[], object]) -> Deadline:
        """
        Call `callback` when `time.monotonic()` has reached `when` (seconds), in the context of now.

        As with `loop.call_at`, what it raises goes to the loop's exception handler.
        """
        deadline = Deadline(self, callback)
        self._number += 1
        heappush(self._heap, (when, self._number, deadline))
        if self._handle is None or when < self._runs_at:
            self._schedule()
        return deadline

    def one_was_cancelled(self) -> None:
        heap = self._heap
        self._cancelled += 1
        if self._cancelled == len(heap):
            heap.clear()
            self._cancelled = 0
            self._schedule()
        elif self._cancelled > max(_MAX_CANCELLED, len(heap) // 2):
            heap[:] = [entry for entry in heap if entry[-1].is_to_come]
            heapify(heap)
            self._cancelled = 0

    def _schedule(self) -> None:
        """Have the loop come back for the first of the calls."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        heap = self._heap
        while heap and not heap[0][-1].is_to_come:
            heappop(heap)
            self._cancelled -= 1
        loop = self._loop_ref()
        if not heap or loop is None or loop.is_closed():
            return
        self._runs_at = heap[0][0]
        delay = self._runs_at - monotonic()
        # Many may be due at once. One a turn: whatever else the loop has to do comes in between.
        self._handle = loop.call_later(delay + _COARSENESS if delay > 0 else 0.0, self._run)

    def _run(self) -> None:
        heap = self._heap
        call = None
        self._handle = None
        if heap[0][0] <= monotonic() and heap[0][-1].is_to_come:
            call = heappop(heap)[-1].take()
        # Ahead of the call, which may raise, or run the loop.
        self._schedule()
        if call is not None:
            context, callback = call
            context.run(callback)
