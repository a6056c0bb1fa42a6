"""What messages and compression cost in memory: each measurement is a process of its own,

    PYTHONPATH=.:tests python tests/aio/measured.py <function> <arguments as JSON>

and prints its result as JSON. Connections are detached ones (detached.py), so that nothing of a
loop, a socket or a peer is counted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aio.deflate_peer import PeerDeflater, bomb, far
from aio.detached import FULL, Detached, Loop
from aio.traffic import frame_to

from picows import PerMessageDeflate, WSFrame, WSListener, WSTransport
from picows.handshake.deflate import DeflateAgreement
from picows.sansio.connection import SERVER, Connection
from picows.sansio.events import CloseConnection
from raw_peer import BINARY, CLOSE, CONTINUATION

TESTS = Path(__file__).resolve().parent.parent
KIB = 1024
MIB = 1024 * 1024

linux_only = pytest.mark.skipif(
    sys.platform != "linux" or "PICOWS_SANITIZE" in os.environ,
    reason="reads /proc/self, where ASan's quarantine would be counted",
)


def measure(env: dict[str, str], function: Any, *arguments: object) -> Any:
    """Call it in a process of its own; `env` is the fixture picows_env."""
    env = dict(env)
    env["PYTHONPATH"] += os.pathsep + str(TESTS)
    command = [sys.executable, __file__, function.__name__, *map(json.dumps, arguments)]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Silent(WSListener):
    """Keeps nothing of what it gets."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.sizes.append(frame.payload_size)


def resident() -> int:
    """Resident bytes that are private to this process; free memory is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/smaps_rollup") as file:
        rollup = dict(line.split(":", 1) for line in file if ":" in line.split(" ", 1)[0])
    return (int(rollup["Private_Dirty"].split()[0]) + int(rollup["Private_Clean"].split()[0])) * KIB


class AtViolation(logging.Handler):
    """What is resident at the moment when the peer's violation is found, before all is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if "violated the protocol" in record.msg:
            self.bytes = resident()


class Peak:
    """
    The most that becomes resident from now on, in bytes more than now; the kernel counts it to some
    dozens of pages for each core.
    """

    def __init__(self) -> None:
        resident()
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self.before = self.read("VmRSS")

    def read(self, name: str) -> int:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields[name].split()[0]) * KIB

    def more(self) -> int:
        return self.read("VmHWM") - self.before


def fragments(size: int, count: int, fin: bool = True) -> bytes:
    """A message to a server of ours, in `count` frames."""
    edges = [number * size // count for number in range(count + 1)]
    return b"".join(
        frame_to(
            "server",
            CONTINUATION if number else BINARY,
            bytes(edges[number + 1] - edges[number]),
            fin=fin and number == count - 1,
        )
        for number in range(count)
    )


def crowd(count: int, deflate: bool = False, **options: Any) -> tuple[Loop, list[Detached]]:
    loop = Loop()
    agreement = FULL if deflate else None
    options.setdefault("assemble_messages", True)
    return loop, [
        Detached("server", Silent(), agreement, loop=loop, **options) for _ in range(count)
    ]


def idle(deflate: bool, size: int) -> float:
    """Bytes per connection that has had a message of `size` bytes, in fragments or compressed."""
    if deflate:
        # Without takeover, so that zlib's window is the same for each.
        payload = PeerDeflater().message(bytes(size))
        data = frame_to("server", BINARY, payload, rsv=4)
    else:
        data = fragments(size, 5)
    _, connections = crowd(600, deflate)
    for each in connections[:100]:
        each.feed(data)
    before = resident()
    for each in connections[100:]:
        each.feed(data)
    after = resident()
    assert all(each.listener.sizes == [size] for each in connections)  # type: ignore[attr-defined]
    return (after - before) / 500


def half(size: int, after_whole: int) -> float:
    """
    Bytes that half a message of `size` bytes pins, where messages of `after_whole` were gathered
    whole before; and some time has passed since.
    """
    loop, connections = crowd(41)
    first, *others = connections
    whole = fragments(after_whole, 2) if after_whole else b""
    part = fragments(size, 1, fin=False)
    for each in others[:10]:
        first.feed(whole)
        each.feed(part)
    before = resident()
    for each in others[10:]:
        first.feed(whole)
        each.feed(part)
    for _ in range(3):
        loop.expire()
    return (resident() - before) / 30


def after_close(size: int) -> tuple[int, int, int]:
    """
    Resident bytes before, with half a message of `size` bytes, and a while after a CLOSE has come.
    """
    loop, connections = crowd(2)
    connections[0].feed(fragments(1000, 2))
    part = fragments(size, 20, fin=False)
    before = resident()
    connections[0].feed(part)
    gathered = resident()
    connections[0].feed(frame_to("server", CLOSE, b"\x03\xe8"))
    for _ in range(3):
        # The block that fragments are read into stays warm for a while.
        loop.expire()
    return before, gathered, resident()


def declared(length: int) -> float:
    """Bytes per connection for a fragment that declares `length` bytes, behind one of 10 bytes."""
    _, connections = crowd(1100, max_frame_size=2**62, max_message_size=2**62)
    data = frame_to("server", BINARY, bytes(10), fin=False)
    data += frame_to("server", CONTINUATION, b"", length=length, length_bits=64)
    for each in connections[:100]:
        each.feed(data)
    before = resident()
    for each in connections[100:]:
        each.feed(data)
    assert all(each.close_code is None for each in connections)
    return (resident() - before) / 1000


def bomb_frames(size: int, count: int) -> list[bytes]:
    """To a server of ours."""
    return [
        frame_to(
            "server",
            CONTINUATION if number else BINARY,
            payload,
            fin=number == count - 1,
            rsv=0 if number else 4,
        )
        for number, payload in enumerate(bomb(size, count))
    ]


def explode(
    limit: int, size: int, count: int, mode: str
) -> tuple[int, int | None, int, int, int | None]:
    """
    What a bomb of `size` bytes in `count` fragments takes at most, and when it is refused, in bytes
    more than before; how many frames were delivered, and how many bytes; the close code.
    """
    options: dict[str, Any] = {"assemble_messages": mode == "message"}
    options["permessage_deflate"] = PerMessageDeflate(max_inflated_size=limit)
    options["max_message_size"] = limit if mode == "message" else 64 * MIB
    listener = Silent()
    at_violation = AtViolation()
    options["logger_name"] = logging.Logger("bombs", logging.INFO)
    options["logger_name"].addHandler(at_violation)
    connection = Detached("server", listener, FULL, **options)
    # So that zlib's window, 32 KiB, is there as well as the read buffer.
    # (Before there are frames, that is a small one.)
    data = frame_to("server", BINARY, PeerDeflater().message(far(limit // 2)), rsv=4)
    connection.feed(data[:1])
    connection.feed(data[1:])
    # That one began with a window of its own, and so does the bomb.
    frames = bomb_frames(size, count)
    listener.sizes.clear()
    before = resident()
    peak = Peak()
    for frame in frames:
        connection.feed(frame)
    refused = None if at_violation.bytes is None else at_violation.bytes - before
    return peak.more(), refused, len(listener.sizes), sum(listener.sizes), connection.close_code


def explode_sansio(limit: int, size: int, count: int, assembled: bool) -> tuple[int, int, int]:
    """
    The same without I/O: what it takes at most, in bytes more than before; how many bytes were
    told, none of which is kept; the code of the failure.
    """
    # The pages of code and of small objects that a failure needs, a quarter of a MiB.
    _explode_sansio(KIB, 10 * KIB, 1, assembled)
    return _explode_sansio(limit, size, count, assembled)


def _explode_sansio(limit: int, size: int, count: int, assembled: bool) -> tuple[int, int, int]:
    deflate = PerMessageDeflate()
    assert deflate.accept("permessage-deflate") is not None
    connection = Connection(SERVER, [deflate], max_inflated_size=limit, assemble_messages=assembled)
    connection.receive_data(
        frame_to("server", BINARY, PeerDeflater().message(far(limit // 2)), rsv=4)
    )
    assert sum(len(event.data) for event in connection.events()) == limit // 2
    frames = bomb_frames(size, count)
    peak = Peak()
    told = 0
    for frame in frames:
        connection.receive_data(frame)
        for event in connection.events():
            if isinstance(event, CloseConnection):
                return peak.more(), told, event.code
            told += len(event.data)
    raise AssertionError("it went off")


def lazy(bits: int) -> list[float]:
    """
    Bytes per connection with deflate: idle, more once it has received a message, and more once it
    has sent one; and what is left of all that when it is gone.
    """
    agreement = DeflateAgreement(False, False, bits, bits)
    count = 100
    # What it needs once: the shared buffers.
    _, connections = crowd(2, True)
    data = frame_to("server", BINARY, PeerDeflater(bits).message(far(40_000)), rsv=4)
    message = far(40_000)
    connections[0].feed(data)
    connections[0].transport.send(BINARY, message)
    loop = connections[0].loop
    steps = [resident()]
    many = [
        Detached("server", Silent(), agreement, loop=loop, assemble_messages=True)
        for _ in range(count)
    ]
    steps.append(resident())
    for each in many:
        each.feed(data)
    steps.append(resident())
    for each in many:
        each.transport.send(BINARY, message)
        each.below.written = bytearray()
    steps.append(resident())
    for each in many:
        each.below.close()
    loop.run()
    many.clear()
    steps.append(resident())
    first, idle_, received, sent, gone = steps
    costs = (idle_ - first, received - idle_, sent - received, gone - first)
    return [cost / count for cost in costs]


if __name__ == "__main__":
    function = globals()[sys.argv[1]]
    print(json.dumps(function(*map(json.loads, sys.argv[2:]))))
