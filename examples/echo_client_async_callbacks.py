"""Coroutines instead of callbacks: an echo client that starts a task for each frame.

    python examples/echo_client_async_callbacks.py ws://127.0.0.1:9001/ --count 10

picows calls plain functions, which is quickest. Start a task where the answer to a frame has to
await something (a database, another service), and no earlier. A frame stays what it is for as long
as somebody holds it, so it goes into its task as it came: there is nothing to copy first.

From Python 3.12 on the tasks are eager: each runs at once, inside of on_ws_frame, up to the first
await that has to wait. Before, it begins in the loop's next cycle. Either way tasks begin in the
order of their frames, and overtake each other in whatever they await. Where order counts, as here,
they queue for an asyncio.Lock, which is fair: first come, first served.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    ws_connect,
)

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


def start(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    return loop.create_task(coroutine)


class EchoClient(WSListener):
    """A coroutine for each frame but CLOSE. No exception is lost, and no task."""

    transport: WSTransport

    def __init__(self, count: int, work: float) -> None:
        self.count = count
        self.work = work
        self.received = 0
        self.in_order = asyncio.Lock()
        self.done = asyncio.Event()
        # The loop itself keeps weak references only: a task that nobody holds may vanish.
        self.tasks: set[asyncio.Task[None]] = set()
        self.failure: BaseException | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        for number in range(self.count):
            transport.send(WSMsgType.TEXT, str(number))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        task = start(self.on_frame(frame))
        if task.done():
            task.result()  # it did not have to wait; what it raised leaves as out of any callback
        else:
            self.tasks.add(task)
            task.add_done_callback(self.on_task_done)

    async def on_frame(self, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.BINARY:
            raise WSProtocolError(WSCloseCode.UNSUPPORTED_DATA, "only text is understood here")
        async with self.in_order:
            print(f"{self.received}: at work", flush=True)
            await asyncio.sleep(random.uniform(self.work / 2, self.work))
            # The callback returned long ago, and the frame is what it was.
            text = frame.get_payload_as_utf8_text()
            if text != str(self.received):
                raise ValueError(f"{self.received} expected, not {text!r}")
            self.received += 1
        if self.received == self.count:
            self.done.set()

    def on_task_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self.failure = self.failure or failure
            code: int = WSCloseCode.INTERNAL_ERROR
            if isinstance(failure, WSProtocolError):
                code = failure.code
            # As the library does it, when a callback raises.
            self.transport.send_close(code)
            self.transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.done.set()

    async def finish(self) -> None:
        """Cancel the tasks that are left, wait for them, and raise what a task has raised."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.failure is not None:
            raise self.failure


async def run(args: argparse.Namespace) -> None:
    client = EchoClient(args.count, args.work)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, client.done.set)
    transport, _ = await ws_connect(lambda: client, args.url)
    try:
        await client.done.wait()
        transport.send_close(WSCloseCode.OK, b"done")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(transport.wait_disconnected(), timeout=2)
    finally:
        transport.disconnect(graceful=False)
        print(f"{client.received} echoes in order, {len(client.tasks)} tasks to cancel")
        await client.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client with a task for each frame")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--count", type=int, default=10, help="messages to send")
    parser.add_argument("--work", type=float, default=0.01, help="seconds, at most, for each echo")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        import_module(args.loop).run(run(args))


if __name__ == "__main__":
    main()
