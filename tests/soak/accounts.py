"""What a process of the soak test counts, and the faults that it finds.

Always holds: a broken invariant is told to run.py at once, as a line {"fault": ...}, for the
process may not live to the end.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import resource
import sys
import threading
import time
import traceback
import zlib
from typing import Any

from soak.messages import say

from picows import WSFrame

# Kept frames and memoryviews are looked at when so many newer ones are there. A view may keep a
# read buffer of 256 KiB.
MOST_KEPT = 60


class Deliberate(Exception):
    """Raised by a listener because its plan says so."""


class Accounts:
    """Counts, faults and kept frames of a process."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults = 0
        # Open connections of ours: between on_ws_connected and on_ws_disconnected.
        self.open = 0
        # Sessions that ended early without a fault of ours, if a server was shut down meanwhile:
        # server, from, until (monotonic seconds, the same clock in every process), what.
        self.cuts: list[tuple[str, float, float, str]] = []
        # When servers were away: server, from, until.
        self.away: list[tuple[str, float, float]] = []
        self.kept: collections.deque[tuple[Any, int]] = collections.deque()
        self._lock = threading.Lock()

    def count(self, name: str, by: int = 1) -> None:
        """From any thread."""
        with self._lock:
            self.counts[name] += by

    def fault(self, text: str) -> None:
        with self._lock:
            self.faults += 1
        if self.faults <= 50:
            say(fault=text)

    def cut(self, server: str, since: float, what: str) -> None:
        """A session with one of our servers ended early: run.py knows whether it was away."""
        with self._lock:
            self.cuts.append((server, since, time.monotonic(), what))

    # Frames that outlive their callback

    def keep(self, view: Any) -> None:
        """Hold a frame or a memoryview; its bytes must still be the same later."""
        self.kept.append((view, zlib.crc32(view)))
        self.count("frames kept")
        if len(self.kept) > MOST_KEPT:
            self._look_at_kept()

    def look_at_all_kept(self, but: int = 0) -> None:
        """All but a few small frames, whose memory is their own."""
        small = [
            each
            for each in self.kept
            if isinstance(each[0], WSFrame) and each[0].payload_size <= 1024
        ][:but]
        while self.kept:
            self._look_at_kept()
        self.kept.extend(small)

    def _look_at_kept(self) -> None:
        view, checksum = self.kept.popleft()
        if zlib.crc32(view) != checksum:
            self.fault(f"a kept {type(view).__name__} of {len(memoryview(view))} bytes changed")

    # Where nobody looks

    def watch_the_rest(self) -> None:
        """What goes wrong behind everybody's back: warnings, logged errors, exceptions in __del__
        and in threads.
        """
        handler = LogHandler(self)
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
        sys.unraisablehook = lambda args: self.fault(
            f"unraisable in {args.object!r}: {_text(args.exc_value)}"
        )
        threading.excepthook = lambda args: self.fault(
            f"exception in {args.thread}: {_text(args.exc_value)}"
        )

    def loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        if is_deviation(context):
            self.count("TLS handshakes broken off, told by aiofastnet")
            return
        self.fault(f"the loop's exception handler: {context!r}\n{_text(context.get('exception'))}")


def is_deviation(context: dict[str, Any]) -> bool:
    """Is it what docs/deviations.rst names? aiofastnet 1.2 reports a TLS client that breaks off its
    handshake.
    """
    # Its exception is sometimes a class, not an instance.
    return context.get("message") == "SSL handshake failed" and (
        type(context.get("transport")).__module__.startswith("aiofastnet")
    )


class LogHandler(logging.Handler):
    def __init__(self, accounts: Accounts) -> None:
        super().__init__(logging.WARNING)
        self.accounts = accounts

    def emit(self, record: logging.LogRecord) -> None:
        exc = record.exc_info[1] if record.exc_info else None
        message = record.getMessage()
        if record.name.startswith("picows.") and isinstance(exc, Deliberate):
            self.accounts.count("exceptions of listeners, logged")
        elif (record.name, message) in SENT_IN_VAIN:
            self.accounts.count("warnings of TLS below: sent in vain")
        else:
            self.accounts.fault(f"logged by {record.name}: {message}\n{_text(exc)}")


# What TLS below says when a callback sends on after the socket was lost, or after the peer ended
# TLS, and nobody told yet. On TCP picows knows by itself, and nobody says this.
SENT_IN_VAIN = {
    ("asyncio", "socket.send() raised exception."),
    ("asyncio", "SSL connection is closed"),
    ("aiofastnet", "SSL connection is closed"),
}


def _text(exc: object) -> str:
    return "".join(traceback.format_exception(exc)) if isinstance(exc, BaseException) else ""


def lift_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
