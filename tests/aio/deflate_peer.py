"""The other side of permessage-deflate (RFC 7692 section 7.2), on Python's own zlib module: shares
no code with ours, and does what no library would.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Sequence

TAIL = b"\x00\x00\xff\xff"
# The longest distance that a block of `fixed_block` may be told to reach back.
MAX_DISTANCE = 32768


class PeerDeflater:
    """Compresses as the sending half of a peer does."""

    def __init__(
        self, bits: int = 15, takeover: bool = True, level: int = 6, memory_level: int = 8
    ) -> None:
        # zlib deflates nothing with a window of 8. With one of 9 it looks back 250 bytes at most.
        self.parameters = (level, zlib.DEFLATED, -max(bits, 9), memory_level)
        self.takeover = takeover
        self.z = zlib.compressobj(*self.parameters)

    def message(self, data: bytes) -> bytes:
        """The payload of a message, in one piece."""
        return b"".join(self.pieces([data]))

    def pieces(self, parts: Sequence[bytes]) -> list[bytes]:
        """A message in as many frames as there are parts, each flushed at its end."""
        out = [self.z.compress(part) + self.z.flush(zlib.Z_SYNC_FLUSH) for part in parts]
        out[-1] = out[-1].removesuffix(TAIL)
        if not self.takeover:
            self.z = zlib.compressobj(*self.parameters)
        return out

    def final(self, data: bytes) -> bytes:
        """A message in blocks of which the last has BFINAL set (section 7.2.3.4); the compressor
        begins anew behind it."""
        out = self.z.compress(data) + self.z.flush(zlib.Z_FINISH)
        self.z = zlib.compressobj(*self.parameters)
        return out + b"\x00"


class PeerInflater:
    """Inflates with exactly the window that was agreed on."""

    def __init__(self, bits: int = 15, takeover: bool = True) -> None:
        self.bits = bits
        self.takeover = takeover
        self.z = zlib.decompressobj(-bits)

    def message(self, payload: bytes) -> bytes:
        return self.piece(payload, True)

    def piece(self, payload: bytes, fin: bool) -> bytes:
        out = self.z.decompress(payload + TAIL if fin else payload)
        assert not self.z.eof
        if fin:
            # At the end of a message stands the end of a block: what follows is a block of its own.
            assert self.z.copy().decompress(b"\x01\x00\x00\xff\xff") == b""
            if not self.takeover:
                self.z = zlib.decompressobj(-self.bits)
        return out


# -- blocks by hand (RFC 1951) ---------------------------------------------------------------------


class Bits:
    """A stream of bits, the first of which is the lowest of its byte."""

    def __init__(self) -> None:
        self.value = 0
        self.size = 0

    def number(self, value: int, size: int) -> Bits:
        self.value |= value << self.size
        self.size += size
        return self

    def code(self, value: int, size: int) -> Bits:
        """A Huffman code: its highest bit comes first."""
        for place in reversed(range(size)):
            self.number(value >> place & 1, 1)
        return self

    def octets(self) -> bytes:
        return self.value.to_bytes((self.size + 7) // 8, "little")


def stored_block(data: bytes, final: bool = False) -> bytes:
    """Up to 65,535 bytes as they are, from a byte's first bit on (section 3.2.4)."""
    size = len(data)
    return (
        bytes([final]) + size.to_bytes(2, "little") + (~size & 0xFFFF).to_bytes(2, "little") + data
    )


def fixed_block(
    literals: bytes = b"", distance: int = 0, times: int = 1, final: bool = False
) -> bytes:
    """
    Literals, then `times` matches of 258 bytes at `distance`, and the header of an empty stored
    block, so that it ends where a message may end (section 3.2.6).
    """
    bits = Bits().number(final, 1).number(1, 2)
    for octet in literals:
        bits.code(0x30 + octet, 8) if octet < 144 else bits.code(0x190 + octet - 144, 9)
    if distance:
        symbol, extra_bits, extra = _distance_code(distance)
        for _ in range(times):
            bits.code(0xC5, 8).code(symbol, 5).number(extra, extra_bits)
    bits.code(0, 7)
    if final:
        # What follows begins with a byte.
        bits.size = (bits.size + 7) // 8 * 8
    return bits.number(0, 3).octets()


def _distance_code(distance: int) -> tuple[int, int, int]:
    """Symbol, and number and value of the extra bits."""
    base = 1
    for symbol in range(30):
        extra_bits = max(0, symbol // 2 - 1)
        if distance < base + (1 << extra_bits):
            return symbol, extra_bits, distance - base
        base += 1 << extra_bits
    raise ValueError(f"no code reaches back {distance} bytes")


def bomb(size: int, fragments: int = 1) -> list[bytes]:
    """
    `size` zeros, about 1 : 1000, as the payloads of a message of so many frames that inflate to
    about the same each.
    """
    edges = [number * size // fragments for number in range(fragments + 1)]
    return PeerDeflater(level=9).pieces([bytes(b - a) for a, b in itertools.pairwise(edges)])


# -- payloads --------------------------------------------------------------------------------------


def far(size: int, seed: int = 0) -> bytes:
    """
    Bytes that repeat what stood close by and far behind, up to a whole window: a window that is
    too small, or kept where it should have been dropped, shows.
    """
    choose = random.Random(size * 31 + seed)
    out = bytearray(choose.randbytes(min(size, 300)))
    while len(out) < size:
        back = min(len(out), choose.choice([3, 100, 249, 500, 1000, 4000, 16_000, 32_000]))
        length = choose.randint(3, 300)
        if choose.random() < 0.25:
            out += choose.randbytes(length)
        else:
            start = len(out) - back
            out += out[start : start + length]
    return bytes(out[:size])
