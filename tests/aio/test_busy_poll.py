"""busy_poll: after a read the loop does not sleep, so long; it serves everybody else meanwhile.

Nothing here is about how long something takes. On asyncio's loops the selector is watched: with a
timeout of 0 it only looks, otherwise the loop sleeps. On detached connections each look is a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from aio.detached import Collecting, Detached
from aio.traffic import Recorder, connected, frame_to, octets, read_payloads

import loops
from picows import WSListener, WSMsgType, WSTransport, ws_connect
from raw_peer import TEXT, RawPeer, RawServer, in_thread

# Longer than any test here takes to look; and over when it is asked for the first time.
LONG = 1.0
SHORT = 1e-9

FRAME = frame_to("client", TEXT, b"x")

# -- step by step ----------------------------------------------------------------------------------


@contextlib.contextmanager
def polling(busy_poll: float, listener: WSListener | None = None) -> Iterator[Detached]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Detached("client", listener, below_socket=ours, busy_poll=busy_poll)
        connection.loop.run()
        yield connection
        connection.below.close()
        steps(connection, 3)
        assert not connection.loop.ready
        assert not connection.loop.timers


def read(connection: Detached, data: bytes) -> None:
    """One read; what it schedules is left to the test."""
    buffer = connection.connection.get_buffer(-1)
    buffer[: len(data)] = data
    connection.connection.buffer_updated(len(data))


def looks(connection: Detached) -> int:
    """How many are scheduled."""
    return [each.function.__name__ for each in connection.loop.ready].count("_poll")


def steps(connection: Detached, count: int = 1) -> None:
    """So many iterations of the loop."""
    for _ in range(count):
        for _ in range(len(connection.loop.ready)):
            each = connection.loop.ready.popleft()
            each.function(*each.args)


def test_a_read_begins_it_and_another_one_does_not_begin_a_second() -> None:
    with polling(LONG) as connection:
        assert not looks(connection)
        for data in (FRAME, FRAME * 3, FRAME[:1], FRAME[1:]):
            read(connection, data)
            assert looks(connection) == 1
            steps(connection, 5)
            assert looks(connection) == 1


def test_when_the_time_is_over_the_loop_may_sleep_until_the_next_read() -> None:
    with polling(SHORT) as connection:
        for _ in range(3):
            read(connection, FRAME)
            assert looks(connection) == 1
            steps(connection)
            assert not connection.loop.ready


def test_off_by_default() -> None:
    with polling(0) as connection:
        read(connection, FRAME)
        assert not connection.loop.ready
    ours, theirs = socket.socketpair()
    with ours, theirs, Detached("client", below_socket=ours) as connection:
        read(connection, FRAME)
        assert not connection.loop.ready


def test_what_else_is_to_be_called_is_called_between_two_looks() -> None:
    order = []

    def other() -> None:
        order.append(looks(connection))
        if len(order) < 5:
            connection.loop.call_soon(other)

    with polling(LONG) as connection:
        read(connection, FRAME)
        connection.loop.call_soon(other)
        steps(connection, 5)
        # The next look stands behind it each time.
        assert order == [1] * 5


def test_looking_takes_nothing_away() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Detached("client", below_socket=ours, busy_poll=LONG) as connection:
        connection.loop.run()
        read(connection, FRAME)
        theirs.send(b"here")
        steps(connection, 3)
        assert ours.recv(10) == b"here"
        connection.below.close()
        steps(connection, 3)


@pytest.mark.parametrize("inside", [True, False], ids=["in_callback", "later"])
@pytest.mark.parametrize("how", ["disconnect", "abort", "lost", "closed"])
def test_the_end_ends_it(inside: bool, how: str) -> None:
    def end(transport: WSTransport, frame: object = None) -> None:
        if how == "lost":
            connection.connection.connection_lost(ConnectionResetError())
        elif how == "closed":
            connection.connection.eof_received()
            connection.below.close()
        else:
            transport.disconnect(graceful=how == "disconnect")

    listener = Collecting(end if inside else None)
    with polling(LONG, listener) as connection:
        read(connection, FRAME)
        if not inside:
            steps(connection, 3)
            end(connection.transport)
        steps(connection, 2)
        assert not connection.loop.ready
        assert listener.disconnected == 1


def test_it_does_not_poll_for_the_end_of_a_graceful_disconnect() -> None:
    """Which takes as long as the peer lets it."""
    with polling(LONG) as connection:
        read(connection, FRAME)
        close, connection.below.close = connection.below.close, lambda: None  # type: ignore[method-assign]
        connection.transport.disconnect()
        steps(connection, 2)
        assert not connection.loop.ready
        connection.below.close = close  # type: ignore[method-assign]


def test_a_violation_ends_it() -> None:
    with polling(LONG) as connection:
        read(connection, FRAME)
        steps(connection)
        read(connection, b"\xff\xff")
        steps(connection, 2)
        assert not connection.loop.ready


@pytest.mark.parametrize("inside", [True, False], ids=["in_callback", "later"])
def test_pausing_ends_it_and_a_read_begins_it_again(inside: bool) -> None:
    def pause(transport: WSTransport, frame: object = None) -> None:
        if pauses:
            transport.pause_reading()

    pauses = True
    with polling(LONG, Collecting(pause if inside else None)) as connection:
        read(connection, FRAME)
        if not inside:
            steps(connection, 3)
            pause(connection.transport)
        steps(connection, 2)
        assert not connection.loop.ready
        pauses = False
        connection.transport.resume_reading()
        steps(connection, 3)
        assert not connection.loop.ready
        read(connection, FRAME)
        assert looks(connection) == 1


def test_paused_and_resumed_between_two_looks_it_is_not_doubled() -> None:
    with polling(LONG) as connection:
        read(connection, FRAME)
        connection.transport.pause_reading()
        connection.transport.resume_reading()
        steps(connection)
        read(connection, FRAME)
        steps(connection, 3)
        assert looks(connection) == 1


# -- in a loop -------------------------------------------------------------------------------------


class Watched:
    """asyncio's selector, with a list of how long it was to sleep each time."""

    def __init__(self, enough: int) -> None:
        self.timeouts: list[float | None] = []
        self.enough = enough
        # It has looked often enough, or the loop was to sleep.
        self.done = asyncio.Event()
        self.slept = asyncio.Event()
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        self.select = selector.select
        selector.select = self.watch

    def watch(self, timeout: float | None = None) -> Any:
        self.timeouts.append(timeout)
        sleeps = timeout is None or timeout > 0
        if sleeps:
            self.slept.set()
        if sleeps or len(self.timeouts) == self.enough:
            self.done.set()
            # The loop has to notice.
            timeout = 0
        return self.select(timeout)


asyncio_net = pytest.mark.net(loops=("asyncio",))


@asyncio_net
async def test_the_loop_does_not_sleep_behind_a_read(net: Any) -> None:
    async def first_looks(busy_poll: float) -> list[bool]:
        watched: list[Watched] = []
        listener = Recorder(lambda transport, frame: watched.append(Watched(20)))
        async with connected(net, "client", listener, busy_poll=busy_poll) as peer:
            peer.send(FRAME)
            await listener.until_frames(1)
            await watched[0].done.wait()
            selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
            selector.select = watched[0].select
            return [timeout == 0 for timeout in watched[0].timeouts]

    assert await first_looks(LONG) == [True] * 20
    # Waking this task up takes an iteration or two.
    without = await first_looks(0)
    assert len(without) < 10
    assert not without[-1]


@asyncio_net
async def test_the_loop_sleeps_again(net: Any) -> None:
    listener = Recorder()
    async with connected(net, "client", listener, busy_poll=0.001) as peer:
        for count in range(1, 4):
            peer.send(FRAME)
            await listener.until_frames(count)
            watched = Watched(0)
            await watched.slept.wait()
            selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
            selector.select = watched.select


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_others_are_served_meanwhile(net: Any) -> None:
    """Callbacks, timers, and two more connections, of which one is polling as well."""
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    first, second, plain = Recorder(), Recorder(), Recorder()
    async with (
        connected(net, "client", first, busy_poll=LONG) as first_peer,
        connected(net, "client", second, busy_poll=LONG) as second_peer,
        connected(net, "server", plain) as plain_peer,
    ):
        for count in range(1, 6):
            first_peer.send(FRAME)
            await first.until_frames(count)
            called.clear()
            loop.call_later(0.001, called.set)
            await called.wait()
            plain_peer.send(frame_to("server", TEXT, b"plain"))
            await plain.until_frames(count)
            second_peer.send(FRAME)
            await second.until_frames(count)
            assert await in_thread(lambda: "a thread") == "a thread"


async def test_messages_come_and_go(net: Any) -> None:
    listener = Recorder(lambda transport, frame: transport.send(WSMsgType.BINARY, frame))
    async with connected(net, "client", listener, busy_poll=0.01) as peer:
        wanted = []
        for size in (0, 100, 9000, 300_000) * 3:
            wanted.append(octets(size))
            peer.send(frame_to("client", TEXT, wanted[-1]))
            assert await in_thread(read_payloads, peer, 1) == wanted[-1:]
        assert listener.payloads == wanted


@pytest.mark.parametrize("how", ["close", "reset", "disconnect", "pause"])
async def test_nothing_is_left_behind(net: Any, how: str) -> None:
    """The fixture looks for tasks, timers and files; the loop goes on."""

    def end(transport: WSTransport, frame: object) -> None:
        if how == "disconnect":
            transport.disconnect(graceful=False)
        elif how == "pause":
            transport.pause_reading()

    listener = Recorder(end)
    async with connected(net, "client", listener, busy_poll=LONG) as peer:
        peer.send(FRAME)
        await listener.until_frames(1)
        if how == "close":
            peer.close()
        elif how == "reset":
            peer.reset()
        if how != "pause":
            await listener.until_gone()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_that_stops_stops(kind: str) -> None:
    """And goes on, when it is run again."""

    def script(peer: RawPeer) -> None:
        peer.accept_upgrade()
        peer.send(FRAME)
        peer.recv_all()

    if kind == "uvloop" and loops.uvloop is None:
        pytest.skip("no uvloop here")
    loop = loops.new_loop(kind)
    try:
        with RawServer(script) as server:
            listener = loop.run_until_complete(connect(server.url()))
            loop.call_soon(loop.stop)
            loop.run_forever()
            loop.run_until_complete(listener.until_frames(1))
            # In the middle of it.
            loop.call_soon(loop.stop)
            loop.run_forever()
            listener.transport.disconnect(graceful=False)
            loop.run_until_complete(listener.transport.wait_disconnected())
    finally:
        loop.close()


async def connect(url: str) -> Recorder:
    transport, listener = await ws_connect(Recorder, url, busy_poll=LONG)
    assert isinstance(listener, Recorder)
    assert listener.transport is transport
    return listener
