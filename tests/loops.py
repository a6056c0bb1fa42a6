"""Runs a coroutine in a fresh event loop and looks at what it leaves behind.

What always holds when `run` returns: the loop is closed; no task, timer or file descriptor of the
coroutine is left; nothing reached the loop's exception handler; the time limit was kept. Otherwise
the test fails, saying which. Timers are seen on asyncio's loops only, file descriptors on Linux
only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

try:
    import uvloop
except ImportError:  # Windows
    uvloop = None

LOOP_KINDS = ("asyncio", "asyncio-debug", "uvloop")

# Sanitizers make everything slower; nothing in the suite may depend on how long something takes.
TIME_FACTOR = 5 if os.environ.get("PICOWS_SANITIZE") else 1
TIME_LIMIT = 30 * TIME_FACTOR
# What a closing connection needs for its last packets.
SETTLE_TIME = 3 * TIME_FACTOR

# Timers that belong to the loop, not to a connection: the read buffers are given back some time
# after the last read.
LOOP_TIMER_OWNERS = ("BufferPool", "LoopState")

# aiofastnet 1.2.0 leaves this one, for ssl_shutdown_timeout seconds, when abort() follows close()
# on TLS. Nothing that it offers takes it back.
TIMERS_OF_AIOFASTNET = ("_check_shutdown_timeout",)


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        return uvloop.new_event_loop()
    loop = asyncio.new_event_loop()
    loop.set_debug(kind == "asyncio-debug")
    # Debug mode prints a warning about a slow callback; on a busy machine every callback may be
    # slow.
    loop.slow_callback_duration = 60
    return loop


def warm_up() -> None:
    """Open what stays open in the process once a loop has run (uvloop's signal pipe), so that it is
    no leak.
    """
    for kind in LOOP_KINDS:
        if kind == "uvloop" and uvloop is None:
            continue
        loop = new_loop(kind)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def open_files() -> dict[int, str]:
    """The process's sockets, pipes and the like. Plain files do not count: modules are imported at
    any time.
    """
    found = {}
    try:
        numbers = os.listdir("/proc/self/fd")
    except FileNotFoundError:  # macOS, Windows
        return {}
    for number in numbers:
        with contextlib.suppress(FileNotFoundError):  # listdir's own
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(("socket:", "pipe:", "anon_inode:")):
                found[int(number)] = target
    return found


def new_files(before: dict[int, str]) -> dict[int, str]:
    return {fd: target for fd, target in open_files().items() if before.get(fd) != target}


def pending_timers(loop: asyncio.AbstractEventLoop) -> list[str]:
    found = []
    for handle in getattr(loop, "_scheduled", ()):
        owner = type(getattr(handle._callback, "__self__", None)).__name__
        if getattr(handle._callback, "__name__", "") in TIMERS_OF_AIOFASTNET:
            continue
        if not handle.cancelled() and owner not in LOOP_TIMER_OWNERS:
            found.append(repr(handle))
    return found


def stale_watches(loop: asyncio.AbstractEventLoop) -> list[int]:
    """
    Numbers of files that asyncio's loop watches though they are closed, or somebody else's by now.
    The loop would not hear the next socket of such a number.
    """
    selector = getattr(loop, "_selector", None)
    if selector is None:  # uvloop does not show it
        return []
    own = loop._ssock.fileno()  # type: ignore[attr-defined]
    return [fd for fd in selector.get_map() if fd != own]


class Run:
    """One coroutine function in one loop."""

    def __init__(self, kind: str, limit: float = TIME_LIMIT) -> None:
        self.kind = kind
        self.limit = limit
        # What reached the loop's exception handler. A test that provokes it clears this list.
        self.loop_errors: list[dict[str, Any]] = []
        self.expired: str | None = None

    def run(self, function: Callable[[], Awaitable[Any]]) -> None:
        files_before = open_files()
        loop = new_loop(self.kind)
        loop.set_exception_handler(lambda loop, context: self.loop_errors.append(context))
        try:
            leftovers = loop.run_until_complete(self._main(loop, function))
        finally:
            self._close(loop)
        if new_files(files_before):
            gc.collect()  # a socket in a reference cycle: its ResourceWarning is an error by itself
        leaked = new_files(files_before)
        if leaked:
            leftovers.append(f"files open after the loop was closed: {leaked}")
        if self.loop_errors:
            leftovers.append("the loop's exception handler was called:")
            leftovers.extend(describe_context(context) for context in self.loop_errors)
        if leftovers:
            pytest.fail("\n".join(leftovers), pytrace=False)

    async def _main(
        self, loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[Any]]
    ) -> list[str]:
        await asyncio.sleep(0)  # uvloop opens its own files when it starts to run
        files_before = open_files()
        task = asyncio.ensure_future(function())
        limit = loop.call_later(self.limit, self._expire, task)
        try:
            await task
        except asyncio.CancelledError:
            if self.expired is None:
                raise
            pytest.fail(self.expired, pytrace=False)
        finally:
            limit.cancel()
        del task

        deadline = loop.time() + SETTLE_TIME
        while leftovers := self._leftovers(loop, files_before):
            if loop.time() > deadline:
                break
            await asyncio.sleep(0.005)
        return leftovers

    def _leftovers(self, loop: asyncio.AbstractEventLoop, before: dict[int, str]) -> list[str]:
        found = []
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        if tasks:
            found.append(f"tasks left: {tasks}")
        timers = pending_timers(loop)
        if timers:
            found.append(f"timers left: {timers}")
        files = new_files(before)
        if files:
            found.append(f"files left open: {files}")
        stale = stale_watches(loop)
        if stale:
            found.append(f"the loop watches what is closed: {stale}")
        return found

    def _expire(self, task: asyncio.Future[Any]) -> None:
        report = io.StringIO()
        report.write(f"not done within {self.limit} s\n")
        for each in asyncio.all_tasks():
            # A suspended coroutine of Cython has no line number, of which print_stack() makes a
            # TypeError.
            with contextlib.suppress(TypeError):
                each.print_stack(file=report)
        frames = sys._current_frames()
        for thread in threading.enumerate():
            report.write(f"thread {thread.name}: {frames.get(thread.ident or 0)}\n")
        self.expired = report.getvalue()
        task.cancel()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=SETTLE_TIME))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


def describe_context(context: dict[str, Any]) -> str:
    lines = [f"  {key}: {value!r}" for key, value in context.items() if key != "source_traceback"]
    return "\n".join(lines)
