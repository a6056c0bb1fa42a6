"""Messages and permessage-deflate against a reference in Python and its zlib module: any bytes, in
any segments, on a detached connection (tests/aio/detached.py).

The first six bytes choose: side, frames or messages, compression with or without takeover, how the
rest is read; the limits; how the stream is cut. The rest is what the peer sends: as it is, or as
orders from which frames are made, masked and compressed as a peer does it:

    first byte of the frame, size of its payload, then the payload
    with RSV2 in that first byte: the payload is compressed by the peer's deflater
    with RSV3: the size is counted in units of 300 bytes, of which only the first is given

One sentence for all of it: what is delivered, what is answered and the close code are the
reference's, however the stream is cut, and what was kept stays what it was.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from aio.detached import Collecting, Delivered, Detached, Sent, pieces_of, unmask

from picows import PerMessageDeflate, WSFrame, WSTransport
from picows.handshake.deflate import DeflateAgreement

TAIL = b"\x00\x00\xff\xff"
KEY = b"\x37\xfa\x21\x3d"
# Bytes of a message, inflated or not; frames of a message; bytes of a frame.
MESSAGE_LIMITS = [1, 2, 100, 126, 1000, 4096, 65536, 300_000]
FRAGMENT_LIMITS = [1, 2, 3, 10, 100, 65536]
FRAME_LIMITS = [10, 125, 126, 1000, 65535, 65536, 1_000_000]
# A header that does not fit is a violation; as what it says, this is the end of a stream.
CLOSED = 8


class Limits(NamedTuple):
    message: int
    inflated: int
    fragments: int
    frame: int


class Raw(NamedTuple):
    first: int
    size: int
    payload: bytes  # as much of it as is there

    @property
    def opcode(self) -> int:
        return self.first & 15

    @property
    def fin(self) -> bool:
        return self.first >= 128

    @property
    def is_whole(self) -> bool:
        return len(self.payload) == self.size


class Violation(Exception):
    def __init__(self, *codes: int) -> None:
        self.codes = codes


def frames_of(stream: bytes, masked: bool, limit: int) -> Iterator[Raw]:
    """RFC 6455 section 5.2, up to the frame of which a part is there, if its header is."""
    at = 0
    while len(stream) - at >= 2:
        first, second = stream[at : at + 2]
        at += 2
        opcode, size = first & 15, second & 127
        if opcode not in (0, 1, 2, 8, 9, 10) or (second >= 128) is not masked:
            raise Violation(1002)
        if opcode >= 8 and (size > 125 or first < 128):
            raise Violation(1002)
        if size > 125:
            width, least = (2, 126) if size == 126 else (8, 65536)
            if len(stream) - at < width:
                return
            size = int.from_bytes(stream[at : at + width], "big")
            at += width
            if size < least or size >= 2**63:
                raise Violation(1002)
        if size > limit:
            raise Violation(1009)
        key = stream[at : at + 4] if masked else b""
        at += len(key)
        if len(key) < 4 * masked:
            return
        payload = stream[at : at + size]
        at += size
        yield Raw(first, size, unmask(payload, key) if masked else payload)


class Inflating:
    """A receiving half, with a window of 15 bits."""

    def __init__(self, takeover: bool) -> None:
        self.takeover = takeover
        self.window = b""
        self.is_ended = False
        self.z = zlib.decompressobj(-15)

    def inflate(self, payload: bytes, fin: bool, limit: int) -> bytes:
        out = self.run(payload, limit)
        if fin:
            # Behind a block with BFINAL section 7.2.3.4 wants a byte; it may be missing.
            if not self.is_ended:
                out += self.run(TAIL, limit - len(out))
            if not self.is_ended:
                self.check_end()
            self.is_ended = False
            if not self.takeover:
                self.window = b""
                self.z = zlib.decompressobj(-15)
        return out

    def run(self, data: bytes, limit: int) -> bytes:
        out = b""
        while data:
            before = self.z.copy()
            try:
                more = self.z.decompress(data, limit - len(out) + 1)
            except zlib.error:
                raise Violation(*self.codes_for(before, data, limit - len(out))) from None
            out += more
            self.window = (self.window + more)[-32768:]
            if len(out) > limit:
                raise Violation(1009)
            data = self.z.unconsumed_tail
            self.is_ended = self.z.eof
            if self.is_ended:
                # Behind BFINAL a stream begins anew, with the same window.
                data = self.z.unused_data
                self.z = zlib.decompressobj(-15, zdict=self.window)
        return out

    def codes_for(self, before: Any, data: bytes, left: int) -> tuple[int, ...]:
        """Too much and corrupt at the same place is both."""
        try:
            # 0 would be no limit.
            is_full = left == 0 or len(before.decompress(data, left)) == left
            return (1007, 1009) if is_full else (1007,)
        except zlib.error:
            return (1007,)

    def check_end(self) -> None:
        """Does a block end here? Then what follows is taken for a block of its own."""
        copy = self.z.copy()
        try:
            if copy.decompress(b"\x01\x00\x00\xff\xff") or not copy.eof:
                raise Violation(1007)
        except zlib.error:
            raise Violation(1007) from None


class Reference:
    def __init__(
        self, masked: bool, assemble: bool, inflating: Inflating | None, limits: Limits
    ) -> None:
        self.masked = masked
        self.assemble = assemble
        self.inflating = inflating
        self.limits = limits
        self.delivered: list[Delivered] = []
        self.pongs: list[bytes] = []
        # The message under way.
        self.opcode: int | None = None
        self.is_compressed = False
        self.count = 0
        self.gathered = b""

    def run(self, stream: bytes) -> tuple[int, ...]:
        """The close code that we send, one of them; (0,) for none."""
        try:
            for frame in frames_of(stream, self.masked, self.limits.frame):
                if not frame.is_whole:
                    self.look_at_half(frame)
                elif self.take(frame):
                    break
        except Violation as violation:
            return violation.codes
        return (0,)

    def take(self, frame: Raw) -> bool:
        """Is this the end?"""
        if frame.opcode == CLOSED:
            self.check_close(frame)
        is_raw = not self.assemble and self.inflating is None
        if not is_raw:
            self.check_header(frame)
        if frame.opcode >= 8:
            if frame.opcode == 9:
                self.pongs.append(frame.payload)
            else:
                self.delivered.append(Delivered(frame.opcode, True, frame.payload))
            return frame.opcode == CLOSED
        if is_raw:
            self.delivered.append(Delivered(frame.opcode, frame.fin, frame.payload))
            return False
        if frame.opcode:
            self.opcode, self.is_compressed = frame.opcode, bool(frame.first & 0x40)
        self.count += 1
        assert self.opcode is not None
        said = frame.payload
        if self.is_compressed:
            assert self.inflating is not None
            limit = self.limits.inflated
            if self.assemble:
                limit = min(limit, self.limits.message) - len(self.gathered)
            said = self.inflating.inflate(said, frame.fin, limit)
        if not self.assemble:
            self.delivered.append(Delivered(frame.opcode, frame.fin, said))
        else:
            self.gathered += said
            if self.opcode == 1:
                self.check_text(self.gathered, frame.fin)
            if frame.fin:
                self.delivered.append(Delivered(self.opcode, True, self.gathered))
        if frame.fin:
            self.opcode, self.count, self.gathered = None, 0, b""
        return False

    def check_close(self, frame: Raw) -> None:
        # With reserved bits both are true, and which is seen first depends on how it was cut.
        other = (1002,) if frame.first & 0x70 and (self.assemble or self.inflating) else ()
        payload = frame.payload
        code = int.from_bytes(payload[:2], "big")
        known = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
        if payload and (len(payload) == 1 or not (known or 3000 <= code < 5000)):
            raise Violation(1002)
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            raise Violation(1007, *other) from None

    def check_header(self, frame: Raw) -> None:
        bits = frame.first & 0x70
        if bits and (bits != 0x40 or self.inflating is None or frame.opcode not in (1, 2)):
            raise Violation(1002)
        if frame.opcode >= 8:
            return
        if (frame.opcode == 0) == (self.opcode is None):
            raise Violation(1002)
        if self.assemble:
            is_compressed = self.is_compressed if frame.opcode == 0 else bool(bits)
            if not is_compressed and frame.size > self.limits.message - len(self.gathered):
                raise Violation(1009)
            if self.count >= self.limits.fragments:
                raise Violation(1009)

    def look_at_half(self, frame: Raw) -> None:
        if self.assemble or self.inflating is not None:
            self.check_header(frame)
        if not self.assemble or frame.opcode >= 8:
            return
        if frame.opcode:
            opcode, is_compressed = frame.opcode, bool(frame.first & 0x40)
        else:
            assert self.opcode is not None
            opcode, is_compressed = self.opcode, self.is_compressed
        if opcode == 1 and not is_compressed:
            self.check_text(self.gathered + frame.payload, False)

    def check_text(self, text: bytes, is_whole: bool) -> None:
        try:
            text.decode()
        except UnicodeDecodeError as exc:
            # What ends inside a character may go on.
            if is_whole or exc.reason != "unexpected end of data":
                raise Violation(1007) from None


# -- streams ---------------------------------------------------------------------------------------


def encode(first: int, payload: bytes, masked: bool) -> bytes:
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65536:
        head = bytes([first, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, bit | 127]) + size.to_bytes(8, "big")
    return head + KEY + unmask(payload, KEY) if masked else head + payload


def composed(orders: bytes, masked: bool, takeover: bool) -> bytes:
    """Frames of a peer that knows how to compress, and does as it is told."""
    stream = b""
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    at = 0
    while at + 2 <= len(orders) and len(stream) < 2_000_000:
        first, size = orders[at : at + 2]
        at += 2
        if first & 0x10:
            payload = orders[at : at + 1] * (300 * size)
            at += 1
        else:
            payload = orders[at : at + size]
            at += size
        if first & 0x20:
            payload = z.compress(payload) + z.flush(zlib.Z_SYNC_FLUSH)
            if first & 0x80:
                payload = payload[:-4]
                if not takeover:
                    z = zlib.compressobj(9, zlib.DEFLATED, -15)
        stream += encode(first & 0xCF, payload, masked)
    return stream


class Order(NamedTuple):
    """What an input asks for."""

    side: str
    assemble: bool
    takeover: bool | None  # None: no compression
    limits: Limits
    stream: bytes
    choose: random.Random


def run(order: Order) -> None:
    side, assemble, takeover, limits, stream, choose = order
    inflating = None if takeover is None else Inflating(takeover)
    reference = Reference(side == "server", assemble, inflating, limits)
    codes = reference.run(stream)
    kept: list[tuple[Any, bytes]] = []

    def keep(transport: WSTransport, frame: WSFrame) -> None:
        if choose.random() < 0.3:
            held = frame if choose.random() < 0.5 else memoryview(frame)
            kept.append((held, frame.get_payload_as_bytes()))

    agreement = options = None
    if takeover is not None:
        agreement = DeflateAgreement(not takeover, not takeover, 15, 15)
        options = PerMessageDeflate(max_inflated_size=limits.inflated)
    listener = AnyFrame(keep)
    with Detached(
        side,
        listener,
        agreement,
        assemble_messages=assemble,
        max_message_size=limits.message,
        max_fragments=limits.fragments,
        max_frame_size=limits.frame,
        permessage_deflate=options or False,
    ) as connection:
        connection.feed_pieces(pieces_of(stream, choose))
        assert listener.delivered == reference.delivered
        *answers, last = [*connection.sent(), None]
        if codes != (0,):
            assert answers, codes
            last = answers.pop()
            assert last.opcode == CLOSED
            assert int.from_bytes(last.payload[:2], "big") in codes
        assert answers == [Sent(10, True, False, payload) for payload in reference.pongs]
        assert connection.below.is_closing == (codes != (0,))
    choose.shuffle(kept)
    while kept:
        held, payload = kept.pop()
        assert bytes(held) == payload


class AnyFrame(Collecting):
    """Where frames stay as raw as they are, any bits may be set."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        self.delivered.append(Delivered(int(frame.msg_type), frame.fin, payload))
        assert self.react is not None
        self.react(transport, frame)


def order_of(data: bytes) -> Order | None:
    if len(data) < 6:
        return None
    how, message, inflated, fragments, frame, cut = data[:6]
    side = "server" if how & 1 else "client"
    takeover = None if how & 4 else bool(how & 8)
    limits = Limits(
        MESSAGE_LIMITS[message % len(MESSAGE_LIMITS)],
        MESSAGE_LIMITS[inflated % len(MESSAGE_LIMITS)],
        FRAGMENT_LIMITS[fragments % len(FRAGMENT_LIMITS)],
        FRAME_LIMITS[frame % len(FRAME_LIMITS)],
    )
    stream = data[6:]
    if how & 16:
        stream = composed(stream, side == "server", takeover is not False)
    choose = random.Random(zlib.crc32(data) ^ cut)
    return Order(side, bool(how & 2), takeover, limits, stream, choose)


def one_input(data: bytes) -> None:
    order = order_of(data)
    if order is None:
        return
    for _ in range(2):
        run(order)
