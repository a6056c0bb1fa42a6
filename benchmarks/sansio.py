"""What a message costs without I/O: picows.sansio, wsproto and the protocol of websockets.

    python benchmarks/sansio.py [--rounds 9] [--json FILE]

All three run in this process, in turn: a round of each piece of work is 20 ms of each. A figure is
the median over the rounds of CPU time, a ratio the median of the ratios in one round. Clients
receive frames without a mask, servers with one; what comes out is a str or bytes for each message,
as a program wants it (websockets' protocol hands out the bytes of a text, so they are decoded).
Each message is a frame; `x 64` are 64 of them in one read.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import websockets.frames
import websockets.protocol
import wsproto.connection
import wsproto.events

import picows.sansio
import picows.sansio.events
from picows.sansio.frame_protocol import FrameProtocol

SLICE = 0.02  # seconds
SMALL, LARGE = 200, 64 * 1024

Step = Callable[[], object]


class Events:
    """picows.sansio and wsproto, whose names are the same."""

    def __init__(self, package: Any, events: Any) -> None:
        self.package = package
        self.events = events

    def connection(self, side: str) -> Any:
        return self.package.Connection(self.package.ConnectionType[side.upper()])

    def receive(self, side: str, data: bytes) -> Step:
        connection = self.connection(side)

        def step() -> list[Any]:
            connection.receive_data(data)
            return [event.data for event in connection.events()]

        return step

    def send(self, side: str, payload: str | bytes) -> Step:
        connection = self.connection(side)
        kind = self.events.TextMessage if isinstance(payload, str) else self.events.BytesMessage
        return lambda: connection.send(kind(data=payload))


class Frames:
    """The protocol of websockets."""

    def connection(self, side: str) -> Any:
        return websockets.protocol.Protocol(
            websockets.protocol.Side[side.upper()],
            state=websockets.protocol.State.OPEN,
            max_size=None,
        )

    def receive(self, side: str, data: bytes) -> Step:
        connection = self.connection(side)
        text = websockets.frames.Opcode.TEXT

        def step() -> list[Any]:
            connection.receive_data(data)
            return [
                str(frame.data, "utf-8") if frame.opcode is text else bytes(frame.data)
                for frame in connection.events_received()
            ]

        return step

    def send(self, side: str, payload: str | bytes) -> Step:
        connection = self.connection(side)
        send = connection.send_text if isinstance(payload, str) else connection.send_binary
        octets = payload.encode() if isinstance(payload, str) else payload

        def step() -> bytes:
            send(octets)
            return b"".join(connection.data_to_send())

        return step


CONTESTANTS: dict[str, Any] = {
    "picows.sansio": Events(picows.sansio, picows.sansio.events),
    "wsproto": Events(wsproto.connection, wsproto.events),
    "websockets": Frames(),
}


class Work(NamedTuple):
    name: str
    side: str
    # Messages of a step.
    count: int
    # Makes a contestant's step.
    make: Callable[[Any], Step]


def frames_for(side: str, payload: str | bytes, count: int) -> bytes:
    peer = FrameProtocol(client=side == "server", extensions=[])
    return b"".join(peer.send_data(payload, fin=True) for _ in range(count))


def works() -> Iterator[Work]:
    for side in ("client", "server"):
        for size, count in ((SMALL, 1), (SMALL, 64), (LARGE, 1)):
            for payload in ("x" * size, b"x" * size):
                kind = "text" if isinstance(payload, str) else "binary"
                data = frames_for(side, payload, count)
                name = f"receive {size:6} B {kind:6} {side}" + (f" x {count}" if count > 1 else "")
                yield Work(name, side, count, lambda one, s=side, d=data: one.receive(s, d))
        for payload in ("x" * SMALL, b"x" * SMALL):
            kind = "text" if isinstance(payload, str) else "binary"
            name = f"send    {SMALL:6} B {kind:6} {side}"
            yield Work(name, side, 1, lambda one, s=side, p=payload: one.send(s, p))


def check(work: Work) -> None:
    """All of them do the same."""
    results = [work.make(one)() for one in CONTESTANTS.values()]
    if work.name.startswith("receive"):
        assert all(result == results[0] for result in results), work.name
        assert len(results[0]) == work.count
    else:
        assert all(len(result) == len(results[0]) for result in results), work.name


def seconds(step: Step, count: int) -> float:
    """CPU time of a message."""
    done = 0
    start = time.process_time()
    while (passed := time.process_time() - start) < SLICE:
        for _ in range(20):
            step()
        done += 20
    return passed / done / count


def measure(work: Work, rounds: int) -> dict[str, Any]:
    check(work)
    steps = {name: work.make(one) for name, one in CONTESTANTS.items()}
    taken = [
        {name: seconds(step, work.count) for name, step in steps.items()} for _ in range(rounds)
    ]
    ours = next(iter(CONTESTANTS))
    figures: dict[str, Any] = {"work": work.name}
    for name in CONTESTANTS:
        figures[name] = statistics.median(each[name] for each in taken)
        figures[f"x {name}"] = statistics.median(each[name] / each[ours] for each in taken)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="a message's cost without I/O, in turn with peers")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    args = parser.parse_args()
    versions = {name: version(name.partition(".")[0]) for name in CONTESTANTS}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"load {os.getloadavg()[0]:.1f}; us of CPU a message, and how many times ours that is")
    found = []
    for work in works():
        figures = measure(work, args.rounds)
        found.append(figures)
        cells = [
            f"{figures[name] * 1e6:9.2f}" + (f" ({figures[f'x {name}']:5.1f})" if at else "")
            for at, name in enumerate(CONTESTANTS)
        ]
        print(f"{work.name:38}" + "".join(cells), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps({"versions": versions, "figures": found}, indent=1))


if __name__ == "__main__":
    main()
