"""A client that sends a message, waits for its echo, prints how long it took, and goes on.

    python examples/echo_client.py ws://127.0.0.1:9001/ --count 5

Without --count it goes on until Ctrl-C. Either way it says goodbye with a CLOSE of code 1000.
For a server whose certificate no public authority signed, such as echo_server_ssl.py: --ca FILE.
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
from time import perf_counter

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class EchoClient(WSListener):
    def __init__(self, message: str, count: int | None, interval: float) -> None:
        self.message = message
        self.count = count
        self.interval = interval
        self.received = 0
        self.sent_at = 0.0
        self.done = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.send(transport)

    def send(self, transport: WSTransport) -> None:
        self.sent_at = perf_counter()
        transport.send(WSMsgType.TEXT, self.message)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            microseconds = (perf_counter() - self.sent_at) * 1e6
            self.received += 1
            text = frame.get_payload_as_utf8_text()
            print(f"{self.received}: {text!r} after {microseconds:.0f} us", flush=True)
            if self.received == self.count:
                self.done.set()
            else:
                asyncio.get_running_loop().call_later(self.interval, self.send, transport)
        elif frame.msg_type == WSMsgType.CLOSE:
            # Either the answer to our CLOSE, and then this send_close does nothing, or the
            # server goes first and gets its own code back.
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.done.set()


async def run(args: argparse.Namespace) -> None:
    context = None
    if args.ca:
        context = ssl.create_default_context(cafile=args.ca)
    transport, client = await ws_connect(
        lambda: EchoClient(args.message, args.count, args.interval), args.url, ssl_context=context
    )
    assert isinstance(client, EchoClient)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, client.done.set)
    try:
        await client.done.wait()
    finally:
        transport.send_close(WSCloseCode.OK, b"done")
        try:
            await asyncio.wait_for(transport.wait_disconnected(), timeout=2)
        except asyncio.TimeoutError:
            transport.disconnect(graceful=False)
        close = transport.close_handshake
        answer = close.recv if close else None
        if answer is None:
            print(f"{client.received} echoes, then the connection was lost")
        else:
            print(f"{client.received} echoes, closed by the server with {answer.code}")


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--message", default="Hello, world")
    parser.add_argument("--count", type=int, help="end after so many echoes")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between messages")
    parser.add_argument("--ca", type=Path, help="PEM file: the authority to trust")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))


if __name__ == "__main__":
    main()
