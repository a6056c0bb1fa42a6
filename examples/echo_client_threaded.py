"""An echo client for a program that is no asyncio program: the loop runs in a thread of its own.

    python examples/echo_client_threaded.py ws://127.0.0.1:9001/ --threads 4 --count 100

A transport belongs to the thread of its loop. From another thread its methods raise RuntimeError,
and the way over is loop.call_soon_threadsafe(transport.send, ...). What comes back goes into a
queue.SimpleQueue, from which any thread may take it.

Each of the threads sends its messages, and the main thread takes the echoes. Ctrl-C or SIGTERM ends
it early; either way it says goodbye with a CLOSE of code 1000. The signals go into that queue too,
by way of a thread that waits for them: raised as KeyboardInterrupt, one could come out where a lock
has just been taken, which then nobody gives back.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from importlib import import_module
from importlib.util import find_spec

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]


class End(Enum):
    """Why no more echoes are waited for."""

    DISCONNECTED = "the server went away"
    STOPPED = "stopped"


Received = queue.SimpleQueue[str | End]


class Listener(WSListener):
    """Runs in the loop's thread."""

    def __init__(self, received: Received) -> None:
        self.received = received

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.received.put(frame.get_payload_as_utf8_text())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.received.put(End.DISCONNECTED)


class ThreadedClient:
    """A connection for all threads but the loop's."""

    def __init__(self, url: str, loop: str) -> None:
        self.received: Received = queue.SimpleQueue()
        self._connected: Future[tuple[asyncio.AbstractEventLoop, WSTransport]] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(url, loop), daemon=True)
        self._thread.start()
        self.loop, self.transport = self._connected.result()  # or what ws_connect raised

    def _run(self, url: str, loop: str) -> None:
        try:
            self._ended.set_result(import_module(loop).run(self._main(url)))
        except BaseException as exc:
            (self._ended if self._connected.done() else self._connected).set_exception(exc)

    async def _main(self, url: str) -> None:
        transport, _ = await ws_connect(lambda: Listener(self.received), url)
        self._connected.set_result((asyncio.get_running_loop(), transport))
        await transport.wait_disconnected()

    def send(self, text: str) -> None:
        # Once the connection is gone this does nothing; once the loop is, it raises RuntimeError.
        self.loop.call_soon_threadsafe(self.transport.send, WSMsgType.TEXT, text)

    def close(self, patience: float = 2.0) -> None:
        """Say goodbye, wait for the end, and raise what ended it, if that was a fault."""
        try:
            self.loop.call_soon_threadsafe(self.transport.send_close, WSCloseCode.OK, "done")
            self._thread.join(patience)
            self.loop.call_soon_threadsafe(self.transport.disconnect, False)
        except RuntimeError:
            pass  # the loop has ended
        self._thread.join()
        self._ended.result()


def wait_for_signal(signals: set[signal.Signals], received: Received) -> None:
    signal.sigwait(signals)
    received.put(End.STOPPED)


def work(client: ThreadedClient, name: str, count: int) -> None:
    for number in range(count):
        client.send(f"{name} {number}")


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo client for threads")
    parser.add_argument("url", nargs="?", default="ws://127.0.0.1:9001/")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--count", type=int, default=100, help="messages that each of them sends")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # in this thread and all that it starts

    client = ThreadedClient(args.url, args.loop)
    waiting = (signals, client.received)
    threading.Thread(target=wait_for_signal, args=waiting, daemon=True).start()
    echoes: dict[str, list[int]] = {f"thread-{index}": [] for index in range(args.threads)}
    try:
        try:
            client.transport.send(WSMsgType.TEXT, "from the wrong thread")
        except RuntimeError as exc:
            print(f"RuntimeError: {exc}", flush=True)
        with ThreadPoolExecutor(args.threads) as pool:
            for name in echoes:
                pool.submit(work, client, name, args.count)
            while sum(map(len, echoes.values())) < args.threads * args.count:
                text = client.received.get()
                if isinstance(text, End):
                    print(text.value)
                    break
                name, number = text.split()
                echoes[name].append(int(number))
    finally:
        client.close()
    for name, numbers in echoes.items():
        order = "in order" if numbers == sorted(numbers) else "in disorder"
        print(f"{name}: {len(numbers)} echoes, {order}")


if __name__ == "__main__":
    main()
