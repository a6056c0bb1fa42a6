"""What permessage-deflate costs: memory of a connection and time of a message, for each setting.

    python benchmarks/compression.py            # the table of docs/topics/compression.rst
    make zlib-ng                                # the one of zlib-ng
    PYTHONPATH=build/release-zlib-ng/tree python benchmarks/compression.py

No sockets, no peers: rows/compression.py measures those, with the same messages. Memory is what
malloc gave out for both halves after their first message, mean over 50 connections. Time is
the CPU time of this process, for messages that are bytes before and after; the fastest of five
passes, since the slower ones measure something else. In turn with them runs the floor: the same
library called from C (zlib_alone.c).
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from harness.ticks import ticks
from workers.malloc import allocated

from picows.wire.deflate import ZLIB, Deflater, Inflater

SETTINGS = [
    (bits, memory, level)
    for bits, memory in ((9, 1), (10, 3), (12, 5), (13, 6), (15, 1), (15, 8))
    for level in (1, 3, 6)
]
CONNECTIONS = 50
HERE = Path(__file__).resolve().parent
ZLIB_NG = HERE.parent / "build" / "zlib-ng"
LIBRARIES = {
    "zlib": ["-lz"],
    "zlib-ng": ["-DPICOWS_ZLIB_NG", f"-I{ZLIB_NG}", f"-L{ZLIB_NG}", "-lz-ng"],
    "python": ["-lz"],
}


class Floor:
    """The library alone."""

    def __init__(self, folder: Path, messages: list[bytes]) -> None:
        self.program = folder / "zlib_alone"
        self.ticks = folder / "ticks"
        self.ticks.write_bytes(b"\n".join([*messages, b""]))
        cc = ["cc", "-O2", f"-I{HERE.parent / 'picows' / 'wire'}", "-o", self.program]
        subprocess.run([*cc, HERE / "zlib_alone.c", *LIBRARIES[ZLIB]], check=True)

    def times(self, *settings: int) -> list[float]:
        """Microseconds to deflate and to inflate a message."""
        command = [self.program, self.ticks, *map(str, settings)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [float(figure) for figure in done.stdout.split()]


def memory(bits: int, memory_level: int, level: int, message: bytes) -> tuple[float, float]:
    """Bytes of the sending and of the receiving half."""
    before = allocated()
    deflaters = [Deflater(bits, True, level, memory_level) for _ in range(CONNECTIONS)]
    for deflater in deflaters:
        deflated = deflater.deflate_bytes(message, True)
    between = allocated()
    inflaters = [Inflater(bits, True) for _ in range(CONNECTIONS)]
    for inflater in inflaters:
        inflater.inflate_bytes(deflated, True, 10**6)
    after = allocated()
    return (between - before) / CONNECTIONS, (after - between) / CONNECTIONS


def times(
    bits: int, memory_level: int, level: int, messages: list[bytes], floor: Floor
) -> tuple[list[float], list[float], float]:
    """Microseconds to deflate and to inflate a message, each with the floor's; how much smaller."""
    passes, ratio = [], 0.0
    for _ in range(5):
        deflater = Deflater(bits, True, level, memory_level)
        inflater = Inflater(bits, True)
        start = time.process_time()
        deflated = [deflater.deflate_bytes(message, True) for message in messages]
        middle = time.process_time()
        for piece in deflated:
            inflater.inflate_bytes(piece, True, 10**6)
        end = time.process_time()
        ours = [(middle - start) / len(messages) * 1e6, (end - middle) / len(messages) * 1e6]
        passes.append([*ours, *floor.times(bits, memory_level, level)])
        ratio = sum(map(len, messages)) / sum(map(len, deflated))
    deflating, inflating, *alone = map(min, zip(*passes, strict=True))
    return [deflating, alone[0]], [inflating, alone[1]], ratio


def main() -> None:
    messages = ticks(10_000)
    print(f"{sum(map(len, messages)) / len(messages):.0f} bytes a message, {ZLIB}")
    print("bits memory level   send KiB   receive KiB   deflate (floor)   inflate (floor)    ratio")
    with tempfile.TemporaryDirectory() as folder:
        floor = Floor(Path(folder), messages)
        for bits, memory_level, level in SETTINGS:
            sending, receiving = memory(bits, memory_level, level, messages[0])
            deflating, inflating, ratio = times(bits, memory_level, level, messages, floor)
            print(
                f"{bits:4} {memory_level:6} {level:5} {sending / 1024:10.0f}"
                f" {receiving / 1024:13.0f} {deflating[0]:12.2f} ({deflating[1]:5.2f})"
                f" {inflating[0]:12.2f} ({inflating[1]:5.2f}) {ratio:7.2f}"
            )


if __name__ == "__main__":
    main()
