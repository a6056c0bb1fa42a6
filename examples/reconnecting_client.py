"""A client that stays connected: whatever goes wrong, it connects again.

    python examples/reconnecting_client.py ws://127.0.0.1:9001/

Stop echo_server.py and start it again to see it work. Three things make this kind to the server and
to you:

* Exponential back-off with full jitter: before the next attempt it waits a random time between 0
  and --first-delay, which doubles with each failure, up to --max-delay. Without the chance in it,
  all clients of a server that was restarted would come back at the same moments.
* Only a connection that has lasted (--lasted) makes it forget its failures. One that is accepted
  and thrown out at once counts as another.
* Auto ping: a peer that vanished says no goodbye. After --ping-after silent seconds it is asked,
  and when it does not answer within as many it is given up.

Any error leads to the next attempt, but asyncio.CancelledError: that is how Ctrl-C, SIGTERM or a
timeout end the loop. It is no Exception, so that "except Exception" lets it through.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import random
import signal
from importlib import import_module
from importlib.util import find_spec
from time import monotonic

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class Client(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        # What has to be done on each connection: log in, subscribe.
        transport.send(WSMsgType.TEXT, "hello")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            print(f"received {frame.get_payload_as_utf8_text()!r}", flush=True)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def until_the_end(transport: WSTransport) -> None:
    try:
        await transport.wait_disconnected()
    except asyncio.CancelledError:
        transport.send_close(WSCloseCode.GOING_AWAY)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(transport.wait_disconnected(), timeout=2)
        raise
    finally:
        transport.disconnect(graceful=False)


async def stay_connected(args: argparse.Namespace) -> None:
    longest = args.first_delay
    while True:
        connected_at = math.inf
        try:
            transport, _ = await ws_connect(
                Client,
                args.url,
                enable_auto_ping=True,
                auto_ping_idle_timeout=args.ping_after,
                auto_ping_reply_timeout=args.ping_after,
            )
            connected_at = monotonic()
            await until_the_end(transport)
            print("the connection has ended")
        except Exception as exc:
            print(f"{type(exc).__name__}: {exc}")
        if monotonic() - connected_at >= args.lasted:
            longest = args.first_delay
        delay = random.uniform(0, longest)
        print(f"again in {delay:.3f} of at most {longest:.3f} s", flush=True)
        await asyncio.sleep(delay)
        longest = min(2 * longest, args.max_delay)


async def run(args: argparse.Namespace) -> None:
    task = asyncio.ensure_future(stay_connected(args))
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        print("stopped")


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket client that stays connected")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--first-delay", type=float, default=0.5, help="seconds, at most")
    parser.add_argument("--max-delay", type=float, default=30.0, help="seconds")
    parser.add_argument("--lasted", type=float, default=10.0, help="seconds")
    parser.add_argument("--ping-after", type=float, default=10.0, help="silent seconds")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))


if __name__ == "__main__":
    main()
