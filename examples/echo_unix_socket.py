"""WebSocket over a Unix socket: for two programs on one machine, with no port and no TCP between.

    python examples/echo_unix_socket.py server /tmp/echo.sock
    python examples/echo_unix_socket.py client /tmp/echo.sock --count 5

The server is told path= instead of host and port. The client's URL names the socket, a colon, and
the path that is asked for: ws+unix:///tmp/echo.sock:/. Who may connect is a matter of the file's
permissions and of its folder's.

Ctrl-C or SIGTERM ends the server, as in echo_server.py; the file goes with it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class EchoListener(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), fin=frame.fin)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


def new_connection(request: WSUpgradeRequest) -> WSListener:
    return EchoListener()


async def serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = await ws_create_server(new_connection, path=args.path)
    try:
        print(f"listening on ws+unix://{args.path}:/ ({args.loop})", flush=True)
        await stop.wait()
    finally:
        await server.shutdown(timeout=2)


class EchoClient(WSListener):
    def __init__(self, count: int) -> None:
        self.count = count
        self.received = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.send(transport)

    def send(self, transport: WSTransport) -> None:
        self.sent_at = perf_counter()
        transport.send(WSMsgType.TEXT, f"message {self.received}")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            microseconds = (perf_counter() - self.sent_at) * 1e6
            self.received += 1
            print(f"{frame.get_payload_as_utf8_text()!r} after {microseconds:.0f} us")
            if self.received < self.count:
                self.send(transport)
            else:
                transport.send_close(WSCloseCode.OK, b"done")
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def connect(args: argparse.Namespace) -> None:
    transport, _ = await ws_connect(lambda: EchoClient(args.count), f"ws+unix://{args.path}:/")
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, transport.disconnect)
    await transport.wait_disconnected()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo over a Unix socket")
    parser.add_argument("role", choices=("server", "client"))
    parser.add_argument("path", type=os.path.abspath, help="the socket's file")
    parser.add_argument("--count", type=int, default=5, help="echoes that the client waits for")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    import_module(args.loop).run(serve(args) if args.role == "server" else connect(args))


if __name__ == "__main__":
    main()
