"""What connections cost, and that it comes back (design.md, regressions lines 23 and 46).

Each measurement runs in a process of its own: this file, started with the name of a `measure_...`
function and its arguments. Resident memory is what counts; pages that nobody touched cost nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import socket
import subprocess
import sys

import pytest
from aio.traffic import frame_to, until_read

from picows import WSListener, ws_create_server
from raw_peer import BINARY, encode_frame, upgrade_request

KIB = 1024
MIB = 1024 * 1024
# AddressSanitizer puts room around every block and keeps freed ones for a while.
SCALE = 4 if os.environ.get("PICOWS_SANITIZE") else 1

linux_only = pytest.mark.skipif(
    sys.platform != "linux" or "PICOWS_SANITIZE" in os.environ,
    reason="reads /proc/self, where ASan's quarantine would be counted",
)


# -- the process that is measured ------------------------------------------------------------------


def memory() -> tuple[int, int]:
    """Resident bytes that are of no file, and bytes of data mapped.

    Pages of a library are private until another process maps it, too: a second Python that begins
    meanwhile would take hundreds of KiB away.
    """
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        rollup = dict(line.split(":", 1) for line in file if ":" in line.split(" ", 1)[0])
    with open("/proc/self/statm") as file:
        data = int(file.read().split()[5])
    return int(rollup["Anonymous"].split()[0]) * KIB, data * resource.getpagesize()


class Counting(WSListener):
    """Counts the frames of all connections."""

    frames = 0
    gone = 0

    def on_ws_connected(self, transport):
        self.transport = transport

    def on_ws_frame(self, transport, frame):
        Counting.frames += 1

    def on_ws_disconnected(self, transport):
        Counting.gone += 1


class Keeping(Counting):
    kept: list[object] = []

    def on_ws_frame(self, transport, frame):
        super().on_ws_frame(transport, frame)
        self.kept.append(frame)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


class Crowd:
    """A server of ours and many raw clients, all in one thread."""

    def __init__(self, listener_class=Counting, **options):
        self.listener_class = listener_class
        self.options = options
        self.listeners = []
        self.clients = []
        self.loop = asyncio.get_running_loop()

    def make_listener(self, request):
        self.listeners.append(self.listener_class())
        return self.listeners[-1]

    async def open(self, count):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < 4000:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4000), hard))
        self.server = await ws_create_server(
            self.make_listener, "127.0.0.1", 0, backlog=128, **self.options
        )
        await self.open_more(count)

    async def open_more(self, count):
        address = self.server.sockets[0].getsockname()
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            await self.loop.sock_connect(client, address)
            await self.loop.sock_sendall(client, upgrade_request())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await self.loop.sock_recv(client, 4096)
            self.clients.append(client)

    async def send(self, data, clients=None, frames=1):
        """Each client sends; returns when all of it was read, and the frames in it delivered."""
        for client in self.clients if clients is None else clients:
            before = Counting.frames
            await self.loop.sock_sendall(client, data)
            await until(lambda before=before: Counting.frames >= before + frames)
        await self.until_read()

    async def until_read(self):
        for listener in self.listeners:
            await until_read(listener.transport)

    async def close(self):
        for client in self.clients:
            client.close()
        await until(lambda: Counting.gone == len(self.listeners))
        self.server.close()
        await self.server.wait_closed()


async def measure_idle(use_aiofastnet):
    """Bytes per connection that has read 60 KB and waits, and of mappings."""
    crowd = Crowd(use_aiofastnet=use_aiofastnet)
    await crowd.open(100)
    await crowd.send(frame_to("server", BINARY, bytes(60_000)))
    before = memory()
    await crowd.open_more(500)
    await crowd.send(frame_to("server", BINARY, bytes(60_000)), crowd.clients[100:])
    after = memory()
    await crowd.close()
    return [(after[n] - before[n]) // 500 for n in range(2)]


async def measure_spike(count, use_aiofastnet):
    """Resident bytes before and after an 8 MiB frame on each connection, and the most meanwhile."""
    crowd = Crowd(use_aiofastnet=use_aiofastnet)
    await crowd.open(count)
    await crowd.send(frame_to("server", BINARY, bytes(60_000)), crowd.clients[:3])
    data = frame_to("server", BINARY, bytes(8 * MIB))
    before, _ = memory()
    most = 0
    for start in range(0, count, 4):
        # Four at a time, each a piece in turn.
        group = crowd.clients[start : start + 4]
        wanted = Counting.frames + len(group)
        await asyncio.gather(*(crowd.loop.sock_sendall(client, data) for client in group))
        await until(lambda wanted=wanted: Counting.frames == wanted)
        if start % 100 == 0:
            most = max(most, memory()[0])
    after, _ = memory()
    await crowd.close()
    return before, after, most


async def measure_declared(length, hint):
    """Bytes per connection for a header that declares `length` bytes, none of which come."""
    options = {"read_buffer_init_size": hint} if hint else {}
    crowd = Crowd(max_frame_size=2**62, **options)
    await crowd.open(1000)
    await crowd.send(frame_to("server", BINARY, bytes(10)))
    before = memory()
    header = encode_frame(BINARY, length=length, length_bits=64, mask=b"abcd")
    await crowd.send(header, frames=0)
    after = memory()
    await crowd.close()
    return [(after[n] - before[n]) // 1000 for n in range(2)]


async def measure_half_received(arrived, declared, after_a_whole_one):
    """Bytes that each half-received frame pins."""
    crowd = Crowd(max_frame_size=64 * MIB)
    count = 30
    await crowd.open(count + 3)
    whole = frame_to("server", BINARY, bytes(declared if after_a_whole_one else 60_000))
    await crowd.send(whole, crowd.clients[:3])
    before = memory()
    half = frame_to("server", BINARY, b"\1" * arrived, length=declared)
    for client in crowd.clients[3:]:
        if after_a_whole_one:
            # It leaves a large warm buffer behind in the loop, which is not the next one's to keep.
            await crowd.send(whole, [client])
        await crowd.send(half, [client], frames=0)
    if after_a_whole_one:
        # A frame may begin in it; a stalled one has to give it up when the loop's timer says so.
        await until_no_timer(crowd.loop)
    after = memory()
    await crowd.close()
    return [(after[n] - before[n]) // count for n in range(2)]


async def measure_handshakes():
    """Bytes that are mapped for the first frames, after a few opening handshakes."""
    crowd = Crowd()
    await crowd.open(3)
    _, upgraded = memory()
    for _ in range(2):
        await crowd.send(frame_to("server", BINARY, bytes(100)))
    _, reading = memory()
    await crowd.close()
    return reading - upgraded


async def measure_warm_buffer():
    """Resident bytes: at first, after large frames, two seconds later, without connections; how
    many timers are left then.
    """
    crowd = Crowd()
    large = frame_to("server", BINARY, bytes(1_500_000))
    await crowd.open(2)
    await crowd.send(frame_to("server", BINARY, bytes(100_000)))
    before, _ = memory()
    await crowd.send(large)
    warm, _ = memory()
    await until_no_timer(crowd.loop)
    idle, idle_data = memory()
    await crowd.send(large)
    await crowd.close()
    timers = live_timers(crowd.loop)
    _, alone_data = memory()
    return before, warm, idle, idle_data - alone_data, timers


def live_timers(loop):
    return sum(not handle.cancelled() for handle in loop._scheduled)


async def until_no_timer(loop):
    """The one timer is that of the buffer. Looks from the ready queue, for a sleep is a timer."""
    done = loop.create_future()

    def look(seen_none=0):
        # One that is about to run, and may set the next, is no longer among them.
        seen_none = 0 if live_timers(loop) else seen_none + 1
        if seen_none < 10:
            loop.call_soon(look, seen_none)
        else:
            done.set_result(None)

    loop.call_soon(look)
    await done


async def measure_kept_large():
    """Resident bytes before, with 100 frames of 100 KB kept, and when they are let go."""
    crowd = Crowd(Keeping)
    await crowd.open(2)
    await crowd.send(frame_to("server", BINARY, bytes(100)))
    before, _ = memory()
    for _ in range(50):
        await crowd.send(frame_to("server", BINARY, b"\1" * 100_000))
    kept, _ = memory()
    Keeping.kept.clear()
    await crowd.send(frame_to("server", BINARY, bytes(100)))
    Keeping.kept.clear()
    after, _ = memory()
    await crowd.close()
    return before, kept, after


if __name__ == "__main__":
    function = globals()[sys.argv[1]]
    arguments = [json.loads(each) for each in sys.argv[2:]]
    print(json.dumps(asyncio.run(function(*arguments))))


# -- the tests -------------------------------------------------------------------------------------


@pytest.fixture
def measure(picows_env):
    def measure(function, *arguments):
        env = dict(picows_env)
        # The suite's own modules, and none of them from where `picows` must not come from.
        env["PYTHONPATH"] += os.pathsep + os.path.join(os.path.dirname(__file__), "..")
        command = [sys.executable, __file__, function.__name__, *map(json.dumps, arguments)]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, timeout=60 * SCALE
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return measure


@linux_only
@pytest.mark.parametrize("use_aiofastnet", [None, True, False])
def test_an_idle_connection_owns_no_read_buffer(measure, use_aiofastnet):
    """Each has read 60 KB: a buffer of its own, of any size, would show."""
    resident, mapped = measure(measure_idle, use_aiofastnet)
    assert resident < 12 * KIB * SCALE
    assert mapped < 16 * KIB * SCALE


@linux_only
@pytest.mark.parametrize("use_aiofastnet", [None, True, False])
def test_memory_of_8_mib_frames_on_many_connections_comes_back(measure, use_aiofastnet):
    """Line 46."""
    count = 1000 if use_aiofastnet is not False and SCALE == 1 else 100
    before, after, most = measure(measure_spike, count, use_aiofastnet)
    assert after - before < 4 * MIB * SCALE
    assert most - before < 6 * MIB * SCALE


@linux_only
@pytest.mark.parametrize("length", [2**62, 2**40, 65_536])
def test_a_header_that_declares_much_allocates_nothing(measure, length):
    """Line 23."""
    resident, mapped = measure(measure_declared, length, None)
    assert resident < 6 * KIB * SCALE
    # The hint, 16 KiB, may be reserved; what the peer says may not.
    assert mapped < 18 * KIB * SCALE
    resident, mapped = measure(measure_declared, length, 1)
    assert max(resident, mapped) < 2 * KIB * SCALE


@linux_only
@pytest.mark.parametrize("arrived", [5, 5_000, 70_000, 300_000, 3_000_000])
def test_a_half_received_frame_pins_twice_what_arrived(measure, arrived):
    resident, mapped = measure(measure_half_received, arrived, 32 * MIB, False)
    assert resident < 2 * arrived + 20 * KIB * SCALE
    assert mapped < 2 * arrived + 40 * KIB * SCALE


@linux_only
@pytest.mark.parametrize("arrived", [5, 5_000, 70_000])
def test_nor_the_buffer_that_a_frame_before_it_left_warm(measure, arrived):
    resident, _ = measure(measure_half_received, arrived, 1_000_000, True)
    # One of the 30 may have it.
    assert resident < 2 * arrived + 20 * KIB * SCALE + 1_000_000 / 30


@linux_only
def test_opening_handshakes_map_no_read_buffer(measure):
    # 256 KiB, and what rides in front.
    assert measure(measure_handshakes) > 250 * KIB


@linux_only
def test_the_warm_buffer_and_its_timer_go(measure):
    before, warm, idle, shared_buffer, timers = measure(measure_warm_buffer)
    assert idle - before < 300 * KIB * SCALE
    # There was one, or the rest says nothing.
    assert warm - idle > 500 * KIB
    # With the last connection the shared buffer goes, 256 KiB and what rides in front.
    assert shared_buffer > 250 * KIB
    assert timers == 0


@linux_only
def test_large_frames_that_are_kept_and_let_go(measure):
    before, kept, after = measure(measure_kept_large)
    # Each costs its bytes and the pages around them, not a buffer of 256 KiB.
    assert 100 * 100_000 < kept - before < 100 * 150_000 * SCALE
    assert after - before < 1 * MIB * SCALE
