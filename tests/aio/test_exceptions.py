"""What becomes of an exception in a callback: beyond the table in test_life_cycle.py (each callback
and kind of exception once), every close code and reason that may be chosen, disconnect_on_exception
in full, the second exception, and everybody else on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aio.traffic import (
    MASK,
    SIDES,
    Recorder,
    connected,
    frame_to,
    our_socket,
    read_to_end,
    some_iterations,
)

import loops
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSProtocolError, WSTransport
from raw_peer import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    RawFrame,
    RawPeer,
    RawServer,
    encode_frame,
    field,
    in_thread,
    raw_connect,
    upgrade_request,
)

both_sides = pytest.mark.parametrize("side", SIDES)
# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))

SECRET = "the password is hunter2"
INTERNAL_ERROR = b"\x03\xf3"

# More than the kernel takes once `fill_up` has made our buffer small, in frames that TLS passes on.
PART = 256 * 1024
PARTS = 8


class Raiser(Recorder):
    """Raises, in the callback that a key names, the next exception of its list."""

    def __init__(self, **raises: list[BaseException]) -> None:
        super().__init__()
        self.raises = raises
        # The exceptions, in the order in which they were raised.
        self.raised: list[BaseException] = []

    def _raise_in(self, callback: str) -> None:
        if self.raises.get(callback):
            self.raised.append(self.raises[callback].pop(0))
            raise self.raised[-1]

    def on_ws_connected(self, transport: WSTransport) -> None:
        super().on_ws_connected(transport)
        self._raise_in("on_ws_connected")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        super().on_ws_frame(transport, frame)
        if self.payloads[-1] == b"fill up":
            fill_up(transport)
        self._raise_in("on_ws_frame")

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        super().on_ws_disconnected(transport)
        self._raise_in("on_ws_disconnected")

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        super().send_user_specific_ping(transport)
        self._raise_in("send_user_specific_ping")

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        is_pong = super().is_user_specific_pong(frame)
        self._raise_in("is_user_specific_pong")
        return is_pong

    def pause_writing(self) -> None:
        super().pause_writing()
        self._raise_in("pause_writing")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._raise_in("resume_writing")


def fill_up(transport: WSTransport) -> None:
    """Send until bytes wait in the transport, while the peer does not read."""
    our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    for _ in range(PARTS):
        transport.send(WSMsgType.BINARY, bytes(PART))


async def provoke(side: str, callback: str, listener: Recorder, peer: RawPeer) -> None:
    """Make `callback` run."""
    if callback in ("pause_writing", "resume_writing"):
        await in_thread(peer.send, frame_to(side, TEXT, b"fill up"))
        # The peer reads later, so there is a pause first.
        await listener.until(lambda: listener.pauses)
    elif callback == "on_ws_frame":
        await in_thread(peer.send, frame_to(side, TEXT, b"x"))
    elif callback == "on_ws_disconnected":
        await in_thread(peer.end_sending)
    elif callback == "is_user_specific_pong":
        assert (await in_thread(peer.recv_frame)).opcode == PING
        await in_thread(peer.send, frame_to(side, TEXT, b"x"))
    # The loop's timer calls send_user_specific_ping.


# A first ping soon, and nobody is given up within a test.
AUTO_PING = {
    "enable_auto_ping": True,
    "auto_ping_idle_timeout": 0.01,
    "auto_ping_reply_timeout": 60.0,
}


async def closes_of(peer: RawPeer) -> list[bytes]:
    """The payload of each CLOSE up to the end of the stream; a CLOSE is the last frame."""
    frames: list[RawFrame] = await in_thread(read_to_end, peer)
    closes = [frame.payload for frame in frames if frame.opcode == CLOSE]
    assert not closes or frames[-1].opcode == CLOSE
    return closes


def logged_exceptions(caplog: pytest.LogCaptureFixture) -> list[BaseException]:
    """In order; each with a traceback, at the level for errors."""
    found = []
    for record in caplog.records:
        if record.exc_info:
            assert record.levelno == logging.ERROR
            assert record.exc_info[2] is not None
            found.append(record.exc_info[1])
    return found


# -- the CLOSE that an exception chooses -----------------------------------------------------------


class Sub(WSProtocolError):
    pass


class WithOwnText(WSProtocolError):
    def __str__(self) -> str:
        return "own text"


CHOSEN: list[tuple[BaseException, bytes]] = [
    *[
        (WSProtocolError(code, "why"), code.to_bytes(2, "big") + b"why")
        for code in (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999)
    ],
    (WSProtocolError(WSCloseCode.TRY_AGAIN_LATER, ""), b"\x03\xf5"),
    (Sub(4000, "why"), b"\x0f\xa0why"),
    (WithOwnText(4000, "why"), b"\x0f\xa0own text"),
]
# Codes that no CLOSE may carry, and what is no code at all. A reason without its code would say
# something that nobody meant.
UNSENDABLE: list[Any] = [
    *(0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1, -1000),
    *(65536 + 1000, 2**32 + 1000, 2**64 + 1000),
    *("4000", b"4000", 4000.0, None, True, [4000]),
]


@one
@both_sides
async def test_a_protocol_error_chooses_the_close_that_is_sent(net: Any, side: str) -> None:
    for exc, close in CHOSEN:
        listener = Raiser(on_ws_frame=[exc])
        async with connected(net, side, listener, logger_name=silent()) as peer:
            await provoke(side, "on_ws_frame", listener, peer)
            assert await closes_of(peer) == [close]
            sent = listener.transport.close_handshake.sent
            assert sent.code.to_bytes(2, "big") + sent.reason.encode() == close


@one
@both_sides
async def test_a_code_that_may_not_be_sent_becomes_1011_and_says_nothing(
    net: Any, side: str
) -> None:
    for code in UNSENDABLE:
        listener = Raiser(on_ws_frame=[WSProtocolError(code, SECRET)])
        async with connected(net, side, listener, logger_name=silent()) as peer:
            await provoke(side, "on_ws_frame", listener, peer)
            assert await closes_of(peer) == [INTERNAL_ERROR], code
            if side == "client":
                # What was raised is what the waiter gets, whatever was sent.
                with pytest.raises(WSProtocolError) as caught:
                    await listener.transport.wait_disconnected()
                assert caught.value is listener.raised[0]


@one
@both_sides
async def test_a_reason_is_cut_at_a_character(net: Any, side: str) -> None:
    """At most 123 bytes, for characters of one to four bytes that end anywhere around there."""
    for character in ("x", "é", "€", "\U0001f600"):
        for ahead in range(4):
            for count in (0, 1, 30, 31, 41, 42, 61, 62, 123, 124, 5000):
                reason = "a" * ahead + character * count
                listener = Raiser(on_ws_frame=[WSProtocolError(1008, reason)])
                async with connected(net, side, listener, logger_name=silent()) as peer:
                    peer.send(frame_to(side, TEXT))
                    frame: RawFrame = await in_thread(peer.recv_frame)
                    assert (frame.opcode, frame.payload[:2]) == (CLOSE, b"\x03\xf0")
                    sent = frame.payload[2:].decode("utf-8")
                    assert reason.startswith(sent)
                    # As much of it as fits.
                    more = reason[: len(sent) + 1]
                    assert sent == reason or len(more.encode()) > 123
                    assert len(frame.payload) <= 125


@one
@both_sides
async def test_a_reason_that_is_no_text_is_sent_as_text(net: Any, side: str) -> None:
    """Line 14 for close reasons: a lone surrogate has no UTF-8; CR, LF and NUL are characters as
    any, inside a frame.
    """
    for reason, sent in (("\ud800!", b"?!"), ("a\r\nb: c\0", b"a\r\nb: c\0")):
        listener = Raiser(on_ws_frame=[WSProtocolError(4000, reason)])
        async with connected(net, side, listener, logger_name=silent()) as peer:
            await provoke(side, "on_ws_frame", listener, peer)
            assert await closes_of(peer) == [b"\x0f\xa0" + sent]


@one
@both_sides
async def test_a_protocol_error_that_was_never_initialised_closes_like_any_exception(
    net: Any, side: str
) -> None:
    class Empty(WSProtocolError):
        def __init__(self) -> None:
            """No code, no message."""

    listener = Raiser(on_ws_frame=[Empty()])
    async with connected(net, side, listener, logger_name=silent()) as peer:
        await provoke(side, "on_ws_frame", listener, peer)
        assert await closes_of(peer) == [INTERNAL_ERROR]


@one
@both_sides
async def test_nothing_of_a_cause_reaches_the_peer(net: Any, side: str) -> None:
    """What the user chose to say is said; what it was raised from is not."""

    def react(transport: WSTransport, frame: WSFrame) -> None:
        try:
            raise LookupError(SECRET)
        except LookupError as exc:
            raise WSProtocolError(4000, "public") from exc

    listener = Recorder(react)
    async with connected(net, side, listener, logger_name=silent()) as peer:
        await provoke(side, "on_ws_frame", listener, peer)
        assert await closes_of(peer) == [b"\x0f\xa0public"]


def silent() -> logging.Logger:
    """For loops over dozens of exceptions, each of which is logged with its traceback."""
    logger = logging.Logger("silent")
    logger.disabled = True
    return logger


# -- everybody else --------------------------------------------------------------------------------

CALLBACKS = [
    "on_ws_connected",
    "on_ws_frame",
    "on_ws_disconnected",
    "pause_writing",
    "resume_writing",
]
KINDS: dict[str, Callable[[], BaseException]] = {
    "exception": lambda: ValueError(SECRET),
    "protocol error": lambda: WSProtocolError(4001, "because"),
    "cancelled": lambda: asyncio.CancelledError(SECRET),
}


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_bytes())


def round_trip(peer: RawPeer, payload: bytes) -> None:
    peer.send(encode_frame(TEXT, payload, mask=MASK))
    assert peer.recv_frame().payload == payload


@pytest.mark.parametrize("kind", KINDS)
async def test_other_clients_of_the_server_live_on(net: Any, kind: str) -> None:
    """One that is there before, and one that comes later; and the server goes on accepting."""
    listeners: list[WSListener] = []

    def connect() -> RawPeer:
        peer = raw_connect(port, net.client_ssl)
        peer.request_upgrade()
        return peer

    server = await net.serve(lambda request: listeners.pop(), logger_name=silent())
    port = server.sockets[0].getsockname()[1]
    listeners.append(Echo())
    with await in_thread(connect) as good:
        for callback in CALLBACKS:
            raiser = Raiser(**{callback: [KINDS[kind]()]})
            listeners.append(raiser)
            with await in_thread(connect) as bad:
                await raiser.until(lambda: raiser.events)
                await provoke("server", callback, raiser, bad)
                await in_thread(round_trip, good, callback.encode())
                await in_thread(read_to_end, bad)
            await raiser.until_gone()
            assert len(raiser.raised) == 1, callback
            await in_thread(round_trip, good, b"still there")
            listeners.append(Echo())
            with await in_thread(connect) as late:
                await in_thread(round_trip, late, b"late")
    await server.shutdown()


@pytest.mark.parametrize("kind", KINDS)
async def test_other_clients_in_the_loop_live_on(net: Any, kind: str) -> None:
    good = Recorder(lambda transport, frame: transport.send(frame.msg_type, frame))
    async with connected(net, "client", good) as good_peer:
        for callback in CALLBACKS:
            bad = Raiser(**{callback: [KINDS[kind]()]})
            async with connected(net, "client", bad) as bad_peer:
                await provoke("client", callback, bad, bad_peer)
                await in_thread(read_to_end, bad_peer)
                await bad.until_gone()
            assert len(bad.raised) == 1, callback
            good_peer.send(encode_frame(TEXT, callback.encode()))
            assert (await in_thread(good_peer.recv_frame)).payload == callback.encode()
        await some_iterations()
        assert not good.transport.is_disconnected


# -- disconnect_on_exception=False -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@both_sides
async def test_every_frame_may_raise_and_the_connection_goes_on(
    net: Any, side: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a read, at its end, with a large frame that has a buffer of its own."""
    count = 6
    listener = Raiser(on_ws_frame=[KINDS[kind]() for _ in range(count)])
    payloads = [b"0", b"1", bytes(40_000), b"3", bytes(300_000), b"5"]
    frames = [frame_to(side, BINARY, payload) for payload in payloads]
    async with connected(net, side, listener, disconnect_on_exception=False) as peer:
        await in_thread(peer.send, *frames)
        await listener.until_frames(count)
        await in_thread(peer.send, frame_to(side, PING, b"alive?"), frame_to(side, TEXT, b"6"))
        frame: RawFrame = await in_thread(peer.recv_frame)
        assert (frame.opcode, frame.payload) == (PONG, b"alive?")
        await listener.until_frames(count + 1)
        assert listener.payloads == [*payloads, b"6"]
        assert listener.transport.close_handshake is None
        listener.transport.send(WSMsgType.TEXT, b"out")
        assert (await in_thread(peer.recv_frame)).payload == b"out"
        peer.close()
        # Nothing is left to raise, on either side.
        await listener.transport.wait_disconnected()
    assert logged_exceptions(caplog) == listener.raised
    assert len(listener.raised) == count
    assert {r.name for r in caplog.records if r.exc_info} == {f"picows.{side}"}


@one
@both_sides
async def test_an_exception_at_the_close_of_the_peer_changes_nothing_about_it(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """disconnect_on_exception=False: logged; nothing behind the CLOSE comes, and it may be
    answered.
    """
    listener = Raiser(on_ws_frame=[ValueError(SECRET)])
    async with connected(net, side, listener, disconnect_on_exception=False) as peer:
        peer.send(frame_to(side, CLOSE, b"\x03\xe8"), frame_to(side, TEXT, b"late"))
        await listener.until_frames(1)
        await some_iterations()
        assert listener.payloads == [b"\x03\xe8"]
        assert not listener.transport.is_disconnected
        assert listener.transport.close_handshake.recv.code == 1000
        listener.transport.send_close(4000)
        listener.transport.disconnect()
        assert await closes_of(peer) == [b"\x0f\xa0"]
        await listener.transport.wait_disconnected()
    assert logged_exceptions(caplog) == listener.raised


@one
@both_sides
async def test_a_violation_of_the_peer_is_no_exception_of_a_callback(net: Any, side: str) -> None:
    """disconnect_on_exception=False does not excuse it."""
    listener = Recorder()
    async with connected(net, side, listener, disconnect_on_exception=False) as peer:
        peer.send(frame_to(side, 3))
        (close,) = await closes_of(peer)
        assert close[:2] == b"\x03\xea"
        if side == "client":
            with pytest.raises(WSProtocolError, match="opcode"):
                await listener.transport.wait_disconnected()


@one
@both_sides
async def test_without_disconnect_the_first_exception_of_another_callback_is_the_first(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of on_ws_frame were logged and are done with; the client's waiter gets the other."""
    of_frame, of_end = ValueError("frame"), LookupError("end")
    listener = Raiser(on_ws_frame=[of_frame], on_ws_disconnected=[of_end])
    async with connected(net, side, listener, disconnect_on_exception=False) as peer:
        peer.send(frame_to(side, TEXT, b"x"))
        await listener.until_frames(1)
        peer.close()
        await listener.until_gone()
        if side == "client":
            with pytest.raises(LookupError) as caught:
                await listener.transport.wait_disconnected()
            assert caught.value is of_end
        else:
            await listener.transport.wait_disconnected()
    assert logged_exceptions(caplog) == ([of_frame] if side == "client" else [of_frame, of_end])


# -- the second exception --------------------------------------------------------------------------

PAIRS = [
    ("on_ws_connected", "on_ws_disconnected"),
    ("on_ws_frame", "on_ws_disconnected"),
    ("pause_writing", "on_ws_disconnected"),
    ("resume_writing", "on_ws_disconnected"),
    ("send_user_specific_ping", "on_ws_disconnected"),
    ("is_user_specific_pong", "on_ws_disconnected"),
    # Sent inside on_ws_frame, which raises by itself when that is done.
    ("pause_writing", "on_ws_frame"),
    ("pause_writing", "resume_writing"),
]


@both_sides
@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.net(loops=("asyncio-debug", "uvloop"))
async def test_the_second_exception_is_logged_and_not_lost(
    net: Any, side: str, first: str, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    exceptions = [WSProtocolError(4001, "first"), WSProtocolError(4002, "second")]
    listener = Raiser(**{first: exceptions[:1], second: exceptions[1:]})
    options = AUTO_PING if first in ("send_user_specific_ping", "is_user_specific_pong") else {}
    async with connected(net, side, listener, **options) as peer:
        await provoke(side, first, listener, peer)
        # One CLOSE, and the first decides.
        assert await closes_of(peer) == [b"\x0f\xa1first"]
        await listener.until_gone()
        if side == "client":
            with pytest.raises(WSProtocolError, match="first"):
                await listener.transport.wait_disconnected()
        else:
            await listener.transport.wait_disconnected()
    own_tls = net.loop_kind == "uvloop" and net.tls and net.use_aiofastnet is False
    if own_tls and second == "resume_writing":
        # uvloop's TLS says nothing of that once it is closing.
        exceptions.pop()
    assert listener.raised == exceptions
    assert logged_exceptions(caplog) == (exceptions[1:] if side == "client" else exceptions)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
async def test_pause_writing_raises_inside_the_close_that_an_exception_sends(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The CLOSE is what makes the queue too long."""
    listener = Raiser(on_ws_frame=[ValueError("first")], pause_writing=[LookupError("second")])
    async with connected(net, side, listener) as peer:
        underlying = listener.transport.underlying_transport
        underlying.set_write_buffer_limits(high=1 << 30)
        fill_up(listener.transport)
        assert underlying.get_write_buffer_size() > 0
        underlying.set_write_buffer_limits(high=underlying.get_write_buffer_size())
        assert not listener.pauses
        await in_thread(peer.send, frame_to(side, TEXT, b"x"))
        await listener.until(lambda: listener.pauses)
        assert await closes_of(peer) == [INTERNAL_ERROR]
        await listener.until_gone()
        if side == "client":
            with pytest.raises(ValueError, match="first"):
                await listener.transport.wait_disconnected()
    logged = [str(exc) for exc in logged_exceptions(caplog)]
    assert logged == (["second"] if side == "client" else ["first", "second"])


@both_sides
@pytest.mark.parametrize("graceful", [True, False])
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_an_exception_behind_a_disconnect_of_ours_is_told_and_sends_nothing(
    net: Any, side: str, graceful: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(transport: WSTransport, frame: WSFrame) -> None:
        transport.disconnect(graceful)
        raise ValueError("behind it")

    listener = Recorder(leave)
    async with connected(net, side, listener) as peer:
        peer.send(frame_to(side, TEXT, b"x"), frame_to(side, TEXT, b"y"))
        assert await in_thread(read_to_end, peer) == []
        await listener.until_gone()
        if side == "client":
            with pytest.raises(ValueError, match="behind it"):
                await listener.transport.wait_disconnected()
    assert listener.payloads == [b"x"]
    assert len(logged_exceptions(caplog)) == (side == "server")


ENDS: dict[str, Callable[[WSTransport, RawPeer], object]] = {
    "eof": lambda transport, peer: peer.close(),
    "reset": lambda transport, peer: peer.reset(),
    "disconnect": lambda transport, peer: transport.disconnect(),
    "abort": lambda transport, peer: transport.disconnect(graceful=False),
    "underlying": lambda transport, peer: transport.underlying_transport.abort(),
}


@both_sides
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_on_ws_disconnected_raises_however_it_ends(
    net: Any, side: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Raiser(on_ws_disconnected=[ValueError("at the end")])
    async with connected(net, side, listener) as peer:
        waiting = asyncio.ensure_future(listener.transport.wait_disconnected())
        await asyncio.sleep(0)
        ENDS[end](listener.transport, peer)
        if end != "reset":
            await in_thread(close_quietly, peer)
        await asyncio.wait([waiting])
        if side == "client":
            assert waiting.exception() is listener.raised[0]
        else:
            assert waiting.exception() is None
    assert logged_exceptions(caplog) == (listener.raised if side == "server" else [])


def close_quietly(peer: RawPeer) -> None:
    with contextlib.suppress(OSError):
        peer.recv_all()
    peer.close()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_frame_that_waited_until_the_end_raises(
    net: Any, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Paused, it is delivered when the connection is lost already: nobody is there to be told, the
    frames behind it are dropped, and on_ws_disconnected comes all the same.
    """

    def react(transport: WSTransport, frame: WSFrame) -> None:
        if len(listener.payloads) == 1:
            transport.pause_reading()
        else:
            raise ValueError("too late")

    listener = Recorder(react)
    async with connected(net, side, listener) as peer:
        peer.send(*(frame_to(side, TEXT, b"%d" % number) for number in range(4)))
        await listener.until_frames(1)
        listener.transport.underlying_transport.abort()
        await listener.until_gone()
        if side == "client":
            with pytest.raises(ValueError, match="too late"):
                await listener.transport.wait_disconnected()
    assert listener.events == ["connected", b"0", b"1", "disconnected"]
    assert len(logged_exceptions(caplog)) == (side == "server")


# -- wait_disconnected -----------------------------------------------------------------------------


@one
async def test_all_waiters_get_the_same_exception_with_the_traceback_of_the_callback(
    net: Any,
) -> None:
    listener = Raiser(on_ws_frame=[ValueError("mine")])
    async with connected(net, "client", listener) as peer:
        waiters = [asyncio.ensure_future(listener.transport.wait_disconnected()) for _ in range(4)]
        await asyncio.sleep(0)
        waiters[0].cancel()
        peer.send(frame_to("client", TEXT, b"x"))
        await in_thread(read_to_end, peer)
        await asyncio.wait(waiters)
        assert waiters[0].cancelled()
        assert {waiter.exception() for waiter in waiters[1:]} == set(listener.raised)
        depths = set()
        for _ in range(3):
            with pytest.raises(ValueError, match="mine") as caught:
                await listener.transport.wait_disconnected()
            names = [entry.name for entry in traceback.extract_tb(caught.value.__traceback__)]
            assert "_raise_in" in names
            depths.add(len(names))
        # It does not grow with each waiter.
        assert len(depths) == 1


@one
async def test_what_a_coroutine_cannot_raise_is_the_cause_of_what_it_raises(net: Any) -> None:
    """PEP 479."""
    listener = Raiser(on_ws_frame=[StopIteration("mine")])  # type: ignore[list-item]
    async with connected(net, "client", listener) as peer:
        await provoke("client", "on_ws_frame", listener, peer)
        assert await closes_of(peer) == [INTERNAL_ERROR]
        with pytest.raises(RuntimeError) as caught:
            await listener.transport.wait_disconnected()
        assert caught.value.__cause__ is listener.raised[0]


# -- KeyboardInterrupt and SystemExit --------------------------------------------------------------


class Told:
    """Who was told of an interrupt: whoever runs the loop, or the loop's exception handler."""

    def __init__(self) -> None:
        self.runner: list[BaseException] = []
        self.handler: list[BaseException] = []


@contextlib.contextmanager
def interruptible(net: Any, told: Told) -> Iterator[Callable[[Any], None]]:
    """Gives a function that runs a coroutine to its end, going on behind each interrupt."""
    loop = loops.new_loop(net.loop_kind)
    loop.set_exception_handler(lambda loop, context: told.handler.append(context["exception"]))

    def run(coroutine: Any) -> None:
        task = loop.create_task(coroutine)
        limit = loop.call_later(loops.TIME_LIMIT, task.cancel)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit) as exc:
                told.runner.append(exc)
        limit.cancel()
        if not isinstance(task.exception(), (KeyboardInterrupt, SystemExit)):
            task.result()

    try:
        yield run
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


@both_sides
@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_an_interrupt_ends_the_connection_whatever_disconnect_on_exception_says(
    net: Any, side: str, exception: type[BaseException]
) -> None:
    told = Told()
    closes: list[bytes] = []

    async def main() -> None:
        listener = Raiser(on_ws_frame=[exception(SECRET)])
        kwargs = {"disconnect_on_exception": False, "logger_name": silent()}
        async with connected(net, side, listener, **kwargs) as peer:
            peer.send(frame_to(side, TEXT, b"x"), frame_to(side, TEXT, b"y"))
            closes.extend(await closes_of(peer))
        assert listener.events == ["connected", b"x", "disconnected"]

    with interruptible(net, told) as run:
        run(main())
    assert closes == [INTERNAL_ERROR]
    check_told_once(net, told, exception, "on_ws_frame")


@both_sides
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.net(loops=("uvloop",))
def test_a_keyboard_interrupt_on_uvloop_is_told_once_and_ends_the_connection(
    net: Any, side: str, callback: str
) -> None:
    """docs/deviations.rst. asyncio's part is in test_life_cycle.py."""
    if (side, callback) == ("client", "on_ws_connected"):
        return  # it comes out of ws_connect, which is the next test
    told = Told()
    closes: list[bytes] = []

    async def main() -> None:
        listener = Raiser(**{callback: [KeyboardInterrupt(SECRET)]})
        async with connected(net, side, listener, logger_name=silent()) as peer:
            await provoke(side, callback, listener, peer)
            closes.extend(await closes_of(peer))

    with interruptible(net, told) as run:
        run(main())
    assert closes == ([] if callback == "on_ws_disconnected" else [INTERNAL_ERROR])
    check_told_once(net, told, KeyboardInterrupt, callback)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["factory", "on_ws_connected"])
@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_an_interrupt_while_a_client_connects_comes_out_of_ws_connect(
    net: Any, where: str, exception: type[BaseException]
) -> None:
    told = Told()
    frames: list[RawFrame] = []
    listener = Raiser(on_ws_connected=[exception(SECRET)])

    def factory() -> Recorder:
        if where == "factory":
            raise exception(SECRET)
        return listener

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        frames.extend(read_to_end(peer))

    async def main() -> None:
        with pytest.raises(exception):
            await net.connect(factory, server.url())

    with RawServer(script, net.server_ssl) as server:
        with interruptible(net, told) as run:
            run(main())
    # Its caller is who it was told, nobody else.
    assert told.runner == told.handler == []
    if where == "factory":
        # Nobody accepted the connection; there is nothing to close in good order.
        assert frames == []
    else:
        assert [(frame.opcode, frame.payload) for frame in frames] == [(CLOSE, INTERNAL_ERROR)]
        assert listener.events == ["connected", "disconnected"]


def check_told_once(net: Any, told: Told, exception: type[BaseException], callback: str) -> None:
    assert [type(exc) for exc in told.runner + told.handler] == [exception]
    own_reader = net.loop_kind == "uvloop" and net.use_aiofastnet is False
    if not (own_reader and callback in ("on_ws_connected", "on_ws_frame")):
        # uvloop's own reader alone keeps it from whoever runs the loop.
        assert not told.handler


# -- the listener factory --------------------------------------------------------------------------


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_protocol_error_of_a_router_is_a_500_that_tells_nothing(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no CLOSE before the upgrade, and no reason either."""

    def route(request: object) -> WSListener:
        raise WSProtocolError(4001, SECRET)

    def ask(port: int) -> bytes:
        with raw_connect(port) as peer:
            peer.send(upgrade_request())
            return peer.recv_all()

    server = await net.serve(route)
    answer = await in_thread(ask, server.sockets[0].getsockname()[1])
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert field(answer, b"Connection") == b"close"
    assert b"hunter2" not in answer
    assert b"4001" not in answer
    assert [type(exc) for exc in logged_exceptions(caplog)] == [WSProtocolError]
    await server.shutdown()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
def test_an_interrupt_in_a_router_is_a_500_for_the_client(
    net: Any, exception: type[BaseException]
) -> None:
    told = Told()

    def route(request: object) -> WSListener:
        raise exception(SECRET)

    def ask(port: int) -> bytes:
        with raw_connect(port) as peer:
            peer.send(upgrade_request())
            return peer.recv_all()

    async def main() -> None:
        server = await net.serve(route, logger_name=silent())
        answer = await in_thread(ask, server.sockets[0].getsockname()[1])
        await server.shutdown()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"hunter2" not in answer

    with interruptible(net, told) as run:
        run(main())
    check_told_once(net, told, exception, "on_ws_connected")


@one
async def test_exceptions_go_to_the_logger_that_was_asked_for(
    net: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("application.feed")
    for given, expected in (("feed", "picows.feed"), (logger, "application.feed")):
        for kwargs in ({}, {"disconnect_on_exception": False}):
            caplog.clear()
            listener = Raiser(on_ws_frame=[ValueError(SECRET)])
            async with connected(net, "server", listener, logger_name=given, **kwargs) as peer:
                peer.send(frame_to("server", TEXT, b"x"))
                await listener.until(lambda: listener.raised)
            (record,) = [record for record in caplog.records if record.exc_info]
            assert record.name == expected
            assert "on_ws_frame" in record.getMessage()
