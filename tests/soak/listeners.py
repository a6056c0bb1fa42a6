"""The listeners of the soak test, on both sides of picows.

    Watched         knows what may be called when, checks each message, keeps some frames
      Echo, Push    what our servers do
      Caller        what our clients do

Always holds: what a callback may not see (a frame before connected, after disconnect, inside
another one, while paused; a second connected or disconnected) is a fault, whatever the session is
about.
"""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

from aio.traffic import our_socket
from soak.accounts import Accounts, Deliberate
from soak.messages import mistake_in, opcode_of, payload_of

from picows import WSFrame, WSListener, WSMsgType, WSTransport

GIVEN_UP = "no answer to a ping"

# Of the frames of a session that pauses reading now and then, so many are followed by a pause.
HOLDS = 0.02


class Watched(WSListener):
    """One end of a session; `what` names it in a fault."""

    def __init__(
        self,
        accounts: Accounts,
        what: str,
        seed: int,
        *,
        auto_pong: bool = True,
        is_live: bool = True,
        raises: str = "",
        holds: bool = False,
        good: int | None = None,
    ) -> None:
        self.accounts = accounts
        self.what = what
        self.seed = seed
        self.random = random.Random(f"{seed}/{type(self).__name__}")
        self.auto_pong = auto_pong
        # Auto ping may not give up this peer.
        self.is_live = is_live
        # The callback that raises.
        self.raises = raises
        # Pauses reading, now and then.
        self.holds = holds
        # After so many messages the peer may send what it likes.
        self.good = good
        self.says_pongs = self.random.random() < 0.3

        self.transport: WSTransport
        self.state = "new"
        self.inside = False
        # Why reading is paused.
        self.reasons: set[str] = set()
        self.writing_paused = False
        # disconnect() was called here.
        self.ended = False
        self.timer: asyncio.TimerHandle | None = None

        # Messages, and the frames of one that is not whole.
        self.received = 0
        self.parts: list[bytes] = []

    def fault(self, text: str) -> None:
        self.accounts.fault(f"{self.what}: {text}")

    # What a session does

    def begin(self) -> None:
        """The connection is open."""

    def message_arrived(self, frame: WSFrame, is_whole: bool) -> None:
        """A data frame, which was checked."""

    def may_send(self) -> None:
        """The peer has read."""

    def over(self) -> None:
        """The connection is gone."""

    # What picows calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        if self.state != "new":
            self.fault(f"on_ws_connected in the state {self.state}")
        self.state = "open"
        self.transport = transport
        self.accounts.open += 1
        side = "clients" if transport.is_client_side else "servers"
        self.accounts.count(f"connections of {side}")
        if self.random.random() < 0.2:
            our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        if self.raises == "connected":
            raise Deliberate(self.raises)
        self.begin()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.state != "open" or self.inside or self.ended or transport is not self.transport:
            self.fault(f"on_ws_frame in the state {self.state}, {self.inside=}, {self.ended=}")
        if self.reasons and not transport.is_disconnected:
            self.fault(f"on_ws_frame while paused for {self.reasons}")
        self.inside = True
        try:
            self._react(transport, frame)
        finally:
            self.inside = False

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self.state != "open" or self.inside:
            self.fault(f"on_ws_disconnected in the state {self.state}, {self.inside=}")
        self.state = "gone"
        self.accounts.open -= 1
        if self.timer is not None:
            self.timer.cancel()
        closing = transport.close_handshake
        reason = closing.sent.reason if closing is not None and closing.sent is not None else None
        if reason is not None and reason.startswith(GIVEN_UP):
            self.accounts.count("peers given up by auto ping")
            if self.is_live:
                self.fault(f"a live peer was given up: {reason}")
        self.over()
        if self.raises == "disconnected":
            raise Deliberate(self.raises)

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        return not self.says_pongs and frame.msg_type == WSMsgType.PONG

    def pause_writing(self) -> None:
        if self.writing_paused or self.state != "open":
            self.fault(f"pause_writing in the state {self.state}, {self.writing_paused=}")
        self.writing_paused = True
        self.accounts.count("times that writing was paused")

    def resume_writing(self) -> None:
        if not self.writing_paused or self.state != "open":
            self.fault(f"resume_writing in the state {self.state}, {self.writing_paused=}")
        self.writing_paused = False
        self.may_send()

    # What subclasses call

    def disconnect(self, graceful: bool = True) -> None:
        self.ended = True
        self.transport.disconnect(graceful)

    def hold(self, reason: str) -> None:
        if not self.reasons:
            self.transport.pause_reading()
            self.accounts.count("times that reading was paused")
        self.reasons.add(reason)

    def release(self, reason: str) -> None:
        self.reasons.discard(reason)
        if not self.reasons:
            self.transport.resume_reading()

    def hold_for(self, seconds: float) -> None:
        """Stop reading for a while; one such pause at a time."""
        if "a while" not in self.reasons and not self.ended:
            self.hold("a while")
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(seconds, self.release, "a while")

    def send(self, *args: Any, **kwargs: Any) -> None:
        try:
            self.transport.send(*args, **kwargs)
        except OSError:
            self.accounts.count("sends that the system refused")

    def send_message(self, number: int) -> None:
        """In one of the ways that there are."""
        payload = payload_of(self.seed, number)
        kind = WSMsgType(opcode_of(number))
        way = self.random.randrange(10)
        if way < 5:
            self.send(kind, payload)
        elif way < 6:
            changing = bytearray(payload)
            self.send(kind, changing)
            changing[:] = b"\xdb" * len(changing)
        elif way < 7:
            self.send(kind, memoryview(payload))
        elif way < 8:
            room = bytearray(14) + payload
            try:
                self.transport.send_reuse_external_bytearray(kind, room, 14)
            except OSError:
                self.accounts.count("sends that the system refused")
            room[:] = b"\xdb" * len(room)
        else:
            ends = sorted(self.random.randint(0, len(payload)) for _ in range(way - 7))
            for start, end in zip([0, *ends], ends, strict=False):
                self.send(kind, payload[start:end], fin=False)
                kind = WSMsgType.CONTINUATION
            self.send(kind, payload[ends[-1] :])
        self.accounts.count("messages sent")

    # Frames

    def _react(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self.closed_by_peer(frame)
        elif frame.msg_type == WSMsgType.PING:
            if self.auto_pong:
                self.fault("a PING was delivered, though auto pong is on")
            try:
                transport.send_pong(frame.get_payload_as_bytes())
            except OSError:
                self.accounts.count("sends that the system refused")
        elif frame.msg_type == WSMsgType.PONG:
            if self.says_pongs:
                transport.notify_user_specific_pong_received()
        elif self.good is not None and self.received >= self.good:
            self.accounts.count("frames of garbage")
        else:
            self.message_arrived(frame, self.take(frame))
            if self.raises == "frame" and self.received == 2:
                raise Deliberate(self.raises)
            if self.holds and not self.ended and self.random.random() < HOLDS:
                self.hold_for(self.random.random() * 0.3)

    def closed_by_peer(self, frame: WSFrame) -> None:
        try:
            self.transport.send_close(frame.get_close_code(), frame.get_close_message())
        except OSError:
            self.accounts.count("sends that the system refused")
        self.disconnect()

    def take(self, frame: WSFrame) -> bool:
        """Check a data frame. Is its message whole?"""
        payload = frame.get_payload_as_bytes()
        expected = WSMsgType.CONTINUATION if self.parts else opcode_of(self.received)
        if frame.msg_type != expected:
            self.fault(f"{frame} instead of opcode {expected}, message {self.received}")
        self.accounts.count("frames received")
        self.accounts.count("bytes received", len(payload))
        if self.random.random() < 0.01:
            view = frame.get_payload_as_memoryview()
            self.accounts.keep(frame if self.random.random() < 0.5 else view[len(view) // 2 :])
        if self.parts or not frame.fin:
            self.parts.append(payload)
            if not frame.fin:
                return False
            payload = b"".join(self.parts)
            self.parts.clear()
        mistake = mistake_in(payload, self.seed, self.received)
        if mistake is not None:
            self.fault(mistake)
            self.raises = ""
            self.disconnect(graceful=False)
        self.received += 1
        return True


class Echo(Watched):
    """Sends back what it gets; a PING and a CLOSE as well.

    After `end` messages, where given, we close. `is_gentle`: does not read while the peer does not.
    """

    def __init__(self, *args: Any, end: int | None, is_gentle: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.end = end
        self.is_gentle = is_gentle

    def message_arrived(self, frame: WSFrame, is_whole: bool) -> None:
        if self.ended:
            return
        kind = frame.msg_type
        way = self.random.randrange(4)
        if way == 0:
            self.send(kind, frame.get_payload_as_bytes(), frame.fin)
        elif way == 1:
            room = bytearray(14) + frame.get_payload_as_memoryview()
            try:
                self.transport.send_reuse_external_bytearray(kind, room, 14, frame.fin)
            except OSError:
                self.accounts.count("sends that the system refused")
        else:
            self.send(kind, frame.get_payload_as_memoryview(), frame.fin)
        if self.end is not None and self.received == self.end and is_whole:
            try:
                self.transport.send_close(1000, "enough")
            except OSError:
                self.accounts.count("sends that the system refused")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.is_gentle and not self.ended:
            self.hold("the peer does not read")

    def may_send(self) -> None:
        if self.is_gentle:
            self.release("the peer does not read")


class Push(Watched):
    """Sends `total` messages as fast as the peer takes them."""

    def __init__(self, *args: Any, total: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.total = total
        self.sent = 0

    def begin(self) -> None:
        self.may_send()

    def may_send(self) -> None:
        while self.sent < self.total and not self.writing_paused:
            if self.transport.is_disconnected or self.transport.is_close_frame_sent:
                break
            self.sent += 1
            self.send_message(self.sent - 1)


class Caller(Watched):
    """A client that sends `total` messages, `window` of them ahead of their echo; `awaited` come
    back.
    """

    def __init__(
        self, *args: Any, total: int, window: int, awaited: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.total = total
        self.window = window
        self.awaited = total if awaited is None else awaited
        self.sent = 0
        # All came back, or the connection is gone.
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # The code of the peer's CLOSE.
        self.close_code: int | None = None

    @property
    def is_complete(self) -> bool:
        return self.received >= self.awaited

    def begin(self) -> None:
        self.may_send()
        self._look_whether_done()

    def may_send(self) -> None:
        while (
            self.sent < self.total
            and self.sent - self.received < self.window
            and not self.writing_paused
            and not self.transport.is_disconnected
        ):
            self.sent += 1
            self.send_message(self.sent - 1)

    def message_arrived(self, frame: WSFrame, is_whole: bool) -> None:
        self._look_whether_done()
        if is_whole and not self.ended and self.state == "open":
            self.may_send()

    def closed_by_peer(self, frame: WSFrame) -> None:
        self.close_code = int(frame.get_close_code())
        super().closed_by_peer(frame)

    def over(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _look_whether_done(self) -> None:
        if self.is_complete and not self.done.done():
            self.done.set_result(None)
