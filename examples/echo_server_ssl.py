"""The echo server over TLS.

With a certificate of your own:

    python examples/echo_server_ssl.py --port 9002 --cert cert.pem --key key.pem

Without --cert, the package `trustme` (pip install trustme) makes an authority and a certificate
for localhost that live as long as the server. --ca-out stores the authority, so that a client can
verify the server as it would any other:

    python examples/echo_server_ssl.py --port 9002 --ca-out /tmp/ca.pem
    python examples/echo_client.py wss://localhost:9002/ --ca /tmp/ca.pem

Without trustme either, openssl makes a certificate which is its own authority (--ca cert.pem):

    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout key.pem -out cert.pem \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1

Ctrl-C or SIGTERM ends the server, as in echo_server.py.
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


def server_context(args: argparse.Namespace) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if args.cert:
        context.load_cert_chain(args.cert, args.key)
    else:
        import trustme

        authority = trustme.CA()
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        if args.ca_out:
            authority.cert_pem.write_to_path(str(args.ca_out))
    return context


async def serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    server = await ws_create_server(
        new_connection,
        "127.0.0.1",
        args.port,
        ssl=server_context(args),
        use_aiofastnet=args.aiofastnet,
    )
    try:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on wss://localhost:{port}/ ({args.loop})", flush=True)
        await stop.wait()
    finally:
        await server.shutdown(timeout=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo server over TLS")
    parser.add_argument("--port", type=int, default=9002, help="0: the system chooses")
    parser.add_argument("--cert", type=Path, help="PEM file: the certificate and its chain")
    parser.add_argument("--key", type=Path, help="PEM file: its key, when --cert has none")
    parser.add_argument("--ca-out", type=Path, help="where to store the authority's certificate")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    parser.add_argument(
        "--aiofastnet",
        action=argparse.BooleanOptionalAction,
        help="aiofastnet's transports, or the event loop's own; by default what is fastest",
    )
    args = parser.parse_args()
    if args.cert is None and not find_spec("trustme"):
        parser.error("--cert (and --key) are needed, since trustme is not installed")
    if args.cert is not None and args.ca_out is not None:
        parser.error("--ca-out goes with the certificate made here, not with --cert")
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(serve(args))


if __name__ == "__main__":
    main()
