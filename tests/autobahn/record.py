"""Makes recorded.json: the quick cases once more, through a relay that listens.

    cd tests; ../.venv/bin/python -m autobahn.record

Nothing is recorded that differs from expected.txt. One recording is for server and client, unless
they agreed on extensions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from autobahn.recording import CLOSE, FILE, Frame, Recording, inflated, parse, save
from autobahn.run import (
    QUICK,
    REPORTS,
    SIDES,
    WSTEST,
    Run,
    Suite,
    case_key,
    differences,
    load_expected,
    verdicts_of,
)

# Of the thousand messages of a case about compression.
MOST_MESSAGES = 4


class Tapped:
    """What went through one connection, each way."""

    def __init__(self) -> None:
        self.from_client = bytearray()
        self.from_server = bytearray()


class Relay:
    """A port before another one, on 127.0.0.1; `tapped` has all the connections that it took."""

    def __init__(self) -> None:
        self.tapped: list[Tapped] = []
        self.listening = socket.create_server(("127.0.0.1", 0))

    def before(self, port: int) -> int:
        threading.Thread(target=self._serve, args=[port], daemon=True).start()
        own: int = self.listening.getsockname()[1]
        return own

    def _serve(self, port: int) -> None:
        own = self.listening.getsockname()[1]
        while True:
            client, _ = self.listening.accept()
            server = socket.create_connection(("127.0.0.1", port))
            tapped = Tapped()
            self.tapped.append(tapped)
            # The suite refuses a Host that is not its own. The head comes in one segment.
            head = client.recv(65536).replace(b":%d\r\n" % own, b":%d\r\n" % port)
            tapped.from_client += head
            server.sendall(head)
            for source, sink, into in (
                (client, server, tapped.from_client),
                (server, client, tapped.from_server),
            ):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pump = threading.Thread(target=self._pump, args=[source, sink, into], daemon=True)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, into: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                into += data
                sink.sendall(data)
        # The other way may go on; the process is too short-lived to close anything.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def field(head: bytes, name: str) -> str:
    for line in head.decode().split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name.lower():
            return value.strip()
    return ""


def split(stream: bytearray) -> tuple[bytes, bytes]:
    head, _, rest = bytes(stream).partition(b"\r\n\r\n")
    return head, rest


def shorten(frames: list[Frame]) -> tuple[Frame, ...]:
    """The first messages, and the closing handshake."""
    messages = 0
    kept = []
    for frame in frames:
        if messages < MOST_MESSAGES or frame.opcode == CLOSE:
            kept.append(frame)
        messages += frame.ends_message
    return tuple(kept)


def recording_of(case: str, side: str, tapped: Tapped) -> Recording:
    request, from_client = split(tapped.from_client)
    response, from_server = split(tapped.from_server)
    received, sent = (from_client, from_server) if side == "server" else (from_server, from_client)
    offer = field(request, "Sec-WebSocket-Extensions")
    answer = field(response, "Sec-WebSocket-Extensions")
    frames = list(parse(received))
    # It must come out again as it was, but for mask keys.
    assert frames == list(parse(b"".join(frame.encode(None) for frame in frames)))
    ours = shorten(list(inflated(parse(sent), side, answer)))
    return Recording(case, (side,), offer if answer else "", answer, shorten(frames), ours)


def record(suite: Suite, run: Run, expected: dict[str, Any]) -> dict[str, Recording]:
    relay = Relay()
    index = suite.judge(run, list(QUICK), relay.before)
    unexpected = differences(verdicts_of(index), expected)
    if unexpected:
        raise SystemExit("\n".join(unexpected))
    by_key = {}
    for tapped in relay.tapped:
        by_key[field(split(tapped.from_client)[0], "Sec-WebSocket-Key")] = tapped
    recordings = {}
    for case, found in index.items():
        report = json.loads((suite.reports / run.name / found["reportfile"]).read_text())
        key = field(report["httpRequest"].encode(), "Sec-WebSocket-Key")
        recordings[case] = recording_of(case, run.side, by_key[key])
    return recordings


def main() -> int:
    parser = argparse.ArgumentParser(description="record the quick cases")
    parser.add_argument("--wstest", type=Path, default=WSTEST)
    parser.add_argument("--reports", type=Path, default=REPORTS / "record")
    args = parser.parse_args()
    suite = Suite(args.wstest.resolve(), args.reports.resolve(), 600)
    expected = load_expected(list(QUICK))
    server, client = (record(suite, Run("message", "asyncio", side), expected) for side in SIDES)
    recordings = []
    for case in sorted(server, key=case_key):
        # How much comes behind a violation is a matter of time.
        if not server[case].answer and server[case].sent == client[case].sent:
            recordings.append(server[case]._replace(sides=SIDES))
        else:
            recordings += [server[case], client[case]]
    save(recordings)
    print(f"{len(recordings)} recordings of {len(server)} cases in {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
