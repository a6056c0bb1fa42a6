"""Messages and permessage-deflate without I/O: inputs and corpus of fuzz_messages.py, judged by its
reference. Frames are not limited, messages always.

One sentence for all of it: what is told, put together, and the close code are the reference's,
however the stream is cut, whether in parts or as whole messages; and no byte that was handed over
is written to.
"""

from __future__ import annotations

import random

from aio.detached import pieces_of
from fuzz_messages import CLOSED, Inflating, Order, Raw, Reference, order_of

from picows.sansio import CLIENT, SERVER, Connection
from picows.sansio.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from picows.sansio.extensions import PerMessageDeflate

# Of a frame: what RFC 6455 section 5.2 can say.
NO_LIMIT = 2**63 - 1


def agreed(side: str, takeover: bool) -> PerMessageDeflate:
    parameters = "; client_no_context_takeover; server_no_context_takeover"
    offer = "permessage-deflate" + ("" if takeover else parameters)
    extension = PerMessageDeflate()
    if side == "server":
        assert extension.accept(offer) is not None
    else:
        extension.finalize(offer)
    return extension


class Early(Reference):
    """Inflates what is there of a frame, too."""

    def look_at_half(self, frame: Raw) -> None:
        super().look_at_half(frame)
        if frame.opcode >= CLOSED:
            return
        opcode = frame.opcode or self.opcode
        if frame.first & 0x40 if frame.opcode else self.is_compressed:
            assert self.inflating is not None
            limit = min(self.limits.inflated, self.limits.message) - len(self.gathered)
            said = self.inflating.inflate(frame.payload, False, limit)
            if opcode == 1:
                self.check_text(self.gathered + said, False)


class Told:
    """What a program hears, with parts put together."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close: CloseConnection | None = None
        self.part: list[bytes] = []

    def take(self, event: Event, assemble: bool) -> None:
        assert self.close is None
        if isinstance(event, Ping):
            self.pings.append(bytes(event.payload))
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            self.close = event
        else:
            assert isinstance(event, (TextMessage, BytesMessage))
            is_text = isinstance(event, TextMessage)
            data = event.data
            self.part.append(data.encode() if isinstance(data, str) else bytes(data))
            assert event.message_finished or not assemble
            if event.message_finished:
                self.messages.append((1 if is_text else 2, b"".join(self.part)))
                self.part.clear()


def run(order: Order, pieces: list[bytes]) -> None:
    side, assemble, takeover, limits, stream, _ = order
    reference = Early(
        side == "server",
        True,
        None if takeover is None else Inflating(takeover),
        limits._replace(frame=NO_LIMIT),
    )
    codes = reference.run(stream)
    if {1007, 1009} & {*codes} and reference.opcode == 1 and reference.is_compressed:
        # What is seen first depends on how the frame was cut: that it is no text, or too much.
        codes = (*codes, 1007, 1009)
    connection = Connection(
        SERVER if side == "server" else CLIENT,
        [] if takeover is None else [agreed(side, takeover)],
        max_message_size=limits.message,
        max_inflated_size=limits.inflated,
        max_fragments=limits.fragments,
        assemble_messages=assemble,
    )
    told = Told()
    for piece in pieces:
        if told.close is not None:
            break
        before = bytes(bytearray(piece))
        connection.receive_data(piece)
        for event in connection.events():
            told.take(event, assemble)
        assert piece == before
    data = [(each.opcode, each.payload) for each in reference.delivered if each.opcode < CLOSED]
    assert told.messages == data
    assert told.pings == reference.pongs
    assert told.pongs == [each.payload for each in reference.delivered if each.opcode == 10]
    closes = [each.payload for each in reference.delivered if each.opcode == CLOSED]
    if codes != (0,):
        assert told.close is not None
        assert told.close.code in codes
    elif closes:
        assert told.close is not None
        assert told.close.code == (int.from_bytes(closes[0][:2], "big") or 1005)
        assert (told.close.reason or "").encode() == closes[0][2:]
    else:
        assert told.close is None


def one_input(data: bytes) -> None:
    order = order_of(data)
    if order is None:
        return
    stream, choose = order.stream, order.choose
    # Large frames are read where they are, small pieces are not.
    for pieces in ([stream], list(pieces_of(stream, choose)), halves(stream, choose)):
        run(order, pieces)


def halves(stream: bytes, choose: random.Random) -> list[bytes]:
    middle = choose.randint(0, len(stream))
    return [stream[:middle], stream[middle:]]
