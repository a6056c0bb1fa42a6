"""broadcast: one message to many connections.

Who gets it, in which form, and who is left out; that it disturbs nobody. What is about compression
and about callbacks in the middle runs on detached connections.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from aio.deflate_peer import PeerInflater, far
from aio.detached import Collecting, Detached, Loop, Sent
from aio.traffic import (
    Recorder,
    connected,
    frame_to,
    octets,
    read_frame,
    read_frames,
    read_payloads,
    something_to_read,
)

from picows import BroadcastResult, PerMessageDeflate, WSMsgType, WSTransport, broadcast
from picows.handshake.deflate import DeflateAgreement
from raw_peer import BINARY, CONTINUATION, PING, PONG, TEXT, RawPeer, in_thread, raw_connect

# Both sides, two of each: all servers get the same frame, each client one of its own.
MIXED = ("server", "client", "server", "client")

SIZES = (0, 1, 125, 126, 8191, 8192, 8193, 65535, 65536, 65537, 1_000_003)

MESSAGES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(bytearray(data))[:],
    "window": lambda data: memoryview(b"xyz" + data + b"xyz")[3:-3],
    "array": lambda data: array.array("B", data),
    "str": lambda data: data.hex()[: len(data)],
}

one_net = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
two_loops = pytest.mark.net(loops=("asyncio", "uvloop"))

Receiver = tuple[Recorder, RawPeer]


@contextlib.asynccontextmanager
async def receivers(
    net: Any, sides: Iterable[str] = MIXED, **options: Any
) -> AsyncIterator[list[Receiver]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for side in sides:
            listener = Recorder()
            peer = await stack.enter_async_context(connected(net, side, listener, **options))
            found.append((listener, peer))
        yield found


def transports(everybody: Iterable[Receiver]) -> list[WSTransport]:
    return [listener.transport for listener, _ in everybody]


def all_sent(count: int) -> BroadcastResult:
    return BroadcastResult(count, [], [], [])


async def get_next(everybody: Iterable[Receiver]) -> None:
    """Nothing has been sent but this."""
    for listener, peer in everybody:
        listener.transport.send(WSMsgType.TEXT, b"next")
        assert (await in_thread(peer.recv_frame)).payload == b"next"


# -- what everybody gets ---------------------------------------------------------------------------


async def test_every_kind_and_size(net: Any) -> None:
    async with receivers(net) as everybody:
        for size in SIZES:
            for make in MESSAGES.values():
                message = make(octets(size))
                wanted = message.encode() if isinstance(message, str) else bytes(message)
                result = broadcast(transports(everybody), WSMsgType.BINARY, message)
                assert result == all_sent(4)
                for (listener, peer), side in zip(everybody, MIXED, strict=True):
                    frame, _ = await in_thread(read_frame, peer)
                    assert (frame.opcode, frame.fin, frame.rsv) == (BINARY, True, 0)
                    assert frame.payload == wanted
                    assert frame.masked == (side == "client")
                    assert listener.events == ["connected"]


@two_loops
async def test_a_burst_that_the_sockets_do_not_take(net: Any) -> None:
    """Everything waits somewhere, and the caller changes its memory at once."""
    async with receivers(net, receive_buffer=4096) as everybody:
        wanted = [octets(size, seed) for seed in (1, 2) for size in (3_000_000, 100, 9000, 70_000)]
        for payload in wanted:
            message = bytearray(payload)
            assert broadcast(transports(everybody), WSMsgType.BINARY, message).sent == 4
            message[:] = b"\xff" * len(message)
            message.clear()
        for _, peer in everybody:
            assert await in_thread(read_payloads, peer, len(wanted)) == wanted


@two_loops
async def test_every_message_type(net: Any) -> None:
    kinds: list[tuple[WSMsgType, Any, int, bytes]] = [
        (WSMsgType.TEXT, "ä€", TEXT, "ä€".encode()),
        (WSMsgType.TEXT, None, TEXT, b""),
        (WSMsgType.BINARY, b"b", BINARY, b"b"),
        (WSMsgType.PING, b"p" * 125, PING, b"p" * 125),
        (WSMsgType.PING, None, PING, b""),
        (WSMsgType.PONG, "q", PONG, b"q"),
    ]
    async with receivers(net) as everybody:
        for msg_type, message, _, _ in kinds:
            assert broadcast(transports(everybody), msg_type, message, compress=True).sent == 4
        for _, peer in everybody:
            frames = await in_thread(read_frames, peer, len(kinds))
            assert [(each.opcode, each.payload) for each in frames] == [each[2:] for each in kinds]


@one_net
async def test_it_has_left_when_the_call_returns(net: Any) -> None:
    async with receivers(net) as everybody:
        broadcast(transports(everybody), WSMsgType.TEXT, b"now")
        for _, peer in everybody:
            # In the loop's own thread.
            assert peer.recv_frame().payload == b"now"


@one_net
async def test_each_client_masks_with_a_key_of_its_own(net: Any) -> None:
    async with receivers(net, ("client",) * 3) as everybody:
        keys = set()
        for size in (4, 10_000, 300_000):
            broadcast(transports(everybody), WSMsgType.BINARY, bytes(size))
            keys |= {(await in_thread(read_frame, peer))[1] for _, peer in everybody}
        assert len(keys) == 9


@one_net
async def test_of_items_larger_than_a_byte_all_bytes_count(net: Any) -> None:
    async with receivers(net) as everybody:
        numbers = array.array("d", range(100))
        broadcast(transports(everybody), WSMsgType.BINARY, numbers)
        with pytest.raises(ValueError, match="125"):
            broadcast(transports(everybody), WSMsgType.PING, numbers)
        for _, peer in everybody:
            assert (await in_thread(peer.recv_frame)).payload == numbers.tobytes()
        await get_next(everybody)


@one_net
async def test_to_nobody_twice_and_by_any_iterable(net: Any) -> None:
    assert broadcast([], WSMsgType.TEXT, b"x") == all_sent(0)
    async with receivers(net) as everybody:
        them = transports(everybody)
        assert broadcast(them * 2, WSMsgType.TEXT, b"twice") == all_sent(8)
        for iterable in (set(them), (each for each in them), dict.fromkeys(them), tuple(them)):
            assert broadcast(iterable, WSMsgType.TEXT, b"once") == all_sent(4)
        for _, peer in everybody:
            frames = await in_thread(read_payloads, peer, 6)
            assert frames == [b"twice"] * 2 + [b"once"] * 4
        await get_next(everybody)


# -- what is refused -------------------------------------------------------------------------------


def fails_at_the_end(them: list[WSTransport]) -> Iterator[WSTransport]:
    yield from them
    raise LookupError("no more")


@two_loops
async def test_wrong_arguments_send_nothing_to_anybody(net: Any) -> None:
    async with receivers(net) as everybody:
        them = transports(everybody)
        anything: Any = object()
        text, binary = WSMsgType.TEXT, WSMsgType.BINARY
        wrongs: list[tuple[type[Exception], str, Callable[[], object]]] = [
            (TypeError, "WSTransport", lambda: broadcast([*them, anything], text, b"x")),
            (TypeError, "WSTransport", lambda: broadcast([*them, None], text, b"x")),  # type: ignore[list-item]
            (TypeError, "iterable", lambda: broadcast(anything, text, b"x")),
            (TypeError, "iterable", lambda: broadcast(them[0], text, b"x")),  # type: ignore[arg-type]
            (LookupError, "no more", lambda: broadcast(fails_at_the_end(them), text, b"x")),
            (ValueError, "CONTINUATION", lambda: broadcast(them, WSMsgType.CONTINUATION, b"x")),
            (ValueError, r"\w", lambda: broadcast(them, WSMsgType.CLOSE, b"")),
            (ValueError, "opcode|3", lambda: broadcast(them, 3, b"x")),  # type: ignore[arg-type]
            (ValueError, "opcode|17", lambda: broadcast(them, 17, b"x")),  # type: ignore[arg-type]
            (ValueError, "125", lambda: broadcast(them, WSMsgType.PING, b"x" * 126)),
            (ValueError, "125", lambda: broadcast(them, WSMsgType.PONG, "ä" * 63)),
            (TypeError, "int", lambda: broadcast(them, text, 5)),  # type: ignore[arg-type]
            (TypeError, "list", lambda: broadcast(them, text, [b"x"])),  # type: ignore[arg-type]
            (TypeError, "object", lambda: broadcast(them, WSMsgType.PING, anything)),
            (BufferError, "contig", lambda: broadcast(them, binary, memoryview(b"abcd")[::2])),
            (UnicodeEncodeError, "surr", lambda: broadcast(them, text, "\ud800")),
            (TypeError, "compress", lambda: broadcast(them, text, b"x", compress=1)),  # type: ignore[arg-type]
            (TypeError, "compress", lambda: broadcast([], text, b"x", compress="no")),  # type: ignore[arg-type]
            (ValueError, "CONTINUATION", lambda: broadcast([], WSMsgType.CONTINUATION, b"x")),
            (ValueError, r"\w", lambda: broadcast([], WSMsgType.CLOSE, b"")),
        ]
        for error, says, wrong in wrongs:
            with pytest.raises(error, match=says):
                wrong()
        await get_next(everybody)


@two_loops
async def test_from_another_thread_nothing_is_sent(net: Any) -> None:
    failures = []

    def call() -> None:
        try:
            broadcast(transports(everybody), WSMsgType.TEXT, b"x")
        except RuntimeError as exc:
            failures.append(str(exc))

    async with receivers(net) as everybody:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert len(failures) == 1
        assert "call_soon_threadsafe" in failures[0]
        await get_next(everybody)


# -- who is left out -------------------------------------------------------------------------------


@two_loops
async def test_closed_ones_are_skipped_and_told(net: Any) -> None:
    async with receivers(net, MIXED * 2) as everybody:
        them = transports(everybody)
        gone, leaving = everybody[0], everybody[1]
        gone[1].close()
        await gone[0].until_gone()
        leaving[0].transport.send_close()
        them[2].disconnect()
        them[3].disconnect(graceful=False)
        result = broadcast(them, WSMsgType.TEXT, b"x" * 200)
        assert result == BroadcastResult(4, them[:4], [], [])
        assert broadcast(them, WSMsgType.PING, b"") == BroadcastResult(4, them[:4], [], [])
        for _, peer in everybody[4:]:
            assert await in_thread(read_payloads, peer, 2) == [b"x" * 200, b""]
        # The CLOSE was the last frame there.
        leaving[0].transport.disconnect()
        assert len(await in_thread(leaving[1].recv_all)) == 2 + 4


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@pytest.mark.parametrize("size", [10, 100_000])
async def test_one_that_is_lost_in_the_attempt_does_not_keep_it_from_others(
    net: Any, size: int
) -> None:
    async with receivers(net) as everybody:
        them = transports(everybody)
        for _, peer in everybody[:2]:
            peer.reset()
        # The loop has not run. The first write after a reset says ECONNRESET.
        result = broadcast(them, WSMsgType.BINARY, octets(size))
        assert result == BroadcastResult(2, them[:2], [], [])
        assert [each.is_disconnected for each in them] == [True, True, False, False]
        assert all(listener.events == ["connected"] for listener, _ in everybody)
        for listener, _ in everybody[:2]:
            await listener.until_gone()
        for _, peer in everybody[2:]:
            assert await in_thread(read_payloads, peer, 1) == [octets(size)]


@two_loops
async def test_a_fragmented_message_under_way_is_not_disturbed(net: Any) -> None:
    async with receivers(net) as everybody:
        them = transports(everybody)
        for each in them[:2]:
            each.send(WSMsgType.TEXT, b"one ", fin=False)
        assert broadcast(them, WSMsgType.TEXT, b"all") == BroadcastResult(2, [], [], them[:2])
        # What may stand between fragments does.
        assert broadcast(them, WSMsgType.PING, b"ping") == all_sent(4)
        for each in them[:2]:
            each.send(WSMsgType.CONTINUATION, b"two ", fin=False)
        assert broadcast(them, WSMsgType.BINARY, None).busy == them[:2]
        for each in them[:2]:
            each.send(WSMsgType.CONTINUATION, b"three")
        assert broadcast(them, WSMsgType.TEXT, b"again") == all_sent(4)
        for _, peer in everybody[:2]:
            frames = await in_thread(read_frames, peer, 5)
            assert [(each.opcode, each.fin, each.payload) for each in frames] == [
                (TEXT, False, b"one "),
                (PING, True, b"ping"),
                (CONTINUATION, False, b"two "),
                (CONTINUATION, True, b"three"),
                (TEXT, True, b"again"),
            ]
        for _, peer in everybody[2:]:
            assert await in_thread(read_payloads, peer, 4) == [b"all", b"ping", b"", b"again"]


@two_loops
async def test_a_fragmented_message_begun_by_a_reuse_call_counts(net: Any) -> None:
    async with receivers(net) as everybody:
        them = transports(everybody)
        for each in them:
            each.send_reuse_external_bytearray(WSMsgType.TEXT, bytearray(20), 14, False)
        assert broadcast(them, WSMsgType.TEXT, b"x") == BroadcastResult(0, [], [], them)
        for each in them:
            each.send_reuse_external_bytearray(WSMsgType.CONTINUATION, bytearray(20), 14)
        assert broadcast(them, WSMsgType.TEXT, b"y") == all_sent(4)
        for _, peer in everybody:
            assert await in_thread(read_payloads, peer, 3) == [bytes(6), bytes(6), b"y"]


def fill(transport: WSTransport) -> int:
    """Send until bytes wait above the system; returns how many messages that took."""
    count = 0
    while not transport.underlying_transport.get_write_buffer_size():
        transport.send(WSMsgType.BINARY, octets(100_000, count))
        count += 1
    return count


@two_loops
@pytest.mark.parametrize("policy", ["close", "drop", "raise"])
async def test_those_over_the_limit_are_told_and_treated_by_their_policy(
    net: Any, policy: str
) -> None:
    silent = logging.Logger("silent")
    silent.disabled = True
    options = {"max_write_buffer": 50_000, "overflow_policy": policy, "logger_name": silent}
    async with receivers(net, receive_buffer=4096, **options) as everybody:
        them = transports(everybody)
        slow = everybody[:2]
        filled = [fill(listener.transport) for listener, _ in slow]
        payload = octets(50_001)
        result = broadcast(them, WSMsgType.BINARY, payload)
        assert result == BroadcastResult(2, [], them[:2], [])
        assert [each.is_disconnected for each in them[:2]] == [policy == "close"] * 2
        # Control frames are not for the limit.
        pinged = broadcast(them, WSMsgType.PING, b"ping")
        if policy == "close":
            assert pinged == BroadcastResult(2, them[:2], [], [])
            for listener, _ in slow:
                await listener.until_gone()
        else:
            assert pinged == all_sent(4)
            for (_, peer), count in zip(slow, filled, strict=True):
                frames = await in_thread(read_payloads, peer, count + 1)
                assert frames == [*(octets(100_000, n) for n in range(count)), b"ping"]
            assert broadcast(them, WSMsgType.BINARY, payload) == all_sent(4)
            for _, peer in slow:
                assert await in_thread(read_payloads, peer, 1) == [payload]
        for _, peer in everybody[2:]:
            wanted = [payload, b"ping"] + [payload] * (policy != "close")
            assert await in_thread(read_payloads, peer, len(wanted)) == wanted


# -- in a batch ------------------------------------------------------------------------------------


@two_loops
@pytest.mark.parametrize("reader_coalesces", [True, False])
async def test_in_a_batch_each_receiver_gets_all_of_them_in_one_write(
    net: Any, reader_coalesces: bool
) -> None:
    def tell_all(transport: WSTransport, frame: Any) -> None:
        payload = b"number %d" % len(reader.payloads)
        assert broadcast(transports(everybody), WSMsgType.TEXT, payload) == all_sent(4)
        seen.append([something_to_read(peer) for _, peer in everybody])

    seen: list[list[bool]] = []
    reader = Recorder(tell_all)
    async with (
        receivers(net, coalesce_writes=True) as everybody,
        connected(net, "server", reader, coalesce_writes=reader_coalesces) as peer,
    ):
        peer.send(frame_to("server", TEXT, b"x") * 5)
        await reader.until_frames(5)
        assert seen == [[False] * 4] * 5
        for (_, receiver), side in zip(everybody, MIXED, strict=True):
            size = 5 * (2 + 8 + 4 * (side == "client"))
            assert len(await in_thread(receiver.recv_some)) == size
        # A lone frame waits for nothing.
        peer.send(frame_to("server", TEXT, b"x"))
        await reader.until_frames(6)
        assert seen[5] == [True] * 4


@two_loops
async def test_those_that_do_not_coalesce_get_it_at_once(net: Any) -> None:
    def tell_all(transport: WSTransport, frame: Any) -> None:
        broadcast([transport, *transports(everybody)], WSMsgType.TEXT, b"x")
        seen.append([something_to_read(each) for each in (peer, *(p for _, p in everybody))])
        for _, each in everybody:
            each.recv_frame()

    seen: list[list[bool]] = []
    reader = Recorder(tell_all)
    async with (
        receivers(net, coalesce_writes=False) as everybody,
        connected(net, "server", reader, coalesce_writes=True) as peer,
    ):
        peer.send(frame_to("server", TEXT, b"x") * 3)
        await reader.until_frames(3)
        assert seen == [[False] + [True] * 4] * 3
        assert await in_thread(read_payloads, peer, 3) == [b"x"] * 3


@two_loops
async def test_in_a_batch_order_and_content_hold_beyond_64_kib(net: Any) -> None:
    """Broadcasts among sends, small and large, to the reader and to others."""
    sizes = (10, 30_000, 65_500, 5, 65_522, 100, 300_000, 9000, 40_000, 40_000)

    def tell_all(transport: WSTransport, frame: Any) -> None:
        them = [transport, *transports(everybody)]
        for number, size in enumerate(sizes):
            payload = octets(size, len(wanted))
            wanted.append(payload)
            if number % 3:
                assert broadcast(them, WSMsgType.BINARY, payload).sent == 5
            else:
                for each in them:
                    each.send(WSMsgType.BINARY, payload)

    wanted: list[bytes] = []
    reader = Recorder(tell_all)
    async with (
        receivers(net, coalesce_writes=True) as everybody,
        connected(net, "server", reader) as peer,
    ):
        peer.send(frame_to("server", TEXT, b"x") * 3)
        await reader.until_frames(3)
        for each in (peer, *(peer for _, peer in everybody)):
            assert await in_thread(read_payloads, each, len(wanted)) == wanted


# -- what happens meanwhile ------------------------------------------------------------------------


class Waking(Recorder):
    """Calls `wake` in its first pause_writing."""

    def __init__(self, wake: Callable[[], object]) -> None:
        super().__init__()
        self.wake = wake

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.pauses == 1:
            self.wake()


@two_loops
@pytest.mark.parametrize("side", ["server", "client"])
async def test_the_set_changes_while_it_is_sent(net: Any, side: str) -> None:
    """pause_writing of one takes another out of the set, ends a third, and sends by itself."""

    def change() -> None:
        everywhere.remove(staying[0].transport)
        ending[0].transport.disconnect()
        waking.transport.send(WSMsgType.TEXT, b"behind it")
        broadcast([staying[0].transport], WSMsgType.TEXT, b"ahead")

    waking = Waking(change)
    async with (
        connected(net, side, waking) as peer,
        receivers(net, (side, side)) as (staying, ending),
    ):
        everywhere = [waking.transport, staying[0].transport, ending[0].transport]
        payload = octets(5_000_000)
        results = []
        # The TLS of the loops pauses at the second: the first waits below it.
        while not waking.pauses:
            results.append(broadcast(everywhere, WSMsgType.BINARY, payload))
        count = len(results)
        assert results[:-1] == [all_sent(3)] * (count - 1)
        assert results[-1] == BroadcastResult(2, [ending[0].transport], [], [])
        assert await in_thread(read_payloads, peer, count + 1) == [payload] * count + [b"behind it"]
        wanted = [payload] * (count - 1) + [b"ahead", payload]
        assert await in_thread(read_payloads, staying[1], count + 1) == wanted
        assert await in_thread(read_payloads, ending[1], count - 1) == [payload] * (count - 1)
        assert await in_thread(ending[1].recv_all) == b""


# -- permessage-deflate ----------------------------------------------------------------------------


def agreed(bits: int = 15, takeover: bool = True) -> DeflateAgreement:
    """The same for both halves."""
    return DeflateAgreement(not takeover, not takeover, bits, bits)


class Inflating:
    """A peer's receiving half: frames of ours become messages, or the test fails."""

    def __init__(self, bits: int = 15, takeover: bool = True) -> None:
        self.inflater = PeerInflater(bits, takeover)
        self.is_compressed = False
        self.parts: list[bytes] = []
        self.opcode = 0
        self.compressed: list[bool] = []

    def messages(self, frames: Iterable[Sent]) -> Iterator[tuple[int, bytes]]:
        for opcode, fin, rsv1, payload in frames:
            if opcode >= PING:
                assert fin
                assert not rsv1
                yield opcode, payload
                continue
            assert (opcode == CONTINUATION) == bool(self.opcode)
            if opcode:
                self.opcode, self.is_compressed = opcode, rsv1
            self.parts.append(self.inflater.piece(payload, fin) if self.is_compressed else payload)
            if fin:
                self.compressed.append(self.is_compressed)
                yield self.opcode, b"".join(self.parts)
                self.opcode = 0
                self.parts.clear()


AGREEMENTS = [
    None,
    agreed(15),
    agreed(15),
    agreed(9),
    agreed(12),
    agreed(8),
    agreed(15, takeover=False),
]


@contextlib.contextmanager
def detached(*, loop: Loop | None = None, **options: Any) -> Iterator[list[Detached]]:
    """Connections of one loop, on each side with each agreement."""
    with contextlib.ExitStack() as stack:
        loop = Loop() if loop is None else loop
        yield [
            stack.enter_context(Detached(side, None, agreement, loop=loop, **options))
            for side, agreement in itertools.product(("server", "client"), AGREEMENTS)
        ]


def received(connections: list[Detached]) -> list[list[tuple[int, bytes]]]:
    """What the peers of `detached` make of what they got."""
    agreements = [each for _ in range(2) for each in AGREEMENTS]
    return [
        list(
            Inflating(
                *((a.server_max_window_bits, not a.server_no_context_takeover) if a else ())
            ).messages(connection.sent())
        )
        for connection, a in zip(connections, agreements, strict=True)
    ]


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_sent_ahead_by_and_behind_broadcasts_inflates(seed: int, level: int) -> None:
    """Windows of all sizes, with and without takeover, and none; payloads with common parts."""
    choose = random.Random(seed)
    text = far(60_000, seed)
    deflate = PerMessageDeflate(threshold=200, level=level)
    with detached(permessage_deflate=deflate) as connections:
        wanted: list[list[tuple[int, bytes]]] = [[] for _ in connections]
        open_parts: dict[int, bytes] = {}
        for _ in range(150):
            size = choose.choice((0, 1, 125, 126, 300, 5000, 20_000))
            start = choose.randrange(len(text) - size)
            payload = text[start : start + size]
            compress = choose.choice((None, None, True, False))
            kind = choose.random()
            number = choose.randrange(len(connections))
            if kind < 0.4:
                chosen = choose.sample(range(len(connections)), choose.randint(1, 14))
                result = broadcast(
                    [connections[n].transport for n in chosen],
                    WSMsgType.BINARY,
                    payload,
                    compress=compress,
                )
                busy = [n for n in chosen if n in open_parts]
                assert result.busy == [connections[n].transport for n in busy]
                assert result.sent == len(chosen) - len(busy)
                for n in set(chosen) - set(busy):
                    wanted[n].append((BINARY, payload))
            elif kind < 0.45:
                for n, each in enumerate(connections):
                    assert broadcast([each.transport], WSMsgType.PING, payload[:125]).sent == 1
                    wanted[n].append((PING, payload[:125]))
            elif number in open_parts:
                connections[number].transport.send(WSMsgType.CONTINUATION, payload)
                wanted[number].append((BINARY, open_parts.pop(number) + payload))
            else:
                fin = kind < 0.85
                connections[number].transport.send(
                    WSMsgType.BINARY, payload, fin, compress=compress
                )
                if fin:
                    wanted[number].append((BINARY, payload))
                else:
                    open_parts[number] = payload
        for number, part in open_parts.items():
            connections[number].transport.send(WSMsgType.CONTINUATION, None)
            wanted[number].append((BINARY, part))
        assert received(connections) == wanted


@pytest.mark.parametrize("side", ["server", "client"])
def test_when_it_is_compressed(side: str) -> None:
    deflate = PerMessageDeflate(threshold=100)
    with Detached(side, None, agreed(), permessage_deflate=deflate) as connection:
        for size, compress in itertools.product((99, 100), (None, True, False)):
            broadcast([connection.transport], WSMsgType.TEXT, b"a" * size, compress=compress)
        peer = Inflating()
        assert [len(p) for _, p in peer.messages(connection.sent())] == [99] * 3 + [100] * 3
        assert peer.compressed == [False, True, False, True, True, False]


def test_servers_that_agreed_on_the_same_get_the_same_bytes() -> None:
    """Compressed once, and as well as a message of a connection's own that comes first."""
    with detached() as connections:
        text = far(20_000)
        connections[1].transport.send(WSMsgType.TEXT, b"something else, on this one alone")
        already = len(connections[1].below.written)
        broadcast([each.transport for each in connections], WSMsgType.BINARY, text)
        written = [bytes(each.below.written) for each in connections]
        assert written[1][already:] == written[2]
        with Detached("server", None, agreed()) as alone:
            alone.transport.send(WSMsgType.BINARY, text)
            assert bytes(alone.below.written) == written[2]


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("how", ["send", "broadcast", "fragments"])
@pytest.mark.parametrize("first", [b"", b"gathered"], ids=["direct", "batch"])
def test_pause_writing_sends_in_the_middle_of_a_broadcast(
    side: str, how: str, first: bytes
) -> None:
    """The transport calls it while it writes; whatever leaves first was compressed first."""
    text = far(50_000)
    calls = []

    class Pausing(Collecting):
        def pause_writing(self) -> None:
            for size in (3000, 70_000):
                payload = (text * 2)[100 : size + 100]
                if how == "send":
                    connection.transport.send(WSMsgType.BINARY, payload)
                elif how == "broadcast":
                    broadcast([connection.transport], WSMsgType.BINARY, payload)
                else:
                    connection.transport.send(WSMsgType.BINARY, payload[:99], False)
                    connection.transport.send(WSMsgType.CONTINUATION, payload[99:])
                calls.append(payload)

    def tell(transport: WSTransport, frame: object) -> None:
        if first:
            transport.send(WSMsgType.BINARY, octets(60_000))
        for payload in payloads:
            assert broadcast([transport], WSMsgType.BINARY, payload) == all_sent(1)
            # What pause_writing has sent is in our window, and no longer close by in the peer's.
            transport.send(WSMsgType.BINARY, own)

    def write_and_pause(data: bytes) -> None:
        write(data)
        if len(calls) < 20:
            connection.connection.pause_writing()

    payloads = [octets(20_000), text[:5000], octets(64_000), octets(65_000), text, text[:300]]
    own = text[:2500]
    listener = Pausing(tell)
    with Detached(side, listener, agreed(), coalesce_writes=True) as connection:
        write = connection.below.write
        connection.below.write = write_and_pause  # type: ignore[method-assign]
        connection.feed(frame_to(side, TEXT, b"1") + (frame_to(side, TEXT, b"2") if first else b""))
        sent = [payload for _, payload in Inflating().messages(connection.sent())]
        rounds = len(listener.delivered)
        ours = [octets(60_000)] * bool(first)
        ours += [each for payload in payloads for each in (payload, own)]
        ours *= rounds
        assert calls
        assert sorted(sent) == sorted(ours + calls)
        rest = [each for each in sent if each not in calls]
        assert rest == [each for each in ours if each not in calls]


@pytest.mark.parametrize("side", ["server", "client"])
def test_over_the_limit_only_when_what_was_gathered_has_left(side: str) -> None:
    """
    "raise" is told, never raised, and nobody behind is left out: also where a connection was not
    over its limit before what it had gathered went to the transport.
    """

    def tell(transport: WSTransport, frame: object) -> None:
        if not results:
            transport.send(WSMsgType.BINARY, octets(50_000))
            connection.below.write = write_nothing  # type: ignore[method-assign]
            them = [transport, behind.transport]
            results.append(broadcast(them, WSMsgType.BINARY, octets(60_000)))

    def write_nothing(data: bytes) -> None:
        write(data)
        connection.below.waiting += len(data)

    results: list[BroadcastResult] = []
    loop = Loop()
    silent = logging.Logger("silent")
    silent.disabled = True
    with (
        Detached(
            side,
            Collecting(tell),
            agreed(),
            loop=loop,
            coalesce_writes=True,
            max_write_buffer=80_000,
            overflow_policy="raise",
            logger_name=silent,
        ) as connection,
        Detached(side, None, agreed(), loop=loop) as behind,
    ):
        write = connection.below.write
        connection.feed(frame_to(side, TEXT, b"1") + frame_to(side, TEXT, b"2"))
        assert len(results) == 1, "broadcast has raised"
        assert [len(each) for each in received_by(behind)] == [60_000]
        # Whichever it is, it is what has happened.
        got = [len(each) for each in received_by(connection)]
        assert got == [50_000] + [60_000] * (results[0].sent - 1)
        assert results[0].overflowed == [connection.transport] * (2 - results[0].sent)


def received_by(connection: Detached) -> list[bytes]:
    return [payload for _, payload in Inflating().messages(connection.sent())]


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("agreement", [None, agreed()], ids=["plain", "deflate"])
def test_one_that_ends_itself_in_the_middle_is_not_counted_as_sent(
    side: str, agreement: DeflateAgreement | None
) -> None:
    """What it had gathered leaves first; that pauses it, and its listener disconnects."""

    class Pausing(Collecting):
        def pause_writing(self) -> None:
            connection.transport.disconnect()

    def tell(transport: WSTransport, frame: object) -> None:
        transport.send(WSMsgType.BINARY, octets(50_000))
        results.append(broadcast([transport], WSMsgType.BINARY, octets(60_000)))

    def write_and_pause(data: bytes) -> None:
        write(data)
        connection.connection.pause_writing()

    results: list[BroadcastResult] = []
    with Detached(side, Pausing(tell), agreement, coalesce_writes=True) as connection:
        write = connection.below.write
        connection.below.write = write_and_pause  # type: ignore[method-assign]
        connection.feed(frame_to(side, TEXT, b"1") + frame_to(side, TEXT, b"2"))
        assert [len(each) for each in received_by(connection)] == [50_000]
        assert results == [BroadcastResult(0, [connection.transport], [], [])]


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("agreement", [None, agreed()], ids=["plain", "deflate"])
def test_the_rest_of_a_message_that_was_dropped_stays_away_behind_a_broadcast(
    side: str, agreement: DeflateAgreement | None
) -> None:
    options = {"max_write_buffer": 1000, "overflow_policy": "drop"}
    with Detached(side, None, agreement, **options) as connection:
        transport = connection.transport
        connection.below.waiting = 1000
        assert transport.send(WSMsgType.TEXT, b"one ", fin=False) is False
        connection.below.waiting = 0
        result = broadcast([transport], WSMsgType.TEXT, b"all")
        assert transport.send(WSMsgType.CONTINUATION, b"two ", fin=False) is False
        assert transport.send(WSMsgType.CONTINUATION, b"three") is False
        assert transport.send(WSMsgType.TEXT, b"next") is True
        assert received_by(connection) == [b"all"] * result.sent + [b"next"]


@two_loops
async def test_servers_with_different_windows_over_real_sockets(net: Any) -> None:
    """One server, peers that offer different windows, and one that offers none."""
    offers = {15: b"", 9: b"; server_max_window_bits=9", 12: b"; server_max_window_bits=12"}
    listeners: list[Recorder] = []

    def listen(request: object) -> Recorder:
        listeners.append(Recorder())
        return listeners[-1]

    server = await net.serve(listen, permessage_deflate=PerMessageDeflate(threshold=0))
    port = server.sockets[0].getsockname()[1]

    def upgrade(offer: bytes | None) -> RawPeer:
        peer = raw_connect(port, net.client_ssl)
        lines = () if offer is None else (b"Sec-WebSocket-Extensions: permessage-deflate" + offer,)
        head = peer.request_upgrade(*lines)
        assert (b"permessage-deflate" + (offer or b"") in head) == (offer is not None)
        return peer

    peers = [await in_thread(upgrade, offer) for offer in (*offers.values(), None)]
    for listener in listeners:
        await listener.until(lambda each=listener: each.events)  # type: ignore[misc]
    them = [listener.transport for listener in listeners]
    text = far(300_000)
    wanted = []
    for size in (100, 5000, 40_000, 300_000, 10):
        for each in them:
            each.send(WSMsgType.BINARY, text[:size])
        assert broadcast(them, WSMsgType.BINARY, text[size // 2 : size]).sent == 4
        wanted += [text[:size], text[size // 2 : size]]

    def read_all(peer: RawPeer, reading: Inflating) -> list[bytes]:
        frames = [read_frame(peer)[0] for _ in wanted]
        sent = [Sent(each.opcode, each.fin, bool(each.rsv & 4), each.payload) for each in frames]
        return [payload for _, payload in reading.messages(sent)]

    for peer, bits in zip(peers, (*offers, 15), strict=True):
        reading = Inflating(bits)
        assert await in_thread(read_all, peer, reading) == wanted
        assert set(reading.compressed) == {peer is not peers[3]}
    for peer in peers:
        peer.close()
    for listener in listeners:
        await listener.until_gone()
    server.close()
    await server.wait_closed()


def test_a_loop_without_connections_keeps_no_compressor() -> None:
    """What broadcasts compress with goes with the last connection, and comes again."""
    loop = Loop()
    for _ in range(2):
        with Detached("server", None, agreed(), loop=loop) as connection:
            broadcast([connection.transport], WSMsgType.TEXT, far(1000))
            assert connection.sent()[0].rsv1
            assert received_by(connection) == [far(1000)]
