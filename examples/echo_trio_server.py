"""An echo server on trio: picows.sansio speaks WebSocket, trio does the rest.

    python examples/echo_trio_server.py --port 9001
    python examples/echo_trio_server.py --port 9002 --cert cert.pem --key key.pem    # TLS

Both rules of back-pressure are kept by the shape of a connection's one task, which receives,
handles, sends, and only then receives again:

* It reads no faster than the handler works: a slow handler leaves the bytes in the kernel, whose
  buffer fills, and TCP stops the client.
* It collects nothing to be sent: send_all() waits until the kernel has taken a message. A client
  that does not read stops its own connection, and no other.

What is left in memory is one read of 64 KiB and one message of at most 1 MiB. A PING is answered
when its turn comes, behind the messages ahead of it.

It prints the address that it listens on (port 0 lets the system choose one). Ctrl-C or SIGTERM
ends it: connected clients are told with a CLOSE of code 1001 and have two seconds to answer.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from picows.sansio import SERVER, ConnectionState, WSConnection
from picows.sansio.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.utilities import RemoteProtocolError

READ_SIZE = 64 * 1024  # bytes
MAX_MESSAGE_SIZE = 1024 * 1024  # bytes, inflated
OPENING_LIMIT = 10.0  # seconds for the request
CLOSING_LIMIT = 2.0  # seconds for the answer to a CLOSE

Message = TextMessage | BytesMessage
Handler = Callable[["Connection", Message], Awaitable[None]]


class Connection:
    """One client. `run` is its task; other tasks may `send`."""

    def __init__(self, stream: trio.abc.Stream, handler: Handler) -> None:
        self.stream = stream
        self.handler = handler
        self.ws = WSConnection(SERVER, max_message_size=MAX_MESSAGE_SIZE, assemble_messages=True)
        self.limit = trio.CancelScope(deadline=trio.current_time() + OPENING_LIMIT)
        # Frames leave in the order in which they were made, which their compression relies on.
        self.sending = trio.Lock()

    async def run(self) -> None:
        with self.limit, contextlib.suppress(trio.BrokenResourceError):  # the client is gone
            try:
                await self.receive()
            except RemoteProtocolError as exc:
                # No request for a WebSocket: the hint is the answer, a 400 or a 426.
                if exc.event_hint is not None:
                    await self.send(exc.event_hint)
        await self.hang_up()

    async def receive(self) -> None:
        ended = False
        while not ended and self.ws.state is not ConnectionState.CLOSED:
            data = await self.stream.receive_some(READ_SIZE)
            ended = not data
            self.ws.receive_data(data or None)
            for event in self.ws.events():
                await self.handle(event)

    async def handle(self, event: Event) -> None:
        if isinstance(event, Request):
            await self.send(AcceptConnection(extensions=[PerMessageDeflate()]))
            self.limit.deadline = math.inf
        elif isinstance(event, Message):
            await self.handler(self, event)
        elif isinstance(event, Ping):
            await self.send(event.response())
        elif isinstance(event, CloseConnection):
            # The client says goodbye; or has sent what it must not, and this is what to tell it.
            self.limit.deadline = trio.current_time() + CLOSING_LIMIT
            await self.send(event.response())

    async def send(self, event: Event) -> None:
        """Returns when the kernel has it. A CLOSE is the last word: what comes later is dropped."""
        async with self.sending:
            if self.ws.state not in (ConnectionState.LOCAL_CLOSING, ConnectionState.CLOSED):
                await self.stream.send_all(self.ws.send(event))

    async def say_goodbye(self) -> None:
        if self.ws.state is ConnectionState.CONNECTING:
            self.limit.cancel()
        else:
            # It may have gone, or go meanwhile.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.send(CloseConnection(1001))

    async def hang_up(self) -> None:
        """The server closes first (RFC 6455 section 7.1.1), and our half first: a socket that is
        closed with bytes unread is reset, and the client could miss what it was told.
        """
        with (
            trio.move_on_after(CLOSING_LIMIT),
            contextlib.suppress(trio.BrokenResourceError),
        ):
            async with self.stream:
                if isinstance(self.stream, trio.abc.HalfCloseableStream):  # TLS has no half
                    await self.stream.send_eof()
                    while await self.stream.receive_some(READ_SIZE):
                        pass


async def echo(connection: Connection, message: Message) -> None:
    await connection.send(message)


async def serve(args: argparse.Namespace, handler: Handler = echo) -> None:
    connections: set[Connection] = set()

    async def connected(stream: trio.abc.Stream) -> None:
        connection = Connection(stream, handler)
        connections.add(connection)
        try:
            await connection.run()
        finally:
            connections.discard(connection)

    opened = await trio.open_tcp_listeners(args.port, host=args.host)
    port = opened[0].socket.getsockname()[1]
    listeners: list[trio.abc.Listener[trio.abc.Stream]] = [*opened]
    scheme = "ws"
    if args.cert is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(args.cert, args.key)
        listeners = [trio.SSLListener(each, context) for each in opened]
        scheme = "wss"

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as clients:
            async with trio.open_nursery() as listening:
                listening.start_soon(
                    partial(trio.serve_listeners, connected, listeners, handler_nursery=clients)
                )
                print(f"listening on {scheme}://{args.host}:{port}/ (trio)", flush=True)
                await anext(signals)
                listening.cancel_scope.cancel()
            for connection in connections:
                clients.start_soon(connection.say_goodbye)
            clients.cancel_scope.deadline = trio.current_time() + CLOSING_LIMIT


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo server on trio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0: the system chooses")
    parser.add_argument("--cert", type=Path, help="PEM file: the certificate and its chain")
    parser.add_argument("--key", type=Path, help="PEM file: its key, when --cert has none")
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C
        trio.run(serve, parser.parse_args())


if __name__ == "__main__":
    main()
