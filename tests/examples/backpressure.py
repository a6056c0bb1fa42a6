"""The programs without asyncio as one side of a conversation that the other side holds up: each
function is a process of its own,

    PYTHONPATH=.:tests:examples python tests/examples/backpressure.py <function> <count> <url>

It prints a line when it holds, or has been stopped, and its result as JSON. SIGUSR1 tells the one
that holds to go on. Memory is what became resident in this process at most, from before the
conversation to its end.
"""

from __future__ import annotations

import argparse
import inspect
import json
import signal
import socket
import sys
from typing import Any

import trio
import trio.testing
from aio.measured import Peak
from aio.traffic import octets
from echo_blocking_client import BlockingWebSocket
from echo_trio_client import EchoClient, run
from echo_trio_server import Connection, Message, echo, serve

from picows.sansio import ConnectionState
from picows.sansio.events import BytesMessage, CloseConnection, Event, TextMessage

SIZE = 32 * 1024  # bytes in a message
# What TCP keeps for a connection, on each side. Without it, Linux would let it grow.
KERNEL_BUFFER = 128 * 1024

count = 0  # of messages: the argument

SERVER = argparse.Namespace(host="127.0.0.1", port=0, cert=None, key=None)
CLIENT = {"message": "", "count": -1, "patience": 120.0, "ca": None}


def say(*words: object) -> None:
    print(*words, flush=True)


def limit_kernel(sock: Any) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER)


class Checked:
    """What arrives: is it all of it, in order?"""

    def __init__(self) -> None:
        self.peak = Peak()
        self.count = 0
        self.wrong = 0

    def take(self, data: object) -> None:
        # They do not compress: what is on the wire is what was sent, more or less.
        self.wrong += data != octets(SIZE, self.count)
        self.count += 1

    def say(self) -> None:
        say(json.dumps({"count": self.count, "wrong": self.wrong, "memory": self.peak.more()}))


class Sending:
    """Sends all of it as fast as it may, and says once how far it came until it was stopped."""

    def __init__(self) -> None:
        self.peak = Peak()
        self.sent = 0

    async def send_all(self, connection: Connection | EchoClient) -> None:
        limit_kernel(connection.stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.say_when_stopped)
            for number in range(count):
                await connection.send(BytesMessage(octets(SIZE, number)))
                self.sent += 1
            nursery.cancel_scope.cancel()
        say(json.dumps({"count": self.sent, "memory": self.peak.more()}))

    async def say_when_stopped(self) -> None:
        # All tasks wait: that of `send_all` for the kernel.
        await trio.testing.wait_all_tasks_blocked(0.2)
        say("stopped behind", self.sent * SIZE)


# -- the client sends, the server is slow ----------------------------------------------------------


async def slow_server() -> None:
    """Holds at the first message; what is text it echoes, on other connections."""
    checked = Checked()
    with trio.open_signal_receiver(signal.SIGUSR1) as go_on:

        async def handle(connection: Connection, message: Message) -> None:
            if isinstance(message, TextMessage):
                await echo(connection, message)
                return
            if not checked.count:
                limit_kernel(connection.stream)
                say("holds")
                await anext(go_on)
            await trio.lowlevel.checkpoint()
            checked.take(message.data)
            if checked.count == count:
                checked.say()

        await serve(SERVER, handle)


class Flood(EchoClient):
    async def produce(self) -> None:
        await self.accepted.wait()
        await Sending().send_all(self)
        await self.send(CloseConnection(1000))


async def flooding_trio_client(url: str) -> None:
    problem = await run(argparse.Namespace(url=url, **CLIENT), Flood)
    assert problem is None, problem


# -- the server sends, the client does not read ----------------------------------------------------


async def flooding_server() -> None:
    sending = Sending()

    async def handle(connection: Connection, message: Message) -> None:
        if message.data == "send":
            await sending.send_all(connection)
        else:
            await echo(connection, message)

    await serve(SERVER, handle)


class Lazy(EchoClient):
    """Asks for all of it, and holds at the first message."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.checked = Checked()

    async def produce(self) -> None:
        limit_kernel(self.stream)
        await self.accepted.wait()
        await self.send(TextMessage("send"))

    async def handle(self, event: Event) -> None:
        if not isinstance(event, BytesMessage):
            await super().handle(event)
            return
        if not self.checked.count:
            with trio.open_signal_receiver(signal.SIGUSR1) as go_on:
                say("holds")
                await anext(go_on)
        self.checked.take(event.data)
        if self.checked.count == count:
            self.checked.say()
            await self.send(CloseConnection(1000))


async def lazy_trio_client(url: str) -> None:
    problem = await run(argparse.Namespace(url=url, **CLIENT), Lazy)
    assert problem is None, problem


def lazy_blocking_client(url: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    checked = Checked()
    with BlockingWebSocket(url, timeout=120) as websocket:
        limit_kernel(websocket._sock)
        websocket.send("send")
        say("holds")
        signal.sigwait([signal.SIGUSR1])
        while checked.count < count:
            checked.take(websocket.receive())
        checked.say()
        assert websocket._ws.state is ConnectionState.OPEN


if __name__ == "__main__":
    function, count = globals()[sys.argv[1]], int(sys.argv[2])
    if inspect.iscoroutinefunction(function):
        trio.run(function, *sys.argv[3:])
    else:
        function(*sys.argv[3:])
