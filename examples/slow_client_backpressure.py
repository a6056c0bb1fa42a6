"""A client that reads too slowly, and a server that notices and stops: memory stays flat.

    python examples/slow_client_backpressure.py             # the producer waits
    python examples/slow_client_backpressure.py --skip      # what cannot go out now never does

A server and its client, in one program. The client calls pause_reading(): its loop takes nothing
from the socket, TCP's window closes, and the server's transport has to queue what the kernel does
not take. Over its high-water mark it calls pause_writing(), and once it has drained
resume_writing(). In between the server either holds its producer (a file, a database: all of it
matters) or skips (prices: the newest matters). A server that did neither would queue without end.

It ends when all is produced, or by Ctrl-C.
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
    ws_connect,
    ws_create_server,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
SIZE = 16 * 1024  # bytes in a tick


class Feed(WSListener):
    """The server's side: a producer for each client, which heeds how fast that client reads."""

    def __init__(self, ticks: int, skip: bool) -> None:
        self.ticks = ticks
        self.skip = skip
        self.writable = asyncio.Event()
        self.writable.set()
        self.stopped = asyncio.Event()
        self.pauses = 0
        self.skipped = 0
        self.most_waiting = 0  # bytes

    def pause_writing(self) -> None:
        self.pauses += 1
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.producer = asyncio.get_running_loop().create_task(self.produce(transport))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.producer.cancel()

    async def produce(self, transport: WSTransport) -> None:
        for number in range(self.ticks):
            await asyncio.sleep(0)  # others want to run, too
            if not self.writable.is_set():
                self.stopped.set()
                if self.skip:
                    self.skipped += 1
                    continue
                await self.writable.wait()
            transport.send(WSMsgType.BINARY, number.to_bytes(SIZE, "big"))
            waiting = transport.underlying_transport.get_write_buffer_size()
            self.most_waiting = max(self.most_waiting, waiting)
        self.stopped.set()
        transport.send_close(WSCloseCode.OK)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


class SlowClient(WSListener):
    def __init__(self) -> None:
        self.received = 0
        self.gaps = 0
        self.expected = 0

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.pause_reading()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            number = int.from_bytes(frame.get_payload_as_memoryview(), "big")
            self.received += 1
            self.gaps += number != self.expected
            self.expected = number + 1
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def run(args: argparse.Namespace) -> None:
    feed = Feed(args.ticks, args.skip)  # for the one client that there will be
    server = await ws_create_server(lambda request: feed, "127.0.0.1", 0)
    try:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        transport, client = await ws_connect(SlowClient, url)
        assert isinstance(client, SlowClient)
        await feed.stopped.wait()
        print(f"the client reads nothing, {feed.most_waiting} bytes wait in the server", flush=True)
        transport.resume_reading()
        await transport.wait_disconnected()
        print(f"{client.received} of {args.ticks} ticks of 16 KiB arrived, {client.gaps} gaps")
        print(f"{feed.skipped} skipped by the server, which was told to pause {feed.pauses} times")
        print(f"at most {feed.most_waiting} bytes waited in the server")
    finally:
        await server.shutdown(timeout=2)


def main() -> None:
    parser = argparse.ArgumentParser(description="backpressure, from a slow client to the producer")
    parser.add_argument("--ticks", type=int, default=2000)
    parser.add_argument("--skip", action="store_true", help="drop what cannot go out now")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))


if __name__ == "__main__":
    main()
