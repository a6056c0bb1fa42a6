"""measure_roundtrip_time: alone, several at once, beside auto ping, and at every end (line 44)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    our_socket,
    read_frame,
    read_to_end,
    some_iterations,
    something_to_read,
)

import loops
from picows import WSAutoPingStrategy, WSFrame, WSMsgType, WSTransport
from picows.aio import keepalive
from raw_peer import CLOSE, PING, PONG, TEXT, RawFrame, RawPeer, in_thread

both_sides = pytest.mark.parametrize("side", SIDES)
both_strategies = pytest.mark.parametrize(
    "strategy", list(WSAutoPingStrategy), ids=lambda strategy: strategy.name.lower()
)
# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
few = pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))

PERIODICALLY = WSAutoPingStrategy.PING_PERIODICALLY

# Seconds. What passes soon; what does not in any test; and what a thread of a busy machine needs,
# generously, to come to its turn.
SOON = 0.02 * loops.TIME_FACTOR
NEVER = 600.0
A_TURN = 0.4 * loops.TIME_FACTOR

Measurement = asyncio.Future[list[float]]


def measure(transport: WSTransport, rounds: int = 1) -> Measurement:
    return asyncio.ensure_future(transport.measure_roundtrip_time(rounds))


async def recv_ping(peer: RawPeer) -> bytes:
    """The payload of the next frame, which is a PING."""
    frame: RawFrame = await in_thread(peer.recv_frame)
    assert frame.opcode == PING
    return frame.payload


async def measuring(transport: WSTransport, peer: RawPeer) -> tuple[Measurement, bytes]:
    """A measurement whose PING the peer has, and the payload of that."""
    task = measure(transport)
    payload = await recv_ping(peer)
    assert len(payload) == 8
    return task, payload


async def ask(side: str, listener: Recorder, peer: RawPeer) -> None:
    """The connection is alive, and what was sent before was dealt with."""
    peer.send(frame_to(side, TEXT, b"mark"))
    await listener.until(lambda: b"mark" in listener.payloads)
    listener.payloads.remove(b"mark")


# -- values ----------------------------------------------------------------------------------------


@both_sides
async def test_the_value_is_what_passed_between_ping_and_pong(net: Any, side: str) -> None:
    """Not less than the peer took for it, and not more than the whole call."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for delay in (0.0, SOON):
            begin = time.perf_counter()
            task, payload = await measuring(listener.transport, peer)
            received = time.perf_counter()
            await asyncio.sleep(delay)
            answered = time.perf_counter()
            peer.send(frame_to(side, PONG, payload))
            (value,) = await task
            end = time.perf_counter()
            assert answered - received <= value <= end - begin
            assert value > 0
            assert type(value) is float
    assert listener.payloads == []


@both_sides
async def test_rounds_follow_each_other(net: Any, side: str) -> None:
    """The next PING leaves when the last one was answered, and is another one."""
    listener = Recorder()
    payloads = set()
    async with connected(net, side, listener) as peer:
        task = measure(listener.transport, 5)
        for _ in range(5):
            payload = await recv_ping(peer)
            payloads.add(payload)
            await some_iterations()
            assert not something_to_read(peer)
            assert not task.done()
            peer.send(frame_to(side, PONG, payload))
        values = await task
    assert len(values) == 5
    assert min(values) > 0
    assert len(payloads) == 5
    assert listener.payloads == []


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_two_sides_of_ours_measure_each_other(net: Any) -> None:
    theirs = Recorder()
    server = await net.serve(lambda request: theirs)
    transport, ours = await net.connect(Recorder, server)
    await theirs.until(lambda: "connected" in theirs.events)
    tasks = [measure(each, 20) for each in (transport, theirs.transport, transport)]
    for values in await asyncio.gather(*tasks):
        assert len(values) == 20
        assert min(values) > 0
    assert ours.payloads == theirs.payloads == []
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@both_sides
@one
async def test_from_within_callbacks(net: Any, side: str) -> None:
    """Begun in on_ws_connected and in on_ws_frame; one begun in on_ws_disconnected is too late."""

    class Measures(Recorder):
        tasks: list[Measurement] = []

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            super().on_ws_disconnected(transport)
            self.tasks.append(measure(transport))

    def begin(transport: WSTransport, *_: object) -> None:
        listener.tasks.append(measure(transport))

    listener = Measures(begin, begin)
    listener.tasks = []
    async with connected(net, side, listener) as peer:
        peer.send(frame_to(side, PONG, await recv_ping(peer)), frame_to(side, TEXT, b"one"))
        peer.send(frame_to(side, PONG, await recv_ping(peer)))
        for task in listener.tasks:
            assert len(await task) == 1
    assert listener.payloads == [b"one"]
    with pytest.raises(ConnectionResetError):
        await listener.tasks[2]


@both_sides
@one
async def test_rounds_that_make_no_sense(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        for rounds in (True, False, 1.0, "1", b"1", None, [1], 1j):
            with pytest.raises(TypeError, match="rounds must be an int"):
                await listener.transport.measure_roundtrip_time(rounds)  # type: ignore[arg-type]
        # The last has more digits than Python prints.
        for rounds in (0, -1, -(2**64), -(10**5000)):
            with pytest.raises(ValueError, match="rounds must be at least 1"):
                await listener.transport.measure_roundtrip_time(rounds)
        await some_iterations()
        assert not something_to_read(peer)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
async def test_from_another_thread(net: Any, side: str) -> None:
    """Where a loop of its own runs, and where a coroutine is merely begun."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:

        def begin() -> None:
            coroutine: Any = listener.transport.measure_roundtrip_time(1)
            try:
                coroutine.send(None)
            finally:
                coroutine.close()

        def run() -> None:
            asyncio.run(listener.transport.measure_roundtrip_time(1))  # type: ignore[arg-type]

        for function in (begin, run):
            with pytest.raises(RuntimeError, match="thread"):
                await in_thread(function)
        await some_iterations()
        assert not something_to_read(peer)
        # And it has done no harm.
        task, payload = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG, payload))
        await task


# -- whose pong is it ------------------------------------------------------------------------------


@both_sides
async def test_pongs_of_others_are_delivered_and_answer_nothing(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        task, payload = await measuring(listener.transport, peer)
        foreign = [b"", payload[:-1], payload + b"\0", payload[::-1], bytes(8), b"x" * 125]
        for each in foreign:
            peer.send(frame_to(side, PONG, each))
        # Nor is the payload one in a frame of another kind.
        peer.send(frame_to(side, TEXT, payload))
        await listener.until_frames(len(foreign) + 1)
        await some_iterations()
        assert not task.done()
        peer.send(frame_to(side, PONG, payload))
        await task
    assert listener.payloads == [*foreign, payload]


@both_sides
async def test_line_44_two_pongs_for_one_ping(net: Any, side: str) -> None:
    """The second belongs to nobody: neither to the next round, nor to a later measurement."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        task = measure(listener.transport, 2)
        first = await recv_ping(peer)
        peer.send(frame_to(side, PONG, first), frame_to(side, PONG, first))
        second = await recv_ping(peer)
        await listener.until_frames(1)
        peer.send(frame_to(side, PONG, first))
        await listener.until_frames(2)
        assert not task.done()
        peer.send(frame_to(side, PONG, second))
        assert len(await task) == 2
        task, third = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG, second))
        await listener.until_frames(3)
        assert not task.done()
        peer.send(frame_to(side, PONG, third))
        await task
    assert listener.payloads == [first, first, second]


@both_sides
async def test_line_44_twice_at_once(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        first, one = await measuring(listener.transport, peer)
        second, two = await measuring(listener.transport, peer)
        assert one != two
        peer.send(frame_to(side, PONG, one))
        await first
        await some_iterations()
        assert not second.done()
        peer.send(frame_to(side, PONG, two))
        await second
    assert listener.payloads == []


@both_sides
async def test_a_peer_may_answer_the_last_of_several_pings_alone(net: Any, side: str) -> None:
    """RFC 6455 section 5.5.3. What was sent behind that one still waits."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        tasks, payloads = [], []
        for _ in range(4):
            task, payload = await measuring(listener.transport, peer)
            tasks.append(task)
            payloads.append(payload)
        peer.send(frame_to(side, PONG, payloads[2]))
        first, second, third = await asyncio.gather(*tasks[:3])
        # Each from its own PING on.
        assert first > second
        assert third[0] > 0
        await some_iterations()
        assert not tasks[3].done()
        peer.send(frame_to(side, PONG, payloads[3]))
        await tasks[3]
    assert listener.payloads == []


@both_sides
@one
async def test_pongs_in_another_order_are_not_delivered_either(net: Any, side: str) -> None:
    """A peer may answer from several threads. It is late for the value, but it is no news."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        first, one = await measuring(listener.transport, peer)
        second, two = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG, two), frame_to(side, PONG, one))
        await asyncio.gather(first, second)
        await ask(side, listener, peer)
    assert listener.payloads == []


@both_sides
@one
async def test_a_coarse_clock_does_not_mix_them_up(
    net: Any, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """time.monotonic() of Windows stands still for 15 ms, up to Python 3.12."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        monkeypatch.setattr(keepalive, "monotonic", lambda: 1000.0)
        first, one = await measuring(listener.transport, peer)
        second, two = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG, one))
        await first
        await some_iterations()
        assert not second.done()
        peer.send(frame_to(side, PONG, two))
        await second
        await ask(side, listener, peer)
    assert listener.payloads == []


@both_sides
@one
async def test_several_hundred_at_once(net: Any, side: str) -> None:
    """More than may be abandoned: those that wait are not forgotten."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        tasks = [measure(listener.transport) for _ in range(500)]
        payloads = [await recv_ping(peer) for _ in tasks]
        assert len(set(payloads)) == 500
        # Every other one is given up.
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
        last, payload = await measuring(listener.transport, peer)
        for task, payload_of_it in zip(tasks[1::2], payloads[1::2], strict=True):
            assert not task.done()
            peer.send(frame_to(side, PONG, payload_of_it))
            assert len(await task) == 1
        peer.send(frame_to(side, PONG, payload))
        await last
    assert listener.payloads == []


# -- cancelled -------------------------------------------------------------------------------------


@both_sides
async def test_line_44_cancelled_and_answered_late(net: Any, side: str) -> None:
    """Nobody gets that PONG, and the next measurement is none the worse."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        task, late = await measuring(listener.transport, peer)
        other, payload = await measuring(listener.transport, peer)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        peer.send(frame_to(side, PONG, late))
        await ask(side, listener, peer)
        assert not other.done()
        peer.send(frame_to(side, PONG, payload))
        assert len(await other) == 1
        # Once only: it is gone from the books.
        peer.send(frame_to(side, PONG, late))
        await listener.until_frames(1)
    assert listener.payloads == [late]


@both_sides
async def test_a_time_limit(net: Any, side: str) -> None:
    """In the middle of the rounds, as the docstring says."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        task = asyncio.ensure_future(
            asyncio.wait_for(listener.transport.measure_roundtrip_time(3), A_TURN)
        )
        peer.send(frame_to(side, PONG, await recv_ping(peer)))
        late = await recv_ping(peer)
        with pytest.raises(asyncio.TimeoutError):
            await task
        peer.send(frame_to(side, PONG, late))
        await ask(side, listener, peer)
        # There is no third round.
        assert not something_to_read(peer)
    assert listener.payloads == []


@both_sides
@one
async def test_measurements_that_were_abandoned_stay_few(net: Any, side: str) -> None:
    """Ten thousand of them, with a peer that answers none."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        kept, payload = await measuring(listener.transport, peer)

        async def abandon(count: int) -> None:
            for _ in range(count):
                task = measure(listener.transport)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])

        reader = asyncio.ensure_future(in_thread(read_pings, peer, 11_000))
        await abandon(1000)
        before = sys.getallocatedblocks()
        await abandon(10_000)
        # Each would have at least its payload, its future and two numbers.
        assert sys.getallocatedblocks() - before < 10_000
        first, last = await reader
        # The newest is still known, and so is who waits.
        peer.send(frame_to(side, PONG, last))
        await ask(side, listener, peer)
        # It was answered with it, for it was sent before.
        assert len(await kept) == 1
        # Its own comes late, and is no news.
        peer.send(frame_to(side, PONG, payload))
        await ask(side, listener, peer)
        # Those that were abandoned long ago are news, by now.
        peer.send(frame_to(side, PONG, first))
        await listener.until_frames(1)
    assert listener.payloads == [first]


def read_pings(peer: RawPeer, count: int) -> tuple[bytes, bytes]:
    """The payloads of the first and of the last; the others' would be counted."""
    first, _ = read_frame(peer)
    for _ in range(count - 1):
        last, _ = read_frame(peer)
        assert last.opcode == PING
    return first.payload, last.payload


# -- reading paused --------------------------------------------------------------------------------


@both_sides
async def test_it_waits_while_reading_is_paused(net: Any, side: str) -> None:
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        listener.transport.pause_reading()
        begin = time.perf_counter()
        task, payload = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG, payload))
        await asyncio.sleep(SOON)
        assert not task.done()
        paused_for = time.perf_counter() - begin
        listener.transport.resume_reading()
        (value,) = await task
        # It cannot know better.
        assert value > paused_for / 2
    assert listener.payloads == []


@both_sides
async def test_a_pong_that_was_held_counts_though_the_peer_has_gone(net: Any, side: str) -> None:
    """Read together with the frame that paused; then comes the end."""

    def react(transport: WSTransport, frame: WSFrame) -> None:
        transport.pause_reading()

    listener = Recorder(react)
    async with connected(net, side, listener) as peer:
        task, payload = await measuring(listener.transport, peer)
        peer.send(frame_to(side, TEXT, b"pause"), frame_to(side, PONG, payload))
        await listener.until_frames(1)
        peer.close()
        await some_iterations()
        # uvloop's TLS may have heard of the end nevertheless.
        listener.transport.resume_reading()
        assert len(await task) == 1
        await listener.until_gone()
    assert listener.payloads == [b"pause"]


# -- the end ---------------------------------------------------------------------------------------


async def end_by_disconnect(side: str, listener: Recorder, peer: RawPeer) -> None:
    listener.transport.disconnect()


async def end_by_abort(side: str, listener: Recorder, peer: RawPeer) -> None:
    listener.transport.disconnect(graceful=False)


async def end_by_peer(side: str, listener: Recorder, peer: RawPeer) -> None:
    peer.close()


async def end_by_reset(side: str, listener: Recorder, peer: RawPeer) -> None:
    peer.reset()


async def end_by_violation(side: str, listener: Recorder, peer: RawPeer) -> None:
    peer.send(b"\xff\xff")


async def end_by_close_in_callback(side: str, listener: Recorder, peer: RawPeer) -> None:
    listener.react = lambda transport, frame: transport.disconnect()
    peer.send(frame_to(side, CLOSE, b"\x03\xe8"))


async def end_by_transport(side: str, listener: Recorder, peer: RawPeer) -> None:
    listener.transport.underlying_transport.abort()


ENDS = [
    end_by_disconnect,
    end_by_abort,
    end_by_peer,
    end_by_reset,
    end_by_violation,
    end_by_close_in_callback,
    end_by_transport,
]


@both_sides
@pytest.mark.parametrize("end", ENDS)
async def test_line_44_at_the_end_of_the_connection(
    net: Any, side: str, end: Callable[[str, Recorder, RawPeer], Awaitable[None]]
) -> None:
    """Everybody who waits is told; one who has given up is not; and so is who comes later."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        tasks = []
        for _ in range(3):
            task, _ = await measuring(listener.transport, peer)
            tasks.append(task)
        tasks[1].cancel()
        await end(side, listener, peer)
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = [type(error) for error in errors]
        assert kinds == [ConnectionResetError, asyncio.CancelledError, ConnectionResetError]
        # Each raises its own, or their tracebacks would mix.
        assert errors[0] is not errors[2]
        if end not in (end_by_peer, end_by_reset):
            await in_thread(read_to_end, peer)
        await listener.until_gone()
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="closed"):
                await listener.transport.measure_roundtrip_time(1)
        for error in errors:
            error.__traceback__ = None
    with pytest.raises(ConnectionResetError, match="closed"):
        await listener.transport.measure_roundtrip_time(1)


@both_sides
async def test_a_graceful_disconnect_tells_at_once(net: Any, side: str) -> None:
    """Though what was sent waits for a peer that does not read."""

    def fill_up(transport: WSTransport) -> None:
        our_socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        for _ in range(16):
            transport.send(WSMsgType.BINARY, bytes(128 * 1024))

    listener = Recorder(None, fill_up)
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        task = measure(listener.transport)
        await some_iterations()
        listener.transport.disconnect()
        with pytest.raises(ConnectionResetError):
            await task
        assert listener.events == ["connected"]
        with pytest.raises(ConnectionResetError):
            await listener.transport.measure_roundtrip_time(1)
        # The PING was sent, and goes out; the one of the second call was not.
        frames = await in_thread(read_to_end, peer)
        assert [frame.opcode for frame in frames][15:] == [2, PING]
        await listener.until_gone()


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
async def test_cancelled_and_disconnected_in_one_moment(net: Any, side: str) -> None:
    """In either order; and no exception that nobody fetched reaches the loop's handler."""
    for cancel_first in (True, False):
        listener = Recorder()
        async with connected(net, side, listener) as peer:
            task, _ = await measuring(listener.transport, peer)
            if cancel_first:
                task.cancel()
            listener.transport.disconnect(graceful=False)
            if not cancel_first:
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            del task
            await listener.until_gone()
        gc.collect()
        await asyncio.sleep(0)
        assert not net.loop_errors


@both_sides
async def test_after_our_close_a_ping_that_is_out_may_be_answered(net: Any, side: str) -> None:
    """But no other one goes out."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        task, payload = await measuring(listener.transport, peer)
        two_rounds = measure(listener.transport, 2)
        payload_of_two = await recv_ping(peer)
        listener.transport.send_close(1000)
        with pytest.raises(ConnectionResetError):
            await listener.transport.measure_roundtrip_time(1)
        peer.send(frame_to(side, PONG, payload))
        assert len(await task) == 1
        peer.send(frame_to(side, PONG, payload_of_two))
        with pytest.raises(ConnectionResetError):
            await two_rounds
        frame = await in_thread(peer.recv_frame)
        assert frame.opcode == CLOSE
        await some_iterations()
        assert not something_to_read(peer)
    assert listener.payloads == []


@both_sides
async def test_after_the_peers_close_none_is_answered(net: Any, side: str) -> None:
    """Said at once, though the connection stays until the listener or the peer ends it."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        task, payload = await measuring(listener.transport, peer)
        peer.send(frame_to(side, CLOSE, b"\x03\xe8"), frame_to(side, PONG, payload))
        with pytest.raises(ConnectionResetError):
            await task
        with pytest.raises(ConnectionResetError):
            await listener.transport.measure_roundtrip_time(1)
        assert "disconnected" not in listener.events
        await some_iterations()
        assert not something_to_read(peer)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_a_ping_that_the_system_refuses(net: Any, side: str) -> None:
    """The peer has reset, of which the loop has not heard yet."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        other, _ = await measuring(listener.transport, peer)
        peer.reset()
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await listener.transport.measure_roundtrip_time(1)
        with pytest.raises(ConnectionResetError):
            await other
        await listener.until_gone()
    gc.collect()
    assert not net.loop_errors


# -- beside auto ping ------------------------------------------------------------------------------


class Pinger(Recorder):
    """Notes pings of auto ping, and of what it is asked whether it is a pong."""

    def __init__(self, ping: Callable[[WSTransport], object] | None = None) -> None:
        super().__init__()
        self.ping = ping
        self.pings = 0
        self.asked: list[bytes] = []

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        self.pings += 1
        self._changed.set()
        if self.ping is not None:
            self.ping(transport)
        else:
            super().send_user_specific_ping(transport)

    def is_user_specific_pong(self, frame: WSFrame) -> bool:
        self.asked.append(frame.get_payload_as_bytes())
        return super().is_user_specific_pong(frame)

    async def until_pings(self, count: int) -> None:
        """Wait; the connection is still there."""
        await self.until(lambda: self.pings >= count or "disconnected" in self.events)
        assert "disconnected" not in self.events


def pinging(
    net: Any,
    side: str,
    listener: Recorder,
    strategy: WSAutoPingStrategy,
    *,
    reply: float = NEVER,
) -> contextlib.AbstractAsyncContextManager[RawPeer]:
    return connected(
        net,
        side,
        listener,
        enable_auto_ping=True,
        auto_ping_idle_timeout=SOON,
        auto_ping_reply_timeout=reply,
        auto_ping_strategy=strategy,
    )


@both_sides
@both_strategies
@few
async def test_line_44_during_auto_ping_both_pongs_find_their_way(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The PING of auto ping first, answered in the same order."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy) as peer:
        for turn in range(1, 4):
            assert await recv_ping(peer) == b""
            task, payload = await measuring(listener.transport, peer)
            peer.send(frame_to(side, PONG))
            await listener.until_pings(turn + 1)
            assert not task.done()
            peer.send(frame_to(side, PONG, payload))
            await task
            # Each was for one PONG: the next ping waits for its own.
            assert listener.pings == turn + 1
    assert listener.payloads == []
    assert listener.asked == [b""] * 3


@both_sides
@both_strategies
@few
async def test_line_44_during_auto_ping_in_the_other_order(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The PING of a measurement is out when auto ping sends its own."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy) as peer:
        assert await recv_ping(peer) == b""
        for turn in range(1, 4):
            task, payload = await measuring(listener.transport, peer)
            peer.send(frame_to(side, PONG))
            # The next ping, behind that of the measurement.
            assert await recv_ping(peer) == b""
            peer.send(frame_to(side, PONG, payload))
            await task
            await ask(side, listener, peer)
            # Its PONG was nothing to auto ping.
            assert listener.pings == turn + 1
    assert listener.payloads == []


@both_sides
@both_strategies
@few
async def test_the_pong_for_auto_ping_alone_answers_what_was_sent_before_it(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """RFC 6455 section 5.5.3: the peer may answer the last of several PINGs alone."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy) as peer:
        assert await recv_ping(peer) == b""
        task, _ = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG))
        # The first PONG is for the ping ahead of the measurement.
        assert await recv_ping(peer) == b""
        assert not task.done()
        later, payload = await measuring(listener.transport, peer)
        peer.send(frame_to(side, PONG))
        assert len(await task) == 1
        await ask(side, listener, peer)
        assert not later.done()
        peer.send(frame_to(side, PONG, payload))
        await later
    assert listener.payloads == []


@both_sides
@both_strategies
@few
async def test_the_pong_for_a_measurement_alone_answers_auto_ping(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """The same the other way round: nobody is given up for what the RFC allows."""
    listener = Pinger()
    async with pinging(net, side, listener, strategy, reply=A_TURN) as peer:
        for turn in range(1, 5):
            await listener.until_pings(turn)
            assert await recv_ping(peer) == b""
            task, payload = await measuring(listener.transport, peer)
            peer.send(frame_to(side, PONG, payload))
            await task
    assert listener.payloads == []


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None,))
async def test_a_pong_for_a_measurement_is_no_answer_to_another_kind_of_ping(
    net: Any, side: str
) -> None:
    """The peer's WebSocket layer answers PINGs; its application is gone."""
    listener = Pinger(lambda transport: transport.send(WSMsgType.TEXT, b"ping"))
    listener.is_user_specific_pong = (  # type: ignore[method-assign]
        lambda frame: frame.msg_type == WSMsgType.TEXT
    )
    async with pinging(net, side, listener, PERIODICALLY, reply=A_TURN / 2) as peer:

        def answer_pings() -> None:
            with contextlib.suppress(OSError, EOFError):
                while (frame := peer.recv_frame()).opcode != CLOSE:
                    if frame.opcode == PING:
                        peer.send(frame_to(side, PONG, frame.payload))

        answering = asyncio.ensure_future(in_thread(answer_pings))
        await listener.until_pings(1)
        with pytest.raises(ConnectionResetError):
            while True:
                await listener.transport.measure_roundtrip_time(1)
                await asyncio.sleep(A_TURN / 20)
        await answering
        await listener.until_gone()
    assert listener.pings == 1
    assert listener.transport.close_handshake.sent.code == 1001
    assert listener.payloads == []


@both_sides
@both_strategies
@few
async def test_a_user_specific_pong_is_no_answer_to_a_measurement(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    listener = Pinger(lambda transport: transport.send(WSMsgType.TEXT, b"ping"))
    listener.is_user_specific_pong = (  # type: ignore[method-assign]
        lambda frame: frame.get_payload_as_bytes() == b"pong"
    )
    async with pinging(net, side, listener, strategy) as peer:
        frame = await in_thread(peer.recv_frame)
        assert frame.payload == b"ping"
        task, payload = await measuring(listener.transport, peer)
        peer.send(frame_to(side, TEXT, b"pong"))
        frame = await in_thread(peer.recv_frame)
        assert frame.payload == b"ping"
        peer.send(frame_to(side, TEXT, b"pong"))
        await ask(side, listener, peer)
        assert not task.done()
        peer.send(frame_to(side, PONG, payload))
        await task
    assert listener.payloads == []


@both_sides
@both_strategies
@few
async def test_reading_paused_between_auto_ping_and_a_measurement(
    net: Any, side: str, strategy: WSAutoPingStrategy
) -> None:
    """Their order is that in which they were sent, whatever stood still meanwhile."""

    def ping(transport: WSTransport) -> None:
        transport.send_ping()
        if listener.pings == 1:
            transport.pause_reading()

    listener = Pinger(ping)
    async with pinging(net, side, listener, strategy) as peer:
        assert await recv_ping(peer) == b""
        task, payload = await measuring(listener.transport, peer)
        await asyncio.sleep(SOON)
        listener.transport.resume_reading()
        await some_iterations()
        peer.send(frame_to(side, PONG))
        # Auto ping goes on; the measurement's PONG is not here yet.
        await listener.until_pings(2)
        assert not task.done()
        peer.send(frame_to(side, PONG, payload))
        await task
    assert listener.payloads == []


@both_sides
async def test_who_is_given_up_is_told(net: Any, side: str) -> None:
    listener = Pinger()
    async with pinging(net, side, listener, PERIODICALLY, reply=SOON):
        await listener.until_pings(1)
        with pytest.raises(ConnectionResetError):
            await listener.transport.measure_roundtrip_time(1)
        await listener.until_gone()


# -- memory (line 38) ------------------------------------------------------------------------------


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("end", ["answered", "cancelled", "failed"])
async def test_a_connection_is_freed_without_the_cycle_collector(
    net: Any, side: str, end: str
) -> None:
    gc.collect()
    gc.disable()
    try:
        listener = Recorder()
        async with connected(net, side, listener) as peer:
            # A transport has no weak references; its request lives as long as itself.
            watched = [weakref.ref(listener), weakref.ref(listener.transport.request)]
            task, payload = await measuring(listener.transport, peer)
            if end == "answered":
                peer.send(frame_to(side, PONG, payload))
                await task
            elif end == "cancelled":
                task.cancel()
                await asyncio.wait([task])
            listener.transport.disconnect(graceful=False)
            await listener.until_gone()
            if end == "failed":
                with pytest.raises(ConnectionResetError) as caught:
                    await task
                caught.value.__traceback__ = None
                del caught
        del listener, peer, task
        # Handles of the loop that have run, but are not yet let go of.
        for _ in range(5):
            await asyncio.sleep(0)
        assert [ref() for ref in watched] == [None, None]
    finally:
        gc.enable()
