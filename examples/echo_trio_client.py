"""An echo client on trio: picows.sansio speaks WebSocket, trio does the rest.

    python examples/echo_trio_client.py ws://127.0.0.1:9001/ --count 1000

One task sends all messages as fast as they go, another receives the echoes and checks them. So
neither side ever waits for the other to read while both of them write. Nothing is collected on the
way: send_all() waits until the kernel has taken a message, and what a slow server has not read yet
holds the sending task up, by way of TCP.

Behind the last echo it says goodbye with a CLOSE of code 1000, and it ends with 0. Ctrl-C and
SIGTERM make it do so early. Whatever goes wrong is said on stderr, and it ends with 1. For a server
whose certificate no public authority signed: --ca FILE.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import trio

from picows.sansio import CLIENT, ConnectionState, WSConnection
from picows.sansio.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.utilities import LocalProtocolError, RemoteProtocolError

READ_SIZE = 64 * 1024  # bytes
# The peer has ended the connection, or another task of ours has meanwhile.
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
MAX_MESSAGE_SIZE = 1024 * 1024  # bytes, inflated


class EchoClient:
    """`run` connects and converses, and leaves in `problem` what went wrong."""

    stream: trio.abc.Stream

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.ws = WSConnection(CLIENT, max_message_size=MAX_MESSAGE_SIZE, assemble_messages=True)
        self.echoes = 0
        self.code: int | None = None
        self.problem: str | None = None
        self.accepted = trio.Event()
        self.stopped = False
        # As long as the conversation goes on, it begins anew with each read.
        self.limit = trio.CancelScope(deadline=trio.current_time() + args.patience)
        # Frames leave in the order in which they were made, which their compression relies on.
        self.sending = trio.Lock()

    async def run(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.obey, signals, nursery)
                with self.limit:
                    await self.converse(nursery)
                if self.limit.cancelled_caught:
                    self.fail(f"nothing of the server within {self.args.patience} seconds")
                nursery.cancel_scope.cancel()

    async def converse(self, nursery: trio.Nursery) -> None:
        try:
            url = urlsplit(self.args.url)
            request = Request(
                host=url.netloc.rpartition("@")[2],
                target=(url.path or "/") + (f"?{url.query}" if url.query else ""),
                extensions=[PerMessageDeflate()],
            )
            first = self.ws.send(request)
            await self.connect(url)
        except (ValueError, LocalProtocolError):
            self.fail(f"{self.args.url!r} is no URL of a WebSocket")
            return
        except OSError as exc:
            self.fail(f"cannot connect: {exc}")
            return
        async with self.stream:
            nursery.start_soon(self.produce)
            try:
                await self.stream.send_all(first)
                await self.receive()
            except RemoteProtocolError as exc:
                # Its hint is for servers: a client cannot refuse but by going away.
                self.fail(f"no WebSocket there: {exc}")
            except trio.BrokenResourceError as exc:
                self.fail(f"the connection was lost: {exc.__cause__ or exc}")
            else:
                await self.wait_for_the_server()

    async def connect(self, url: SplitResult) -> None:
        if url.scheme not in ("ws", "wss") or not url.hostname:
            raise ValueError("no URL of a WebSocket")
        if url.scheme == "ws":
            self.stream = await trio.open_tcp_stream(url.hostname, url.port or 80)
        else:
            context = ssl.create_default_context(cafile=self.args.ca)
            self.stream = await trio.open_ssl_over_tcp_stream(
                url.hostname, url.port or 443, ssl_context=context
            )

    async def produce(self) -> None:
        await self.accepted.wait()
        with contextlib.suppress(*GONE):  # the receiving task says so
            for number in range(self.args.count):
                await self.send(TextMessage(self.text(number)))

    def text(self, number: int) -> str:
        return f"{self.args.message} {number}"

    async def receive(self) -> None:
        while self.ws.state is not ConnectionState.CLOSED:
            data = await self.stream.receive_some(READ_SIZE)
            if self.ws.state is ConnectionState.OPEN:
                self.limit.deadline = trio.current_time() + self.args.patience
            self.ws.receive_data(data or None)
            for event in self.ws.events():
                await self.handle(event)

    async def handle(self, event: Event) -> None:
        if isinstance(event, AcceptConnection):
            self.accepted.set()
            if not self.args.count:
                await self.send(CloseConnection(1000))
        elif isinstance(event, RejectConnection):
            self.fail(f"the server refuses with {event.status_code}")
        elif isinstance(event, Message):
            if self.ws.state is not ConnectionState.OPEN:
                return  # it was on its way when we said goodbye
            if event.data != self.text(self.echoes):
                self.fail(f"no echo of {self.text(self.echoes)[:50]!r}: {event.data[:50]!r}")
                await self.send(CloseConnection(1008, "that is no echo"))
                return
            self.echoes += 1
            if self.echoes == self.args.count:
                await self.send(CloseConnection(1000))
        elif isinstance(event, Ping):
            await self.send(event.response())
        elif isinstance(event, CloseConnection):
            if self.ws.state is not ConnectionState.CLOSED:
                # The server goes first; or has sent what it must not, and this is what to tell it.
                why = f": {event.reason}" if event.reason else ""
                self.fail(f"closed with {event.code}{why}, behind {self.echoes} echoes")
                await self.send(event.response())
            elif event.code == 1006:
                self.fail(f"the connection was lost behind {self.echoes} echoes")
            self.code = event.code

    async def send(self, event: Event) -> None:
        """Returns when the kernel has it. A CLOSE is the last word: what comes later is dropped."""
        async with self.sending:
            if self.ws.state not in (ConnectionState.LOCAL_CLOSING, ConnectionState.CLOSED):
                await self.stream.send_all(self.ws.send(event))

    async def obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """The first signal is a goodbye, where there is somebody to say it to; the next one not."""
        async for _ in signals:
            if self.stopped or self.ws.state is not ConnectionState.OPEN:
                self.fail("interrupted")
                nursery.cancel_scope.cancel()
            self.stopped = True
            nursery.start_soon(self.say_goodbye)

    async def say_goodbye(self) -> None:
        with contextlib.suppress(*GONE):  # the receiving task says so
            await self.send(CloseConnection(1000))

    async def wait_for_the_server(self) -> None:
        """It closes first (RFC 6455 section 7.1.1)."""
        self.limit.deadline = math.inf
        with trio.move_on_after(2), contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(READ_SIZE):
                pass

    def fail(self, problem: str) -> None:
        """The first one counts: the others follow from it."""
        self.problem = self.problem or problem


async def run(args: argparse.Namespace, new_client: type[EchoClient] = EchoClient) -> str | None:
    """What went wrong, if anything did."""
    client = new_client(args)
    await client.run()
    if client.problem is None:
        print(f"{client.echoes} echoes, closed by the server with {client.code}")
    return client.problem


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client on trio")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--message", default="Hello, world")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--patience", type=float, default=10.0, help="seconds of silence")
    parser.add_argument("--ca", type=Path, help="PEM file: the authority to trust")
    sys.exit(trio.run(run, parser.parse_args()))


if __name__ == "__main__":
    main()
