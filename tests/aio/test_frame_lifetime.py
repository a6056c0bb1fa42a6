"""Frames and what is made of them, kept past their callback (design.md, regressions line 39).

The overwriting is done on purpose: after the frame that is kept, thousands of others go through the
same shared buffer, on the same connection and on another one, so a payload that was left in memory
which the loop goes on using would change.
"""

import asyncio
import ctypes
import functools
import gc
import logging
import os
import pickle
import subprocess
import sys
import sysconfig
import tracemalloc

import pytest
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    our_socket,
    until_read,
)

from picows import WSFrame, WSProtocolError
from raw_peer import BINARY, TEXT, in_thread

# Around what moves (16 KiB), and what fits into the shared buffer (256 KiB). A buffer for the last
# two stays warm in the loop, if nobody kept a frame in it.
SIZES = (0, 1, 32, 16 * 1024, 16 * 1024 + 1, 100_000, 300_000, 600_000)

KEEPERS = {
    "frame": lambda frame: frame,
    "memoryview": memoryview,
    "payload_memoryview": lambda frame: frame.get_payload_as_memoryview(),
    "slice": lambda frame: memoryview(frame)[1:-1],
    "array": lambda frame: memoryview(frame).cast("b"),
    "pickle_buffer": pickle.PickleBuffer,
    "frame_and_memoryview": lambda frame: (memoryview(frame), frame),
}
FRAMES_ARE_REUSED = not sysconfig.get_config_var("Py_GIL_DISABLED")


def contents(kept):
    if isinstance(kept, tuple):
        first, second = (contents(each) for each in kept)
        assert first == second
        return first
    if hasattr(kept, "get_payload_as_bytes"):
        return kept.get_payload_as_bytes()
    return bytes(kept)


def what_is_kept(name, payload):
    return payload[1:-1] if name == "slice" else payload


@functools.cache
def noise(side):
    """1,000 frames, in reads of every kind, none of whose bytes occur in what is kept."""
    frames = [frame_to(side, BINARY, b"\xee" * size) for size in (0, 1, 32, 125, 126, 2000)]
    big = [frame_to(side, BINARY, b"\xdd" * size) for size in (40_000, 300_000, 700_000)]
    return b"".join(frames * 166 + big + frames[:1]), 1000


async def overwrite(side, peer, listener):
    data, count = noise(side)
    wanted = len(listener.payloads) + count
    sending = asyncio.ensure_future(in_thread(peer.send, data))
    await listener.until_frames(wanted)
    await sending


class Keeper(Recorder):
    """Keeps the first frames, one way or another, and may raise then."""

    def __init__(self, wanted, raising=None):
        super().__init__(self.keep)
        self.wanted = list(wanted)
        self.raising = raising
        self.kept = []

    def keep(self, transport, frame):
        if self.wanted:
            self.kept.append(KEEPERS[self.wanted.pop(0)](frame))
            if self.raising is not None:
                raise self.raising


def differences(wanted, payloads, kept):
    return [
        (name, len(payload))
        for name, payload, each in zip(wanted, payloads, kept, strict=True)
        if contents(each) != what_is_kept(name, payload)
    ]


@functools.cache
def all_payloads():
    return [octets(size, seed) for seed in range(len(KEEPERS)) for size in SIZES]


@functools.cache
def all_frames(side):
    return b"".join(frame_to(side, BINARY, payload) for payload in all_payloads())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("raising", [None, ValueError("kept")], ids=["returning", "raising"])
def test_kept_past_the_callback_the_disconnect_and_the_loop(net, side, raising):
    wanted = [name for name in KEEPERS for _ in SIZES]
    payloads = all_payloads()
    silent = logging.getLogger("silent")
    silent.disabled = True
    keeper = Keeper(wanted, raising)

    async def keep():
        other = Recorder()
        async with connected(net, side, other) as other_peer:
            options = {"logger_name": silent, "disconnect_on_exception": False}
            async with connected(net, side, keeper, **options) as peer:
                sending = asyncio.ensure_future(in_thread(peer.send, all_frames(side)))
                await keeper.until_frames(len(payloads))
                await sending
                assert not differences(wanted, payloads, keeper.kept)
                await overwrite(side, peer, keeper)
                await overwrite(side, other_peer, other)
                assert not differences(wanted, payloads, keeper.kept)
            await overwrite(side, other_peer, other)
            assert not differences(wanted, payloads, keeper.kept)

    net.run.run(keep)
    gc.collect()
    assert not differences(wanted, payloads, keeper.kept)


@pytest.mark.net(loops=("asyncio",))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [32, 20_000, 300_000])
async def test_kept_while_the_callback_raises_and_disconnects(net, side, size):
    error = ValueError("kept")
    keeper = Keeper(["frame"], error)
    other = Recorder()
    payload = octets(size)
    log = Log()
    async with connected(net, side, other) as other_peer:
        async with connected(net, side, keeper, logger_name=log.logger) as peer:
            await in_thread(send_and_close, peer, frame_to(side, BINARY, payload))
            await keeper.until_gone()
            await overwrite(side, other_peer, other)
            assert contents(keeper.kept[0]) == payload
        await overwrite(side, other_peer, other)
    assert contents(keeper.kept[0]) == payload
    if side == "client":
        with pytest.raises(ValueError, match="kept"):
            await keeper.transport.wait_disconnected()
    else:
        assert log.exceptions() == [error]
    # The error's traceback holds the frame of `keep`, whose local is this one: a cycle.
    error.__traceback__ = None


def send_and_close(peer, data):
    """Send, hear what the other side says to its end, and close."""
    peer.send(data)
    peer.recv_all()
    peer.close()


class Log(logging.Handler):
    """A logger whose records are kept, tracebacks included."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.logger = logging.Logger("kept")
        self.logger.addHandler(self)

    def emit(self, record):
        self.records.append(record)

    def exceptions(self):
        return [record.exc_info[1] for record in self.records if record.exc_info]


def frames_of(exception):
    """The WSFrame objects in an exception's traceback."""
    found = []
    traceback = exception.__traceback__
    while traceback is not None:
        found += [
            value
            for name, value in traceback.tb_frame.f_locals.items()
            if name == "frame" and isinstance(value, WSFrame)
        ]
        traceback = traceback.tb_next
    return found


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("disconnect", [True, False], ids=["disconnecting", "going_on"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [32, 20_000])
async def test_kept_by_the_traceback_of_an_exception(net, side, size, disconnect):
    def fail_once(transport, frame):
        if frame.msg_type == TEXT:
            raise ValueError(frame.payload_size)

    listener = Recorder(fail_once)
    other = Recorder()
    payload = octets(size)
    log = Log()
    options = {"logger_name": log.logger, "disconnect_on_exception": disconnect}
    async with connected(net, side, other) as other_peer:
        async with connected(net, side, listener, **options) as peer:
            if disconnect:
                await in_thread(send_and_close, peer, frame_to(side, TEXT, payload))
                await listener.until_gone()
            else:
                await in_thread(peer.send, frame_to(side, TEXT, payload))
                await listener.until_frames(1)
                await overwrite(side, peer, listener)
            await overwrite(side, other_peer, other)
        if disconnect and side == "client":
            with pytest.raises(ValueError, match=str(size)) as caught:
                await listener.transport.wait_disconnected()
            error = caught.value
        else:
            (error,) = log.exceptions()
    frames = frames_of(error)
    assert frames
    assert all(frame is frames[0] for frame in frames)
    assert frames[0].payload_size == size
    assert frames[0].get_payload_as_bytes() == payload


@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
async def test_kept_by_an_exception_that_somebody_caught(net):
    """The callback returns normally; only the exception that it stored refers to the frame."""
    caught = []

    def fail_inside(transport, frame):
        if not caught:
            try:
                raise WSProtocolError(4000, "inner")
            except WSProtocolError as exc:
                caught.append(exc)

    listener = Recorder(fail_inside)
    async with connected(net, "server", listener) as peer:
        peer.send(frame_to("server", TEXT, b"the first"))
        await listener.until_frames(1)
        await overwrite("server", peer, listener)
    assert [frame.get_payload_as_bytes() for frame in frames_of(caught[0])] == [b"the first"]


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
@pytest.mark.parametrize("side", SIDES)
async def test_views_are_read_only_and_belong_to_the_frame(net, side):
    seen = []

    def look(transport, frame):
        view = frame.get_payload_as_memoryview()
        for each in (view, memoryview(frame)):
            assert each.obj is frame
            assert each.readonly
            assert each.contiguous
            assert (each.format, each.nbytes, each.ndim) == ("B", 5, 1)
            with pytest.raises(TypeError):
                each[0] = 0
        assert bytes(frame) == b"hello"
        with pytest.raises((BufferError, TypeError)):
            (ctypes.c_char * 5).from_buffer(frame)  # asks for a writable buffer
        seen.append(view)

    listener = Recorder(look)
    async with connected(net, side, listener) as peer:
        peer.send(frame_to(side, TEXT, b"hello"))
        await listener.until_frames(1)
    (view,) = seen
    assert view.obj.get_payload_as_bytes() == b"hello"
    # A view that is made later, of a frame that only a view has kept.
    second = memoryview(view.obj)
    view.release()
    del view
    seen.clear()
    gc.collect()
    assert second.tobytes() == b"hello"


# -- one WSFrame serves many ---------------------------------------------------------------------


class Allocations(Recorder):
    """Which frames were allocated after the first callback?

    An `id` cannot tell: a frame that was freed and one that is made next have the same.
    """

    def __init__(self, keep=lambda frame: None):
        super().__init__(self.look)
        self.keep = keep
        self.kept = []
        self.ids = set()
        self.fresh = []

    def look(self, transport, frame):
        self.ids.add(id(frame))
        if tracemalloc.is_tracing():
            self.fresh.append(tracemalloc.get_object_traceback(frame) is not None)
        else:
            tracemalloc.start()
        self.kept.append(self.keep(frame))


@pytest.fixture
def _no_tracing_left():
    yield
    tracemalloc.stop()


async def send_in_two_ways(side, peer, listener):
    """4 frames in one read, and 3 in a read each."""
    peer.send(frame_to(side, TEXT, b"several") * 4)
    await listener.until_frames(4)
    for count in range(5, 8):
        peer.send(frame_to(side, TEXT, b"one"))
        await listener.until_frames(count)


@pytest.mark.skipif(not FRAMES_ARE_REUSED, reason="without the GIL a frame never serves twice")
@pytest.mark.usefixtures("_no_tracing_left")
@pytest.mark.net(tls=(False,))
@pytest.mark.parametrize("side", SIDES)
async def test_a_frame_that_nobody_kept_serves_the_next(net, side):
    def look_and_let_go(frame):
        with memoryview(frame) as view:
            assert view.nbytes == frame.payload_size

    listener = Allocations(look_and_let_go)
    async with connected(net, side, listener) as peer:
        await send_in_two_ways(side, peer, listener)
    assert listener.fresh == [False] * 6
    assert len(listener.ids) == 1


@pytest.mark.usefixtures("_no_tracing_left")
@pytest.mark.net(loops=("asyncio",), tls=(False,))
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("keep", [KEEPERS["frame"], KEEPERS["memoryview"], KEEPERS["slice"]])
async def test_a_frame_that_somebody_kept_does_not(net, side, keep):
    listener = Allocations(keep)
    async with connected(net, side, listener) as peer:
        await send_in_two_ways(side, peer, listener)
    assert listener.fresh == [True] * 6
    assert len(listener.ids) == 7


@pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))
async def test_some_kept_and_some_not_in_one_read(net):
    """Each kept one stays what it was, whatever the others in the same read do."""
    kept = []

    def keep_some(transport, frame):
        number = len(listener.payloads)
        if number % 3 == 0:
            kept.append((listener.payloads[-1], frame))
        elif number % 7 == 0:
            kept.append((listener.payloads[-1], memoryview(frame)))

    listener = Recorder(keep_some)
    payloads = [octets(50 + n, n) for n in range(100)]
    async with connected(net, "server", listener) as peer:
        for _ in range(3):
            peer.send(b"".join(frame_to("server", BINARY, payload) for payload in payloads))
            await until_read(listener.transport)
        await listener.until_frames(300)
        await overwrite("server", peer, listener)
        assert our_socket(listener.transport) is not None
        assert len(kept) > 100
        for payload, each in kept:
            assert contents(each) == payload


# -- memory --------------------------------------------------------------------------------------

KEEP_TEN_THOUSAND = """
import asyncio, gc, sys
from picows import WSListener, WSMsgType, ws_connect, ws_create_server

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        transport.send(frame.msg_type, frame)

class Client(WSListener):
    kept = None
    left = 0
    def on_ws_frame(self, transport, frame):
        assert frame.payload_size == 32 and frame.tail_size == 0
        if self.kept is not None:
            self.kept.append(frame)
        self.left -= 1
        if self.left:
            transport.send(WSMsgType.BINARY, b"%32d" % self.left)
        else:
            self.done.set_result(None)

async def rounds(transport, client, count):
    client.left = count
    client.done = asyncio.get_running_loop().create_future()
    transport.send(WSMsgType.BINARY, b"%32d" % count)
    await client.done

async def main():
    server = await ws_create_server(lambda request: Echo(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, client = await ws_connect(Client, f"ws://127.0.0.1:{port}")
    await rounds(transport, client, 100)
    gc.collect()
    before = resident()
    client.kept = []
    await rounds(transport, client, 10_000)
    print(resident() - before)
    assert [frame.get_payload_as_bytes() for frame in client.kept] == [
        b"%32d" % n for n in range(10_000, 0, -1)
    ]
    transport.disconnect()
    await transport.wait_disconnected()
    server.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_ten_thousand_kept_small_frames_cost_their_own_bytes(picows_env):
    command = [sys.executable, "-c", KEEP_TEN_THOUSAND]
    done = subprocess.run(command, env=picows_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # AddressSanitizer puts room around everything; a page or a buffer each would be far beyond.
    limit = 30_000_000 if os.environ.get("PICOWS_SANITIZE") else 10_000_000
    assert int(done.stdout) < limit
