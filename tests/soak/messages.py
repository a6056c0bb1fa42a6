"""What the two ends of a connection say to each other, and the lines between the processes.

Always holds: message `number` of the stream `seed` is the same bytes in every process, so that the
receiver knows size, content and place of each one. From 12 bytes on it opens with its number and a
checksum of the rest, which tell what went wrong.
"""

from __future__ import annotations

import json
import random
import struct
import threading
import zlib
from typing import Any

KIB = 1024
MIB = 1024 * 1024

HEAD = struct.Struct("!QI")
LARGEST = 4 * MIB

# Of 4096 messages so many have a size in that range, bytes.
SIZES = (
    (120, 0, 1),
    (2500, 1, 126),
    (1000, 126, 1 * KIB),
    (370, 1 * KIB, 16 * KIB),
    (90, 16 * KIB, 128 * KIB),
    (12, 128 * KIB, 1 * MIB),
    (4, 1 * MIB, LARGEST),
)
_OFFSETS = 64 * KIB
_POOL = random.Random("soak").randbytes(LARGEST + _OFFSETS)

_stdout = threading.Lock()


def payload_of(seed: int, number: int) -> bytes:
    """The message `number` of the stream `seed`."""
    dice = hash((seed, number)) & 0xFFFFFFFFFFFFFFFF
    place = dice & 0xFFF
    for share, least, beyond in SIZES:  # noqa: B007
        if place < share:
            break
        place -= share
    size = least + (dice >> 12 & 0xFFFFFF) % (beyond - least)
    start = (dice >> 36) % _OFFSETS
    if size < HEAD.size:
        return _POOL[start : start + size]
    body = _POOL[start : start + size - HEAD.size]
    return HEAD.pack(number, zlib.crc32(body)) + body


def opcode_of(number: int) -> int:
    """TEXT and BINARY in turn. The raw API does not look whether it is UTF-8."""
    return 2 if number % 2 else 1


def mistake_in(payload: bytes | memoryview, seed: int, number: int) -> str | None:
    """What is wrong with `payload`, which should be that message; None: nothing."""
    expected = payload_of(seed, number)
    if payload == expected:
        return None
    text = f"message {number} of stream {seed}: {len(payload)} bytes instead of {len(expected)}"
    if len(payload) >= HEAD.size:
        found, checksum = HEAD.unpack_from(payload)
        is_whole = zlib.crc32(memoryview(payload)[HEAD.size :]) == checksum
        text += f"; says it is {found}, checksum {'right' if is_whole else 'wrong'}"
    return text


def say(**message: Any) -> None:
    """One line to the process that started this one."""
    line = json.dumps(message)
    with _stdout:
        print(line, flush=True)
