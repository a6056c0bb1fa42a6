"""An echo server: every text and binary frame goes back to the client that sent it.

    python examples/echo_server.py --port 9001

It prints the address that it listens on (port 0 lets the system choose one). Ctrl-C or SIGTERM
ends it: connected clients are told with a CLOSE of code 1001 and have two seconds to answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from importlib import import_module
from importlib.util import find_spec

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
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
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    server = await ws_create_server(
        new_connection, args.host, args.port, use_aiofastnet=args.aiofastnet
    )
    try:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on ws://{args.host}:{port}/ ({args.loop})", flush=True)
        await stop.wait()
    finally:
        await server.shutdown(timeout=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0: the system chooses")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    parser.add_argument(
        "--aiofastnet",
        action=argparse.BooleanOptionalAction,
        help="aiofastnet's transports, or the event loop's own; by default what is fastest",
    )
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(serve(args))


if __name__ == "__main__":
    main()
