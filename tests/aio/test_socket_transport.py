"""The transport of our own: what it does by itself, below any frame.

`opened` puts one between a TCP socket and a connection that stays raw: nothing is upgraded, so what
is written arrives as it is, and each call that the transport makes is noted.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import gc
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aio.detached import settings_of
from aio.traffic import Recorder, octets, silent_port, some_iterations

import loops
from picows import WSListener, ws_create_server
from picows.aio import backend, socket_transport
from picows.aio.connection import Connection
from picows.aio.socket_transport import accept_stream, open_stream
from raw_peer import RawPeer, in_thread, raw_connect, upgrade_request

pytestmark = pytest.mark.net(tls=(False,), aiofastnet=(None,))

KIB = 1024
MIB = 1024 * 1024
TESTS = Path(__file__).resolve().parent.parent
# More than the system takes of a peer that does not read.
PLENTY = 8 * MIB


class Notes:
    """
    What the transport called, in order; `reactions` run inside the calls, with the transport.

    It is the upgrade of its connection: who gets the bytes of one that is not open.
    """

    def __init__(self, **reactions: Callable[[Any], object]) -> None:
        self.reactions = reactions
        self.calls: list[str] = []
        self.received = bytearray()
        self.lost: list[BaseException | None] = []
        self.transport: Any = None
        self._changed = asyncio.Event()

    def note(self, call: str) -> None:
        self.calls.append(call)
        self._changed.set()
        if call in self.reactions:
            self.reactions[call](self.transport)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def until_lost(self) -> BaseException | None:
        await self.until(lambda: self.lost)
        return self.lost[0]

    def connection_made(self, connection: Connection) -> None:
        self.transport = connection.underlying_transport
        self.note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.note("data_received")

    def eof_received(self) -> None:
        self.note("eof_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note("connection_lost")


class Raw(Connection):
    def __init__(self, loop: asyncio.AbstractEventLoop, notes: Notes) -> None:
        super().__init__(loop, settings_of("server"), notes, None)
        self.notes = notes

    def pause_writing(self) -> None:
        super().pause_writing()
        self.notes.note("pause_writing")

    def resume_writing(self) -> None:
        super().resume_writing()
        self.notes.note("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.notes.lost.append(exc)
        super().connection_lost(exc)


def open_one(notes: Notes, receive_buffer: int | None = None) -> tuple[Any, RawPeer]:
    """A transport, and its peer on a blocking socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = raw_connect(listening.getsockname()[1], receive_buffer=receive_buffer)
        sock, _ = listening.accept()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    return open_stream(loop, sock, Raw(loop, notes)), peer


@contextlib.asynccontextmanager
async def opened(notes: Notes) -> AsyncIterator[tuple[Any, RawPeer]]:
    """Of a peer that takes little ahead of its reading."""
    transport, peer = open_one(notes, receive_buffer=8 * KIB)
    try:
        yield transport, peer
    finally:
        peer.close()
        transport.abort()
        await notes.until_lost()
    await some_iterations()
    assert len(notes.lost) == 1
    assert notes.calls.count("connection_made") == 1
    assert notes.calls[-1] == "connection_lost"


def fill(transport: Any) -> bytes:
    """Write until something waits; returns what was written."""
    written = octets(PLENTY)
    transport.write(written)
    assert transport.get_write_buffer_size() > MIB
    return written


# -- what is written -------------------------------------------------------------------------------


def bytes_likes() -> list[Any]:
    """Writable ones, of 12 bytes each."""
    return [
        bytearray(b"a bytearray."),
        memoryview(bytearray(b"a memoryview")),
        memoryview(bytearray(b"..a slice of one..."))[2:14],
        array.array("i", [1, 2, 3]),
        memoryview(array.array("i", [4, 5, 6])),
        memoryview(bytearray(b"of 2 by 6 ..")).cast("B", (2, 6)),
    ]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "queued"])
async def test_any_bytes_like_whose_memory_changes_right_behind(net: Any, waits: bool) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        expected = fill(transport) if waits else b""
        for data in [b"immutable", *bytes_likes(), bytearray(octets(20 * KIB))]:
            expected += bytes(data)
            transport.write(data)
            if not isinstance(data, bytes):
                view = memoryview(data).cast("B")
                view[:] = bytes(len(view))
                view.release()
        transport.write(b"")
        pieces = bytes_likes()
        expected += b"".join(bytes(each) for each in pieces)
        transport.writelines(pieces)
        transport.writelines([])
        assert await in_thread(peer.recv_exactly, len(expected)) == expected


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("text", TypeError),
        (None, TypeError),
        (5, TypeError),
        (memoryview(b"123")[::2], BufferError),
    ],
    ids=["str", "None", "int", "gaps"],
)
async def test_what_is_not_bytes_is_refused(net: Any, data: Any, error: type[Exception]) -> None:
    async with opened(Notes()) as (transport, peer):
        with pytest.raises(error):
            transport.write(data)
        transport.write(b"x")
        assert await in_thread(peer.recv_some) == b"x"


async def test_a_reader_that_is_late_gets_all_in_order(net: Any) -> None:
    """Sizes around each at which something else is done with them."""
    choose = random.Random(5)
    edges = [size + d for size in (1, 16 * KIB, 64 * KIB) for d in (-1, 0, 1)]
    async with opened(Notes()) as (transport, peer):
        expected = bytearray()
        for round_ in range(4):
            for _ in range(150):
                size = choose.choice([*edges, choose.randint(0, 200), choose.randint(0, 200 * KIB)])
                data = octets(size, seed=len(expected))
                waited = transport.get_write_buffer_size()
                transport.write(data if choose.random() < 0.5 else bytearray(data))
                expected += data
                if waited:
                    assert transport.get_write_buffer_size() == waited + size
            # Take a part only, so that it goes on in the middle of something.
            part = len(expected) // 2 if round_ < 3 else len(expected)
            got = await in_thread(peer.recv_exactly, part)
            assert got == expected[:part]
            del expected[:part]
        assert transport.get_write_buffer_size() == 0


async def test_small_pieces_are_put_together(net: Any) -> None:
    """Not an object for each: what waits takes hardly more than its bytes."""
    notes = Notes()
    async with opened(notes) as (transport, peer):
        written = fill(transport)
        count = 100_000
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(count):
                transport.write(b"%07d\n" % number)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 2 * 8 * count
        written += b"".join(b"%07d\n" % number for number in range(count))
        assert await in_thread(peer.recv_exactly, len(written)) == written


# -- half a stream, and its end --------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True], ids=["idle", "queued"])
async def test_write_eof_ends_our_half_alone(net: Any, waits: bool) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        assert transport.can_write_eof()
        written = fill(transport) if waits else b""
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"x")
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.writelines([b"x"])
        assert await in_thread(peer.recv_all) == written
        assert not transport.is_closing()
        peer.send(b"we still listen")
        await notes.until(lambda: notes.received == b"we still listen")
        peer.end_sending()
        assert await notes.until_lost() is None
        assert notes.calls.count("eof_received") == 1
        # Behind the end neither is an error.
        transport.write_eof()
        transport.close()


async def test_close_behind_write_eof_sends_first(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        written = fill(transport)
        transport.write_eof()
        transport.close()
        assert await in_thread(peer.recv_all) == written
        assert await notes.until_lost() is None


async def test_close_sends_what_waits(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        written = fill(transport)
        transport.close()
        transport.close()
        assert transport.is_closing()
        # As with asyncio's and uvloop's: as long as something waits, more may go behind it.
        transport.write(b"behind close")
        await some_iterations()
        assert not notes.lost
        assert await in_thread(peer.recv_all) == written + b"behind close"
        assert await notes.until_lost() is None


async def test_one_that_is_closing_hears_nothing(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        fill(transport)
        transport.close()
        assert not transport.is_reading()
        transport.pause_reading()
        transport.resume_reading()
        peer.send(b"nobody listens")
        await some_iterations()
        assert not notes.received


async def test_behind_the_close_of_an_idle_one_nothing_is_written(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        transport.write(b"before")
        transport.close()
        # From the loop, not from inside.
        assert not notes.lost
        transport.write(b"behind")
        transport.write_eof()
        transport.pause_reading()
        transport.resume_reading()
        assert not transport.is_reading()
        assert await in_thread(peer.recv_all) == b"before"
        assert await notes.until_lost() is None
        transport.write(b"at the end")


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closing"])
async def test_abort_drops_what_waits(net: Any, closed: bool) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        written = fill(transport)
        if closed:
            transport.close()
        transport.abort()
        transport.abort()
        assert not notes.lost
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        transport.write(b"x" * PLENTY)
        assert transport.get_write_buffer_size() == 0
        assert await notes.until_lost() is None
        got = await in_thread(peer.recv_all)
        assert len(got) < len(written)
        assert written.startswith(got)


async def test_the_end_of_a_peer_that_does_not_read_any_more(net: Any) -> None:
    """It ends its half while something waits: that is sent first."""
    notes = Notes()
    async with opened(notes) as (transport, peer):
        written = fill(transport)
        peer.end_sending()
        await notes.until(lambda: transport.is_closing())
        assert not notes.lost
        assert await in_thread(peer.recv_all) == written
        assert await notes.until_lost() is None
        assert notes.calls.count("eof_received") == 1


CALLS = ("connection_made", "data_received", "eof_received", "pause_writing", "resume_writing")


async def provoke(call: str, transport: Any, peer: RawPeer, notes: Notes) -> None:
    if call == "data_received":
        peer.send(b"x")
    elif call == "eof_received":
        peer.end_sending()
    elif call.endswith("writing"):
        transport.write(octets(PLENTY))
        if call == "resume_writing":
            with contextlib.suppress(EOFError, ConnectionResetError):
                await in_thread(peer.recv_exactly, PLENTY)
    await notes.until(lambda: call in notes.calls)


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("call", CALLS)
async def test_the_end_inside_of_a_call(net: Any, call: str, how: str) -> None:
    """connection_lost comes once, and not inside of it; nothing else comes behind."""
    lost_inside: list[bool] = []

    def end(transport: Any) -> None:
        getattr(transport, how)()
        lost_inside.append(bool(notes.lost))

    notes = Notes(**{call: end})
    async with opened(notes) as (transport, peer):
        await provoke(call, transport, peer, notes)
        peer.close()
        await notes.until_lost()
        assert lost_inside == [False]
        assert notes.calls[-2:] == [call, "connection_lost"]
        assert transport.get_extra_info("socket").fileno() == -1


@pytest.mark.parametrize("call", CALLS[:3])
@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError()], ids=repr)
async def test_an_exception_that_comes_through_is_told_and_ends_it(
    net: Any, call: str, error: Exception
) -> None:
    def fail(transport: Any) -> None:
        raise error

    notes = Notes(**{call: fail})
    async with opened(notes) as (transport, peer):
        await provoke(call, transport, peer, notes)
        assert await notes.until_lost() is error
        (context,) = net.loop_errors
        assert context["exception"] is error
        assert context["transport"] is transport
        net.loop_errors.clear()
    # Its traceback refers to all of this.
    error.__traceback__ = None


async def test_an_exception_of_connection_lost_leaves_no_socket(net: Any) -> None:
    def fail(transport: Any) -> None:
        raise ValueError("a bug")

    notes = Notes(connection_lost=fail)
    async with opened(notes) as (transport, peer):
        transport.close()
        assert await in_thread(peer.recv_all) == b""
        await notes.until_lost()
    assert transport.get_extra_info("socket").fileno() == -1
    assert [str(context["exception"]) for context in net.loop_errors] == ["a bug"]
    net.loop_errors.clear()


@pytest.mark.parametrize("state", ["reads", "paused", "closing"])
async def test_a_reset_of_the_peer_is_told(net: Any, state: str) -> None:
    """By the read that fails or, where nobody reads, by the write of what waits."""
    notes = Notes()
    async with opened(notes) as (transport, peer):
        if state != "reads":
            fill(transport)
        if state == "paused":
            transport.pause_reading()
        if state == "closing":
            transport.close()
        await some_iterations()
        peer.reset()
        exc = await notes.until_lost()
        assert isinstance(exc, (ConnectionResetError, BrokenPipeError))
        assert "eof_received" not in notes.calls


async def test_an_error_of_a_write_is_told(net: Any) -> None:
    """Not to the caller: by connection_lost, later."""
    notes = Notes()
    async with opened(notes) as (transport, peer):
        transport.pause_reading()
        peer.reset()
        transport.write(b"takes the error")
        transport.write(b"is too late")
        assert not notes.lost
        assert isinstance(await notes.until_lost(), (ConnectionResetError, BrokenPipeError))


async def test_an_error_of_write_eof_is_told(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        transport.pause_reading()
        peer.reset()
        transport.write_eof()
        assert not notes.lost
        assert isinstance(await notes.until_lost(), OSError)


async def test_a_part_that_cannot_be_kept(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of what is sent already would be a hole in the stream, so nothing follows."""

    def no_memory() -> None:
        raise error

    error = MemoryError()
    monkeypatch.setattr(socket_transport, "deque", no_memory)
    notes = Notes()
    async with opened(notes) as (transport, peer):
        written = octets(PLENTY)
        with pytest.raises(MemoryError):
            transport.write(written)
        transport.write(b"behind the hole")
        assert await notes.until_lost() is error
        got = await in_thread(peer.recv_all)
        assert got
        assert written.startswith(got)
    error.__traceback__ = None


# -- flow control ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ({}, 16 * KIB, 64 * KIB),
        ({"high": 1000}, 250, 1000),
        ({"low": 1000}, 1000, 4000),
        ({"high": 1000, "low": 1000}, 1000, 1000),
        ({"high": 0}, 0, 0),
    ],
)
async def test_limits(net: Any, given: dict[str, int], low: int, high: int) -> None:
    async with opened(Notes()) as (transport, _):
        transport.set_write_buffer_limits(high=5, low=4)
        transport.set_write_buffer_limits(**given)
        assert transport.get_write_buffer_limits() == (low, high)


@pytest.mark.parametrize("wrong", [{"high": 5, "low": 6}, {"high": -1}, {"high": 5, "low": -1}])
async def test_wrong_limits_change_nothing(net: Any, wrong: dict[str, int]) -> None:
    async with opened(Notes()) as (transport, _):
        with pytest.raises(ValueError, match=r"high .* must be >= low .* must be >= 0"):
            transport.set_write_buffer_limits(**wrong)
        assert transport.get_write_buffer_limits() == (16 * KIB, 64 * KIB)


async def test_writing_is_paused_above_high_and_resumed_at_low(net: Any) -> None:
    sizes: list[int] = []
    notes = Notes(resume_writing=lambda transport: sizes.append(transport.get_write_buffer_size()))
    async with opened(notes) as (transport, peer):
        transport.set_write_buffer_limits(high=PLENTY + 10)
        fill(transport)
        waits = transport.get_write_buffer_size()
        transport.set_write_buffer_limits(high=waits + 10, low=100)
        transport.write(b"x" * 10)
        assert "pause_writing" not in notes.calls
        transport.write(b"x")
        transport.write(b"x")
        assert notes.calls.count("pause_writing") == 1
        await in_thread(peer.recv_exactly, PLENTY + 12)
        await notes.until(lambda: sizes)
        assert sizes[0] <= 100
        # Not told again and again.
        await some_iterations()
        assert notes.calls[1:] == ["pause_writing", "resume_writing"]


async def test_lower_limits_pause_at_once(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, _):
        transport.set_write_buffer_limits(high=2 * PLENTY)
        fill(transport)
        assert "pause_writing" not in notes.calls
        transport.set_write_buffer_limits(high=MIB)
        assert notes.calls.count("pause_writing") == 1


async def test_writes_inside_of_pause_writing_and_resume_writing(net: Any) -> None:
    notes = Notes(
        pause_writing=lambda transport: transport.write(b"paused"),
        resume_writing=lambda transport: transport.write(b"resumed"),
    )
    async with opened(notes) as (transport, peer):
        expected = fill(transport) + b"paused" + b"resumed"
        assert await in_thread(peer.recv_exactly, len(expected)) == expected


async def test_a_loop_that_is_run_again_inside_of_them(net: Any) -> None:
    """It goes on with the queue in the middle of what goes on with it."""
    more = [octets(PLENTY, seed=1), octets(PLENTY, seed=2)]
    expected = b""

    def write_and_run(transport: Any) -> None:
        nonlocal expected
        if more:
            expected += more[0]
            transport.write(more.pop(0))
            transport._write()

    notes = Notes(pause_writing=write_and_run, resume_writing=write_and_run)
    async with opened(notes) as (transport, peer):
        transport.set_write_buffer_limits(high=64 * KIB, low=0)
        first = fill(transport)
        transport.close()
        got = await in_thread(peer.recv_all)
        assert not more
        assert got == first + expected
        assert await notes.until_lost() is None


async def test_write_eof_inside_of_resume_writing(net: Any) -> None:
    notes = Notes(resume_writing=lambda transport: transport.write_eof())
    async with opened(notes) as (transport, peer):
        written = fill(transport)
        assert await in_thread(peer.recv_all) == written


@pytest.mark.parametrize("how", ["pause_reading", "close", "abort"])
async def test_what_the_loop_is_about_to_tell_is_not_read_any_more(net: Any, how: str) -> None:
    """Both have bytes; the first to hear stops the other, which the loop knows to be readable."""
    first: list[Any] = []

    def stop_the_other(transport: Any) -> None:
        if not first:
            first.append(transport)
            other = two if transport is one else one
            getattr(other, how)()
            assert not other.is_reading()

    notes = Notes(data_received=stop_the_other), Notes(data_received=stop_the_other)
    async with opened(notes[0]) as (one, peer_of_one), opened(notes[1]) as (two, peer_of_two):
        await some_iterations()
        peer_of_one.send(b"x")
        peer_of_two.send(b"x")
        await some_iterations()
        assert notes[0].received + notes[1].received == b"x"
        late = notes[1] if first[0] is one else notes[0]
        if how == "pause_reading":
            late.transport.resume_reading()
            await late.until(lambda: late.received == b"x")


@pytest.mark.parametrize("how", ["pause_reading", "close", "abort"])
async def test_a_loop_that_calls_it_too_late(net: Any, how: str) -> None:
    """asyncio's and uvloop's do not; others may."""
    notes = Notes()
    async with opened(notes) as (transport, peer):
        peer.send(b"x")
        getattr(transport, how)()
        transport._read()
        transport._write()
        assert not notes.received
        await some_iterations()
        transport._read()
        transport._write()
        assert not notes.received


async def test_pausing_inside_of_connection_made(net: Any) -> None:
    notes = Notes(connection_made=lambda transport: transport.pause_reading())
    async with opened(notes) as (transport, peer):
        assert not transport.is_reading()
        peer.send(b"x")
        await some_iterations()
        assert not notes.received
        transport.pause_reading()
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        await notes.until(lambda: notes.received == b"x")


# -- its socket ------------------------------------------------------------------------------------


async def test_what_it_says_of_itself(net: Any) -> None:
    notes = Notes()
    async with opened(notes) as (transport, peer):
        sock = transport.get_extra_info("socket")
        names = peer.sock.getsockname(), peer.sock.getpeername()
        assert sock.fileno() > 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert isinstance(transport.get_protocol(), Raw)
        assert not transport.is_closing()
        assert transport.is_reading()
        assert "open" in repr(transport)
        transport.close()
        await notes.until_lost()
        assert (transport.get_extra_info("peername"), transport.get_extra_info("sockname")) == names
        assert transport.get_extra_info("socket") is sock
        assert sock.fileno() == -1
        assert transport.get_protocol() is None
        assert transport.get_extra_info("sslcontext") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert "closed" in repr(transport)


async def test_a_number_that_is_used_again(net: Any) -> None:
    """Whatever the loop knew of it before: paused, with something that waits, closed, aborted."""
    numbers = set()
    for how in ("close", "abort", "reset", "paused") * 5:
        notes = Notes()
        async with opened(notes) as (transport, peer):
            numbers.add(transport.get_extra_info("socket").fileno())
            peer.send(b"x")
            await notes.until(lambda: notes.received == b"x")
            transport.write(b"y")
            assert peer.recv_some() == b"y"
            fill(transport)
            if how == "paused":
                transport.pause_reading()
            if how == "reset":
                peer.reset()
            elif how == "close":
                transport.close()
                await in_thread(peer.recv_all)
            else:
                transport.abort()
            await notes.until_lost()
    assert len(numbers) < 20


@pytest.mark.parametrize("how", ["close", "abort", "eof", "reset", "raises"])
async def test_it_is_freed_without_the_cycle_collector(net: Any, how: str) -> None:
    def fail(transport: Any) -> None:
        if how == "raises":
            raise ValueError

    notes = Notes(data_received=fail)
    gc.disable()
    try:
        transport, peer = open_one(notes)
        connection = weakref.ref(transport.get_protocol())
        fill(transport)
        if how == "raises":
            peer.send(b"x")
        elif how in ("close", "abort"):
            getattr(transport, how)()
        elif how == "eof":
            peer.end_sending()
        if how in ("close", "eof"):
            await in_thread(peer.recv_all)
        if how == "reset":
            peer.reset()
        peer.close()
        await notes.until_lost()
        net.loop_errors.clear()
        notes.lost.clear()
        notes.transport = transport = None
        await some_iterations()
        assert connection() is None
    finally:
        gc.enable()


def test_a_loop_that_is_closed_too_early(net: Any) -> None:
    """The socket says so, as with the loop's own transports, and is closed."""
    loop = loops.new_loop(net.loop_kind)
    left = []

    async def main() -> None:
        left.extend(open_one(Notes()))
        await some_iterations()

    loop.run_until_complete(main())
    loop.close()
    peer = left.pop()
    left.clear()
    with pytest.warns(ResourceWarning, match="unclosed"):
        gc.collect()
    assert peer.recv_all() == b""
    peer.close()


# -- the server's side -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def accepted(family: int) -> AsyncIterator[tuple[Recorder, socket.socket]]:
    """A connection that a server of ours has accepted, and its peer."""
    listener = Recorder()
    # pytest's own folders have paths that are too long for some.
    with tempfile.TemporaryDirectory(prefix="picows") as folder:
        where: dict[int, dict[str, Any]] = {
            socket.AF_INET: {"host": "127.0.0.1"},
            socket.AF_INET6: {"host": "::1"},
            socket.AF_UNIX: {"path": f"{folder}/x.sock"},
        }
        server = await ws_create_server(lambda request: listener, **where[family])
        try:
            with socket.socket(family) as peer:
                peer.connect(server.sockets[0].getsockname())
                peer.sendall(upgrade_request())
                await listener.until(lambda: "connected" in listener.events)
                yield listener, peer
            await listener.until_gone()
        finally:
            server.close()
            await server.wait_closed()


each_family = pytest.mark.parametrize(
    "family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX], ids=["IPv4", "IPv6", "Unix"]
)


@each_family
async def test_what_an_accepted_one_says_of_itself(net: Any, family: int) -> None:
    async with accepted(family) as (listener, peer):
        transport = listener.transport.underlying_transport
        names = peer.getsockname(), peer.getpeername()
        assert (names[0] and names[1]) or family == socket.AF_UNIX
        assert (transport.get_extra_info("peername"), transport.get_extra_info("sockname")) == names
        sock = transport.get_extra_info("socket")
        assert (sock.family, sock.type) == (family, socket.SOCK_STREAM)
        assert (sock.getpeername(), sock.getsockname()) == names
        assert not os.get_inheritable(sock.fileno())
        # Also behind dup(), which gives the copy, and so the socket, the timeout of the object.
        sock.dup().close()
        assert not os.get_blocking(sock.fileno())
        assert sock.gettimeout() == 0
        assert transport.get_extra_info("socket") is sock
    assert sock.fileno() == -1
    assert (transport.get_extra_info("peername"), transport.get_extra_info("sockname")) == names


@each_family
async def test_the_socket_of_one_that_has_ended(net: Any, family: int) -> None:
    """Nobody has asked for it before."""
    async with accepted(family) as (listener, _):
        pass
    sock = listener.transport.underlying_transport.get_extra_info("socket")
    assert (sock.fileno(), sock.family) == (-1, family)


async def test_an_accepted_one_that_nobody_wants(net: Any) -> None:
    """Its socket is closed when the connection for it cannot be made."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        assert accept_stream(loop, listening.fileno(), socket.AF_INET, Raw) is None
        with raw_connect(listening.getsockname()[1]).sock as peer:
            select.select([listening], [], [])
            with pytest.raises(TypeError):
                accept_stream(loop, listening.fileno(), socket.AF_INET, Raw)
            assert await in_thread(peer.recv, 1) == b""
    with pytest.raises(OSError, match="descriptor") as caught:
        accept_stream(loop, 1_000_000, socket.AF_INET, Raw)
    assert caught.value.errno == errno.EBADF


NO_MORE_FILES = """
import asyncio, errno, resource, socket, sys
from picows import WSListener, ws_connect, ws_create_server
from picows.aio import listening
import loops

listening._RETRY_TIME = 0.01

async def main():
    told = []
    full = asyncio.Event()

    def note(loop, context):
        told.append(context["exception"].errno)
        full.set()

    asyncio.get_running_loop().set_exception_handler(note)
    server = await ws_create_server(lambda request: WSListener(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await ws_connect(WSListener, f"ws://127.0.0.1:{port}/")
    transport.disconnect()
    await transport.wait_disconnected()
    caller = socket.create_connection(("127.0.0.1", port))
    await asyncio.sleep(0)
    with caller:
        await asyncio.sleep(0.05)
        waiting = socket.socket()
        fillers = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            while True:
                fillers.append(socket.socket())
        except OSError as exc:
            assert exc.errno == errno.EMFILE
        waiting.setblocking(False)
        try:
            waiting.connect(("127.0.0.1", port))
        except BlockingIOError:
            pass
        await full.wait()
        await asyncio.sleep(0.05)
        assert server.is_serving()
        # Tried again now and then, not all the time.
        assert set(told) == {errno.EMFILE} and len(told) < 50, told
        for each in fillers:
            each.close()
        waiting.setblocking(True)
        transport, _ = await ws_connect(WSListener, f"ws://127.0.0.1:{port}/")
        transport.disconnect()
        await transport.wait_disconnected()
        waiting.settimeout(10)
        waiting.sendall(b"nonsense\\r\\n\\r\\n")
        answer = await asyncio.to_thread(waiting.recv, 100)
        assert answer.startswith(b"HTTP/1.1 400"), answer
        waiting.close()
    # Closed while it waits to try again.
    full.clear()
    fillers = []
    try:
        while True:
            fillers.append(socket.socket())
    except OSError:
        pass
    fillers.pop().close()
    waiting = socket.socket()
    waiting.setblocking(False)
    waiting.connect_ex(("127.0.0.1", port))
    await full.wait()
    server.close()
    count = len(told)
    await asyncio.sleep(0.05)
    assert len(told) == count
    waiting.close()
    for each in fillers:
        each.close()

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
loop = loops.new_loop(sys.argv[1])
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""


def test_no_more_files_at_an_accept(net: Any, picows_env: dict[str, str]) -> None:
    """It is told, tried again later, and whoever waited is served; a server that is closed does
    not try again.
    """
    env = dict(picows_env, PYTHONPATH=f"{picows_env['PYTHONPATH']}:{TESTS}")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", NO_MORE_FILES, net.loop_kind],
        env=env,
        capture_output=True,
        text=True,
        timeout=loops.TIME_LIMIT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_a_backlog_of_0_accepts(net: Any) -> None:
    server = await net.serve(lambda request: WSListener(), backlog=0)
    for _ in range(3):
        transport, _ = await net.connect(WSListener, server)
        transport.disconnect()
        await transport.wait_disconnected()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("when", ["ahead of an accept", "inside of the factory"])
async def test_the_server_is_closed_while_others_wait(net: Any, when: str) -> None:
    """Who was not accepted is reset, who was is served; nothing is watched any more."""

    def close(request: Any) -> WSListener:
        server.close()
        return listener

    listener = Recorder()
    server = await net.serve(close)
    port = server.sockets[0].getsockname()[1]
    if when == "ahead of an accept":
        peers = [raw_connect(port) for _ in range(3)]
        server.close()
        for peer in peers:
            assert await in_thread(peer.recv_all) == b""
            peer.close()
    else:
        peer = raw_connect(port)
        assert b"101" in await in_thread(peer.request_upgrade)
        peer.close()
        await listener.until_gone()
    assert server.sockets == ()
    with pytest.raises(ConnectionRefusedError):
        raw_connect(port)


async def test_one_that_serves_several_sockets_and_starts_later(net: Any) -> None:
    server = await net.serve(lambda request: WSListener(), start_serving=False)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await net.connect(WSListener, server)
    assert not server.is_serving()
    await server.start_serving()
    await server.start_serving()
    transport, _ = await net.connect(WSListener, f"ws://127.0.0.1:{port}/")
    transport.disconnect()
    await transport.wait_disconnected()
    server.close()
    server.close()


# -- the client's side -----------------------------------------------------------------------------


Addresses = list[tuple[str, int]]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Addresses], None]:
    """The addresses that a name has from now on."""

    def set_addresses(addresses: Addresses) -> None:
        real = backend._addresses

        async def found(loop: Any, host: Any, *args: Any) -> list[Any]:
            if host != "several.test":
                return await real(loop, host, *args)
            infos: list[Any] = []
            for address in addresses:
                infos += await real(loop, *address, 0, 0, 0)
            return infos

        monkeypatch.setattr(backend, "_addresses", found)

    return set_addresses


def unused_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"happy_eyeballs_delay": 0.01},
        {"happy_eyeballs_delay": 10.0},
        {"interleave": 1},
        {"happy_eyeballs_delay": 10.0, "interleave": 2},
        {"local_addr": ("127.0.0.1", 0)},
    ],
    ids=str,
)
async def test_a_name_of_which_one_address_refuses(
    net: Any, resolve: Any, options: dict[str, Any]
) -> None:
    """The second is taken at once, whatever the delay; nothing of the first is left."""
    server = await net.serve(lambda request: WSListener())
    address = server.sockets[0].getsockname()
    resolve([("::1", unused_port("::1")), address])
    transport, _ = await net.connect(WSListener, "ws://several.test/", **options)
    assert transport.underlying_transport.get_extra_info("peername") == address
    transport.disconnect()
    await transport.wait_disconnected()
    server.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer")
async def test_the_delay_ends_the_patience_with_an_address_that_is_silent(
    net: Any, resolve: Any
) -> None:
    """Nothing is left of the attempt that goes on, once the other is taken."""
    server = await net.serve(lambda request: WSListener())
    with silent_port() as port:
        resolve([("127.0.0.1", port), server.sockets[0].getsockname()])
        transport, _ = await net.connect(
            WSListener, "ws://several.test/", happy_eyeballs_delay=0.01
        )
        transport.disconnect()
        await transport.wait_disconnected()
    server.close()


@pytest.mark.parametrize("interleave", [None, 0, 1])
async def test_kinds_of_addresses_in_turn(net: Any, resolve: Any, interleave: int | None) -> None:
    """With `interleave` the one of the other kind comes ahead of the second of a kind."""
    first = await net.serve(lambda request: WSListener())
    second = await ws_create_server(lambda request: WSListener(), "::1", 0)
    by_kind = first.sockets[0].getsockname(), second.sockets[0].getsockname()[:2]
    resolve([("127.0.0.1", unused_port("127.0.0.1")), *by_kind])
    transport, _ = await net.connect(WSListener, "ws://several.test/", interleave=interleave)
    peername = transport.underlying_transport.get_extra_info("peername")
    assert peername[:2] == by_kind[1 if interleave else 0]
    transport.disconnect()
    await transport.wait_disconnected()
    first.close()
    second.close()


async def test_localhost(net: Any) -> None:
    server = await net.serve(lambda request: WSListener())
    port = server.sockets[0].getsockname()[1]
    transport, _ = await net.connect(WSListener, f"ws://localhost:{port}/")
    transport.disconnect()
    await transport.wait_disconnected()
    server.close()


@pytest.mark.parametrize("delay", [None, 0.01], ids=["in turn", "happy eyeballs"])
@pytest.mark.parametrize("count", [1, 2])
async def test_the_error_names_the_addresses_that_refused(
    net: Any, resolve: Any, count: int, delay: float | None
) -> None:
    addresses = [("::1", unused_port("::1")), ("127.0.0.1", unused_port("127.0.0.1"))][:count]
    resolve(addresses)
    text = ".*".join(rf"'{host}', {port}\b" for host, port in addresses)
    with pytest.raises(OSError, match=text):
        await net.connect(WSListener, "ws://several.test/", happy_eyeballs_delay=delay)


async def test_a_name_that_nobody_knows(net: Any) -> None:
    with pytest.raises(socket.gaierror):
        await net.connect(WSListener, "ws://nobody.invalid/")


async def test_an_address_of_somebody_else_to_connect_from(net: Any) -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1") as raised:
        await net.connect(WSListener, unused_port("127.0.0.1"), local_addr=("192.0.2.1", 0))
    assert raised.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("delay", [None, 0.001], ids=["in turn", "happy eyeballs"])
async def test_cancelled_after_each_iteration(net: Any, resolve: Any, delay: float | None) -> None:
    """With one address that refuses and one that accepts; loops.py looks for what is left."""
    server = await net.serve(lambda request: WSListener())
    resolve([("::1", unused_port("::1")), server.sockets[0].getsockname()])
    for iterations in range(40):
        connecting = asyncio.ensure_future(
            net.connect(WSListener, "ws://several.test/", happy_eyeballs_delay=delay)
        )
        for _ in range(iterations):
            await asyncio.sleep(0)
        connecting.cancel()
        try:
            transport, _ = await connecting
        except asyncio.CancelledError:
            continue
        transport.disconnect()
        await transport.wait_disconnected()
        break
    server.close_clients()
    server.close()
