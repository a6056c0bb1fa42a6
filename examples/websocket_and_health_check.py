"""WebSocket and plain HTTP on one port: what the listener factory may answer.

    python examples/websocket_and_health_check.py --port 9001

    curl -i http://127.0.0.1:9001/health     200, with the number of clients
    curl -I http://127.0.0.1:9001/health     HEAD: the same fields, no body
    curl -i http://127.0.0.1:9001/old        308, to /
    curl -i http://127.0.0.1:9001/nothing    404
    python examples/echo_client.py ws://127.0.0.1:9001/

The factory is called with each request, before anybody asks whether it is a WebSocket's. It
returns a listener (101), a response, or None (404). A client that wants a WebSocket goes the same
way: ws_connect follows the redirect.

A browser says in Origin whose page it is that connects. The cookies of its user come along from any
page, so a server that trusts cookies answers 403 to the others: --origin https://example.org.

Ctrl-C or SIGTERM ends it, as in echo_server.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec

from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class EchoListener(WSListener):
    def __init__(self, clients: set[EchoListener]) -> None:
        self.clients = clients

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.clients.add(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), fin=frame.fin)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.clients.discard(self)


class Router:
    """The listener factory: any callable will do."""

    def __init__(self, origin: str | None) -> None:
        self.origin = origin
        self.clients: set[EchoListener] = set()

    def __call__(
        self, request: WSUpgradeRequest
    ) -> WSListener | WSUpgradeResponseWithListener | None:
        path = request.path.partition(b"?")[0]
        if path == b"/":
            # No Origin: it is no browser, and has no cookies of anybody else.
            if self.origin not in (None, request.headers.get("Origin", self.origin)):
                return answer(WSUpgradeResponse.create_error_response(HTTPStatus.FORBIDDEN))
            return EchoListener(self.clients)
        if path == b"/health":
            body = json.dumps({"status": "ok", "clients": len(self.clients)}).encode()
            fields = {"Content-Type": "application/json", "Cache-Control": "no-store"}
            return answer(WSUpgradeResponse.create_ok_response(body, fields))
        if path == b"/old":
            status = HTTPStatus.PERMANENT_REDIRECT
            return answer(WSUpgradeResponse.create_redirect_response(status, "/"))
        return None


def answer(response: WSUpgradeResponse) -> WSUpgradeResponseWithListener:
    return WSUpgradeResponseWithListener(response, None)


async def serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    server = await ws_create_server(Router(args.origin), args.host, args.port)
    try:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on ws://{args.host}:{port}/ ({args.loop})", flush=True)
        await stop.wait()
    finally:
        await server.shutdown(timeout=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket and HTTP on one port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="0: the system chooses")
    parser.add_argument("--origin", help="the one site whose pages may connect")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(serve(args))


if __name__ == "__main__":
    main()
