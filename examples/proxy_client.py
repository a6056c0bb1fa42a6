"""Through a proxy: HTTP, HTTPS, SOCKS4 or SOCKS5.

    python examples/proxy_client.py ws://server.example/ --proxy http://127.0.0.1:8888
    python examples/proxy_client.py wss://server.example/ --proxy socks5://user:pw@127.0.0.1:1080

The proxy opens a tunnel; what goes through it, TLS included, is between the client and the server,
whose name is resolved at the proxy (at home for SOCKS4, which knows addresses only). User and
password in the URL are percent-encoded.

picows asks neither the environment nor the system for a proxy. --system-proxy shows how: what
urllib.request.getproxies() finds in http_proxy, https_proxy, no_proxy and the like, or in the
settings of macOS and Windows.

It sends a message, prints the first that comes back, and says goodbye.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from importlib import import_module
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


def system_proxy(url: str) -> str | None:
    """The system's proxy for a ws:// or wss:// URL; None where it wants none."""
    parts = urlsplit(url)
    if proxy_bypass(f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or ""):
        return None
    # What holds for http:// and https:// URLs holds for their WebSockets.
    proxies = getproxies()
    return proxies.get("https" if parts.scheme == "wss" else "http") or proxies.get("all")


class Client(WSListener):
    def __init__(self, message: str) -> None:
        self.message = message

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.send(WSMsgType.TEXT, self.message)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            print(f"received {frame.get_payload_as_utf8_text()!r}", flush=True)
            transport.send_close(WSCloseCode.OK, b"done")
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def run(args: argparse.Namespace) -> None:
    proxy = system_proxy(args.url) if args.system_proxy else args.proxy
    if proxy is None:
        print("without a proxy")
    else:
        print("through", urlsplit(proxy).netloc.rpartition("@")[2])  # not the password
    transport, _ = await ws_connect(lambda: Client(args.message), args.url, proxy=proxy)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, transport.disconnect)
    await transport.wait_disconnected()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket client that goes through a proxy")
    parser.add_argument("url")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--proxy", help="the proxy's URL")
    which.add_argument("--system-proxy", action="store_true", help="the one of the environment")
    parser.add_argument("--message", default="Hello, world")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))


if __name__ == "__main__":
    main()
