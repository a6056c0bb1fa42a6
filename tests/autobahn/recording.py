"""Conversations between the Autobahn TestSuite and a testee that it was content with.

recorded.json holds them: record.py writes it, test_replay.py says the suite's part again. A frame
is written "81 48656c6c6f": the first byte of its header and the payload, unmasked and, if the
testee sent it, inflated; "81 4865+3" is one of which the last three bytes never came.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("recorded.json")

CLOSE = 8
RSV1 = 0x40


class Frame(NamedTuple):
    first: int  # FIN, RSV1 to RSV3, opcode
    payload: bytes
    missing: int = 0

    @property
    def opcode(self) -> int:
        return self.first & 0x0F

    @property
    def ends_message(self) -> bool:
        return self.first & 0x80 != 0 and self.opcode < CLOSE

    def __str__(self) -> str:
        missing = f"+{self.missing}" if self.missing else ""
        return f"{self.first:02x} {self.payload.hex()}{missing}"

    @classmethod
    def from_text(cls, text: str) -> Frame:
        first, _, rest = text.partition(" ")
        payload, _, missing = rest.partition("+")
        return cls(int(first, 16), bytes.fromhex(payload), int(missing or 0))

    def encode(self, mask: bytes | None) -> bytes:
        length = len(self.payload) + self.missing
        mask_bit = 0 if mask is None else 0x80
        if length < 126:
            head = struct.pack("!BB", self.first, mask_bit | length)
        elif length < 65536:
            head = struct.pack("!BBH", self.first, mask_bit | 126, length)
        else:
            head = struct.pack("!BBQ", self.first, mask_bit | 127, length)
        return head + (self.payload if mask is None else mask + apply_mask(self.payload, mask))


class Recording(NamedTuple):
    case: str
    # Where the testee can be: "server", "client" or both.
    sides: tuple[str, ...]
    # Sec-WebSocket-Extensions of request and response; both empty where nothing was agreed on.
    offer: str
    answer: str
    # What the testee received and what it sent.
    received: tuple[Frame, ...]
    sent: tuple[Frame, ...]


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def parse(stream: bytes) -> Iterator[Frame]:
    """The frames of one direction; the last one may be cut."""
    at = 0
    while at < len(stream):
        first, second = stream[at : at + 2]
        at += 2
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack_from("!H", stream, at)
            at += 2
        elif length == 127:
            (length,) = struct.unpack_from("!Q", stream, at)
            at += 8
        mask = b"\0\0\0\0"
        if second & 0x80:
            mask = stream[at : at + 4]
            at += 4
        payload = apply_mask(stream[at : at + length], mask)
        yield Frame(first, payload, length - len(payload))
        at += length


def inflated(frames: Iterator[Frame], side: str, answer: str) -> Iterator[Frame]:
    """What a testee on `side` has sent, as if it were not compressed; `answer` says with which
    parameters it is.
    """
    parameters: dict[str, str] = {}
    for parameter in answer.split(";")[1:]:
        name, _, value = parameter.partition("=")
        parameters[name.strip()] = value.strip('" ')
    window = int(parameters.get(f"{side}_max_window_bits") or 15)
    takeover = f"{side}_no_context_takeover" not in parameters
    decompressor = None
    for frame in frames:
        if not (answer and frame.first & RSV1):
            yield frame
            continue
        assert frame.ends_message, "a testee sends its echoes in one frame"
        if decompressor is None or not takeover:
            decompressor = zlib.decompressobj(-window)
        payload = decompressor.decompress(frame.payload + b"\0\0\xff\xff")
        yield Frame(frame.first & ~RSV1, payload)


def load() -> list[Recording]:
    return [
        Recording(
            row["case"],
            tuple(row["sides"]),
            row.get("offer", ""),
            row.get("answer", ""),
            tuple(map(Frame.from_text, row["received"])),
            tuple(map(Frame.from_text, row["sent"])),
        )
        for row in json.loads(FILE.read_text())
    ]


def save(recordings: list[Recording]) -> None:
    rows = []
    for recording in recordings:
        row = recording._asdict()
        row["received"] = list(map(str, recording.received))
        row["sent"] = list(map(str, recording.sent))
        rows.append({name: value for name, value in row.items() if value != ""})
    lines = ",\n".join(json.dumps(row) for row in rows)
    FILE.write_text(f"[\n{lines}\n]\n")
