"""Subprotocols: the client offers some, the server chooses one, and both know which.

    python examples/subprotocol_negotiation.py

A server and its clients, in one program. The client offers in Sec-WebSocket-Protocol and reads the
choice from transport.response.headers. The server chooses in the listener factory, which so may
return another kind of listener for each. RFC 6455 section 4.2.2 lets the server go on without one;
then it should be clear which protocol is spoken. This server takes "offered none" for a client that
is older than subprotocols, and answers 400 where none of the offered fits.

picows itself guards one thing: nothing is accepted that was not offered. A server that tries gets
its own 500, a client that is told so a WSInvalidHeaderError.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec

from picows import (
    WSCloseCode,
    WSFrame,
    WSInvalidStatusError,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_connect,
    ws_create_server,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
FIELD = "Sec-WebSocket-Protocol"


class Greeter(WSListener):
    """Greets, and ends the connection; subclasses know in which words."""

    def greeting(self) -> str:
        return "hello"

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, self.greeting())
        transport.send_close(WSCloseCode.OK)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


class JsonGreeter(Greeter):
    def greeting(self) -> str:
        return json.dumps({"greeting": "hello"})


# What the server speaks; what it likes best comes first.
SPOKEN: dict[str, type[Greeter]] = {"greeting.v2.json": JsonGreeter, "greeting.v1": Greeter}


def router(request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
    # The list may be spread over several fields; names compare with case.
    offered = [
        name.strip() for value in request.headers.getall(FIELD, []) for name in value.split(",")
    ]
    if not offered:
        return Greeter()
    for name, kind in SPOKEN.items():
        if name in offered:
            response = WSUpgradeResponse.create_101_response({FIELD: name})
            return WSUpgradeResponseWithListener(response, kind())
    body = f"spoken here: {', '.join(SPOKEN)}".encode()
    response = WSUpgradeResponse.create_error_response(HTTPStatus.BAD_REQUEST, body)
    return WSUpgradeResponseWithListener(response, None)


class Client(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            chosen = transport.response.headers.get(FIELD, "none")
            print(f"  chosen: {chosen}, received: {frame.get_payload_as_utf8_text()}")
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def connect(url: str, offered: str) -> None:
    print(f"offered: {offered or 'none'}")
    fields = {FIELD: offered} if offered else {}
    try:
        transport, _ = await ws_connect(Client, url, extra_headers=fields)
        await transport.wait_disconnected()
    except WSInvalidStatusError as exc:
        assert exc.response is not None
        print(f"  refused: {exc.response.status:d}, {(exc.raw_body or b'').decode()}")


async def run(offers: list[str]) -> None:
    server = await ws_create_server(router, "127.0.0.1", 0)
    try:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for offered in offers:
            await connect(url, offered)
    finally:
        await server.shutdown(timeout=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="how a subprotocol is agreed on")
    parser.add_argument(
        "offers",
        nargs="*",
        default=["greeting.v1, greeting.v2.json", "greeting.v1", "", "chess"],
        help="what to offer: names, separated by commas; one connection for each argument",
    )
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args.offers))


if __name__ == "__main__":
    main()
