"""An echo server on several threads: each has its own event loop, all listen on the same port.

    python examples/echo_server_threaded.py --port 9001 --threads 4

With reuse_port=True (SO_REUSEPORT: Linux, BSD, macOS) several sockets listen on one port. Linux
spreads new connections over them; a connection then stays with its thread, so that nothing is
shared and nothing needs a lock. With the GIL, threads share one core for what is Python; processes
started in the same way do not.

Ctrl-C or SIGTERM ends it: the main thread tells each loop by call_soon_threadsafe, each tells its
clients with a CLOSE of code 1001, and they have two seconds to answer.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from concurrent.futures import Future
from importlib import import_module
from importlib.util import find_spec

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
    def on_ws_connected(self, transport: WSTransport) -> None:
        host, port = transport.underlying_transport.get_extra_info("peername")
        # One write for the whole line: other threads print, too.
        print(f"{threading.current_thread().name} serves {host}:{port}\n", end="", flush=True)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            transport.send(frame.msg_type, frame.get_payload_as_memoryview(), fin=frame.fin)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


def new_connection(request: WSUpgradeRequest) -> WSListener:
    return EchoListener()


class ServerThread:
    """A thread with a loop and a server. `port` is there once it listens."""

    def __init__(self, name: str, port: int, loop: str) -> None:
        self._listening: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(port, loop), name=name)
        self._thread.start()
        self.port = self._listening.result()  # or what ws_create_server raised

    def _run(self, port: int, loop: str) -> None:
        try:
            import_module(loop).run(self._serve(port))
        except BaseException as exc:
            if self._listening.done():
                raise
            self._listening.set_exception(exc)

    async def _serve(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await ws_create_server(new_connection, "127.0.0.1", port, reuse_port=True)
        self._listening.set_result(server.sockets[0].getsockname()[1])
        try:
            await self._stop.wait()
        finally:
            await server.shutdown(timeout=2)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebSocket echo server on several threads")
    parser.add_argument("--port", type=int, default=9001, help="0: the system chooses")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    args = parser.parse_args()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # in this thread and all that it starts

    servers: list[ServerThread] = []
    port = args.port
    try:
        for number in range(args.threads):
            servers.append(ServerThread(f"thread-{number}", port, args.loop))
            port = servers[-1].port  # the first one's, for all
        print(f"listening on ws://127.0.0.1:{port}/ ({args.loop})", flush=True)
        signal.sigwait(signals)
    finally:
        for server in servers:
            server.stop()
        for server in servers:
            server.join()


if __name__ == "__main__":
    main()
