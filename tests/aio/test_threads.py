"""Threads (line 49): a connection is its loop's thread's alone; loops in several threads share
nothing that shows; and the ways over that there are.

That every method refuses is also in test_life_cycle.py; here that the list is complete, in every
phase of a connection, and that a refused call leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aio.traffic import (
    SIDES,
    Recorder,
    connected,
    frame_to,
    octets,
    read_payloads,
    read_to_end,
    some_iterations,
    something_to_read,
)

import loops
from picows import WSFrame, WSMsgType, WSTransport, ws_create_server
from raw_peer import BINARY, CLOSE, TEXT, in_thread

both_sides = pytest.mark.parametrize("side", SIDES)

# Every method of a WSTransport, so that a new one without a check is missed here.
CALLS: dict[str, Callable[[WSTransport], Any]] = {
    "send": lambda transport: transport.send(WSMsgType.TEXT, b"x"),
    "send_ping": lambda transport: transport.send_ping(b"x"),
    "send_pong": lambda transport: transport.send_pong(b"x"),
    "send_close": lambda transport: transport.send_close(1000),
    "send_reuse_external_bytearray": lambda transport: transport.send_reuse_external_bytearray(
        WSMsgType.TEXT, bytearray(20), 14
    ),
    "flush": lambda transport: transport.flush(),
    "disconnect": lambda transport: transport.disconnect(),
    "pause_reading": lambda transport: transport.pause_reading(),
    "resume_reading": lambda transport: transport.resume_reading(),
    "notify_user_specific_pong_received": lambda transport: (
        transport.notify_user_specific_pong_received()
    ),
    "wait_disconnected": lambda transport: transport.wait_disconnected(),
    "measure_roundtrip_time": lambda transport: transport.measure_roundtrip_time(1),
}
# These may return at once where there is nothing to wait for.
COROUTINES = {"wait_disconnected", "measure_roundtrip_time"}


def public_methods() -> set[str]:
    return {
        name
        for name in dir(WSTransport)
        if not name.startswith("_") and callable(getattr(WSTransport, name))
    }


def call_in_own_loop(name: str, transport: WSTransport) -> None:
    """What a thread can do that does not know better: call it, and await what comes."""

    async def main() -> None:
        returned = CALLS[name](transport)
        if name in COROUTINES:
            await asyncio.wait_for(returned, 5 * loops.TIME_FACTOR)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def state_of(transport: WSTransport) -> tuple[object, ...]:
    return (transport.is_disconnected, transport.is_close_frame_sent, transport.close_handshake)


@both_sides
@pytest.mark.parametrize("phase", ["open", "paused", "closing", "disconnecting"])
@pytest.mark.net(loops=("asyncio", "uvloop"), aiofastnet=(None,))
async def test_a_call_from_another_thread_raises_and_changes_nothing(
    net: Any, side: str, phase: str
) -> None:
    assert public_methods() <= CALLS.keys()
    listener = Recorder()
    async with connected(net, side, listener, receive_buffer=4096) as peer:
        transport = listener.transport
        if phase == "paused":
            transport.pause_reading()
        elif phase == "closing":
            transport.send_close(4000)
            assert (await in_thread(peer.recv_frame)).opcode == CLOSE
        elif phase == "disconnecting":
            # With something left to send, so that it takes its time.
            transport.send(WSMsgType.BINARY, bytes(9_000_000))
            transport.disconnect()
        before = state_of(transport)
        for name in public_methods():
            with pytest.raises(RuntimeError, match=r"thread|loop"):
                await in_thread(call_in_own_loop, name, transport)
            assert state_of(transport) == before, name
        await some_iterations()
        assert "disconnected" not in listener.events
        if phase != "disconnecting":
            assert not something_to_read(peer)
            peer.send(frame_to(side, TEXT, b"in"))
        if phase == "open":
            await listener.until_frames(1)
            transport.send(WSMsgType.TEXT, b"out")
            assert await in_thread(read_payloads, peer, 1) == [b"out"]
        elif phase == "paused":
            # Nobody resumed it.
            await some_iterations()
            assert listener.payloads == []
            transport.resume_reading()
            await listener.until_frames(1)
        elif phase == "closing":
            await listener.until_frames(1)
            transport.disconnect()
            assert await in_thread(read_to_end, peer) == []
        else:
            # What was accepted before is sent, all of it, and nothing else.
            (frame,) = await in_thread(read_to_end, peer)
            assert len(frame.payload) == 9_000_000


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_behind_the_end_a_call_from_another_thread_raises_as_well(
    net: Any, side: str
) -> None:
    """A thread that sends for years would else find out on the day of the first disconnect."""
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        peer.close()
        await listener.until_gone()
    for name in public_methods() - COROUTINES:
        with pytest.raises(RuntimeError, match="thread"):
            await in_thread(CALLS[name], listener.transport)


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_many_threads_hand_over_with_call_soon_threadsafe(net: Any, side: str) -> None:
    """All of it arrives, whole, each thread's in its order."""
    count, messages = 6, 300
    loop = asyncio.get_running_loop()
    listener = Recorder()
    async with connected(net, side, listener) as peer:
        transport = listener.transport

        def work(number: int) -> None:
            for each in range(messages):
                payload = b"%d %d " % (number, each) + octets(each * 37 % 2000, number)
                loop.call_soon_threadsafe(transport.send, WSMsgType.BINARY, payload)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        payloads = await in_thread(read_payloads, peer, count * messages)
        for thread in threads:
            thread.join()
    for number in range(count):
        mine = [payload for payload in payloads if payload.startswith(b"%d " % number)]
        assert mine == [
            b"%d %d " % (number, each) + octets(each * 37 % 2000, number)
            for each in range(messages)
        ]


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_frames_handed_to_a_thread_are_whole_while_the_loop_reads_on(
    net: Any, side: str
) -> None:
    """They are looked at late, and let go of there."""
    sizes = [n * n * 13 % 30_000 for n in range(400)] + [300_000, 5, 300_000, 70_000] * 5
    handed: queue.Queue[WSFrame | None] = queue.Queue()
    digests: list[bytes] = []

    def work() -> None:
        while (frame := handed.get()) is not None:
            digests.append(hashlib.sha256(frame.get_payload_as_memoryview()).digest())
            del frame

    thread = threading.Thread(target=work)
    thread.start()
    try:
        listener = Recorder(lambda transport, frame: handed.put(frame))
        async with connected(net, side, listener) as peer:
            payloads = [octets(size, number) for number, size in enumerate(sizes)]
            await in_thread(peer.send, *(frame_to(side, BINARY, each) for each in payloads))
            await listener.until_frames(len(sizes))
    finally:
        handed.put(None)
        await in_thread(thread.join)
    assert digests == [hashlib.sha256(payload).digest() for payload in payloads]


# -- loops in several threads ----------------------------------------------------------------------


class Echo(Recorder):
    """Answers with the frame's payload, and says who it is when asked."""

    def __init__(self, name: bytes = b"") -> None:
        super().__init__(self.answer)
        self.name = name

    def answer(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.payloads.pop() == b"who?":
            transport.send(WSMsgType.TEXT, self.name)
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Polite(Recorder):
    """Leaves when the server says that it goes, so that nobody waits for it."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            super().on_ws_frame(transport, frame)


class LoopThread:
    """A loop that runs in a thread of its own; coroutines are given to it from outside."""

    def __init__(self, kind: str) -> None:
        self.loop = loops.new_loop(kind)
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, coroutine: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(loops.TIME_LIMIT)

    def stop(self) -> None:
        # What was closed is closed by the end of the next iterations.
        self.run(some_iterations())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        assert not self.errors


@contextlib.contextmanager
def loop_threads(kind: str, count: int) -> Iterator[list[LoopThread]]:
    threads = [LoopThread(kind) for _ in range(count)]
    try:
        yield threads
    finally:
        for each in threads:
            each.stop()
        for each in threads:
            tasks = asyncio.all_tasks(each.loop)
            each.loop.close()
            assert not tasks


@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_loops_in_several_threads_talk_to_one_another(net: Any) -> None:
    """Two serve, three are clients of both and come and go, all at once. Every payload is looked
    at: buffers, mask keys and half-received frames of one loop are never another's.
    """
    sizes = [0, 10, 5_000, 70_000, 300_000, 20_000, 1, 100_000, 16_000, 7]

    async def talk(client: int, ports: list[int]) -> int:
        done = 0
        for turn in range(3):
            for port in ports:
                transport, listener = await net.connect(Recorder, port)
                sent = [octets(size, client * 100 + turn) for size in sizes]
                for payload in sent:
                    transport.send(WSMsgType.BINARY, payload)
                await listener.until_frames(len(sent))
                assert listener.payloads == sent
                done += 1
                transport.disconnect()
                await transport.wait_disconnected()
        return done

    with loop_threads(net.loop_kind, 5) as (*serving, one, two, three):
        servers = [each.run(net.serve(lambda request: Echo())) for each in serving]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        talking = [
            asyncio.run_coroutine_threadsafe(talk(number, ports), each.loop)
            for number, each in enumerate((one, two, three))
        ]
        assert [each.result(loops.TIME_LIMIT) for each in talking] == [6, 6, 6]
        for each, server in zip(serving, servers, strict=True):
            each.run(server.shutdown())


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
def test_another_loops_thread_is_a_wrong_thread(net: Any) -> None:
    """Also in a callback, where a loop of picows' own is running."""
    refused: list[str] = []

    async def serve() -> Any:
        return await net.serve(lambda request: Echo())

    async def connect(factory: Any, port: int) -> Any:
        return await net.connect(factory, port)

    with loop_threads(net.loop_kind, 2) as (one, two):
        server = one.run(serve())
        port = server.sockets[0].getsockname()[1]
        foreign, _ = one.run(connect(Polite, port))

        def forward(transport: WSTransport, frame: WSFrame) -> None:
            try:
                foreign.send(frame.msg_type, frame)
            except RuntimeError as exc:
                refused.append(str(exc))

        async def talk() -> None:
            transport, listener = await net.connect(lambda: Recorder(forward), port)
            transport.send(WSMsgType.TEXT, b"x")
            await listener.until_frames(1)
            assert not transport.is_disconnected
            transport.disconnect()
            await transport.wait_disconnected()

        two.run(talk())
        assert len(refused) == 1
        assert "call_soon_threadsafe" in refused[0]
        assert not foreign.is_disconnected
        one.run(server.shutdown())
        one.run(foreign.wait_disconnected())


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
@pytest.mark.net(loops=("asyncio", "uvloop"))
def test_servers_in_two_threads_share_a_port(net: Any) -> None:
    """reuse_port: the kernel gives each its part of the clients; one of them ends, and the other
    serves on.
    """

    async def serve(name: bytes, port: int) -> Any:
        return await ws_create_server(
            lambda request: Echo(name),
            "127.0.0.1",
            port,
            reuse_port=True,
            ssl=net.server_ssl,
            use_aiofastnet=net.use_aiofastnet,
        )

    async def ask(port: int, count: int) -> dict[bytes, list[WSTransport]]:
        """Who answered, and the connections to each."""
        answered: dict[bytes, list[WSTransport]] = {}
        for number in range(count):
            transport, listener = await net.connect(Polite, port)
            transport.send(WSMsgType.BINARY, octets(number * 1000, number))
            transport.send(WSMsgType.TEXT, b"who?")
            await listener.until_frames(2)
            assert listener.payloads[0] == octets(number * 1000, number)
            answered.setdefault(listener.payloads[1], []).append(transport)
        return answered

    async def until_gone(transports: list[WSTransport]) -> None:
        for transport in transports:
            await transport.wait_disconnected()

    with loop_threads(net.loop_kind, 3) as (one, two, clients):
        first = one.run(serve(b"one", 0))
        port = first.sockets[0].getsockname()[1]
        second = two.run(serve(b"two", port))
        answered = clients.run(ask(port, 40))
        # That one of two gets all of them: once in 2**39 runs.
        assert answered.keys() == {b"one", b"two"}
        one.run(first.shutdown(timeout=None))
        clients.run(until_gone(answered[b"one"]))
        # Those of the other one live on, and new ones come to it.
        assert not any(transport.is_disconnected for transport in answered[b"two"])
        late = clients.run(ask(port, 5))
        assert late.keys() == {b"two"}
        two.run(second.shutdown(timeout=None))
        clients.run(until_gone(answered[b"two"] + late[b"two"]))


# aiofastnet's transports refuse any thread but the one that they were made in.
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,), aiofastnet=(None, False))
def test_a_loop_that_another_thread_runs_later_takes_its_connections_along(net: Any) -> None:
    """Connected with run_until_complete in the main thread, then run_forever in one of its own."""
    loop = loops.new_loop(net.loop_kind)

    async def connect() -> Any:
        server = await net.serve(lambda request: Echo())
        return server, *await net.connect(Recorder, server)

    async def talk() -> None:
        transport.send(WSMsgType.TEXT, b"x")
        await listener.until_frames(1)

    async def leave() -> None:
        transport.disconnect(graceful=False)
        await transport.wait_disconnected()
        await server.shutdown()

    failures: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(asyncio.wait_for(talk(), 5))
        except BaseException as exc:
            failures.append(exc)

    try:
        server, transport, listener = loop.run_until_complete(connect())
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        loop.run_until_complete(leave())
    finally:
        loop.close()
    assert not failures
