"""Auto ping and round-trip times: what a connection knows of its peer from PINGs.

Always holds:

* One deadline a connection. Received bytes set a time stamp, nothing else.
* Nobody is judged for bytes that wait in the socket: when a deadline is found passed, the loop
  reads once more before the verdict.
* Nothing is judged while reading is paused.
"""

from __future__ import annotations

import os
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, NamedTuple

from picows.aio.transport import WSAutoPingStrategy

if TYPE_CHECKING:
    import asyncio

    from picows.aio.deadlines import Deadline, Deadlines
    from picows.aio.inbound import Inbound

__all__ = ["AutoPing", "AutoPingSettings", "RoundTrips"]

# Seconds for the loop to read what came while something blocked it. Not 0: uvloop would run that
# timer before it looks at the sockets.
_LAST_LOOK = 0.01

# Round trips that nobody waits for any more are forgotten beyond this number.
_MAX_ABANDONED = 100


class AutoPingSettings(NamedTuple):
    """What the entry points were asked for; times in seconds."""

    idle_timeout: float
    reply_timeout: float
    strategy: WSAutoPingStrategy


class AutoPing:
    """
    Pings the peer, and gives it up when it shows no life.

    PING_WHEN_IDLE: a ping after `idle_timeout` without a byte; any byte after it is a sign of life.
    PING_PERIODICALLY: a ping every `idle_timeout`; it has to be answered. Only bytes of a frame
    that is still under way prolong the wait, and once what arrived ahead of the answer.

    A ping that waits behind other bytes is on its way as long as the peer takes some of them.
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_deadlines",
        "_extended",
        "_frames",
        "_frozen_at",
        "_is_awaiting",
        "_last_look",
        "_ping_begin",
        "_pinged_at",
        "_prolonged_to",
        "_seen",
        "_settings",
        "_taken",
    )

    def __init__(
        self, deadlines: Deadlines, connection: Inbound, settings: AutoPingSettings
    ) -> None:
        self._deadlines = deadlines
        self._connection = connection
        self._settings = settings
        self._deadline: Deadline | None = None
        # When the last ping was due or left; what had been heard by then.
        self._pinged_at = monotonic()
        self._seen = self._pinged_at
        self._is_awaiting = False
        self._extended = False
        self._prolonged_to = 0.0
        # In the stream of what is sent: where the ping begins, and how far the peer took it.
        self._ping_begin = self._taken = 0
        # How many frames had come by the ping, or by the last look.
        self._frames = 0
        self._last_look = False
        self._frozen_at: float | None = None

    def start(self) -> None:
        self._connection.last_heard = self._pinged_at = monotonic()
        self._arm()

    def stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def freeze(self) -> None:
        """Reading is paused: no verdict on what cannot be heard."""
        if self._frozen_at is None:
            self._frozen_at = monotonic()
            self.stop()

    def thaw(self) -> None:
        """Reading goes on, and the time in between did not pass."""
        if self._frozen_at is None:
            return
        missed = monotonic() - self._frozen_at
        self._frozen_at = None
        is_silent = self._connection.last_heard == self._seen
        self._connection.last_heard += missed
        if is_silent:
            self._seen = self._connection.last_heard
        self._pinged_at += missed
        self._prolonged_to += missed
        self._last_look = False
        self._arm()

    def pong_received(self) -> None:
        """The answer is here."""
        self._is_awaiting = False
        if self._frozen_at is None:
            self.stop()
            self._arm()

    def _arm(self) -> None:
        if self._frozen_at is None:
            self._deadline = self._deadlines.call_at(self._due_at(), self._due)

    def _due_at(self) -> float:
        idle_timeout, reply_timeout, strategy = self._settings
        if self._is_awaiting:
            return max(self._pinged_at + reply_timeout, self._prolonged_to)
        if strategy == WSAutoPingStrategy.PING_PERIODICALLY:
            return self._pinged_at + idle_timeout
        return self._connection.last_heard + idle_timeout

    def _due(self) -> None:
        self._deadline = None
        if monotonic() < self._due_at():
            # Something was heard meanwhile.
            self._arm()
        elif not self._is_awaiting:
            self._ping()
        elif not (self._is_ping_moving() or self._may_prolong()):
            if self._last_look:
                self._connection.give_up_peer(
                    f"no answer to a ping within {self._settings.reply_timeout:g} s"
                )
                return
            self._last_look = True
            self._deadline = self._deadlines.call_at(monotonic() + _LAST_LOOK, self._due)
            return
        else:
            self._last_look = False
            self._arm()

    def _is_ping_moving(self) -> bool:
        """Did the peer take of what waits ahead of the ping? Then it has the whole time again."""
        before, self._taken = self._taken, self._connection.bytes_taken
        if not before < min(self._taken, self._ping_begin):
            return False
        self._prolonged_to = monotonic() + self._settings.reply_timeout
        return True

    def _may_prolong(self) -> bool:
        """No answer: wait on, because of bytes that came?"""
        connection = self._connection
        if connection.last_heard == self._seen:
            return False
        if self._settings.strategy == WSAutoPingStrategy.PING_WHEN_IDLE or not connection.can_send:
            # Alive. The answer to this ping, if it comes, is still an answer.
            self._is_awaiting = False
            return True
        frames, self._frames = self._frames, connection.frames_received
        if connection.is_frame_under_way and frames == self._frames:
            # Since the ping, or the last look, it is one and the same.
            self._prolonged_to = connection.last_heard + self._settings.reply_timeout
            return self._prolonged_to > monotonic()
        if self._extended:
            return False
        self._extended = True
        self._prolonged_to = monotonic() + self._settings.reply_timeout
        return True

    def _ping(self) -> None:
        self._pinged_at = monotonic()
        self._seen = self._connection.last_heard
        self._prolonged_to = 0.0
        self._extended = self._last_look = False
        self._is_awaiting = True
        self._ping_begin = self._connection.bytes_sent
        self._taken = self._connection.bytes_taken
        self._frames = self._connection.frames_received
        self._connection.send_auto_ping()
        if self._is_awaiting and self._deadline is None and not self._connection.is_disconnected:
            self._arm()


class RoundTrips:
    """The PINGs of `measure_roundtrip_time` that are on their way."""

    __slots__ = ("_waiting", "sent")

    def __init__(self) -> None:
        # How many PINGs there were.
        self.sent = 0
        # By payload, in the order of sending: the number, when, and who waits. An entry stays until
        # its own PONG comes, though a later one has answered it.
        self._waiting: dict[bytes, tuple[int, float, asyncio.Future[float]]] = {}

    async def measure(self, connection: Inbound, loop: asyncio.AbstractEventLoop) -> float:
        """One round trip, in seconds."""
        if not connection.can_send or connection.close_handshake is not None:
            raise _closed()
        if len(self._waiting) > _MAX_ABANDONED:
            self._forget_abandoned()
        payload = os.urandom(8)
        future: asyncio.Future[float] = loop.create_future()
        self._waiting[payload] = self.sent, perf_counter(), future
        self.sent += 1
        try:
            connection.send_ping(payload)
        except BaseException:
            self._waiting.pop(payload, None)
            raise
        return await future

    def pong_received(self, payload: bytes) -> int:
        """The number of the PING of ours that has this payload; -1 where there is none."""
        entry = self._waiting.pop(payload, None)
        if entry is None:
            return -1
        number, start, future = entry
        # RFC 6455 section 5.5.3: the peer may answer only the last of several PINGs.
        self.answered_before(number)
        if not future.done():
            future.set_result(perf_counter() - start)
        return number

    def answered_before(self, number: int) -> None:
        """All that was sent before this one has been answered now."""
        now = perf_counter()
        for sent, start, future in self._waiting.values():
            if sent >= number:
                break
            if not future.done():
                future.set_result(now - start)

    def fail(self) -> None:
        """The connection is closed."""
        waiting, self._waiting = self._waiting, {}
        for *_, future in waiting.values():
            if not future.done():
                future.set_exception(_closed())

    def _forget_abandoned(self) -> None:
        self._waiting = {
            payload: entry for payload, entry in self._waiting.items() if not entry[-1].done()
        }


def _closed() -> ConnectionResetError:
    return ConnectionResetError("the connection was closed before the round trip was complete")
