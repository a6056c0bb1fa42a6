"""A WebSocket echo server over HTTP/2 (RFC 8441): many WebSockets on one connection.

    python examples/echo_http2_server.py --port 9003
    python examples/echo_http2_server.py --port 9003 --cert cert.pem --key key.pem

Without --cert it speaks HTTP/2 in the clear, to clients that know it (prior knowledge); browsers
want TLS. A browser that has loaded the page at / opens its WebSockets on the same connection.

Ctrl-C or SIGTERM ends it: clients are told with a CLOSE of code 1001 and have two seconds to
answer. How flow control makes a fast client wait is in http2_stream.py, beside this file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from http2_stream import PATIENCE, Http2Connection, Http2Stream, WebSocketStream

from picows.sansio import ConnectionType
from picows.sansio.events import CloseConnection
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.frame_protocol import CloseReason
from picows.sansio.handshake import server_extensions_handshake

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
SUBPROTOCOLS = ("echo", "chat")
PAGE = """<!doctype html>
<title>WebSocket over HTTP/2</title>
<link rel="icon" href="data:,">
<script>
const socket = new WebSocket(location.href.replace("http", "ws"));
socket.onopen = () => socket.send("Hello over HTTP/2");
socket.onmessage = (event) => { document.body.append(event.data); socket.close(1000); };
</script>
<body></body>
"""


class EchoServer:
    def __init__(self) -> None:
        self.connections: dict[Http2Connection, asyncio.Task[None]] = {}
        self.websockets: set[WebSocketStream] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            writer.transport.abort()
            return
        connection = Http2Connection(reader, writer, self.handle)
        task = asyncio.current_task()
        assert task is not None
        self.connections[connection] = task
        try:
            await connection.run()
        finally:
            del self.connections[connection]

    async def handle(self, stream: Http2Stream) -> None:
        method, path = stream.value(":method"), stream.value(":path")
        if method == "CONNECT" and stream.value(":protocol") == "websocket":
            if stream.value("sec-websocket-version") == "13":
                await self.echo(stream)
            else:
                await respond(stream, 400, "", ("sec-websocket-version", "13"))
        elif method not in ("GET", "HEAD"):
            await respond(stream, 501 if method == "CONNECT" else 405)
        elif path.partition("?")[0] != "/":
            await respond(stream, 404)
        else:
            await respond(stream, 200, PAGE, ("content-type", "text/html; charset=utf-8"))

    async def echo(self, stream: Http2Stream) -> None:
        # RFC 8441 section 5: a status instead of a 101, and no key to prove anything with.
        headers = [(":status", "200")]
        offered = [name.strip() for name in stream.value("sec-websocket-protocol").split(",")]
        subprotocol = next((name for name in offered if name in SUBPROTOCOLS), "")
        if subprotocol:
            headers.append(("sec-websocket-protocol", subprotocol))
        extensions = [PerMessageDeflate()]
        accepted = server_extensions_handshake(
            stream.values("sec-websocket-extensions"), extensions
        )
        if accepted:
            headers.append(("sec-websocket-extensions", accepted.decode()))
        await stream.answer(headers)
        tell(stream, "opened", subprotocol, accepted.decode() if accepted else "")

        websocket = WebSocketStream(stream, ConnectionType.SERVER, extensions)
        self.websockets.add(websocket)
        try:
            async for message in websocket:
                await websocket.send(message)
            assert websocket.closed is not None
            code, reason = websocket.closed.code, websocket.closed.reason
            tell(stream, f"ended with {int(code)}", repr(reason) if reason else "")
        except ConnectionError as exc:
            tell(stream, f"lost: {exc}")
        finally:
            self.websockets.discard(websocket)

    async def goodbye(self) -> None:
        leaving = CloseConnection(CloseReason.GOING_AWAY)
        tasks = [asyncio.ensure_future(each.send(leaving)) for each in self.websockets]
        tasks += [task for connection in self.connections for task in connection.tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)
        for connection in self.connections:
            connection.close()
        # Whatever waited for a peer raises ConnectionResetError now.
        await asyncio.gather(*tasks, *self.connections.values(), return_exceptions=True)


async def respond(
    stream: Http2Stream, status: int, body: str = "", *headers: tuple[str, str]
) -> None:
    """An ordinary answer."""
    tell(stream, f"{stream.value(':method')} {stream.value(':path')!r}", str(status))
    content = body.encode()
    length = ("content-length", str(len(content)))
    if stream.value(":method") == "HEAD":
        content = b""
    await stream.answer([(":status", str(status)), length, *headers], end=not content)
    if content:
        await stream.send(content, end=True)


def tell(stream: Http2Stream, *what: str) -> None:
    print(f"stream {stream.id}:", ", ".join(filter(None, what)), flush=True)


def server_context(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(args.cert, args.key)
    context.set_alpn_protocols(["h2"])
    return context


async def serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    context = server_context(args)
    echo = EchoServer()
    server = await asyncio.start_server(echo.connected, args.host, args.port, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        scheme = "ws" if context is None else "wss"
        print(f"listening on {scheme}://{args.host}:{port}/ ({args.loop}, HTTP/2)", flush=True)
        await stop.wait()
    finally:
        server.close()
        await echo.goodbye()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo server over HTTP/2")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9003, help="0: the system chooses")
    parser.add_argument("--cert", type=Path, help="PEM file: the certificate and its chain")
    parser.add_argument("--key", type=Path, help="PEM file: its key, when --cert has none")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(serve(args))


if __name__ == "__main__":
    main()
