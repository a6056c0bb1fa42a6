"""What every worker has in common: the command line, the loop, the clocks and the JSON lines.

A worker is one contestant in one role, in a process of its own, on one core. It imports the
standard library and its contestant alone, since each runs in another environment.

Client roles print ``{"pid": ..}`` once connected, then answer one JSON line of stdin with one of
stdout: ``{"size": bytes, "seconds": s, "peer_pid": pid}`` gives
``{"count": .., "wall": s, "cpu": s, "peer_cpu": s}``. Servers print ``{"port": .., "pid": ..}``,
answer a line ``memory`` with ``{"malloc": bytes}``, and live until their stdin ends.

Always true here: messages are counted down, not timed (a look at the clock for every message
would cost as much as parsing one), and between two commands a worker waits in a blocking read of
stdin, so that contestants that wait take no time from the one that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from malloc import allocated

BATCH = 256  # compressed messages between two questions to the floor
QUESTION = b"?"


class Client(Protocol):
    """A connected contestant. Where it takes or sends ticks, or connects, sizes mean nothing."""

    async def check(self, size: int) -> None:
        """Do one round trip (or take one frame) and compare it byte by byte."""

    async def run(self, size: int, count: int) -> None:
        """Do ``count`` round trips (or take ``count`` frames) of ``size`` bytes."""


@runtime_checkable
class Deflates(Protocol):
    """A client that knows how much smaller its last batch became."""

    ratio: float


def payload_of(size: int) -> bytes:
    """A payload that is no repetition of one byte, so that a wrong offset shows."""
    return bytes((i * 131 + (i >> 8)) & 0xFF for i in range(size))


def feed_payload_of(size: int) -> bytes:
    return b"x" * size


def feed_request(count: int, size: int) -> bytes:
    """What the floor's feed server understands."""
    return f"{count} {size}".encode()


def parse_args(roles: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A worker of benchmarks/run.py.")
    parser.add_argument("role", choices=roles)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--port", type=int, default=0, help="the server's, for clients")
    parser.add_argument("--ca", help="CA file: the client speaks TLS")
    parser.add_argument("--cert", help="chain file: the server speaks TLS")
    parser.add_argument("--key", help="private key file of --cert")
    parser.add_argument("--coalesce", choices=("default", "on", "off"), default="default")
    parser.add_argument("--send-loop", action="store_true", help="broadcast by send, not at once")
    parser.add_argument("--api", default="websockets", help="package that websockets_worker uses")
    parser.add_argument("--ping-interval", type=float, help="seconds, of the idle server")
    parser.add_argument("--ticks", type=Path, help="messages of the compression roles, one a line")
    parser.add_argument("--listener-dir", help="where the built Cython listener is")
    return parser.parse_args()


def url_of(args: argparse.Namespace) -> str:
    return f"{'wss' if args.ca else 'ws'}://localhost:{args.port}/"


def client_tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    return _client_context(args.ca) if args.ca else None


@functools.cache
def _client_context(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def ticks_of(args: argparse.Namespace) -> list[bytes]:
    text: bytes = args.ticks.read_bytes()
    return text.splitlines()


class Turns:
    """Messages one after the other, and again from the first one."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self._next = 0

    def take(self, count: int) -> list[bytes]:
        start, end = self._next, self._next + count
        self._next = end % len(self._messages)
        if end <= len(self._messages):
            return self._messages[start:end]
        return [self._messages[i % len(self._messages)] for i in range(start, end)]


def server_tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(args.cert, args.key)
    return context


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def cpu_clock_of(pid: int) -> int:
    """The CPU-time clock of another process: clock_getcpuclockid(3), which Python does not have."""
    return ~pid << 3 | 2


class Clocks:
    """Wall time, own CPU time and the peer's CPU time since it was made, in seconds."""

    def __init__(self, peer_pid: int) -> None:
        self._peer_clock = cpu_clock_of(peer_pid)
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), time.clock_gettime(self._peer_clock)

    def elapsed(self) -> tuple[float, float, float]:
        wall, cpu, peer_cpu = (b - a for a, b in zip(self._start, self._now(), strict=True))
        return wall, cpu, peer_cpu


async def obey(client: Client) -> None:
    """Work off the commands of stdin."""
    rates: dict[int, float] = {}
    say(pid=os.getpid())
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        command = json.loads(line)
        size, seconds, peer_pid = command["size"], command["seconds"], command["peer_pid"]
        if size not in rates:
            await client.check(size)
            rates[size] = await calibrate(client, size)
        # The others have used the caches since: come back to speed before the clocks start.
        await client.run(size, max(1, int(rates[size] * seconds / 20)))
        count = max(1, int(rates[size] * seconds))
        clocks = Clocks(peer_pid)
        await client.run(size, count)
        wall, cpu, peer_cpu = clocks.elapsed()
        rates[size] = count / wall
        shrunk = {"ratio": client.ratio} if isinstance(client, Deflates) else {}
        say(count=count, wall=wall, cpu=cpu, peer_cpu=peer_cpu, **shrunk)


async def calibrate(client: Client, size: int, enough: float = 0.03) -> float:
    """Messages per second, from a run of at least ``enough`` seconds."""
    count = 8
    while True:
        start = time.perf_counter()
        await client.run(size, count)
        elapsed = time.perf_counter() - start
        if elapsed >= enough:
            return count / elapsed
        count *= 4


async def serve(start: Callable[[], Awaitable[tuple[object, int]]]) -> None:
    """Start a server, say its port and let it work until stdin ends.

    ``start`` returns the server, which is kept alive here, and its port.
    """
    server, port = await start()
    stdin_ended = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(0, _answer, stdin_ended)
    say(port=port, pid=os.getpid())
    gc.collect()
    gc.freeze()
    await stdin_ended
    del server


def _answer(stdin_ended: asyncio.Future[None]) -> None:
    if os.read(0, 64):
        gc.collect()
        say(malloc=allocated())
    elif not stdin_ended.done():
        stdin_ended.set_result(None)


def run(args: argparse.Namespace, main: Coroutine[Any, Any, None]) -> None:
    """Run ``main`` on the chosen loop and core, then leave without waiting for connections."""
    os.sched_setaffinity(0, {args.core})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(KeyboardInterrupt):
        _new_loop(args.loop).run_until_complete(main)
    sys.stdout.flush()
    os._exit(0)


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
