"""How connections end: the CLOSE handshake from either side, and a whole server that goes.

    python examples/graceful_shutdown.py

A server and its clients, in one program. RFC 6455 section 7: whoever wants to end sends a CLOSE,
the other side answers with a CLOSE, and then the connection below is closed. picows leaves both to
the listener: a CLOSE is delivered like any frame, disconnect() sends none. No guards are needed:
after the first send_close() every send is a no-op, and disconnect() may be called again.

A peer may also keep silent, so whoever goes first sets a limit of --patience seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from importlib import import_module
from importlib.util import find_spec

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


class Polite(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            # Is it the answer to our own CLOSE? Then this send_close() does nothing.
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


class Silent(WSListener):
    """Does not answer a CLOSE."""


async def close(transport: WSTransport, code: int, reason: str, patience: float) -> None:
    """Go first: send a CLOSE, and wait for the answer and the end."""
    transport.send_close(code, reason)
    try:
        await asyncio.wait_for(transport.wait_disconnected(), patience)
    except asyncio.TimeoutError:
        transport.disconnect(graceful=False)
        await transport.wait_disconnected()


def report(transport: WSTransport) -> None:
    side = "client" if transport.is_client_side else "server"
    handshake = transport.close_handshake
    assert handshake is not None
    for verb, frame in (("sent", handshake.sent), ("received", handshake.recv)):
        if frame is None:
            print(f"  the {side} {verb} no CLOSE")
        else:
            print(f"  the {side} {verb} {frame.code:d} {frame.reason or ''}".rstrip())


async def run(patience: float) -> None:
    accepted: asyncio.Queue[WSTransport] = asyncio.Queue()

    class Accepted(Polite):
        def on_ws_connected(self, transport: WSTransport) -> None:
            accepted.put_nowait(transport)

    def router(request: WSUpgradeRequest) -> WSListener:
        return Silent() if request.path == b"/silent" else Accepted()

    server = await ws_create_server(router, "127.0.0.1", 0)
    try:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        print("the client goes first:")
        client, _ = await ws_connect(Polite, url + "/")
        theirs = await accepted.get()
        await close(client, WSCloseCode.OK, "done", patience)
        await theirs.wait_disconnected()
        report(client)
        report(theirs)

        print("the server goes first:")
        client, _ = await ws_connect(Polite, url + "/")
        theirs = await accepted.get()
        await close(theirs, WSCloseCode.SERVICE_RESTART, "back in a minute", patience)
        await client.wait_disconnected()
        report(theirs)
        report(client)

        print("a server that does not answer:")
        client, _ = await ws_connect(Polite, url + "/silent")
        await close(client, WSCloseCode.OK, "anybody there?", patience)
        report(client)

        print("server.shutdown(), with one polite and one silent client:")
        clients = [(await ws_connect(kind, url + "/"))[0] for kind in (Polite, Silent)]
        # Accepts no more, sends each client a CLOSE, and cuts off who has not answered in time.
        await server.shutdown(WSCloseCode.GOING_AWAY, timeout=patience)
        for client in clients:
            await client.wait_disconnected()
            report(client)
    finally:
        await server.shutdown(timeout=patience)


def main() -> None:
    parser = argparse.ArgumentParser(description="the CLOSE handshake, both ways")
    parser.add_argument("--patience", type=float, default=1.0, help="seconds to wait for an answer")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args.patience))


if __name__ == "__main__":
    main()
