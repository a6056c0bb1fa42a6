"""`async for frame in client`: an echo client that awaits its frames.

    python examples/echo_client_async_iteration.py ws://127.0.0.1:9001/ --count 100

The price, against a callback: each frame waits in an asyncio.Queue until the loop's next cycle
wakes the reader up. It is not copied: a frame that is kept stays what it is, so it goes into the
queue as it came.

A queue grows while its reader is slow. This one holds at most --limit frames: then the transport
stops reading, TCP makes the server wait, and memory stays flat. Ctrl-C or SIGTERM says goodbye, and
what is still on its way is read to the end, within two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from importlib import import_module
from importlib.util import find_spec

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class FrameStream(WSListener):
    """Frames to await. The iteration ends when the connection has ended and all are read."""

    transport: WSTransport

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.most = 0
        self.queue: asyncio.Queue[WSFrame | None] = asyncio.Queue()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        self.queue.put_nowait(frame)
        self.most = max(self.most, self.queue.qsize())
        if self.queue.qsize() >= self.limit:
            # No further frame comes, not even one that has been read already.
            transport.pause_reading()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.queue.put_nowait(None)

    async def receive(self) -> WSFrame | None:
        """The next frame; None when there is and will be none."""
        frame = await self.queue.get()
        if frame is None:
            self.queue.put_nowait(None)  # for whoever asks again
        elif self.queue.qsize() <= self.limit // 2:
            self.transport.resume_reading()  # does nothing where reading was not paused
        return frame

    def __aiter__(self) -> FrameStream:
        return self

    async def __anext__(self) -> WSFrame:
        frame = await self.receive()
        if frame is None:
            raise StopAsyncIteration
        return frame

    def say_goodbye(self, patience: float = 2.0) -> None:
        self.transport.send_close(WSCloseCode.OK, b"done")
        # In vain, if the server has answered by then.
        asyncio.get_running_loop().call_later(patience, self.transport.disconnect, False)


async def run(args: argparse.Namespace) -> None:
    transport, client = await ws_connect(lambda: FrameStream(args.limit), args.url)
    assert isinstance(client, FrameStream)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, client.say_goodbye)
    try:
        transport.send(WSMsgType.TEXT, "Are you there?")
        first = await client.receive()
        print("no answer" if first is None else first.get_payload_as_utf8_text(), flush=True)

        for number in range(args.count):
            transport.send(WSMsgType.TEXT, str(number))
        received = 0
        async for frame in client:
            if frame.get_payload_as_utf8_text() != str(received):
                raise ValueError(f"{received} expected, not {frame.get_payload_as_bytes()!r}")
            received += 1
            if received == args.count:
                client.say_goodbye()
            await asyncio.sleep(args.work)  # a reader that is slower than the server
        print(f"{received} echoes in order, at most {client.most} waited")
    finally:
        transport.disconnect(graceful=False)
        # Raises what ended the connection, if that was a fault of ours or of the server's.
        await transport.wait_disconnected()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client that awaits its frames")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--count", type=int, default=100, help="messages to send")
    parser.add_argument("--limit", type=int, default=16, help="frames that may wait")
    parser.add_argument("--work", type=float, default=0.001, help="seconds for each echo")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))


if __name__ == "__main__":
    main()
