"""How far away is a server? Measure it, and connect anew until it is near enough.

    python examples/okx_roundtrip_time.py --threshold 50
    python examples/okx_roundtrip_time.py ws://127.0.0.1:9001/ --threshold 0.5 --rounds 100

measure_roundtrip_time() sends PINGs, one after the other, and returns the seconds that each PONG
took. Behind one name stand several servers, and several ways lead there: a new connection may be a
quicker one. Without a URL it asks OKX, an exchange.

The exit code is 0 when the median of a connection was at most --threshold milliseconds, 1 when none
of --attempts was. Ctrl-C or SIGTERM ends it early.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from importlib import import_module
from importlib.util import find_spec
from statistics import median

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
OKX = "wss://ws.okx.com:8443/ws/v5/public"


class Client(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def say_goodbye(transport: WSTransport) -> None:
    transport.send_close(WSCloseCode.OK)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(transport.wait_disconnected(), timeout=2)
    transport.disconnect(graceful=False)


async def connect_nearby(args: argparse.Namespace) -> WSTransport | None:
    """A connection whose median is below the threshold; None, when none was."""
    for attempt in range(1, args.attempts + 1):
        try:
            transport, _ = await ws_connect(Client, args.url)
            try:
                seconds = await transport.measure_roundtrip_time(args.rounds)
            except BaseException:
                transport.disconnect(graceful=False)
                raise
        except (OSError, WSError, asyncio.TimeoutError) as exc:
            print(f"{attempt}: {type(exc).__name__}: {exc}", flush=True)
        else:
            least, middle, most = (1000 * f(seconds) for f in (min, median, max))
            print(f"{attempt}: {least:.3f} to {most:.3f} ms, median {middle:.3f}", flush=True)
            if middle <= args.threshold:
                return transport
            await say_goodbye(transport)
        if attempt < args.attempts:
            await asyncio.sleep(args.pause)
    return None


async def run(args: argparse.Namespace) -> int:
    task = asyncio.ensure_future(connect_nearby(args))
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    try:
        transport = await task
    except asyncio.CancelledError:
        print("stopped")
        return 1
    if transport is None:
        print(f"no connection was within {args.threshold:g} ms")
        return 1
    print("near enough; here the program would begin its work")
    await say_goodbye(transport)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="round-trip times to a WebSocket server")
    parser.add_argument("url", nargs="?", default=OKX)
    parser.add_argument("--threshold", type=float, default=100.0, help="milliseconds")
    parser.add_argument("--rounds", type=int, default=10, help="PINGs on each connection")
    parser.add_argument("--attempts", type=int, default=5, help="connections, at most")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between attempts")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    try:
        code: int = import_module(args.loop).run(run(args))
    except KeyboardInterrupt:
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
