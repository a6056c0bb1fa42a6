"""An echo client with several WebSockets on one HTTP/2 connection (RFC 8441).

    python examples/echo_http2_client.py ws://127.0.0.1:9003/ --streams 3 --count 10
    python examples/echo_http2_client.py wss://localhost:9003/ --ca ca.pem

ws:// is HTTP/2 in the clear to a server that is known to speak it (prior knowledge); over TLS the
server has to agree (ALPN). What is answered wrongly, or not at all, makes it exit with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from http2_stream import Http2Connection, WebSocketStream

from picows.sansio import ConnectionType
from picows.sansio.events import CloseConnection, TextMessage
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.handshake import client_extensions_handshake
from picows.sansio.utilities import RemoteProtocolError

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class Failure(Exception):
    """The server did not do what was expected of it."""


async def connect(url: SplitResult, ca: Path | None) -> Http2Connection:
    """A connection; who calls it lets it run."""
    context = None
    if url.scheme == "wss":
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
    port = url.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=context)
    tls = writer.get_extra_info("ssl_object")
    if tls is not None and tls.selected_alpn_protocol() != "h2":
        writer.transport.abort()
        raise Failure("the server does not speak HTTP/2")
    return Http2Connection(reader, writer)


async def open_websocket(
    connection: Http2Connection, url: SplitResult, subprotocol: str | None = None
) -> WebSocketStream:
    await connection.settled.wait()
    if not connection.h2.remote_settings.enable_connect_protocol:
        raise Failure("the server has no WebSockets over HTTP/2")
    deflate = PerMessageDeflate()
    headers = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https" if url.scheme == "wss" else "http"),
        (":authority", url.netloc),
        (":path", (url.path or "/") + (f"?{url.query}" if url.query else "")),
        ("sec-websocket-version", "13"),
        ("sec-websocket-extensions", f"{deflate.name}; {deflate.offer()}"),
    ]
    if subprotocol is not None:
        headers.append(("sec-websocket-protocol", subprotocol))
    stream = await connection.request(headers)
    status = await stream.answered()
    if not status.startswith("2"):
        raise Failure(f"the server answered {status}")
    try:
        agreed = client_extensions_handshake(stream.values("sec-websocket-extensions"), [deflate])
    except RemoteProtocolError:
        stream.reset(ErrorCodes.CANCEL)  # a client has no other way to refuse
        raise
    return WebSocketStream(stream, ConnectionType.CLIENT, agreed)


async def converse(connection: Http2Connection, url: SplitResult, args: argparse.Namespace) -> str:
    try:
        opening = open_websocket(connection, url, args.subprotocol)
        websocket = await asyncio.wait_for(opening, args.timeout)
    except asyncio.TimeoutError:
        raise Failure(f"no answer within {args.timeout} seconds") from None
    stream = websocket.stream

    async def send_all() -> None:
        for number in range(args.count):
            await websocket.send(TextMessage(f"{number}: {args.message}"))

    # A task of its own: who sends and reads nothing meanwhile waits for a server that waits for
    # him.
    sender = asyncio.ensure_future(send_all())
    received = 0
    try:
        async for message in websocket:
            if message.data != f"{received}: {args.message}":
                raise Failure(f"stream {stream.id}: {message.data[:40]!r} is not the {received}.")
            received += 1
            if received == args.count:
                await websocket.send(CloseConnection(1000, "done"))
    finally:
        sender.cancel()
        await asyncio.wait([sender])
        stream.forget()
    assert websocket.closed is not None
    ended = f"stream {stream.id}: {received} echoes, closed with {int(websocket.closed.code)}"
    if received < args.count:
        raise Failure(ended)
    agreed = filter(None, map(stream.value, ("sec-websocket-protocol", "sec-websocket-extensions")))
    return ", ".join([ended, *agreed])


async def run(args: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels it
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)

    url = urlsplit(args.url)
    connection = await connect(url, args.ca)
    running = asyncio.ensure_future(connection.run())
    talks = [asyncio.ensure_future(converse(connection, url, args)) for _ in range(args.streams)]
    try:
        for talk in talks:
            print(await talk, flush=True)
    except asyncio.CancelledError:
        print("stopped", flush=True)
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
        connection.close()
        await running


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client over HTTP/2")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9003/")
    parser.add_argument("--ca", type=Path, help="PEM file: trust this authority as well")
    parser.add_argument("--streams", type=int, default=3, help="WebSockets at a time")
    parser.add_argument("--count", type=int, default=10, help="messages on each")
    parser.add_argument("--message", default="Hello, world")
    parser.add_argument("--subprotocol")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for an answer")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    try:
        import_module(args.loop).run(run(args))
    except (Failure, RemoteProtocolError, ProtocolError, OSError) as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
