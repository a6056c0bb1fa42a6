"""frame.recv_time: when the read was that brought the frame, whenever it is asked."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest
from aio.deflate_peer import PeerDeflater
from aio.detached import Collecting, Detached
from aio.traffic import SIDES, Recorder, connected, frame_to, octets, some_iterations

from picows import WSFrame, WSMsgType, WSTransport
from picows.handshake.deflate import DeflateAgreement
from raw_peer import BINARY, CONTINUATION, PING, TEXT

both_sides = pytest.mark.parametrize("side", SIDES)
two_loops = pytest.mark.net(loops=("asyncio", "uvloop"))

FULL = DeflateAgreement(False, False, 15, 15)


class Asking(Collecting):
    """Notes the time of each frame, and keeps those frames that `keeps` says."""

    def __init__(self, react: Any = None, keeps: Any = lambda frame: False) -> None:
        super().__init__(react)
        self.keeps = keeps
        self.times: list[float] = []
        self.kept: list[WSFrame] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        time_of_it = frame.recv_time
        assert isinstance(time_of_it, float)
        self.times.append(time_of_it)
        if self.keeps(frame):
            self.kept.append(frame)
        super().on_ws_frame(transport, frame)


def later() -> float:
    """A time at which the clock has moved on."""
    before = time.monotonic()
    while (now := time.monotonic()) == before:
        pass
    return now


@both_sides
def test_all_frames_of_a_read_have_the_same_and_reads_differ(side: str) -> None:
    listener = Asking(lambda transport, frame: later())
    with Detached(side, listener) as connection:
        for _ in range(3):
            before = later()
            connection.feed(frame_to(side, TEXT, b"x") * 5 + frame_to(side, BINARY, octets(200)))
            after = later()
            assert len(set(listener.times)) == 1
            assert before < listener.times[0] < after
            listener.times.clear()


@both_sides
def test_it_is_not_that_of_the_asking(side: str) -> None:
    """Asked twice, and by a frame behind one that nobody asked."""

    class AsksLate(Collecting):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            super().on_ws_frame(transport, frame)
            if len(self.delivered) > 1:
                times.append(frame.recv_time)
                later()
                times.append(frame.recv_time)

    times: list[float | None] = []
    with Detached(side, AsksLate()) as connection:
        connection.feed(frame_to(side, TEXT, b"x") * 4)
        assert len(times) == 6
        assert len(set(times)) == 1


@both_sides
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_frame_in_pieces_has_the_time_of_its_last(side: str, size: int) -> None:
    listener = Asking()
    with Detached(side, listener) as connection:
        data = frame_to(side, TEXT, octets(size))
        connection.feed(data[: size // 2])
        between = later()
        connection.feed(data[size // 2 :])
        assert between < listener.times[0] < later()


@both_sides
def test_kept_frames_keep_theirs(side: str) -> None:
    """Small ones that move, large ones that do not; asked before and never asked; to the end."""
    listener = Asking(keeps=lambda frame: len(listener.times) <= 3)
    unasked: list[WSFrame] = []

    class KeepsUnasked(Collecting):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            unasked.append(frame)

    with (
        Detached(side, listener) as connection,
        Detached(side, KeepsUnasked()) as other,
    ):
        times = []
        for size in (0, 100, 50_000):
            before = later()
            connection.feed(frame_to(side, BINARY, octets(size)))
            other.feed(frame_to(side, BINARY, octets(size)))
            times.append((before, later()))
        for _ in range(1000):
            connection.feed(frame_to(side, TEXT, b"x"))
        kept = [frame.recv_time for frame in listener.kept]
        assert kept == listener.times[:3]
        first = [frame.recv_time for frame in unasked]
        for (before, after), own, others in zip(times, kept, first, strict=True):
            assert own is not None
            assert others is not None
            assert before < own < after
            assert before < others < after
    del connection, other
    gc.collect()
    assert [frame.recv_time for frame in listener.kept] == kept
    assert [frame.recv_time for frame in unasked] == first
    assert [len(frame) if hasattr(frame, "__len__") else frame.payload_size for frame in unasked]


@both_sides
@pytest.mark.parametrize("how", ["raises", "memoryview"])
def test_frames_that_something_else_holds_keep_theirs(side: str, how: str) -> None:
    """A traceback, a memoryview."""
    held: list[Any] = []

    def react(transport: WSTransport, frame: WSFrame) -> None:
        if len(listener.times) == 1:
            if how == "memoryview":
                held.append(memoryview(frame))
            else:
                held.append(frame)
                raise ValueError

    listener = Asking(react)
    with Detached(side, listener, disconnect_on_exception=False) as connection:
        connection.feed(frame_to(side, BINARY, b"abc"))
        later()
        connection.feed(frame_to(side, BINARY, b"def") * 3)
        frame = held[0].obj if how == "memoryview" else held[0]
        assert frame.recv_time == listener.times[0]
        assert frame.recv_time < listener.times[1]


@both_sides
def test_a_used_frame_of_another_connection_shows_nothing_of_it(side: str) -> None:
    """The loop's connections share the object."""
    first, second = Asking(), Asking()
    with Detached(side, first) as one, Detached(side, second, loop=one.loop) as two:
        for _ in range(3):
            one.feed(frame_to(side, TEXT, b"x"))
            later()
            two.feed(frame_to(side, TEXT, b"x"))
        everything = [each for pair in zip(first.times, second.times, strict=True) for each in pair]
        assert everything == sorted(set(everything))


# -- reading is paused -----------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("count", [1, 3])
def test_frames_that_waited_have_the_time_of_their_read(side: str, count: int) -> None:
    """Those of the read in which it was paused, and those of the last read behind them."""
    listener = Asking(lambda transport, frame: pause_once())
    pauses = []

    def pause_once() -> None:
        if not pauses:
            pauses.append(True)
            connection.transport.pause_reading()

    with Detached(side, listener) as connection:
        before = later()
        connection.feed(frame_to(side, TEXT, b"x") * (1 + count))
        after = later()
        assert len(listener.times) == 1
        connection.transport.resume_reading()
        connection.loop.run()
        assert len(listener.times) == 1 + count
        assert len(set(listener.times)) == 1
        assert before < listener.times[0] < after


@both_sides
def test_what_is_read_behind_frames_that_wait_does_not_change_their_time(side: str) -> None:
    """As transports that go on with what they have read (TLS) bring it."""
    listener = Asking(lambda transport, frame: transport.pause_reading())
    with Detached(side, listener) as connection:
        connection.feed(frame_to(side, TEXT, b"1") + frame_to(side, TEXT, b"2"))
        between = later()
        connection.feed(frame_to(side, TEXT, b"3"))
        after = later()
        for _ in range(2):
            connection.transport.resume_reading()
            connection.loop.run()
        first, second, third = listener.times
        assert first == second < between
        assert first <= third < after


@both_sides
def test_what_is_read_inside_a_callback_does_not_change_its_frame(side: str) -> None:
    """As a re-entered loop brings it."""

    def feed_another(transport: WSTransport, frame: WSFrame) -> None:
        if len(listener.times) == 1:
            later()
            connection.feed(frame_to(side, TEXT, b"another"))
            asked_again.append(frame.recv_time)

    asked_again: list[float | None] = []
    listener = Asking(feed_another)
    with Detached(side, listener) as connection:
        connection.feed(frame_to(side, TEXT, b"1") + frame_to(side, TEXT, b"2"))
        first, second, third = listener.times
        assert asked_again == [first]
        assert first == second <= third


@two_loops
@both_sides
async def test_paused_over_real_sockets(net: Any, side: str) -> None:
    times: list[float] = []

    def pause(transport: WSTransport, frame: WSFrame) -> None:
        assert frame.recv_time is not None
        times.append(frame.recv_time)
        if len(times) == 1:
            transport.pause_reading()

    listener = Recorder(pause)
    async with connected(net, side, listener) as peer:
        before = later()
        peer.send(frame_to(side, TEXT, b"x") * 3)
        await listener.until_frames(1)
        await some_iterations()
        after = later()
        listener.transport.resume_reading()
        await listener.until_frames(3)
        assert len(set(times)) == 1
        assert before < times[0] < after


# -- messages --------------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("assemble", [False, True])
def test_messages_have_the_time_of_their_last_frame(
    side: str, deflate: bool, assemble: bool
) -> None:
    parts = [b"one " * 50, b"two " * 5000, b"three"]
    if deflate:
        parts = PeerDeflater().pieces(parts)
    opcodes = (TEXT, CONTINUATION, CONTINUATION)
    listener = Asking(keeps=lambda frame: True)
    agreement = FULL if deflate else None
    with Detached(side, listener, agreement, assemble_messages=assemble) as connection:
        between = []
        for number, (opcode, part) in enumerate(zip(opcodes, parts, strict=True)):
            rsv = 4 if deflate and not number else 0
            between.append(later())
            connection.feed(frame_to(side, opcode, part, fin=number == 2, rsv=rsv))
        between.append(later())
        if assemble:
            assert len(listener.times) == 1
            assert between[2] < listener.times[0] < between[3]
        else:
            assert len(listener.times) == 3
            for number, each in enumerate(listener.times):
                assert between[number] < each < between[number + 1]
        for _ in range(3):
            connection.feed(frame_to(side, PING, b"x"))
        assert [each.recv_time for each in listener.kept] == listener.times


# -- over real sockets -----------------------------------------------------------------------------


@both_sides
async def test_between_two_clocks(net: Any, side: str) -> None:
    frames: list[WSFrame] = []
    listener = Recorder(lambda transport, frame: frames.append(frame))
    async with connected(net, side, listener) as peer:
        for number in range(1, 6):
            before = later()
            peer.send(frame_to(side, TEXT, b"x") * 3)
            await listener.until_frames(3 * number)
            times = {frame.recv_time for frame in frames[-3:]}
            assert len(times) == 1
            assert before < times.pop() < later()
        peer.close()
        await listener.until_gone()
        everything = [frame.recv_time for frame in frames]
        assert everything == sorted(everything)
        assert len(set(everything)) == 5


@two_loops
@both_sides
async def test_frames_behind_the_handshake(net: Any, side: str) -> None:
    """They came with it, in one read; the time is one between the two clocks all the same."""
    times: list[float] = []
    before = later()
    listener = Recorder(lambda transport, frame: times.append(frame.recv_time))
    async with connected(net, side, listener, then=frame_to(side, TEXT, b"x") * 2):
        await listener.until_frames(2)
        assert len(set(times)) == 1
        assert before < times[0] < later()


def test_nobody_makes_or_sets_one() -> None:
    with Detached("server", listener := Asking(keeps=lambda frame: True)) as connection:
        connection.feed(frame_to("server", WSMsgType.TEXT, b"x"))
        frame: Any = listener.kept[0]
        with pytest.raises(AttributeError):
            frame.recv_time = 5.0
