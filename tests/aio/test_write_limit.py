"""max_write_buffer and overflow_policy: what happens where a peer does not read.

Real sockets show that what `send` says is what arrives; on detached connections, what waits below
is set by hand.
"""

from __future__ import annotations

import array
import fcntl
import itertools
import logging
import struct
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aio.deflate_peer import PeerInflater, far
from aio.detached import Collecting, Detached
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    our_socket,
    read_frames,
    read_payloads,
    read_to_end,
    unread_bytes,
)

from picows import PerMessageDeflate, WSError, WSMsgType, WSTransport, WSWriteBufferFullError
from picows.handshake.deflate import DeflateAgreement
from raw_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawPeer, in_thread

both_sides = pytest.mark.parametrize("side", SIDES)
two_loops = pytest.mark.net(loops=("asyncio", "uvloop"))

FULL = DeflateAgreement(False, False, 15, 15)
deflate_or_not = pytest.mark.parametrize("agreement", [None, FULL], ids=["plain", "deflate"])

LIMIT = 50_000
MESSAGE = 10_000


def send_reusing(transport: WSTransport, payload: bytes, **kwargs: Any) -> bool:
    buffer = bytearray(14) + payload
    sent = transport.send_reuse_external_bytearray(WSMsgType.BINARY, buffer, 14, **kwargs)
    # What is not sent is untouched.
    assert sent or buffer == bytes(14) + payload
    return sent


WAYS: dict[str, Callable[[WSTransport, bytes], bool]] = {
    "bytes": lambda transport, data: transport.send(WSMsgType.BINARY, data),
    "bytearray": lambda transport, data: transport.send(WSMsgType.BINARY, bytearray(data)),
    "memoryview": lambda transport, data: transport.send(WSMsgType.BINARY, memoryview(data)),
    "str": lambda transport, data: transport.send(WSMsgType.BINARY, data.decode("ascii")),
    "reuse": send_reusing,
}


def quiet() -> logging.Logger:
    logger = logging.Logger("quiet")
    logger.disabled = True
    return logger


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(1)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def logger(self, level: int = logging.INFO) -> logging.Logger:
        logger = logging.Logger("lines", level)
        logger.addHandler(self)
        return logger


def numbered(number: int, size: int = MESSAGE) -> bytes:
    return b"%08d" % number + octets((size - 8) // 2, number).hex().encode()


def queued_here(transport: WSTransport, peer: RawPeer, accepted: int) -> int:
    """How many of the bytes that `send` has accepted this process holds; Linux only."""
    unacknowledged = fcntl.ioctl(our_socket(transport).fileno(), termios.TIOCOUTQ, bytes(4))
    return accepted - struct.unpack("i", unacknowledged)[0] - unread_bytes(peer.sock)


def refuse(transport: WSTransport, payload: bytes, way: str, policy: str) -> bool:
    """Send; True where it went out."""
    try:
        sent = WAYS[way](transport, payload)
    except WSWriteBufferFullError as exc:
        assert policy == "raise"
        assert (exc.size, exc.limit) == (len(payload), LIMIT)
        assert exc.waiting > 0
        assert exc.waiting + exc.size > LIMIT
        return False
    assert isinstance(sent, bool)
    assert sent or policy == "drop"
    return sent


# -- a peer that does not read ---------------------------------------------------------------------


@two_loops
@both_sides
@pytest.mark.parametrize("policy", ["drop", "raise"])
@pytest.mark.parametrize("way", WAYS)
async def test_what_arrives_is_exactly_what_was_sent(
    net: Any, side: str, policy: str, way: str
) -> None:
    listener = Recorder()
    numbers = itertools.count()
    options = {"max_write_buffer": LIMIT, "overflow_policy": policy, "logger_name": quiet()}
    async with connected(net, side, listener, receive_buffer=4096, **options) as peer:
        transport = listener.transport
        for _ in range(3):
            wanted = []
            refused = 0
            while refused < 20:
                payload = numbered(next(numbers))
                if refuse(transport, payload, way, policy):
                    wanted.append(payload)
                else:
                    refused += 1
                    # Control frames are not for the limit.
                    assert transport.send_ping(b"ping") is True
                    assert transport.send(WSMsgType.PONG, b"pong") is True
                    wanted += [b"ping", b"pong"]
                assert transport.underlying_transport.get_write_buffer_size() < LIMIT + 20_000
            # It reads: what comes is whole, and sending goes on.
            assert await in_thread(read_payloads, peer, len(wanted)) == wanted
            payload = numbered(next(numbers))
            assert refuse(transport, payload, way, policy)
            assert await in_thread(read_payloads, peer, 1) == [payload]
        assert not transport.is_disconnected


@two_loops
@both_sides
async def test_memory_is_bounded_by_the_limit_and_one_message(net: Any, side: str) -> None:
    """
    Counted from outside: what was accepted, less what the two queues hold. What TLS has encrypted
    already waits below where its transport does not count it: up to 256 KiB and one write.
    """
    listener = Recorder()
    options = {"max_write_buffer": 1_000_000, "overflow_policy": "drop", "logger_name": quiet()}
    async with connected(net, side, listener, receive_buffer=4096, **options) as peer:
        accepted = 0
        for number in range(2000):
            payload = numbered(number, 20_000)
            accepted += len(payload) * listener.transport.send(WSMsgType.BINARY, payload)
        below_tls = 256 * 1024 + 20_000 if net.tls else 0
        assert queued_here(listener.transport, peer, accepted) <= 1_000_000 + 20_000 + below_tls


@two_loops
@both_sides
async def test_close_disconnects_at_once_and_nobody_else(net: Any, side: str) -> None:
    lines = Lines()
    slow, other = Recorder(), Recorder()
    options = {"max_write_buffer": LIMIT, "overflow_policy": "close", "logger_name": lines.logger()}
    async with (
        connected(net, side, other, **options) as other_peer,
        connected(net, side, slow, receive_buffer=4096, **options) as peer,
    ):
        transport = slow.transport
        answers = []
        while not transport.is_disconnected:
            answers.append(transport.send(WSMsgType.BINARY, numbered(len(answers))))
        assert answers == [True] * (len(answers) - 1) + [False]
        # Not inside `send`.
        assert slow.events == ["connected"]
        assert transport.send(WSMsgType.BINARY, b"x") is False
        assert transport.send_ping() is False
        await slow.until_gone()
        await transport.wait_disconnected()
        assert other.transport.send(WSMsgType.TEXT, b"still here")
        assert (await in_thread(other_peer.recv_frame)).payload == b"still here"
        frames = await in_thread(read_to_end, peer)
        # Not gracefully: no CLOSE, and not all of it.
        assert [each.payload for each in frames] == [numbered(n) for n in range(len(frames))]
        assert len(frames) < len(answers) - 1
        said = [each for each in lines.records if "max_write_buffer" in each.getMessage()]
        assert [each.levelno for each in said] == [logging.INFO]
        assert str(LIMIT) in said[0].getMessage()
        for each in lines.records:
            assert "00000000" not in each.getMessage()
            assert each.exc_info is None


@two_loops
@both_sides
@pytest.mark.parametrize("callback", ["on_ws_frame", "pause_writing"])
async def test_close_out_of_a_callback(net: Any, side: str, callback: str) -> None:
    """`send` disconnects inside it; nothing more is delivered, and the end comes once."""

    def flood(transport: WSTransport, frame: object = None) -> None:
        for number in range(1000):
            if not transport.send(WSMsgType.BINARY, numbered(number, 100_000)):
                break
        assert transport.is_disconnected
        assert transport.send(WSMsgType.BINARY, b"x") is False

    class Flooding(Recorder):
        def pause_writing(self) -> None:
            if callback == "pause_writing" and not self.pauses:
                self.pauses += 1
                flood(self.transport)

    listener = Flooding(flood if callback == "on_ws_frame" else None)
    options = {"max_write_buffer": LIMIT, "overflow_policy": "close", "logger_name": quiet()}
    if callback == "pause_writing":
        options["max_write_buffer"] = 3_000_000
    async with connected(net, side, listener, receive_buffer=4096, **options) as peer:
        if callback == "on_ws_frame":
            peer.send(frame_to(side, TEXT, b"go") * 3)
        else:
            while not listener.pauses:
                listener.transport.send(WSMsgType.BINARY, octets(1_000_000))
        await listener.until_gone()
        assert listener.payloads == [b"go"] * (callback == "on_ws_frame")


@two_loops
@both_sides
@pytest.mark.parametrize("policy", ["close", "drop", "raise"])
async def test_where_nothing_waits_any_size_is_tried(net: Any, side: str, policy: str) -> None:
    listener = Recorder()
    options = {"max_write_buffer": 1, "overflow_policy": policy, "logger_name": quiet()}
    async with connected(net, side, listener, **options) as peer:
        # The answer to the upgrade may still be on its way through TLS.
        await listener.until(
            lambda: not listener.transport.underlying_transport.get_write_buffer_size()
        )
        payload = octets(9_000_000)
        for _ in range(3):
            assert listener.transport.send(WSMsgType.BINARY, payload) is True
            assert await in_thread(read_payloads, peer, 1) == [payload]
            # Its last bytes have left; our side has yet to hear that.
            peer.send(frame_to(side, TEXT, b"got it"))
            await listener.until(lambda: listener.payloads)
            listener.payloads.clear()


@two_loops
@both_sides
async def test_without_a_limit_everything_waits(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        wanted = [octets(1_000_000, number) for number in range(20)]
        for payload in wanted:
            assert listener.transport.send(WSMsgType.BINARY, payload) is True
        assert await in_thread(read_payloads, peer, 20) == wanted


# -- what `send` says ------------------------------------------------------------------------------


def send_all_ways(transport: WSTransport) -> Iterator[bool]:
    for way in WAYS.values():
        yield way(transport, b"12345678")
    yield transport.send(WSMsgType.TEXT, None)
    yield transport.send(WSMsgType.PING, bytearray(3))
    yield transport.send(WSMsgType.PONG, "abc")
    yield transport.send_ping(memoryview(b"abc"))
    yield transport.send_pong()
    yield transport.send_reuse_external_bytearray(WSMsgType.PING, bytearray(20), 14)


# Of those above.
DATA, CONTROL = 6, 5


@two_loops
@both_sides
@pytest.mark.parametrize("limit", [None, 1, 2**40])
async def test_in_every_state(net: Any, side: str, limit: int | None) -> None:
    def answer(transport: WSTransport, frame: object) -> None:
        gathered.extend(send_all_ways(transport))

    gathered: list[bool] = []
    listener = Recorder(answer)
    options = {"max_write_buffer": limit, "overflow_policy": "drop", "coalesce_writes": True}
    async with connected(net, side, listener, **options) as peer:
        transport = listener.transport
        assert list(send_all_ways(transport)) == [True] * 11
        peer.send(frame_to(side, TEXT, b"x") * 2)
        await listener.until_frames(2)
        assert gathered == [True] * 22
        frames = await in_thread(read_frames, peer, 33)
        assert [each.opcode for each in frames[:11]] == [BINARY] * 5 + [TEXT] + [
            *(PING, PONG, PING, PONG, PING)
        ]
        transport.send_close()
        assert list(send_all_ways(transport)) == [False] * 11
        transport.disconnect()
        assert list(send_all_ways(transport)) == [False] * 11
        # TLS waits for the peer's end.
        assert [each.opcode for each in await in_thread(read_to_end, peer)] == [CLOSE]
        await listener.until_gone()
        assert list(send_all_ways(transport)) == [False] * 11


@both_sides
@deflate_or_not
def test_over_the_limit(side: str, agreement: DeflateAgreement | None) -> None:
    """On its edge: `waiting` bytes and the payload may be as many as the limit, not one more."""
    options = {"max_write_buffer": 1000, "overflow_policy": "drop"}
    with Detached(side, None, agreement, **options) as connection:
        transport = connection.transport
        for waiting, size, sent in (
            (0, 1001, True),
            (0, 100_000, True),
            (1, 999, True),
            (1, 1000, False),
            (999, 1, True),
            (999, 0, True),
            (999, 2, False),
            (1000, 0, False),
            (1000, 1, False),
            (5000, 1, False),
            (5000, 2**20, False),
            (0, 1, True),
        ):
            connection.below.waiting = waiting
            already = len(connection.sent())
            for compress in (None, False) if agreement else (None,):
                assert transport.send(WSMsgType.TEXT, b"a" * size, compress=compress) is sent
            assert send_reusing(transport, b"a" * size) is sent
            assert len(connection.sent()) - already == (3 if agreement else 2) * sent
        connection.below.waiting = 1000
        if agreement is None:
            assert list(send_all_ways(transport)) == [False] * DATA + [True] * CONTROL


@both_sides
def test_it_is_the_bytes_that_count(side: str) -> None:
    with Detached(side, max_write_buffer=100, overflow_policy="drop") as connection:
        connection.below.waiting = 60
        for message in ("ä" * 21, array.array("d", range(6)), memoryview(bytes(41))):
            assert connection.transport.send(WSMsgType.TEXT, message) is False
        for message in ("ä" * 20, array.array("d", range(5)), memoryview(bytes(40))):
            assert connection.transport.send(WSMsgType.TEXT, message) is True


@both_sides
def test_a_wrong_message_is_refused_all_the_same(side: str) -> None:
    with Detached(side, max_write_buffer=100, overflow_policy="drop") as connection:
        connection.below.waiting = 100
        anything: Any = 5
        with pytest.raises(TypeError):
            connection.transport.send(WSMsgType.TEXT, anything)
        with pytest.raises(ValueError, match="125"):
            connection.transport.send_ping(bytes(126))
        with pytest.raises(UnicodeEncodeError):
            connection.transport.send(WSMsgType.TEXT, "\ud800")
        assert not connection.below.is_closing


@both_sides
@deflate_or_not
@pytest.mark.parametrize("way", ["bytes", "reuse"])
def test_a_frame_that_its_own_pause_writing_prevents_is_not_called_sent(
    side: str, agreement: DeflateAgreement | None, way: str
) -> None:
    """What was gathered leaves first; that pauses the connection, and its listener disconnects."""

    class Pausing(Collecting):
        def pause_writing(self) -> None:
            connection.transport.disconnect()

    def answer(transport: WSTransport, frame: object) -> None:
        transport.send(WSMsgType.BINARY, octets(50_000))
        answers.append(WAYS[way](transport, octets(60_000)))

    def write_and_pause(data: bytes) -> None:
        write(data)
        connection.connection.pause_writing()

    answers: list[bool] = []
    with Detached(side, Pausing(answer), agreement, coalesce_writes=True) as connection:
        write = connection.below.write
        connection.below.write = write_and_pause  # type: ignore[method-assign]
        connection.feed(frame_to(side, TEXT, b"1") + frame_to(side, TEXT, b"2"))
        assert len(connection.sent()) == 1
        assert answers == [False]


# -- fragments -------------------------------------------------------------------------------------


def fragments(connection: Detached) -> list[tuple[int, bool, bytes]]:
    """What was sent, inflated."""
    inflater = PeerInflater()
    is_compressed = False
    found = []
    for opcode, fin, rsv1, payload in connection.sent():
        if opcode in (TEXT, BINARY):
            is_compressed = rsv1
        if is_compressed and opcode < CLOSE:
            payload = inflater.piece(payload, fin)
        found.append((opcode, fin, payload))
    return found


@both_sides
@deflate_or_not
@pytest.mark.parametrize("policy", ["close", "drop", "raise"])
def test_what_was_begun_is_finished(
    side: str, agreement: DeflateAgreement | None, policy: str
) -> None:
    options = {"max_write_buffer": 1000, "overflow_policy": policy, "logger_name": quiet()}
    with Detached(side, None, agreement, **options) as connection:
        transport = connection.transport
        assert transport.send(WSMsgType.TEXT, b"one", fin=False) is True
        connection.below.waiting = 5000
        assert transport.send(WSMsgType.CONTINUATION, b"two", fin=False) is True
        assert transport.send_ping(b"ping") is True
        assert transport.send(WSMsgType.CONTINUATION, b"three" * 1000) is True
        if policy == "raise":
            with pytest.raises(WSWriteBufferFullError):
                transport.send(WSMsgType.TEXT, b"four")
        else:
            assert transport.send(WSMsgType.TEXT, b"four") is False
        assert fragments(connection) == [
            (TEXT, False, b"one"),
            (CONTINUATION, False, b"two"),
            (PING, True, b"ping"),
            (CONTINUATION, True, b"three" * 1000),
        ]
        assert transport.is_disconnected == (policy == "close")


@both_sides
@deflate_or_not
@pytest.mark.parametrize("policy", ["drop", "raise"])
@pytest.mark.parametrize("later", [0, 5000], ids=["read_meanwhile", "still_waiting"])
def test_of_a_message_that_was_not_begun_nothing_is_sent(
    side: str, agreement: DeflateAgreement | None, policy: str, later: int
) -> None:
    options = {"max_write_buffer": 1000, "overflow_policy": policy, "logger_name": quiet()}
    with Detached(side, None, agreement, **options) as connection:
        transport = connection.transport
        connection.below.waiting = 5000
        if policy == "raise":
            with pytest.raises(WSWriteBufferFullError):
                transport.send(WSMsgType.TEXT, b"one", fin=False)
        else:
            assert transport.send(WSMsgType.TEXT, b"one", fin=False) is False
        connection.below.waiting = later
        assert transport.send(WSMsgType.CONTINUATION, b"two", fin=False) is False
        assert transport.send_pong(b"pong") is True
        assert transport.send(WSMsgType.CONTINUATION, b"three") is False
        connection.below.waiting = 0
        assert transport.send(WSMsgType.TEXT, b"four", fin=False) is True
        assert transport.send(WSMsgType.CONTINUATION, b"five") is True
        assert fragments(connection) == [
            (PONG, True, b"pong"),
            (TEXT, False, b"four"),
            (CONTINUATION, True, b"five"),
        ]


@both_sides
def test_the_same_by_the_reuse_call(side: str) -> None:
    def send(msg_type: WSMsgType, payload: bytes, fin: bool) -> bool:
        buffer = bytearray(14) + payload
        return connection.transport.send_reuse_external_bytearray(msg_type, buffer, 14, fin)

    with Detached(side, max_write_buffer=1000, overflow_policy="drop") as connection:
        connection.below.waiting = 1000
        assert send(WSMsgType.TEXT, b"one", False) is False
        connection.below.waiting = 0
        assert send(WSMsgType.CONTINUATION, b"two", False) is False
        assert send(WSMsgType.CONTINUATION, b"three", True) is False
        assert send(WSMsgType.TEXT, b"four", False) is True
        connection.below.waiting = 1000
        assert send(WSMsgType.CONTINUATION, b"five", True) is True
        assert fragments(connection) == [(TEXT, False, b"four"), (CONTINUATION, True, b"five")]


# -- permessage-deflate ----------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("policy", ["drop", "raise"])
def test_a_message_that_is_not_sent_does_not_advance_the_compressor(side: str, policy: str) -> None:
    text = far(50_000)
    options = {"max_write_buffer": 1000, "overflow_policy": policy, "logger_name": quiet()}
    wanted = []
    with Detached(side, None, FULL, **options) as connection:
        for number in range(60):
            connection.below.waiting = 1000 * (number % 3 == 1)
            payload = text[number * 500 : number * 500 + 20_000]
            fin = number % 2 == 0
            try:
                sent = connection.transport.send(WSMsgType.BINARY, payload, fin)
            except WSWriteBufferFullError:
                sent = False
            assert sent == (number % 3 != 1)
            if sent:
                wanted.append(payload)
                if not fin:
                    assert connection.transport.send(WSMsgType.CONTINUATION, None) is True
        got = [payload for opcode, _, payload in fragments(connection) if opcode == BINARY]
        assert got == wanted


def test_the_limit_is_compared_with_the_size_before_compression() -> None:
    """So a caller can know; what waits is what it is."""
    with Detached("server", None, FULL, max_write_buffer=1000, overflow_policy="drop") as ours:
        ours.below.waiting = 1
        assert ours.transport.send(WSMsgType.TEXT, bytes(1000)) is False
        assert ours.transport.send(WSMsgType.TEXT, bytes(999)) is True


# -- the policies ----------------------------------------------------------------------------------


@both_sides
@deflate_or_not
def test_raise_says_how_much_and_the_connection_goes_on(
    side: str, agreement: DeflateAgreement | None
) -> None:
    lines = Lines()
    options = {
        "max_write_buffer": 1000,
        "overflow_policy": "raise",
        "logger_name": lines.logger(1),
        "permessage_deflate": PerMessageDeflate(),
    }
    with Detached(side, None, agreement, **options) as connection:
        connection.below.waiting = 700
        for way in WAYS if agreement is None else ["bytes"]:
            with pytest.raises(WSWriteBufferFullError) as caught:
                WAYS[way](connection.transport, b"secret" * 100)
            exc = caught.value
            assert isinstance(exc, WSError)
            assert (exc.waiting, exc.size, exc.limit) == (700, 600, 1000)
            for text in ("700", "600", "1000", "max_write_buffer"):
                assert text in str(exc)
        assert connection.sent() == []
        assert connection.transport.send(WSMsgType.TEXT, b"x" * 300) is True
        connection.feed(frame_to(side, TEXT, b"hello"))
        assert isinstance(connection.listener, Collecting)
        assert [each.payload for each in connection.listener.delivered] == [b"hello"]
        assert not any("secret" in each.getMessage() for each in lines.records)


def test_one_that_nobody_catches_ends_a_connection_as_any_other(caplog: Any) -> None:
    """Out of on_ws_frame: 1011, and no text of it to the peer."""

    def answer(transport: WSTransport, frame: object) -> None:
        connection.below.waiting = 10
        transport.send(WSMsgType.TEXT, b"x")

    options = {"max_write_buffer": 10, "overflow_policy": "raise", "logger_name": quiet()}
    with Detached("server", Collecting(answer), **options) as connection:
        connection.feed(frame_to("server", TEXT, b"1"))
        assert connection.close_code == 1011
        assert [each.payload[2:] for each in connection.sent()] == [b""]


@both_sides
def test_drop_says_nothing_at_info(side: str) -> None:
    """A flood would fill the log."""
    lines = Lines()
    options = {"max_write_buffer": 10, "overflow_policy": "drop", "logger_name": lines.logger()}
    with Detached(side, **options) as connection:
        connection.below.waiting = 10
        assert connection.transport.send(WSMsgType.TEXT, b"x") is False
        assert lines.records == []


@both_sides
def test_what_flow_control_callbacks_have_sent_waits_as_well(side: str) -> None:
    """It goes to the transport in the next iteration of the loop, and counts before."""

    class Pausing(Collecting):
        def pause_writing(self) -> None:
            answers.extend(
                connection.transport.send(WSMsgType.TEXT, b"x" * size) for size in (600, 600, 100)
            )

    answers: list[bool] = []
    options = {"max_write_buffer": 1000, "overflow_policy": "drop"}
    with Detached(side, Pausing(), **options) as connection:
        connection.connection.pause_writing()
        assert answers == [True, False, True]
        assert connection.transport.send(WSMsgType.TEXT, b"x" * 500) is False
        connection.loop.run()
        assert connection.transport.send(WSMsgType.TEXT, b"x" * 500) is True
        assert [len(each.payload) for each in connection.sent()] == [600, 100, 500]


@both_sides
def test_the_answers_of_the_connection_itself_are_not_for_the_limit(side: str) -> None:
    """Auto pong and the closing handshake."""
    with Detached(side, max_write_buffer=10, overflow_policy="close") as connection:
        connection.below.waiting = 1000
        connection.feed(frame_to(side, PING, b"hi"))
        connection.feed(frame_to(side, CLOSE, b"\x03\xe8"))
        connection.transport.send_close()
        assert [each.opcode for each in connection.sent()] == [PONG, CLOSE]
