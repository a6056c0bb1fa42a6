"""What permessage-deflate costs: memory of a connection and time of a message, for each setting.

    python benchmarks/compression.py            # the table of docs/topics/compression.rst

No sockets, no peers: rows/compression.py measures those, with the same messages. Memory is what
malloc gave out for both halves after their first message, mean over 50 connections. Time is
the CPU time of this process; the fastest of five passes, since the slower ones measure something
else.
"""

from __future__ import annotations

import time

from harness.ticks import ticks
from workers.malloc import allocated

from picows.wire.deflate import Deflater, Inflater

SETTINGS = [
    (bits, memory, level)
    for bits, memory in ((9, 1), (10, 3), (12, 5), (13, 6), (15, 8))
    for level in (1, 3, 6)
]
CONNECTIONS = 50


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
    bits: int, memory_level: int, level: int, messages: list[bytes]
) -> tuple[float, float, float]:
    """Microseconds to deflate and to inflate a message; how much smaller it became."""
    deflating, inflating, ratio = [], [], 0.0
    for _ in range(5):
        deflater = Deflater(bits, True, level, memory_level)
        inflater = Inflater(bits, True)
        start = time.process_time()
        deflated = [deflater.deflate_bytes(message, True) for message in messages]
        middle = time.process_time()
        for piece in deflated:
            inflater.inflate_bytes(piece, True, 10**6)
        end = time.process_time()
        deflating.append((middle - start) / len(messages) * 1e6)
        inflating.append((end - middle) / len(messages) * 1e6)
        ratio = sum(map(len, messages)) / sum(map(len, deflated))
    return min(deflating), min(inflating), ratio


def main() -> None:
    messages = ticks(10_000)
    print(f"{sum(map(len, messages)) / len(messages):.0f} bytes a message")
    print("bits memory level   send KiB   receive KiB   deflate us   inflate us   ratio")
    for bits, memory_level, level in SETTINGS:
        sending, receiving = memory(bits, memory_level, level, messages[0])
        deflating, inflating, ratio = times(bits, memory_level, level, messages)
        print(
            f"{bits:4} {memory_level:6} {level:5} {sending / 1024:10.0f} {receiving / 1024:13.0f}"
            f" {deflating:12.1f} {inflating:12.1f} {ratio:7.2f}"
        )


if __name__ == "__main__":
    main()
