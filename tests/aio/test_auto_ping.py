"""Auto ping: when a ping goes out, what counts as its answer, and who is given up (lines 40 to 45).

Deadlines are short where the peer misses them on purpose, and far away where it may not. No test
asks how soon something happened: that a peer survived is seen by the next ping, that it did not by
`on_ws_disconnected`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import gc
import json
import logging
import math
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from aio.detached import Detached
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    our_socket,
    read_frame,
    read_to_end,
    some_iterations,
    something_to_read,
)

import loops
from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    ws_connect,
    ws_create_server,
)
from picows.aio import keepalive
from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawFrame,
    RawPeer,
    in_thread,
)

both_sides = pytest.mark.parametrize("side", SIDES)
both_strategies = pytest.mark.parametrize(
    "strategy", list(WSAutoPingStrategy), ids=lambda strategy: strategy.name.lower()
)
# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
# For tests that have to wait for more than some milliseconds.
few = pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))

WHEN_IDLE = WSAutoPingStrategy.PING_WHEN_IDLE
PERIODICALLY = WSAutoPingStrategy.PING_PERIODICALLY

# Seconds. What passes soon; what does not in any test; and what a thread of a busy machine needs,
# generously, to come to its turn.
SOON = 0.02 * loops.TIME_FACTOR
NEVER = 600.0
A_TURN = 0.4 * loops.TIME_FACTOR

INTERNAL_ERROR = b"\x03\xf3"
GOING_AWAY = b"\x03\xe9"


class Pinger(Recorder):
    """Notes what auto ping asks of it: "ping", and ("asked", type, payload)."""

    def __init__(self, *args: Any, ping: Callable[[WSTransport], object] | None = None) -> None:
        super().__init__(*args)
        self.ping = ping
        self.pings = 0

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        self.pings += 1
        self.events.append("ping")
        self._changed.set()
        if self.ping is not None:
            self.ping(transport)
        else:
            super().send_user_specific_ping(transport)

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        is_pong = super().is_user_specific_pong(frame)
        self.events.append(("asked", int(frame.msg_type), frame.get_payload_as_bytes()))
        self._changed.set()
        return is_pong

    @property
    def is_gone(self) -> bool:
        return "disconnected" in self.events

    async def until_pings(self, count: int) -> None:
        """Wait; the connection is still there."""
        await self.until(lambda: self.pings >= count or self.is_gone)
        assert not self.is_gone


def pinging(
    net: Any,
    side: str,
    listener: Recorder,
    strategy: WSAutoPingStrategy = WHEN_IDLE,
    *,
    idle: float = SOON,
    reply: float = NEVER,
    **kwargs: Any,
) -> contextlib.AbstractAsyncContextManager[RawPeer]:
    """As `connected`, with auto ping."""
    return connected(
        net,
        side,
        listener,
        enable_auto_ping=True,
        auto_ping_idle_timeout=idle,
        auto_ping_reply_timeout=reply,
        auto_ping_strategy=strategy,
        **kwargs,
    )


async def recv_ping(peer: RawPeer) -> RawFrame:
    frame: RawFrame = await in_thread(peer.recv_frame)
    assert frame.opcode == PING
    return frame


def stream(peer: RawPeer, data: bytes) -> None:
    """Send `data` again and again, until the other side has gone."""
    end = time.monotonic() + TIMEOUT
    with contextlib.suppress(OSError):
        while time.monotonic() < end:
            peer.send(data)
            time.sleep(SOON / 10)
        raise AssertionError("the other side does not go")


def logged_errors(caplog: pytest.LogCaptureFixture) -> list[BaseException | None]:
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return [record.exc_info[1] if record.exc_info else None for record in records]


# -- what is delivered -----------------------------------------------------------------------------


@both_sides
@both_strategies
async def test_pings_go_out_and_their_pongs_are_not_delivered(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    listener = Pinger()
    async with pinging(net, side, listener, strategy) as peer:
        for number in range(1, 4):
            frame = await recv_ping(peer)
            assert (frame.payload, frame.masked) == (b"", side == "client")
            # One at a time: the next one waits for the answer.
            assert listener.pings == number
            peer.send(frame_to(side, PONG, frame.payload))
        await listener.until_pings(4)
        peer.send(frame_to(side, TEXT, b"last"))
        await listener.until_frames(1)
    assert listener.payloads == [b"last"]


@both_sides
@both_strategies
async def test_one_pong_answers_a_ping_and_a_second_one_is_delivered(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """In one segment, so that no ping can go out in between."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy) as peer:
        for number in range(3):
            await recv_ping(peer)
            peer.send(
                frame_to(side, PONG, b"answer"),
                frame_to(side, PONG, b"second %d" % number),
                frame_to(side, PONG, b"third %d" % number),
            )
        await listener.until_frames(6)
    assert listener.payloads == [b"%s %d" % (w, n) for n in range(3) for w in (b"second", b"third")]


@both_sides
@both_strategies
async def test_a_pong_that_nobody_asked_for_is_delivered(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    listener = Pinger()
    async with pinging(net, side, listener, strategy, idle=NEVER) as peer:
        peer.send(frame_to(side, PONG), frame_to(side, PONG, b"heartbeat"))
        await listener.until_frames(2)
    # Nor is anybody asked about it.
    assert listener.events == ["connected", b"", b"heartbeat", "disconnected"]


@both_sides
@pytest.mark.parametrize("auto_pong", [True, False])
async def test_who_is_asked_about_what_and_when(net: Any, side: str, auto_pong: bool) -> None:
    """Of every frame while a pong is awaited, ahead of on_ws_frame; but not of a CLOSE, nor of a
    PING that is answered without the listener.
    """
    listener = Pinger()
    async with pinging(net, side, listener, enable_auto_pong=auto_pong) as peer:
        peer.send(frame_to(side, TEXT, b"before"))
        await listener.until_frames(1)
        await recv_ping(peer)
        peer.send(
            frame_to(side, TEXT, b"one"),
            frame_to(side, BINARY, b"two", fin=False),
            frame_to(side, PING, b"ping"),
            frame_to(side, CONTINUATION, b"three", rsv=4),
            frame_to(side, PONG, b"pong"),
            frame_to(side, TEXT, b"after"),
            frame_to(side, PONG, b"again"),
        )
        await listener.until(lambda: b"again" in listener.events)
        await listener.until(lambda: listener.pings >= 2)
        peer.send(frame_to(side, CLOSE))
        await listener.until(lambda: b"" in listener.events)
    the_ping = [] if auto_pong else [("asked", PING, b"ping"), b"ping"]
    events = [event for event in listener.events if event != "ping"]
    # Whether the first frame came ahead of the first ping is for the clock to say.
    events = [event for event in events if event != ("asked", TEXT, b"before")]
    assert events == [
        "connected",
        b"before",
        *(("asked", TEXT, b"one"), b"one"),
        *(("asked", BINARY, b"two"), b"two"),
        *the_ping,
        *(("asked", CONTINUATION, b"three"), b"three"),
        ("asked", PONG, b"pong"),
        b"after",
        b"again",
        b"",
        "disconnected",
    ]


@both_sides
async def test_without_auto_ping_nobody_is_asked_and_every_pong_is_delivered(
    net: Any, side: str
) -> None:
    listener = Pinger()
    timeouts = {"auto_ping_idle_timeout": SOON, "auto_ping_reply_timeout": SOON}
    async with connected(net, side, listener, **timeouts) as peer:
        peer.send(frame_to(side, PONG, b"one"), frame_to(side, TEXT, b"two"))
        await listener.until_frames(2)
        await asyncio.sleep(5 * SOON)
        assert not something_to_read(peer)
        assert listener.events == ["connected", b"one", b"two"]


@both_sides
@pytest.mark.parametrize(
    ("opcode", "how"),
    [(TEXT, {"fin": False}), (CONTINUATION, {}), (BINARY, {"rsv": 7}), (PONG, {"rsv": 2})],
)
@one
async def test_whatever_frame_serves_as_a_pong_is_not_delivered(
    net: Any, side: str, opcode: int, how: dict[str, Any]
) -> None:
    class Own(Pinger):
        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            return frame.get_payload_as_bytes() == b"pong"

    listener = Own()
    async with pinging(net, side, listener) as peer:
        for _ in range(2):
            await recv_ping(peer)
            peer.send(
                frame_to(side, PONG, b"no answer here"),
                frame_to(side, opcode, b"pong", **how),
                frame_to(side, opcode, b"pong", **how),
            )
        await listener.until_frames(4)
    assert listener.payloads == 2 * [b"no answer here", b"pong"]


@both_sides
@one
async def test_what_is_no_bool_is_taken_by_its_truth(net: Any, side: str) -> None:
    class Own(Pinger):
        answers: list[Any] = [None, 0, "", "yes"]

        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            return self.answers.pop(0)  # type: ignore[no-any-return]

    listener = Own()
    async with pinging(net, side, listener) as peer:
        await recv_ping(peer)
        peer.send(*[frame_to(side, TEXT, b"%d" % number) for number in range(5)])
        await listener.until(lambda: b"4" in listener.payloads)
    assert listener.payloads == [b"0", b"1", b"2", b"4"]


@both_sides
@pytest.mark.parametrize("is_pong", [True, False])
@pytest.mark.parametrize("size", [5, 2_000, 60_000])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_frame_that_is_user_specific_pong_keeps_is_safe(
    net: Any, side: str, is_pong: bool, size: int
) -> None:
    class Keeper(Pinger):
        kept: list[Any] = []

        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            is_first = not self.kept
            self.kept.append(frame)
            if len(self.kept) % 2:
                self.kept.append(frame.get_payload_as_memoryview())
            # Only the first: on a busy machine the next ping may go out before the noise comes.
            return is_pong and is_first

    listener = Keeper()
    listener.kept = []
    payload = octets(size)
    async with pinging(net, side, listener) as peer:
        await recv_ping(peer)
        await in_thread(peer.send, frame_to(side, TEXT, payload), frame_to(side, TEXT, b"next"))
        await listener.until(lambda: b"next" in listener.payloads)
        for number in range(4):
            # Over all that the shared buffer holds.
            noise = frame_to(side, BINARY, octets(200_000, number))
            await in_thread(peer.send, noise)
            await listener.until(lambda: octets(200_000, number) in listener.payloads)
    frame, view = listener.kept[:2]
    assert bytes(view) == payload
    assert frame.get_payload_as_bytes() == payload
    assert listener.payloads.count(payload) == (not is_pong)


# -- what the guide shows --------------------------------------------------------------------------


@both_sides
@both_strategies
async def test_the_guide_text_frames_as_ping_and_pong(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    class ClientListener(Recorder):
        def send_user_specific_ping(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, b"ping")

        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            return frame.msg_type == WSMsgType.TEXT and frame.get_payload_as_memoryview() == b"pong"

    listener = ClientListener()
    async with pinging(net, side, listener, strategy) as peer:
        for number in range(3):
            frame = await in_thread(peer.recv_frame)
            assert (frame.opcode, frame.payload) == (TEXT, b"ping")
            # Neither is the answer.
            peer.send(frame_to(side, PONG), frame_to(side, TEXT, b"data %d" % number))
            peer.send(frame_to(side, TEXT, b"pong"))
        await listener.until_frames(6)
    assert listener.payloads == [b"", b"data 0", b"", b"data 1", b"", b"data 2"]


@both_sides
@both_strategies
async def test_the_guide_on_ws_frame_finds_out_itself(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The guide says get_payload_as_utf8(), which there is not, in the API or ever before."""

    class ClientListener(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.others: list[str] = []

        def send_user_specific_ping(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, b'{"op":"ping"}')

        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            return False

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if frame.msg_type == WSMsgType.TEXT:
                obj = json.loads(frame.get_payload_as_utf8_text())
                if obj["op"] == "pong":
                    transport.notify_user_specific_pong_received()
                    return
                self.others.append(obj["op"])

    listener = ClientListener()
    async with pinging(net, side, listener, strategy) as peer:
        for _ in range(3):
            frame = await in_thread(peer.recv_frame)
            assert (frame.opcode, json.loads(frame.payload)) == (TEXT, {"op": "ping"})
            peer.send(
                frame_to(side, TEXT, b'{"op":"price"}'), frame_to(side, TEXT, b'{"op":"pong"}')
            )
        await in_thread(peer.recv_frame)
    assert listener.others == ["price"] * 3


@both_sides
@both_strategies
async def test_a_pong_that_on_ws_frame_does_not_tell_of_is_none(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The same listener, but for the call: the peer is given up, though it answers."""

    class Forgetful(Pinger):
        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            return False

    listener = Forgetful()
    async with pinging(net, side, listener, PERIODICALLY, reply=SOON) as peer:

        def answer() -> None:
            with contextlib.suppress(OSError, EOFError):
                while peer.recv_frame().opcode == PING:
                    peer.send(frame_to(side, PONG))

        await in_thread(answer)
        await listener.until_gone()
    assert b"" in listener.payloads


@both_sides
async def test_notify_while_no_pong_is_awaited_does_nothing(net: Any, side: str) -> None:
    listener = Pinger(lambda transport, frame: transport.notify_user_specific_pong_received())
    async with pinging(net, side, listener, idle=NEVER) as peer:
        listener.transport.notify_user_specific_pong_received()
        peer.send(frame_to(side, TEXT, b"one"), frame_to(side, TEXT, b"two"))
        await listener.until_frames(2)
        await listener.until_frames(2)
    listener.transport.notify_user_specific_pong_received()
    plain = Recorder(lambda transport, frame: transport.notify_user_specific_pong_received())
    async with connected(net, side, plain) as peer:
        peer.send(frame_to(side, PONG, b"one"))
        await plain.until_frames(1)


@both_sides
@one
async def test_notify_from_another_thread_raises(net: Any, side: str) -> None:
    listener = Pinger()
    async with pinging(net, side, listener):
        with pytest.raises(RuntimeError, match="thread"):
            await in_thread(listener.transport.notify_user_specific_pong_received)


# -- what is_user_specific_pong does besides -------------------------------------------------------


class Doer(Pinger):
    """Does something when it is asked about b"now", and says so and so."""

    def __init__(self, do: Callable[[WSTransport], object], says: bool) -> None:
        super().__init__()
        self.do = do
        self.says = says

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        super().is_user_specific_pong(frame)
        if frame.get_payload_as_bytes() != b"now":
            return False
        self.do(self.transport)
        return self.says


@both_sides
@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("measured", [True, False])
@one
async def test_no_frame_after_is_user_specific_pong_has_disconnected(
    net: Any, side: str, graceful: bool, says: bool, measured: bool
) -> None:
    """Not even the one that it was asked about. `measured`: a round-trip time was, before."""
    listener = Doer(lambda transport: transport.disconnect(graceful), says)
    async with pinging(net, side, listener) as peer:
        await recv_ping(peer)
        if measured:
            task = asyncio.ensure_future(listener.transport.measure_roundtrip_time(1))
            while (frame := await in_thread(peer.recv_frame)).payload == b"":
                pass
            peer.send(frame_to(side, PONG, frame.payload))
            await task
        peer.send(frame_to(side, PONG, b"now"), frame_to(side, TEXT, b"later"))
        await listener.until_gone()
    assert listener.payloads == []
    assert ("asked", PONG, b"now") in listener.events


@both_sides
@pytest.mark.parametrize("says", [True, False])
@one
async def test_no_frame_after_is_user_specific_pong_has_paused_reading(
    net: Any, side: str, says: bool
) -> None:
    listener = Doer(lambda transport: transport.pause_reading(), says)
    async with pinging(net, side, listener) as peer:
        await recv_ping(peer)
        peer.send(frame_to(side, TEXT, b"now"), frame_to(side, TEXT, b"later"))
        await listener.until(lambda: ("asked", TEXT, b"now") in listener.events)
        await some_iterations()
        assert listener.payloads == []
        listener.transport.resume_reading()
        await listener.until(lambda: b"later" in listener.payloads)
    assert listener.payloads == ([b"later"] if says else [b"now", b"later"])


@both_sides
async def test_is_user_specific_pong_may_send(net: Any, side: str) -> None:
    listener = Doer(lambda transport: transport.send(WSMsgType.TEXT, b"sent"), True)
    async with pinging(net, side, listener, PERIODICALLY) as peer:
        await recv_ping(peer)
        peer.send(frame_to(side, TEXT, b"now"))
        frame = await in_thread(peer.recv_frame)
        assert (frame.opcode, frame.payload) == (TEXT, b"sent")
        await recv_ping(peer)


# -- who is given up -------------------------------------------------------------------------------


@both_sides
@both_strategies
async def test_line_41_a_peer_that_vanished_is_given_up(
    net: Any, side: str, strategy: WSAutoPingStrategy, caplog: pytest.LogCaptureFixture
) -> None:
    """No FIN and no byte; it is told in case it is still there."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        waiter = asyncio.ensure_future(listener.transport.wait_disconnected())
        await listener.until_gone()
        frames = await in_thread(read_to_end, peer)
        await waiter
    await listener.transport.wait_disconnected()
    assert [frame.opcode for frame in frames] == [PING, CLOSE]
    assert frames[1].payload.startswith(GOING_AWAY)
    assert b"ping" in frames[1].payload
    assert listener.transport.close_handshake.sent.code == 1001
    assert listener.events == ["connected", "ping", "disconnected"]
    assert not logged_errors(caplog)


@both_sides
@both_strategies
async def test_line_41_a_listener_that_only_receives(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """It would never find out by sending."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        for number in range(20):
            peer.send(frame_to(side, TEXT, b"%d" % number))
        await listener.until_gone()
    assert listener.payloads == [b"%d" % number for number in range(20)]


PART = 16 * 1024
PARTS = 128


def fill_up(transport: WSTransport) -> None:
    """Send two megabytes, of which the socket does not take most."""
    our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    for _ in range(PARTS):
        transport.send(WSMsgType.BINARY, bytes(PART))


@both_sides
@both_strategies
async def test_a_peer_that_vanished_with_our_queue_full(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The ping waits behind what the peer does not take, and so would the CLOSE."""
    listener = Pinger(None, fill_up)
    async with pinging(net, side, listener, strategy, reply=SOON, receive_buffer=4096):
        await listener.until_gone()
    assert listener.transport.close_handshake.sent.code == 1001


# The loops' own TLS does not tell of all that waits in it (docs/deviations.rst).
@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))
async def test_a_peer_that_takes_what_is_ahead_of_the_ping_is_not_given_up(
    net: Any, side: str
) -> None:
    """It cannot answer what has not come to it: two megabytes, for three reply timeouts."""
    listener = Pinger(None, fill_up)
    kwargs: dict[str, Any] = {"reply": A_TURN, "receive_buffer": 16 * 1024}
    async with pinging(net, side, listener, PERIODICALLY, **kwargs) as peer:
        await listener.until_pings(1)

        def read_slowly() -> RawFrame:
            start = time.monotonic()
            for number in range(PARTS):
                while time.monotonic() < start + 3 * A_TURN * number / PARTS:
                    time.sleep(A_TURN / 100)
                frame, _ = read_frame(peer)
                assert (frame.opcode, len(frame.payload)) == (BINARY, PART)
            return read_frame(peer)[0]

        frame = await in_thread(read_slowly)
        assert frame.opcode == PING
        assert listener.pings == 1
        peer.send(frame_to(side, PONG))
        await listener.until_pings(2)


@both_sides
@both_strategies
@pytest.mark.parametrize("size", [200, 1024 * 1024])
@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
async def test_line_40_one_frame_takes_longer_than_the_pong_deadline(
    net: Any, side: str, strategy: WSAutoPingStrategy, size: int
) -> None:
    """Its bytes are life, and the answer cannot come but behind them."""
    listener = Pinger()
    payload = octets(size)
    data = frame_to(side, BINARY, payload)
    begin = min(size // 10, 100_000)
    async with pinging(net, side, listener, strategy, reply=A_TURN) as peer:
        peer.send(data[:begin])
        await recv_ping(peer)

        def trickle() -> None:
            sent = begin
            start = time.monotonic()
            while time.monotonic() < start + 3 * A_TURN:
                peer.send(data[sent : sent + 1])
                sent += 1
                time.sleep(A_TURN / 50)
            peer.send(data[sent:], frame_to(side, PONG))

        await in_thread(trickle)
        await listener.until(lambda: payload in listener.events or listener.is_gone)
        if strategy == PERIODICALLY:
            # It went on waiting for the answer to the first.
            assert listener.events[:2] == ["connected", "ping"]
            assert listener.events[2:].index(payload) < 2
        await listener.until(
            lambda: "ping" in listener.events[listener.events.index(payload) :] or listener.is_gone
        )
        assert not listener.is_gone
    assert listener.payloads == [payload]


@both_sides
@both_strategies
@pytest.mark.parametrize("size", [200, 1024 * 1024])
@one
async def test_a_peer_that_vanishes_in_the_middle_of_a_frame(
    net: Any, side: str, strategy: WSAutoPingStrategy, size: int
) -> None:
    """Half of it before the ping, some of it behind, and then nothing more."""
    listener = Pinger()
    data = frame_to(side, BINARY, octets(size))
    async with pinging(net, side, listener, strategy, reply=2 * SOON) as peer:
        await in_thread(peer.send, data[: size // 2])
        await recv_ping(peer)
        peer.send(data[size // 2 : size // 2 + 10])
        await listener.until_gone()
    assert listener.transport.close_handshake.sent.code == 1001
    assert listener.payloads == []


@both_sides
@one
async def test_what_arrives_ahead_of_the_answer_gives_it_more_time(net: Any, side: str) -> None:
    """PING_PERIODICALLY, whose ping has to be answered: once, by a reply timeout."""
    listener = Pinger()
    async with pinging(net, side, listener, PERIODICALLY, reply=2 * A_TURN) as peer:
        await recv_ping(peer)
        peer.send(frame_to(side, TEXT, b"ahead"))
        await asyncio.sleep(3 * A_TURN)
        peer.send(frame_to(side, PONG))
        await listener.until_pings(2)
    assert listener.payloads == [b"ahead"]


@both_sides
@few
async def test_a_peer_that_streams_but_does_not_answer_is_given_up_when_it_has_to(
    net: Any, side: str
) -> None:
    """PING_PERIODICALLY; once more it is waited for, for what was under way ahead of the answer."""
    listener = Pinger()
    async with pinging(net, side, listener, PERIODICALLY, reply=5 * SOON) as peer:
        await in_thread(stream, peer, frame_to(side, TEXT, b"tick"))
        await listener.until_gone()
    assert listener.pings == 1
    assert listener.transport.close_handshake.sent.code == 1001


@both_sides
@pytest.mark.parametrize("size", [10, 10_000])
@one
async def test_nor_is_it_spared_because_a_frame_is_always_under_way(
    net: Any, side: str, size: int
) -> None:
    """Each of its writes ends in the middle of a frame, but an answer could have come between."""
    listener = Pinger()
    data = frame_to(side, BINARY, bytes(size))
    half = len(data) // 2
    async with pinging(net, side, listener, PERIODICALLY, reply=5 * SOON) as peer:
        peer.send(data[:half])
        await in_thread(stream, peer, data[half:] + data[:half])
        await listener.until_gone()
    assert listener.pings == 1
    assert listener.transport.close_handshake.sent.code == 1001


@both_sides
@one
async def test_any_byte_is_life_when_pings_are_for_the_idle(net: Any, side: str) -> None:
    """No PONG ever, but a byte of a frame for each ping: a next ping shows that it was enough."""
    listener = Pinger()
    data = frame_to(side, TEXT, b"abc")
    async with pinging(net, side, listener, WHEN_IDLE, reply=A_TURN) as peer:
        for number in range(3):
            await recv_ping(peer)
            assert listener.pings == number + 1
            peer.send(data[number : number + 1])
        await listener.until_pings(4)
    assert listener.payloads == []


@both_sides
@one
async def test_no_ping_goes_out_while_the_peer_keeps_sending(net: Any, side: str) -> None:
    """PING_WHEN_IDLE, for three idle timeouts: whole frames, and bytes of one."""
    listener = Pinger()
    data = [frame_to(side, TEXT, b"x" * 100)] * 2
    small = [bytes([byte]) for byte in frame_to(side, TEXT, b"y" * 60)]
    async with pinging(net, side, listener, WHEN_IDLE, idle=A_TURN) as peer:
        start = time.monotonic()
        for piece in data + small + data:
            peer.send(piece)
            await asyncio.sleep(A_TURN / 20)
        assert time.monotonic() > start + 3 * A_TURN
        assert listener.pings == 0
        assert not something_to_read(peer)


@both_sides
async def test_pings_go_out_periodically_though_the_peer_keeps_sending(net: Any, side: str) -> None:
    listener = Pinger()
    async with pinging(net, side, listener, PERIODICALLY) as peer:
        for number in range(1, 3):
            while not something_to_read(peer):
                peer.send(frame_to(side, TEXT, b"tick"))
                await asyncio.sleep(SOON / 20)
            await recv_ping(peer)
            assert listener.pings == number
            peer.send(frame_to(side, PONG))
    assert set(listener.payloads) == {b"tick"}


@both_sides
@one
async def test_line_43_a_flood_of_pings_of_a_peer_that_does_not_read(net: Any, side: str) -> None:
    """Under auto ping, which waits for this peer's answer. test_auto_pong.py has the rest."""
    for strategy in WSAutoPingStrategy:
        listener = Pinger(None, fill_up)
        kwargs: dict[str, Any] = {"reply": 5 * SOON, "receive_buffer": 4096}
        async with pinging(net, side, listener, strategy, **kwargs) as peer:
            await listener.until_pings(1)
            full = listener.transport.underlying_transport.get_write_buffer_size()
            flood = frame_to(side, PING, b"x" * 125) * 100
            if strategy == PERIODICALLY:
                await in_thread(stream, peer, flood)
                await listener.until_gone()
                continue
            for _ in range(100):
                peer.send(flood)
                await asyncio.sleep(SOON / 10)
            # It is alive; nothing but pings of ours was added to what waits for it.
            assert not listener.is_gone
            grown = listener.transport.underlying_transport.get_write_buffer_size() - full
            assert grown <= 6 * listener.pings


# -- a loop that was blocked (line 42) -------------------------------------------------------------


class Blocker(Pinger):
    """Blocks the loop past the deadline of its first ping, while the answer comes."""

    def __init__(self, side: str, where: str, reply: float) -> None:
        super().__init__()
        self.side = side
        self.where = where
        self.reply = reply
        self.peer: RawPeer

    def block(self) -> None:
        self.peer.send(frame_to(self.side, PONG))
        time.sleep(3 * self.reply)

    def block_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self.where == "in a callback of the loop":
            loop.call_soon(self.block)
        elif self.where == "in a timer":
            loop.call_later(self.reply / 2, self.block)
        elif self.where == "in two timers":
            # The second is due behind the deadline, and blocks for long again. uvloop's timers
            # see the time anew when somebody sets one.
            loop.call_later(self.reply / 2, self.block)
            loop.call_later(1.5 * self.reply, self.block_again)
        elif self.where == "in on_ws_frame":
            self.peer.send(frame_to(self.side, TEXT, b"block"))
        else:
            assert self.where == "in send_user_specific_ping"
            self.block()

    def block_again(self) -> None:
        time.sleep(0.05)
        asyncio.get_running_loop().call_later(0, lambda: None)

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        super().send_user_specific_ping(transport)
        if self.pings == 1:
            self.block_soon()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        if self.payloads[-1] == b"block":
            self.block()


@both_sides
@both_strategies
@pytest.mark.parametrize(
    "where",
    [
        "in send_user_specific_ping",
        "in a callback of the loop",
        "in a timer",
        "in two timers",
        "in on_ws_frame",
    ],
)
async def test_line_42_a_callback_that_blocks_the_loop_past_the_deadline(
    net: Any, side: str, strategy: WSAutoPingStrategy, where: str
) -> None:
    """What is in the socket is read before any verdict."""
    listener = Blocker(side, where, 2 * SOON)
    async with pinging(net, side, listener, strategy, idle=SOON, reply=listener.reply) as peer:
        listener.peer = peer
        await listener.until_pings(2)
    assert listener.payloads == ([b"block"] if where == "in on_ws_frame" else [])


# -- reading paused --------------------------------------------------------------------------------


@both_sides
@both_strategies
async def test_no_ping_goes_out_while_reading_is_paused(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    listener = Pinger(None, lambda transport: transport.pause_reading())
    async with pinging(net, side, listener, strategy) as peer:
        await asyncio.sleep(5 * SOON)
        assert listener.events == ["connected"]
        assert not something_to_read(peer)
        listener.transport.resume_reading()
        await recv_ping(peer)


@both_sides
@both_strategies
async def test_nobody_is_given_up_while_reading_is_paused_but_later(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The clock goes on from where it stood, and the peer is still silent."""

    def ping(transport: WSTransport) -> None:
        transport.send_ping()
        transport.pause_reading()

    listener = Pinger(ping=ping)
    async with pinging(net, side, listener, strategy, reply=SOON):
        await listener.until_pings(1)
        for _ in range(3):
            await asyncio.sleep(3 * SOON)
            assert listener.events == ["connected", "ping"]
            # Paused again before it has begun to read.
            listener.transport.resume_reading()
            listener.transport.pause_reading()
        listener.transport.resume_reading()
        await listener.until_gone()
    assert listener.events == ["connected", "ping", "disconnected"]


@both_sides
@both_strategies
@one
async def test_the_clock_stands_still_while_reading_is_paused(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """What was left of either deadline when it was paused is left when it goes on."""

    def ping(transport: WSTransport) -> None:
        transport.send_ping()
        if listener.pings == 1:
            transport.pause_reading()

    listener = Pinger(None, lambda transport: transport.pause_reading(), ping=ping)
    kwargs = {"idle": A_TURN / 2, "reply": A_TURN}
    async with pinging(net, side, listener, strategy, **kwargs) as peer:
        await asyncio.sleep(A_TURN)
        listener.transport.resume_reading()
        begin = time.monotonic()
        await listener.until_pings(1)
        assert time.monotonic() > begin + A_TURN / 4
        await asyncio.sleep(2 * A_TURN)
        listener.transport.resume_reading()
        await asyncio.sleep(A_TURN / 10)
        peer.send(frame_to(side, PONG))
        await listener.until_pings(2)
    assert listener.payloads == []


@both_sides
@both_strategies
@pytest.mark.parametrize("block", [False, True])
async def test_a_pong_that_waited_in_the_socket_is_read_before_any_verdict(
    net: Any, side: str, strategy: WSAutoPingStrategy, block: bool
) -> None:
    """`block`: and the loop does not come to it at once either."""

    def ping(transport: WSTransport) -> None:
        transport.send_ping()
        if listener.pings == 1:
            transport.pause_reading()

    listener = Pinger(ping=ping)
    reply = 2 * SOON
    async with pinging(net, side, listener, strategy, reply=reply) as peer:
        await listener.until_pings(1)
        peer.send(frame_to(side, PONG))
        await asyncio.sleep(2 * reply)
        listener.transport.resume_reading()
        if block:
            asyncio.get_running_loop().call_soon(time.sleep, 2 * reply)
        await listener.until_pings(2)
    assert listener.payloads == []


@both_sides
@both_strategies
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_reading_paused_between_the_deadline_and_the_verdict(
    net: Any, side: str, strategy: WSAutoPingStrategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop was to look once more, and does so when reading goes on."""
    monkeypatch.setattr(keepalive, "_LAST_LOOK", NEVER)
    listener = Pinger()
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        await listener.until_pings(1)
        await asyncio.sleep(5 * SOON)
        assert not listener.is_gone
        listener.transport.pause_reading()
        listener.transport.resume_reading()
        await some_iterations()
        peer.send(frame_to(side, PONG))
        await listener.until_pings(2)


@both_sides
@both_strategies
async def test_a_pong_that_was_read_and_held_counts(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """It came in one read with the frame whose callback paused."""

    def react(transport: WSTransport, frame: WSFrame) -> None:
        transport.pause_reading()
        asyncio.get_running_loop().call_later(2 * reply, transport.resume_reading)

    listener = Pinger(react)
    reply = 2 * SOON
    async with pinging(net, side, listener, strategy, reply=reply) as peer:
        ping = listener.ping = lambda transport: answer_at_once(transport)

        def answer_at_once(transport: WSTransport) -> None:
            transport.send_ping()
            if listener.pings == 1:
                peer.send(frame_to(side, TEXT, b"pause"), frame_to(side, PONG))

        del ping
        await listener.until_pings(2)
    assert listener.payloads == [b"pause"]


# -- the end ---------------------------------------------------------------------------------------


@both_sides
@both_strategies
async def test_after_our_close_no_ping_goes_out_and_a_silent_peer_is_given_up(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    listener = Pinger(None, lambda transport: transport.send_close(1000, "done"))
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        await listener.until_gone()
        frames = await in_thread(read_to_end, peer)
    assert [(frame.opcode, frame.payload) for frame in frames] == [(CLOSE, b"\x03\xe8done")]
    assert listener.events == ["connected", "disconnected"]


@both_sides
@both_strategies
@one
async def test_after_our_close_a_peer_that_still_sends_is_not_given_up(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """It may have much to say ahead of its own CLOSE, and cannot answer a ping that was not sent.
    Then it is silent.
    """
    listener = Pinger(None, lambda transport: transport.send_close(1000, "done"))
    async with pinging(net, side, listener, strategy, idle=A_TURN, reply=A_TURN) as peer:
        start = time.monotonic()
        while time.monotonic() < start + 3 * A_TURN:
            peer.send(frame_to(side, TEXT, b"tick"))
            await asyncio.sleep(A_TURN / 20)
        assert not listener.is_gone
        # A CLOSE without the end of the stream is no life either.
        peer.send(frame_to(side, CLOSE, b"\x03\xe8"))
        await listener.until_gone()
    assert listener.pings == 0


@both_sides
@pytest.mark.parametrize("is_awaited", [False, True])
async def test_no_ping_and_no_verdict_after_disconnect(
    net: Any, side: str, is_awaited: bool
) -> None:
    """What was sent before still goes out, for a peer that reads late."""
    listener = Pinger(None, fill_up)
    kwargs: dict[str, Any] = {"reply": 5 * SOON} if is_awaited else {"idle": 5 * SOON}
    async with pinging(net, side, listener, **kwargs, receive_buffer=4096) as peer:
        if is_awaited:
            await listener.until_pings(1)
        listener.transport.disconnect()
        await asyncio.sleep(15 * SOON)
        assert not listener.is_gone
        frames = await in_thread(read_to_end, peer)
        await listener.until_gone()
    assert [len(frame.payload) for frame in frames] == [PART] * PARTS + [0] * is_awaited


@both_sides
@pytest.mark.parametrize("is_awaited", [False, True])
@pytest.mark.parametrize("end", ["disconnect", "abort", "peer", "violation", "give up"])
@pytest.mark.net(loops=("asyncio",))
async def test_no_timer_is_left(net: Any, side: str, is_awaited: bool, end: str) -> None:
    """loops.py looks behind every test; here, that it looks for this one."""
    listener = Pinger()
    idle = SOON if is_awaited or end == "give up" else NEVER
    reply = SOON if end == "give up" else NEVER
    async with pinging(net, side, listener, idle=idle, reply=reply) as peer:
        if is_awaited:
            await listener.until_pings(1)
        loop = asyncio.get_running_loop()
        if end != "give up":
            assert [timer for timer in loops.pending_timers(loop) if "Deadlines" in timer]
        if end in ("disconnect", "abort"):
            listener.transport.disconnect(graceful=end == "disconnect")
            assert not [timer for timer in loops.pending_timers(loop) if "Deadlines" in timer]
        elif end == "peer":
            peer.close()
        elif end == "violation":
            peer.send(b"\xff\xff")
        if end != "peer":
            await in_thread(read_to_end, peer)
        await listener.until_gone()
        assert not [timer for timer in loops.pending_timers(loop) if "Deadlines" in timer]


@both_sides
@both_strategies
async def test_a_deadline_between_the_loss_and_the_word_of_it(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """asyncio's TLS tells of the end an iteration after it: the timer may come between."""

    def ping(transport: WSTransport) -> None:
        transport.underlying_transport.abort()
        time.sleep(2 * SOON)

    for reply in (SOON, NEVER):
        listener = Pinger(ping=ping)
        async with pinging(net, side, listener, strategy, reply=reply):
            await listener.until_gone()
        assert listener.events == ["connected", "ping", "disconnected"]
        # The same with the deadline for the next ping.
        listener = Pinger(lambda transport, frame: ping(transport))
        async with pinging(net, side, listener, strategy, idle=2 * SOON) as peer:
            peer.send(frame_to(side, TEXT, b"abort"))
            await listener.until_gone()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("end", ["disconnect", "peer", "give up"])
async def test_a_connection_with_auto_ping_is_freed_without_the_cycle_collector(
    net: Any, side: str, end: str
) -> None:
    gc.collect()
    gc.disable()
    try:
        listener = Pinger()
        async with pinging(net, side, listener, reply=5 * SOON) as peer:
            watched = [weakref.ref(listener), weakref.ref(listener.transport.request)]
            await recv_ping(peer)
            peer.send(frame_to(side, PONG))
            await recv_ping(peer)
            if end == "disconnect":
                listener.transport.disconnect()
            elif end == "peer":
                peer.close()
            if end != "peer":
                await in_thread(read_to_end, peer)
            await listener.until_gone()
        del listener, peer
        # Handles of the loop that have run, but are not yet let go of.
        for _ in range(5):
            await asyncio.sleep(0)
        assert [ref() for ref in watched] == [None, None]
    finally:
        gc.enable()


@both_sides
def test_a_loop_that_is_forgotten_goes_with_its_connections(side: str) -> None:
    """A connection that waits to ping keeps its loop, and nothing else may keep the two."""
    connection = Detached(side, enable_auto_ping=True, auto_ping_idle_timeout=NEVER)
    assert connection.loop.timers
    watched = [weakref.ref(connection.loop), weakref.ref(connection.listener)]
    del connection
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


# -- what it costs ---------------------------------------------------------------------------------


@both_sides
@both_strategies
@pytest.mark.net(loops=("asyncio",))
async def test_one_timer_for_a_loop_and_none_for_a_message(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    loop = asyncio.get_running_loop()
    owners: list[str] = []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(when: float, callback: Any, *args: Any, **kwargs: Any) -> Any:
            owners.append(type(getattr(callback, "__self__", None)).__name__)
            return call(when, callback, *args, **kwargs)

        return wrapper

    # call_later of asyncio is call_at.
    loop.call_at = counted(loop.call_at)  # type: ignore[method-assign]
    listener = Pinger(lambda transport, frame: transport.send(WSMsgType.TEXT, frame))
    async with pinging(net, side, listener, strategy, idle=NEVER) as peer:
        assert owners.count("Deadlines") == 1
        before = len(owners)
        for number in range(1000):
            peer.send(frame_to(side, TEXT, b"%d" % number))
            await listener.until_frames(number + 1)
            peer.recv_exactly(
                len(frame_to("server" if side == "client" else "client", TEXT))
                + len(b"%d" % number)
            )
        assert [owner for owner in owners[before:] if owner not in loops.LOOP_TIMER_OWNERS] == []
        assert owners.count("Deadlines") == 1


# -- callbacks that raise --------------------------------------------------------------------------


class Secret(Exception):
    pass


class Raiser(Pinger):
    """Raises in one of the two callbacks of auto ping."""

    def __init__(self, callback: str, exc: BaseException) -> None:
        super().__init__()
        self.callback = callback
        self.exc = exc

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        super().send_user_specific_ping(transport)
        if self.callback == "send_user_specific_ping":
            raise self.exc

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        is_pong = super().is_user_specific_pong(frame)
        if self.callback == "is_user_specific_pong":
            raise self.exc
        return is_pong


CALLBACKS = ("send_user_specific_ping", "is_user_specific_pong")
EXCEPTIONS: list[tuple[Callable[[], BaseException], bytes]] = [
    (lambda: Secret("hunter2"), INTERNAL_ERROR),
    (lambda: WSProtocolError(4001, "why"), b"\x0f\xa1why"),
    (lambda: asyncio.CancelledError("hunter2"), INTERNAL_ERROR),
    # No word of the system's: nothing was written.
    (lambda: FileNotFoundError("hunter2"), INTERNAL_ERROR),
    (lambda: BrokenPipeError("hunter2"), INTERNAL_ERROR),
]


@both_sides
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize(("make", "close"), EXCEPTIONS)
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_callback_of_auto_ping_that_raises(
    net: Any,
    side: str,
    callback: str,
    make: Callable[[], BaseException],
    close: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """disconnect_on_exception=False is about on_ws_frame alone."""
    exc = make()
    listener = Raiser(callback, exc)
    async with pinging(net, side, listener, disconnect_on_exception=False) as peer:
        await recv_ping(peer)
        if callback == "is_user_specific_pong":
            peer.send(frame_to(side, TEXT, b"one"), frame_to(side, TEXT, b"two"))
        frames = await in_thread(read_to_end, peer)
        assert [(frame.opcode, frame.payload) for frame in frames] == [(CLOSE, close)]
        await listener.until_gone()
        if side == "client":
            with pytest.raises(type(exc)) as caught:
                await listener.transport.wait_disconnected()
            assert caught.value is exc
            assert not logged_errors(caplog)
        else:
            await listener.transport.wait_disconnected()
            assert logged_errors(caplog) == [exc]
            (record,) = [record for record in caplog.records if record.exc_info]
            assert callback in record.getMessage()
        # Or what waits for the cycle collector is this very frame.
        exc.__traceback__ = None
    assert listener.payloads == []


def run_through(net: Any, coroutine: Any) -> list[BaseException]:
    """Run it to its end; returns the interrupts that came out of the loop on the way."""
    interrupts: list[BaseException] = []
    loop = loops.new_loop(net.loop_kind)
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    try:
        task = loop.create_task(coroutine)
        limit = loop.call_later(loops.TIME_LIMIT, task.cancel)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit) as exc:
                interrupts.append(exc)
        limit.cancel()
        task.result()
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    # uvloop's own reader keeps it from whoever runs the loop (docs/deviations.rst).
    if net.loop_kind == "uvloop" and net.use_aiofastnet is False:
        interrupts += [context["exception"] for context in told]
    else:
        assert not told
    return interrupts


@both_sides
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_an_interrupt_in_a_callback_of_auto_ping(
    net: Any, side: str, callback: str, exception: type[BaseException]
) -> None:
    """Whoever runs the loop gets it. Running on, the connection ends as with any exception."""
    exc = exception("hunter2")
    listener = Raiser(callback, exc)
    closes: list[tuple[int, bytes]] = []

    async def main() -> None:
        kwargs = {"disconnect_on_exception": False, "logger_name": silent()}
        async with pinging(net, side, listener, **kwargs) as peer:
            await recv_ping(peer)
            if callback == "is_user_specific_pong":
                peer.send(frame_to(side, TEXT, b"one"), frame_to(side, TEXT, b"two"))
            frames = await in_thread(read_to_end, peer)
            closes.extend((frame.opcode, frame.payload) for frame in frames)

    assert run_through(net, main()) == [exc]
    exc.__traceback__ = None
    assert closes == [(CLOSE, INTERNAL_ERROR)]
    assert listener.payloads == []
    assert listener.pings == 1


@both_sides
@pytest.mark.parametrize("callback", ["on_ws_frame", "is_user_specific_pong"])
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
def test_a_frame_that_an_interrupt_keeps_is_safe(net: Any, side: str, callback: str) -> None:
    """In the listener, as well as in the traceback of who catches it."""

    class Keeper(Raiser):
        kept: Any = None

        def is_user_specific_pong(self, frame: WSFrame) -> bool:
            if self.callback == "is_user_specific_pong":
                self.kept = frame
            return super().is_user_specific_pong(frame)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if self.callback == "on_ws_frame":
                self.kept = frame
                raise self.exc

    exc = KeyboardInterrupt()
    listener = Keeper(callback, exc)
    payload = octets(1000)

    async def main() -> None:
        # Another connection, because of which the memory is still there afterwards, and which reads
        # into it.
        other = Recorder()
        async with connected(net, side, other) as other_peer:
            async with pinging(net, side, listener, logger_name=silent()) as peer:
                await recv_ping(peer)
                peer.send(frame_to(side, TEXT, payload))
                await listener.until_gone()
            await in_thread(other_peer.send, frame_to(side, BINARY, b"\xff" * 60_000))
            await other.until_frames(1)
            assert listener.kept.get_payload_as_bytes() == payload

    assert run_through(net, main()) == [exc]
    exc.__traceback__ = None
    assert listener.kept.get_payload_as_bytes() == payload


def silent() -> logging.Logger:
    """For what is logged on purpose."""
    logger = logging.Logger("silent")
    logger.addHandler(logging.NullHandler())
    return logger


# -- what send_user_specific_ping may do -----------------------------------------------------------


@both_sides
@both_strategies
@pytest.mark.parametrize("graceful", [True, False])
async def test_send_user_specific_ping_may_disconnect(
    net: Any, side: str, strategy: WSAutoPingStrategy, graceful: bool
) -> None:
    """Both behind a ping and without one."""
    for sends in (True, False):

        def ping(transport: WSTransport, sends: bool = sends) -> None:
            if sends:
                transport.send_ping(b"last")
            transport.disconnect(graceful)

        listener = Pinger(ping=ping)
        # Far away, so that a timer for it would be found.
        async with pinging(net, side, listener, strategy, reply=NEVER) as peer:
            frames = await in_thread(read_to_end, peer)
            await listener.until_gone()
            await listener.transport.wait_disconnected()
        if graceful or not sends:
            assert [frame.payload for frame in frames] == [b"last"] * sends
        assert listener.events == ["connected", "ping", "disconnected"]


@both_sides
@both_strategies
async def test_send_user_specific_ping_that_sends_nothing(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """Then the peer has to say something by itself."""
    listener = Pinger(ping=lambda transport: None)
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        frames = await in_thread(read_to_end, peer)
        await listener.until_gone()
    assert [frame.payload[:2] for frame in frames] == [GOING_AWAY]
    listener = Pinger(ping=lambda transport: None)
    async with pinging(net, side, listener, strategy) as peer:
        for number in range(1, 4):
            await listener.until_pings(number)
            peer.send(frame_to(side, PONG))
        await listener.until_pings(4)
    assert listener.payloads == []


@both_sides
@both_strategies
async def test_send_user_specific_ping_may_answer_itself(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """notify_user_specific_pong_received inside of it: so it goes on, whatever the peer does."""

    def ping(transport: WSTransport) -> None:
        transport.notify_user_specific_pong_received()

    listener = Pinger(ping=ping)
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        await listener.until_pings(4)
        assert not something_to_read(peer)


@both_sides
@both_strategies
async def test_send_user_specific_ping_may_send_a_close(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    listener = Pinger(ping=lambda transport: transport.send_close(4000))
    async with pinging(net, side, listener, strategy, reply=SOON) as peer:
        frames = await in_thread(read_to_end, peer)
        await listener.until_gone()
    assert [(frame.opcode, frame.payload) for frame in frames] == [(CLOSE, b"\x0f\xa0")]
    assert listener.pings == 1


@both_sides
async def test_a_ping_that_the_system_refuses_ends_the_connection_once(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer has reset, of which the loop has not heard yet."""

    def ping(transport: WSTransport) -> None:
        peer.reset()
        transport.send_ping()

    listener = Pinger(ping=ping)
    async with pinging(net, side, listener) as peer:
        await listener.until_gone()
        await listener.transport.wait_disconnected()
    assert listener.events == ["connected", "ping", "disconnected"]
    assert not logged_errors(caplog)


# -- parameters (line 45) --------------------------------------------------------------------------


class Trap:
    """A listener factory that must not be called."""

    def __call__(self, *args: object) -> Any:
        raise AssertionError("nothing was to be opened")


async def call(entry: str, **kwargs: Any) -> None:
    if entry == "ws_connect":
        await ws_connect(Trap(), "ws://127.0.0.1:1/", **kwargs)
    else:
        await ws_create_server(Trap(), "127.0.0.1", 0, **kwargs)


# The last two ints have more digits than Python prints.
BAD_SECONDS: list[tuple[Any, type[Exception]]] = [
    *((value, ValueError) for value in (0, 0.0, -0.0, -1, -0.5, -1e-9)),
    *((value, ValueError) for value in (math.nan, -math.nan, math.inf, -math.inf)),
    *((value, ValueError) for value in (1e300, 10**400, 10**5000, -(10**5000), 366 * 86400)),
    *((value, TypeError) for value in (True, False, "10", b"10", None, [10], (10,), 1j)),
    *((value, TypeError) for value in (datetime.timedelta(seconds=1), decimal.Decimal(1))),
]


@pytest.mark.parametrize("entry", ["ws_connect", "ws_create_server"])
@pytest.mark.parametrize("enable", [True, False])
@pytest.mark.parametrize("name", ["auto_ping_idle_timeout", "auto_ping_reply_timeout"])
async def test_line_45_intervals_that_make_no_sense(entry: str, enable: bool, name: str) -> None:
    """Also where auto ping is off: a mistake is one today."""
    for value, kind in BAD_SECONDS:
        with pytest.raises(kind, match=f"{name} must be .*seconds") as caught:
            await call(entry, enable_auto_ping=enable, **{name: value})
        assert type(caught.value) is kind
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("entry", ["ws_connect", "ws_create_server"])
async def test_a_strategy_or_a_switch_that_is_none(entry: str) -> None:
    for strategy, kind in [
        *((value, ValueError) for value in (0, 3, -1, 10**30)),
        *((value, TypeError) for value in (True, None, 1.0, "PING_WHEN_IDLE", b"1", [1])),
        (WSAutoPingStrategy, TypeError),
    ]:
        with pytest.raises(kind, match=r"auto_ping_strategy must be .*WSAutoPingStrategy"):
            await call(entry, auto_ping_strategy=strategy)
    for enable in (0, 1, None, "yes", "", [], object()):
        with pytest.raises(TypeError, match="enable_auto_ping must be True or False"):
            await call(entry, enable_auto_ping=enable)


@both_sides
@both_strategies
@pytest.mark.parametrize("seconds", [1e-9, 1, 365 * 86400, 365 * 86400.0])
@pytest.mark.net(tls=(False,), aiofastnet=(None,))
async def test_the_longest_and_the_shortest_interval_work_on_every_loop(
    net: Any, side: str, strategy: WSAutoPingStrategy, seconds: float
) -> None:
    listener = Pinger()
    async with pinging(net, side, listener, strategy, idle=seconds, reply=max(seconds, 1)) as peer:
        peer.send(frame_to(side, TEXT, b"one"))
        await listener.until_frames(1)
        if seconds < 1:
            for _ in range(5):
                await recv_ping(peer)
                peer.send(frame_to(side, PONG))
            assert listener.pings >= 5
        elif seconds > 1:
            assert listener.pings == 0


# -- many at once ----------------------------------------------------------------------------------


@one
async def test_one_silent_peer_among_many_is_the_one_to_go(net: Any) -> None:
    """And in threads of their own, the others answer."""
    listeners: list[Pinger] = []

    def answering(peer: RawPeer, stop: threading.Event) -> None:
        while not stop.is_set():
            if something_to_read(peer):
                peer.recv_frame()
                peer.send(frame_to("server", PONG))
            else:
                stop.wait(SOON / 10)

    stop = threading.Event()
    async with contextlib.AsyncExitStack() as stack:
        answers = []
        for _ in range(3):
            listeners.append(Pinger())
            peer = await stack.enter_async_context(
                pinging(net, "server", listeners[-1], PERIODICALLY, reply=A_TURN)
            )
            answers.append(asyncio.ensure_future(in_thread(answering, peer, stop)))
        silent_one = Pinger()
        await stack.enter_async_context(
            pinging(net, "server", silent_one, PERIODICALLY, reply=A_TURN)
        )
        await silent_one.until_gone()
        for listener in listeners:
            await listener.until_pings(listener.pings + 2)
        stop.set()
        await asyncio.gather(*answers)


@pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))
async def test_two_sides_of_ours_ping_each_other(net: Any) -> None:
    """Both answer by themselves, and neither listener sees anything of it."""
    sides: list[Pinger] = []

    def factory(*args: object) -> Pinger:
        sides.append(Pinger())
        return sides[-1]

    for strategy in WSAutoPingStrategy:
        sides.clear()
        kwargs = {
            "enable_auto_ping": True,
            "auto_ping_idle_timeout": SOON,
            "auto_ping_strategy": strategy,
        }
        server = await net.serve(factory, **kwargs)
        transport, _ = await net.connect(lambda: factory(), server, **kwargs)
        # Of two that ping when idle, one may keep the other from ever being so.
        while min(len(sides), 2) < 2 or sum(side.pings for side in sides) < 6:
            await asyncio.sleep(SOON / 10)
        assert [side.payloads for side in sides] == [[], []]
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()
