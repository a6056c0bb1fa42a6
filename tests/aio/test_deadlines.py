"""The calls that auto ping has made at given times: one timer of the loop for all connections.

Nothing asks how soon a call came, only that it was not early.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

import loops
from picows.aio.deadlines import Deadlines

both_loops = pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
# Where the loop is asked for its timers.
asyncio_only = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))

SOON, NEVER = 0.02, 600.0  # seconds


class Calls:
    """Notes which calls were made."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self._changed = asyncio.Event()

    def note(self, what: Any) -> Callable[[], None]:
        def call() -> None:
            self.made.append(what)
            self._changed.set()

        return call

    async def until(self, count: int) -> None:
        while len(self.made) < count:
            self._changed.clear()
            await self._changed.wait()


def in_this_loop() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


def our_timers() -> list[str]:
    return [each for each in loops.pending_timers(asyncio.get_running_loop()) if "Deadl" in each]


@both_loops
async def test_in_the_order_of_their_times_and_none_early(net: Any) -> None:
    deadlines, calls, early = in_this_loop(), Calls(), []
    begin = monotonic()
    delays = [number * SOON / 10 for number in range(20)]
    for delay in random.Random(1).sample(delays, len(delays)):

        def call(delay: float = delay) -> None:
            if monotonic() < begin + delay:
                early.append(delay)
            calls.note(delay)()

        deadlines.call_at(begin + delay, call)
    await calls.until(len(delays))
    assert calls.made == delays
    assert early == []


@both_loops
async def test_the_loop_does_not_turn_until_the_time_is_there(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop's timers may come early by a millisecond and a half."""
    turns, run = [], Deadlines._run

    def counted(deadlines: Deadlines) -> None:
        turns.append(monotonic())
        run(deadlines)

    monkeypatch.setattr(Deadlines, "_run", counted)
    deadlines, calls = in_this_loop(), Calls()
    for number in range(50):
        deadlines.call_at(monotonic() + 0.003 + number * 0.0001, calls.note(number))
        await calls.until(number + 1)
    assert len(turns) == 50


@both_loops
async def test_of_one_time_in_the_order_of_asking(net: Any) -> None:
    deadlines, calls, when = in_this_loop(), Calls(), monotonic() + SOON
    for number in range(50):
        deadlines.call_at(when, calls.note(number))
    await calls.until(50)
    assert calls.made == list(range(50))


@both_loops
async def test_a_sooner_one_does_not_wait_for_a_later_one(net: Any) -> None:
    deadlines, calls = in_this_loop(), Calls()
    late = deadlines.call_at(monotonic() + NEVER, calls.note("late"))
    deadlines.call_at(monotonic() + SOON, calls.note("soon"))
    await calls.until(1)
    # Its time has passed already.
    deadlines.call_at(monotonic() - NEVER, calls.note("past"))
    assert calls.made == ["soon"], "never from within call_at"
    await calls.until(2)
    late.cancel()
    assert calls.made == ["soon", "past"]


@both_loops
async def test_a_call_may_ask_for_calls_and_cancel_others(net: Any) -> None:
    deadlines, calls, now = in_this_loop(), Calls(), monotonic()

    def call() -> None:
        other.cancel()
        deadlines.call_at(now, calls.note("sooner"))
        deadlines.call_at(now + 3 * SOON, calls.note("last"))

    deadlines.call_at(now + SOON, call)
    other = deadlines.call_at(now + SOON, calls.note("cancelled"))
    deadlines.call_at(now + 2 * SOON, calls.note("later"))
    await calls.until(3)
    assert calls.made == ["sooner", "later", "last"]


@both_loops
async def test_what_is_cancelled_is_not_called_and_is_let_go(net: Any) -> None:
    class Owner:
        def call(self) -> None:
            raise AssertionError

    deadlines, calls, owner = in_this_loop(), Calls(), Owner()
    watched = weakref.ref(owner)
    cancelled = deadlines.call_at(monotonic() + SOON, owner.call)
    deadlines.call_at(monotonic() + 2 * SOON, calls.note("other"))
    cancelled.cancel()
    cancelled.cancel()
    del owner
    assert watched() is None
    await calls.until(1)
    assert not cancelled.is_to_come


@both_loops
async def test_what_was_called_is_let_go_and_no_longer_cancelled(net: Any) -> None:
    class Owner:
        def __init__(self, call: Callable[[], None]) -> None:
            self.call = call

        def run(self) -> None:
            assert not first.is_to_come
            # Its own, which is being made: not one of those that are to come.
            first.cancel()
            self.call()

    deadlines, calls = in_this_loop(), Calls()
    owner = Owner(calls.note("first"))
    watched = weakref.ref(owner)
    first = deadlines.call_at(monotonic() + SOON, owner.run)
    deadlines.call_at(monotonic() + 2 * SOON, calls.note("second"))
    del owner
    await calls.until(1)
    await asyncio.sleep(0)
    assert watched() is None
    first.cancel()
    await calls.until(2)
    assert calls.made == ["first", "second"]


@asyncio_only
async def test_one_timer_for_all_and_none_when_nothing_is_to_come(net: Any) -> None:
    deadlines, calls = in_this_loop(), Calls()
    now = monotonic()
    for order in (1, -1):
        waiting = [
            deadlines.call_at(now + NEVER + order * n / 9, lambda: None) for n in range(1000)
        ]
        assert len(our_timers()) == 1
        for each in waiting[:-1]:
            each.cancel()
        assert len(our_timers()) == 1
        waiting[-1].cancel()
        assert our_timers() == []
    deadlines.call_at(monotonic() + SOON, calls.note("called"))
    await calls.until(1)
    assert our_timers() == []


@asyncio_only
async def test_the_loop_does_not_wake_for_what_was_cancelled_when_it_was_awake(net: Any) -> None:
    """The usual case: a ping is answered long before the deadline, and another connection pings."""
    deadlines, calls, now = in_this_loop(), Calls(), monotonic()
    deadlines.call_at(now + SOON, calls.note("ping"))
    answer = deadlines.call_at(now + 2 * SOON, lambda: None)
    late = deadlines.call_at(now + NEVER, lambda: None)
    answer.cancel()
    await calls.until(1)
    (timer,) = (
        handle
        for handle in asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        if "Deadlines" in repr(handle) and not handle.cancelled()
    )
    assert timer.when() > now + NEVER / 2
    late.cancel()


@asyncio_only
async def test_cancelled_ones_do_not_pile_up(net: Any) -> None:
    """As with a connection that pauses and resumes reading all the time."""
    deadlines, calls = in_this_loop(), Calls()
    begin = monotonic()
    kept = []
    for number in range(5000):
        if number % 50 == 0:
            kept.append(number)
            deadlines.call_at(begin + 0.3 + number / 1e6, calls.note(number))
        deadlines.call_at(begin + NEVER - number, lambda: None).cancel()
        assert len(deadlines._heap) < 2 * len(kept) + 110
    await calls.until(len(kept))
    assert calls.made == kept


@both_loops
async def test_what_a_call_raises_goes_to_the_exception_handler(net: Any) -> None:
    deadlines, calls, contexts = in_this_loop(), Calls(), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    def fail() -> None:
        raise LookupError("of a call")

    now = monotonic()
    deadlines.call_at(now + SOON, fail)
    deadlines.call_at(now + SOON, fail)
    deadlines.call_at(now + SOON, calls.note("next"))
    await calls.until(1)
    assert [str(context["exception"]) for context in contexts] == 2 * ["of a call"]


@both_loops
async def test_many_at_once_let_others_come_in_between(net: Any) -> None:
    """10,000 connections that were opened together ping together."""
    deadlines, calls, now = in_this_loop(), Calls(), monotonic()
    loop, all_done = asyncio.get_running_loop(), asyncio.Event()

    def other() -> None:
        calls.made.append("other")
        if calls.made.count("call") < 100:
            loop.call_soon(other)
        else:
            all_done.set()

    for _ in range(100):
        deadlines.call_at(now, calls.note("call"))
    loop.call_soon(other)
    await all_done.wait()
    longest = max(len(run) for run in " ".join(calls.made).split("other"))
    assert longest <= len(" call call ")


@both_loops
async def test_in_the_context_of_the_asking(net: Any) -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    deadlines, calls, now = in_this_loop(), Calls(), monotonic()

    def call() -> None:
        calls.note(variable.get())()
        variable.set("changed")

    def ask(value: str, delay: float) -> None:
        variable.set(value)
        deadlines.call_at(now + delay, call)

    for number in range(3):
        contextvars.copy_context().run(ask, f"context {number}", (3 - number) * SOON)
    await calls.until(3)
    assert calls.made == ["context 2", "context 1", "context 0"]
    assert variable.get() == "outside"


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_they_keep_no_loop_and_outlive_it(kind: str) -> None:
    loop = loops.new_loop(kind)
    deadlines = Deadlines(loop)
    waiting = deadlines.call_at(monotonic() + NEVER, lambda: None)
    loop.close()
    watched = weakref.ref(loop)
    # Both without a loop that could be asked.
    deadlines.call_at(monotonic(), lambda: None)
    del loop
    gc.collect()
    waiting.cancel()
    deadlines.call_at(monotonic(), lambda: None).cancel()
    assert watched() is None
