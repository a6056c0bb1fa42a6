"""Servers with many connections: their sockets are watched by an epoll instance of ours, which the
loop watches as one. Who is in it, /proc tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aio.traffic import MASK, Recorder, our_socket, some_iterations

import loops
from picows import WSFrame, WSListener, WSTransport
from raw_peer import TEXT, RawPeer, encode_frame, in_thread, raw_connect, upgrade_request

pytestmark = [
    pytest.mark.net(tls=(False,), aiofastnet=(None,)),
    pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's"),
]

# Connections that a loop watches by itself.
FEW = 8
# Sockets that are read in one call of the loop.
BATCH = 64
# So many messages that come alone have their socket leave.
QUIET = 40
# So many crowds bring all of them back; nine do where each comes in one piece.
SOON = 50


def watched_by_epoll() -> dict[int, set[int]]:
    """The numbers that each epoll instance of this process watches."""
    found = {}
    for each in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder's own
            lines = each.read_text().splitlines()
            if "eventpoll" in os.readlink(f"/proc/self/fd/{each.name}"):
                found[int(each.name)] = {int(e.split()[1]) for e in lines if e.startswith("tfd:")}
    return found


def polled() -> set[int]:
    """What is watched by an instance that is watched by another one, the loop's."""
    instances = watched_by_epoll()
    inner = set().union(*instances.values()) & instances.keys()
    return set().union(*(instances[each] for each in inner))


class Crowd:
    def __init__(self, listeners: list[Recorder], peers: list[RawPeer]) -> None:
        self.listeners = listeners
        self.peers = peers

    def number(self, index: int) -> int:
        return int(our_socket(self.listeners[index].transport).fileno())

    def numbers(self) -> set[int]:
        return {self.number(index) for index in range(len(self.listeners))}

    def send(self, index: int, payload: bytes) -> None:
        self.peers[index].send(encode_frame(TEXT, payload, mask=MASK))

    async def send_alone(self, index: int, payload: bytes) -> None:
        """One message while there is no other."""
        came = len(self.listeners[index].payloads) + 1
        self.send(index, payload)
        await self.listeners[index].until_frames(came)

    async def send_together(self, payload: bytes) -> None:
        """A message on every connection, all of them before the loop looks."""
        came = [len(listener.payloads) + 1 for listener in self.listeners]
        for index in range(len(self.peers)):
            self.send(index, payload)
        for listener, count in zip(self.listeners, came, strict=True):
            await listener.until_frames(count)

    async def end(self) -> None:
        for peer in self.peers:
            peer.close()
        for listener in self.listeners:
            if not listener.transport.is_disconnected:
                listener.transport.disconnect(graceful=False)
            await listener.until_gone()


async def gather_crowd(server: Any, listeners: list[Recorder], count: int) -> Crowd:
    """So many clients, who come at once."""
    port = server.sockets[0].getsockname()[1]
    peers = []
    for _ in range(count):
        peers.append(raw_connect(port))
        peers[-1].send(upgrade_request())
    for peer in peers:
        await in_thread(peer.recv_head)
    # Whose is whose, their ports tell.
    by_port = {
        listener.transport.underlying_transport.get_extra_info("peername")[1]: listener
        for listener in listeners
    }
    return Crowd([by_port[peer.sock.getsockname()[1]] for peer in peers], peers)


@contextlib.asynccontextmanager
async def crowd(
    net: Any, count: int, react: Callable[[WSTransport, WSFrame], object] | None = None
) -> AsyncIterator[Crowd]:
    listeners: list[Recorder] = []

    def new_listener(request: object) -> Recorder:
        listeners.append(Recorder(react))
        return listeners[-1]

    server = await net.serve(new_listener, backlog=2 * count)
    try:
        gathered = await gather_crowd(server, listeners, count)
        try:
            yield gathered
        finally:
            await gathered.end()
    finally:
        server.close()
        await server.wait_closed()
    assert polled() == set()


async def test_those_behind_the_first_few(net: Any) -> None:
    before = len(watched_by_epoll())
    async with crowd(net, FEW + 12) as many:
        assert len(polled()) == 12
        assert polled() < many.numbers()
        assert len(watched_by_epoll()) == before + 1
        for payload in (b"one", b"two", b"three"):
            await many.send_together(payload)
        for listener in many.listeners:
            assert listener.payloads == [b"one", b"two", b"three"]
    assert len(watched_by_epoll()) == before


async def test_few_are_watched_by_the_loop(net: Any) -> None:
    async with crowd(net, FEW) as few:
        await few.send_together(b"x")
        assert polled() == set()


async def test_a_client_is_watched_by_the_loop(net: Any) -> None:
    async with crowd(net, FEW + 2) as many:
        server = await net.serve(lambda request: WSListener())
        transport, _ = await net.connect(WSListener, server)
        assert our_socket(transport).fileno() not in polled()
        # The server's end of it, and those of the crowd.
        assert len(polled() - many.numbers()) == 1
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()


async def test_those_that_come_alone_leave_and_crowds_return(net: Any) -> None:
    async with crowd(net, FEW + 12) as many:
        in_it = polled()
        (one, other) = [index for index in range(FEW + 12) if many.number(index) in in_it][:2]
        for number in range(QUIET):
            await many.send_alone(one, b"%d" % number)
        assert polled() == in_it - {many.number(one)}
        # It is quiet: whoever has a message leaves.
        await many.send_alone(other, b"")
        assert polled() == in_it - {many.number(one), many.number(other)}
        for index in range(FEW + 12):
            await many.send_alone(index, b"")
        assert polled() == set()
        for _ in range(2 * BATCH):
            await many.send_alone(other, b"")
            assert polled() == set()
        # Not from one crowd alone, but soon.
        crowds = 0
        while polled() != many.numbers():
            await many.send_together(b"!")
            crowds += 1
            assert crowds < SOON
        assert crowds > 1
        assert many.listeners[one].payloads == [
            *(b"%d" % number for number in range(QUIET)),
            b"",
            *[b"!"] * crowds,
        ]
        # And from there again: a few that come one by one, and a crowd, change nothing.
        for _ in range(3):
            for _ in range(QUIET // 2):
                await many.send_alone(one, b"")
            await many.send_together(b"")
        assert polled() == many.numbers()
        # Quiet again: the crowd of then brings nobody back.
        for _ in range(QUIET):
            await many.send_alone(one, b"")
        for _ in range(10):
            await many.send_alone(one, b"")
            assert polled() == many.numbers() - {many.number(one)}


async def test_each_is_read_in_a_context_of_its_own(net: Any) -> None:
    """As the loop's readers are: what a callback sets, is there in the next one of its connection,
    wherever that is watched, and in no other's.
    """
    last: contextvars.ContextVar[bytes] = contextvars.ContextVar("last", default=b"")
    seen: dict[WSTransport, list[bytes]] = {}

    def react(transport: WSTransport, frame: WSFrame) -> None:
        seen.setdefault(transport, []).append(last.get())
        last.set(last.get() + frame.get_payload_as_bytes())

    async with crowd(net, FEW + 12, react) as many:
        index = next(i for i in range(FEW + 12) if many.number(i) in polled())
        await many.send_together(b"a")
        for _ in range(QUIET):
            await many.send_alone(index, b"b")
        assert many.number(index) not in polled()
        crowds = 0
        while many.number(index) not in polled():
            await many.send_together(b"c")
            crowds += 1
            assert crowds < SOON
        await many.send_together(b"c")
        crowds += 1
        for i, listener in enumerate(many.listeners):
            sent = b"a" + b"b" * (QUIET if i == index else 0) + b"c" * crowds
            assert seen[listener.transport] == [sent[:n] for n in range(len(sent))]
        assert last.get() == b""


async def test_one_that_another_closes_is_not_read(net: Any) -> None:
    """Both have bytes; the first to be read closes all others."""
    came = []

    def react(transport: WSTransport, frame: WSFrame) -> None:
        came.append(transport)
        for listener in many.listeners:
            if listener.transport is not transport:
                listener.transport.disconnect(graceful=False)

    async with crowd(net, FEW + 12, react) as many:
        for index in range(FEW + 12):
            # What the loop watches itself may come first, and close them before they are asked for.
            if many.number(index) in polled():
                many.send(index, b"x")
        while not came:
            await asyncio.sleep(0)
        for listener in many.listeners:
            if listener.transport is not came[0]:
                await listener.until_gone()
        await some_iterations()
        assert len(came) == 1


@pytest.mark.net(loops=("asyncio", "asyncio-debug"), tls=(False,), aiofastnet=(None,))
async def test_one_that_the_loop_does_not_take_stays(net: Any) -> None:
    def refuse(fd: int, callback: object) -> None:
        raise MemoryError

    loop: Any = asyncio.get_running_loop()
    async with crowd(net, FEW + 12) as many:
        in_it = polled()
        one = next(i for i in range(FEW + 12) if many.number(i) in in_it)
        for _ in range(QUIET // 2):
            await many.send_alone(one, b"")
        loop.add_reader = refuse
        for _ in range(QUIET // 2):
            await many.send_alone(one, b"")
        del loop.add_reader
        assert polled() == in_it
        assert {type(each["exception"]) for each in net.loop_errors} == {MemoryError}
        net.loop_errors.clear()
        await many.send_alone(one, b"")
        assert polled() == in_it - {many.number(one)}
        assert len(many.listeners[one].payloads) == QUIET + 1


async def test_pausing_and_resuming(net: Any) -> None:
    async with crowd(net, FEW + 12) as many:
        in_it = polled()
        index = next(i for i in range(FEW + 12) if many.number(i) in in_it)
        transport = many.listeners[index].transport
        transport.pause_reading()
        assert polled() == in_it - {many.number(index)}
        many.send(index, b"kept")
        await some_iterations()
        assert many.listeners[index].payloads == []
        transport.resume_reading()
        await many.listeners[index].until_frames(1)
        assert polled() == in_it


@pytest.mark.parametrize("end", ["pause_reading", "disconnect"])
async def test_one_that_stops_reading_in_the_message_behind_which_it_would_leave(
    net: Any, end: str
) -> None:
    def react(transport: WSTransport, frame: WSFrame) -> None:
        if frame.get_payload_as_bytes() == b"stop":
            getattr(transport, end)()

    async with crowd(net, FEW + 12, react) as many:
        in_it = polled()
        one, other = [index for index in range(FEW + 12) if many.number(index) in in_it][:2]
        number = many.number(other)
        for _ in range(QUIET):
            await many.send_alone(one, b"")
        await many.send_alone(other, b"stop")
        assert polled() == in_it - {many.number(one), number}
        if end == "pause_reading":
            many.send(other, b"kept")
            many.listeners[other].transport.resume_reading()
            await many.listeners[other].until_frames(2)
        else:
            await many.listeners[other].until_gone()


async def test_others_of_the_loop_come_in_between(net: Any) -> None:
    count = 3 * BATCH
    before: list[int] = []
    frames = 0

    def react(transport: WSTransport, frame: WSFrame) -> None:
        nonlocal frames
        frames += 1
        if not before:
            before.append(0)
            asyncio.get_running_loop().call_soon(lambda: before.append(frames))

    async with crowd(net, count, react) as many:
        assert len(polled()) == count - FEW
        await many.send_together(b"x")
        assert frames == count
        assert before[1] <= BATCH + FEW


async def test_a_system_without_room_for_it(net: Any) -> None:
    """The loop watches the socket then, as it does where there is no epoll."""
    async with crowd(net, FEW) as few:
        listener = Recorder()
        server = await net.serve(lambda request: listener)
        with raw_connect(server.sockets[0].getsockname()[1]).sock as sock:
            peer = RawPeer(sock)
            peer.send(upgrade_request(), encode_frame(TEXT, b"x", mask=MASK))
            gc.collect()
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(sock.fileno())
            os.close(free)
            # For the accepted socket, and nothing else.
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
            try:
                await listener.until_frames(1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert polled() == set()
            # The same call of accept(2) that found nobody else.
            assert [each["message"] for each in net.loop_errors] == [
                "no more connections can be accepted now"
            ]
            net.loop_errors.clear()
            await few.send_together(b"x")
        await listener.until_gone()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_loses_nobody(net: Any, exception: type[BaseException]) -> None:
    """It comes out of the loop in the middle of a batch; who was to be read next is read later."""
    loop = loops.new_loop(net.loop_kind)
    once = []

    def react(transport: WSTransport, frame: WSFrame) -> None:
        if not once:
            once.append(transport)
            raise exception

    async def main() -> None:
        async with crowd(net, FEW + 12, react) as many:
            await many.send_together(b"x")

    try:
        task = loop.create_task(main())
        limit = loop.call_later(loops.TIME_LIMIT, task.cancel)
        with pytest.raises(exception):
            loop.run_until_complete(task)
        loop.run_until_complete(task)
        limit.cancel()
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    assert len(once) == 1


def test_a_loop_that_is_closed_under_them(net: Any) -> None:
    """The sockets say so, and are closed, and so is the epoll instance."""
    loop = loops.new_loop(net.loop_kind)
    files = loops.open_files()

    async def main() -> list[RawPeer]:
        listeners: list[Recorder] = []

        def new_listener(request: object) -> Recorder:
            listeners.append(Recorder())
            return listeners[-1]

        server = await net.serve(new_listener)
        many = await gather_crowd(server, listeners, FEW + 12)
        assert len(polled()) == 12
        server.close()
        return many.peers

    peers = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed"):
        gc.collect()
    for peer in peers:
        assert peer.recv_all() == b""
        peer.close()
    assert not loops.new_files(files)
