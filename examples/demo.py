"""What `make demo` runs: an echo server in one process, a client in another, on loopback.

    python examples/demo.py [--seconds 3] [--size 32] [--tls] [--loop asyncio] [--no-aiofastnet]

One message is in the air at a time. The client sends the next when the echo of the last is in, and
prints round trips per second and the latency in microseconds. The exit code is 0 when every echo
was right. Ctrl-C ends it early, with the numbers so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import subprocess
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

HERE = Path(__file__).parent
LOOPS = [name for name in ("uvloop", "asyncio") if find_spec(name)]
WARM_UP = 200  # round trips, not counted


class RoundTrips(WSListener):
    def __init__(self, size: int, seconds: float) -> None:
        self.payload = bytes(i & 0xFF for i in range(size))
        self.seconds = seconds
        self.latencies: list[float] = []
        self.wrong = 0
        self.sent_at = 0.0
        self.ends_at = 0.0

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.ends_at = perf_counter() + self.seconds
        self.send(transport)

    def send(self, transport: WSTransport) -> None:
        self.sent_at = perf_counter()
        transport.send(WSMsgType.BINARY, self.payload)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        now = perf_counter()
        if frame.msg_type == WSMsgType.BINARY:
            self.latencies.append(now - self.sent_at)
            self.wrong += frame.get_payload_as_memoryview() != self.payload
            if now < self.ends_at:
                self.send(transport)
            else:
                transport.send_close(WSCloseCode.OK)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()

    def end(self) -> None:
        self.ends_at = 0.0


def start_server(args: argparse.Namespace, ca_file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / "echo_server.py"), "--port", "0", "--loop", args.loop]
    if args.tls:
        command[1] = str(HERE / "echo_server_ssl.py")
        command += ["--ca-out", str(ca_file)]
    if args.aiofastnet is not None:
        command.append("--aiofastnet" if args.aiofastnet else "--no-aiofastnet")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def measure(args: argparse.Namespace, url: str, ca_file: Path) -> int:
    context = ssl.create_default_context(cafile=ca_file) if args.tls else None
    transport, client = await ws_connect(
        lambda: RoundTrips(args.size, args.seconds),
        url,
        ssl_context=context,
        use_aiofastnet=args.aiofastnet,
    )
    assert isinstance(client, RoundTrips)
    with contextlib.suppress(NotImplementedError):  # Windows: there Ctrl-C cancels this task
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, client.end)

    below = type(transport.underlying_transport)
    print(f"{url}  loop: {args.loop}, transport: {below.__module__}.{below.__qualname__}")
    print(f"{args.size} bytes there and back for {args.seconds:g} s ...", flush=True)
    await transport.wait_disconnected()

    if not client.latencies or perf_counter() < client.ends_at:
        print("the server went away")
        return 1
    counted = client.latencies[WARM_UP:] or client.latencies
    counted.sort()
    print(f"{len(counted) / sum(counted):,.0f} round trips per second")
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        latency = counted[min(int(share * len(counted)), len(counted) - 1)]
        print(f"  {name} {latency * 1e6:8.1f} us")
    if client.wrong:
        print(f"{client.wrong} echoes were wrong")
    return 1 if client.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="round trips on loopback")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=32, help="bytes in a message")
    parser.add_argument("--tls", action="store_true", help="needs the package trustme")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0])
    parser.add_argument(
        "--aiofastnet",
        action=argparse.BooleanOptionalAction,
        help="aiofastnet's transports, or the event loop's own; by default what is fastest",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ca_file = Path(folder, "ca.pem")
        with start_server(args, ca_file) as server:
            try:
                assert server.stdout is not None
                line = server.stdout.readline()
                if not line.startswith("listening on "):
                    raise SystemExit("the server did not start")
                code: int = import_module(args.loop).run(measure(args, line.split()[2], ca_file))
                return code
            except KeyboardInterrupt:
                return 130
            finally:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main())
