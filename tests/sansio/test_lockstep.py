"""The same bytes, cut at the same places, make picows.sansio and wsproto tell the same events, one
for one; and the same events, sent from either library to either, arrive.

Where the two differ on purpose is left out of what is drawn here, and has a test of its own:

    a PING between the fragments of a compressed message  test_connection: test_deviation_a_ping_...
    blocks with BFINAL set                                test_connection: test_deviation_final_...
    invalid text, inside a frame that is not complete     test_connection: test_text_fails_at_...
    the close code 1014                                   test_deviation_code_1014
    the end of the stream, ahead of events not yet read   test_connection: test_the_end_is_told_last
    fragments that are compressed, one by one            test_deviation_fragments_are_not_kept_...
    close codes that must not be sent, 1005 among them    test_connection: test_codes_that_must_...
    messages beyond max_message_size                      test_limits
    the words in which a violation is described           both.told
"""

from __future__ import annotations

import itertools

import pytest
from aio.deflate_peer import PeerDeflater
from hypothesis import example, given
from hypothesis import strategies as st
from sansio.both import OURS, THEIRS, cut, drained, told, whole

from raw_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode_close, encode_frame

DEFLATE = "permessage-deflate"
NO_TAKEOVER = f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"
SMALL_WINDOWS = f"{DEFLATE}; server_max_window_bits=9; client_max_window_bits=10"
OFFERS = [None, DEFLATE, NO_TAKEOVER, SMALL_WINDOWS]

sides = st.sampled_from(["client", "server"])
offers = st.sampled_from(OFFERS)
masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=40) | st.sampled_from(["", "é" * 130, "x" * 126, "€😀" * 20])
blobs = st.binary(max_size=40) | st.sampled_from([b"", bytes(126), bytes(range(256)) * 3])
places = st.lists(st.integers(0, 700), max_size=12) | st.just(list(range(700)))


# -- bytes -----------------------------------------------------------------------------------------


@st.composite
def messages(draw, offer, between=True):
    """One message as frames, (opcode, payload, fin, rsv); control frames between its fragments."""
    kind = draw(st.sampled_from([TEXT, BINARY]))
    data = draw(texts).encode() if kind == TEXT else draw(blobs)
    pieces = cut(data, draw(st.lists(st.integers(0, len(data)), max_size=3)))
    compressed = offer is not None and draw(st.booleans())
    if compressed:
        # Without a context: so each message can be made by itself.
        pieces = PeerDeflater(bits=9, takeover=False).pieces(pieces)
    frames = []
    for at, piece in enumerate(pieces):
        opcode = CONTINUATION if at else kind
        fin = at == len(pieces) - 1
        frames.append((opcode, piece, fin, 4 if compressed and not at else 0))
        if between and not fin and not compressed:
            frames += draw(st.lists(controls(), max_size=1))
    return frames


@st.composite
def controls(draw):
    return (draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), True, 0)


@st.composite
def streams(draw, side, offer):
    """What the other side may send: whole messages, control frames, and perhaps a CLOSE."""
    parts = draw(st.lists(messages(offer) | controls().map(lambda frame: [frame]), max_size=5))
    frames = list(itertools.chain(*parts))
    data = b"".join(
        encode_frame(
            opcode, payload, fin=fin, rsv=rsv, mask=None if side == "client" else draw(masks)
        )
        for opcode, payload, fin, rsv in frames
    )
    if draw(st.booleans()):
        mask = None if side == "client" else draw(masks)
        code = draw(st.sampled_from([1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 3000, 4999]))
        data += encode_close(code, draw(st.text(max_size=30)).encode(), mask=mask)
        data += draw(blobs)
    return data


def read_by(library, side, offer, pieces):
    """What each piece makes a connection tell, and its state afterwards."""
    connection = library.open(side, offer)
    steps = []
    for piece in pieces:
        connection.receive_data(piece)
        steps.append((drained(connection), connection.state.name))
    return steps


@given(st.data(), sides, offers, places)
def test_valid_streams(data, side, offer, places):
    stream = data.draw(streams(side, offer))
    pieces = [*cut(stream, places), None]
    assert read_by(OURS, side, offer, pieces) == read_by(THEIRS, side, offer, pieces)


@given(st.data(), sides, offers)
def test_where_a_stream_is_cut_changes_nothing(data, side, offer):
    stream = data.draw(streams(side, offer))
    at_once = whole(drained(told_all(OURS, side, offer, [stream])))
    bytewise = read_by(OURS, side, offer, [bytes([octet]) for octet in stream])
    assert whole(list(itertools.chain(*(events for events, _ in bytewise)))) == at_once


def told_all(library, side, offer, pieces):
    connection = library.open(side, offer)
    for piece in pieces:
        connection.receive_data(piece)
    return connection


@given(st.data(), sides, offers, places)
def test_pieces_that_are_not_read_at_once(data, side, offer, places):
    pieces = cut(data.draw(streams(side, offer)), places)
    ours, theirs = (told_all(library, side, offer, pieces) for library in (OURS, THEIRS))
    assert whole(drained(ours)) == whole(drained(theirs))
    assert ours.state.name == theirs.state.name


def broken(frames, side):
    return b"".join(
        encode_frame(**{"mask": None if side == "client" else b"mask", **frame}) for frame in frames
    )


BROKEN = [
    [{"opcode": opcode, "payload": b"ab"}]
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15, CONTINUATION)
]
BROKEN += [[{"opcode": TEXT, "payload": b"ab", "rsv": rsv}] for rsv in (1, 2, 3, 5, 6, 7)]
BROKEN += [
    [{"opcode": opcode, "payload": payload, **more}]
    for opcode in (CLOSE, PING, PONG)
    for payload, more in (
        (b"", {"fin": False}),
        (bytes(126), {}),
        (b"ab", {"rsv": 4}),
        (b"ab", {"length_bits": 16}),
        (b"ab", {"length_bits": 64}),
    )
]
BROKEN += [
    [{"opcode": BINARY, "payload": bytes(size), "length_bits": bits}]
    for size, bits in ((0, 16), (125, 16), (125, 64), (126, 64))
]
BROKEN += [
    [{"opcode": CLOSE, "payload": payload}]
    for payload in (
        *(b"\x03", b"\x03\xe8\xff", b"\x03\xe8\xc3", b"\x00\x00", b"\x03\xe7", b"\x03\xec"),
        *(
            b"\x03\xed",
            b"\x03\xee",
            b"\x03\xf7",
            b"\x03\xf8",
            b"\x0b\xb7",
            b"\x13\x88",
            b"\xff\xff",
        ),
    )
]
BROKEN += [
    [{"opcode": TEXT, "payload": payload}]
    for payload in (b"\xff", b"a\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80")
]
BROKEN += [
    [{"opcode": TEXT, "payload": b"a", "fin": False}, {"opcode": TEXT, "payload": b"b"}],
    [{"opcode": TEXT, "payload": b"a", "fin": False}, {"opcode": BINARY, "payload": b"b"}],
    [
        {"opcode": TEXT, "payload": b"a\xc3", "fin": False},
        {"opcode": CONTINUATION, "payload": b"a"},
    ],
    [{"opcode": TEXT, "payload": b"a", "fin": False}, {"opcode": CONTINUATION, "payload": b"\xc3"}],
]


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("offer", [None, DEFLATE])
@pytest.mark.parametrize("frames", BROKEN, ids=str)
def test_broken_frames(side, offer, frames):
    stream = broken(frames, side) + broken([{"opcode": TEXT, "payload": b"more"}], side)
    assert read_by(OURS, side, offer, [stream]) == read_by(THEIRS, side, offer, [stream])
    # However it is cut, the end is the same; when it is seen may differ.
    for pieces in ([bytes([octet]) for octet in stream], cut(stream, [3]), cut(stream, [7])):
        ours, theirs = (
            whole(list(itertools.chain(*(events for events, _ in read_by(*each, offer, pieces)))))
            for each in ((OURS, side), (THEIRS, side))
        )
        assert ours[-1] == theirs[-1]
        assert ours[-1][0] == "CloseConnection"


@given(st.data(), sides, st.integers(0, 2000), st.integers(1, 255))
def test_one_byte_is_wrong(data, side, place, flipped):
    """Whatever it breaks, nothing is raised; and what both understand they understand alike."""
    stream = bytearray(data.draw(streams(side, None)))
    if not stream:
        return
    stream[place % len(stream)] ^= flipped
    (ours, _), *_ = read_by(OURS, side, None, [bytes(stream), None])
    (theirs, _), *_ = read_by(THEIRS, side, None, [bytes(stream), None])
    if ours != theirs:
        # Ours says no, and sooner: to half a header, to text inside its frame, to a size. To 1014
        # it says yes.
        *before, (name, fields) = ours
        assert before == theirs[: len(before)]
        assert name == "CloseConnection"
        assert fields["code"] in (1002, 1007, 1009, 1014)


@given(sides, offers, st.binary(max_size=300), places)
@example("client", DEFLATE, b"\xc1\x7e\x00\x7e" + bytes(200), [])
def test_any_bytes_at_all(side, offer, stream, places):
    steps = read_by(OURS, side, offer, [*cut(stream, places), None])
    assert steps[-1][0][-1] == ("CloseConnection", {"code": 1006, "reason": None})
    assert steps[-1][1] == "CLOSED"


@pytest.mark.parametrize("side", ["client", "server"])
def test_deviation_code_1014(side):
    """Registered since with IANA, as "bad gateway"; wsproto has it for a violation."""
    stream = encode_close(1014, b"x", mask=None if side == "client" else b"mask")
    assert read_by(OURS, side, None, [stream]) == [
        ([("CloseConnection", {"code": 1014, "reason": "x"})], "REMOTE_CLOSING")
    ]


def test_deviation_fragments_are_not_kept_back():
    """What was sent can be inflated; wsproto's compressor may keep it until the message ends."""
    ours, peer = OURS.open("client", DEFLATE), OURS.open("server", DEFLATE)
    for text in ("one", "two"):
        peer.receive_data(ours.send(OURS.events.TextMessage(text, message_finished=False)))
        assert [event.data for event in peer.events()] == [text]


# -- events ----------------------------------------------------------------------------------------

sent_events = st.one_of(
    st.tuples(
        st.just("TextMessage"),
        st.fixed_dictionaries({"data": texts, "message_finished": st.booleans()}),
    ),
    st.tuples(
        st.just("BytesMessage"),
        st.fixed_dictionaries({"data": blobs, "message_finished": st.booleans()}),
    ),
    st.tuples(
        st.sampled_from(["Ping", "Pong"]),
        st.fixed_dictionaries({"payload": st.binary(max_size=125)}),
    ),
    st.tuples(
        st.just("CloseConnection"),
        st.fixed_dictionaries(
            {
                "code": st.sampled_from([1000, 1001, 1011, 3000, 4999]),
                "reason": st.none() | st.text(max_size=60),
            }
        ),
    ),
)
steps = st.lists(
    st.tuples(st.just("send"), st.sampled_from([0, 1]), sent_events)
    | st.tuples(st.just("deliver"), st.sampled_from([0, 1]), places),
    max_size=25,
)


class Conversation:
    """Two sides, each of a library, and what lies on the wire between them."""

    def __init__(self, libraries, offer):
        self.libraries = libraries
        self.sides = [libraries[0].open("client", offer), libraries[1].open("server", offer)]
        self.wire = [b"", b""]
        self.events = [[], []]
        self.offer = offer

    def send(self, side, name, fields):
        """The outcome: the name of the error, or None."""
        try:
            data = self.sides[side].send(self.libraries[side].event(name, **fields))
        except Exception as exc:
            return type(exc).__name__
        self.wire[side] += data
        return None

    def deliver(self, side, places):
        """What `side` has sent reaches the other, in pieces."""
        data, self.wire[side] = self.wire[side], b""
        other = 1 - side
        for piece in cut(data, places):
            try:
                self.sides[other].receive_data(piece)
            except Exception as exc:
                self.events[other].append((type(exc).__name__, {}))
                return
            self.events[other] += [told(event) for event in self.sides[other].events()]

    @property
    def states(self):
        return [side.state.name for side in self.sides]

    @property
    def told(self):
        """Without messages that never ended: wsproto's compressor keeps fragments to itself."""
        return [
            [
                (name, fields)
                for name, fields in whole(events)
                if self.offer is None or fields.get("message_finished", True)
            ]
            for events in self.events
        ]


def allowed(steps, offer):
    """Without what wsproto does wrong: control frames inside a compressed message."""
    under_way: list[str | None] = [None, None]
    for what, side, details in steps:
        if what == "send" and offer is not None:
            name, fields = details
            if "message_finished" not in fields:
                if under_way[side] is not None:
                    continue
            elif under_way[side] in (None, name):  # else it is refused
                under_way[side] = None if fields["message_finished"] else name
        yield what, side, details


@given(steps, offers)
def test_any_conversation_of_any_two(steps, offer):
    """The same steps with ours at both ends, at one, at the other, and at none."""
    conversations = [
        Conversation(libraries, offer)
        for libraries in itertools.product([OURS, THEIRS], [OURS, THEIRS])
    ]
    for what, side, details in [
        *allowed(steps, offer),
        ("deliver", 0, []),
        ("deliver", 1, []),
        ("deliver", 0, []),
    ]:
        if what == "send":
            outcomes = {each.send(side, *details) for each in conversations}
            assert len(outcomes) == 1, (details, outcomes)
        else:
            for each in conversations:
                each.deliver(side, details)
        states = [each.states for each in conversations]
        assert states.count(states[0]) == 4
    reference = conversations[-1].told
    for each in conversations:
        assert each.told == reference, each.libraries


@given(st.lists(sent_events.filter(lambda event: event[0] != "CloseConnection")), offers, places)
def test_what_is_sent_arrives(events, offer, places):
    """By our own measure: every message, whatever lies between its fragments."""
    for sender, receiver in (("client", "server"), ("server", "client")):
        one, other = OURS.open(sender, offer), OURS.open(receiver, offer)
        expected, stream = [], b""
        for name, fields in events:
            # A message goes on as it began.
            if "data" in fields and expected_open(expected) not in (None, name):
                continue
            stream += one.send(OURS.event(name, **fields))
            expected.append((name, fields))
        got = []
        for piece in cut(stream, places):
            other.receive_data(piece)
            got += list(other.events())
        assert [told(event)[0] for event in got if event.__match_args__ == ("payload",)] == [
            name for name, fields in expected if "payload" in fields
        ]
        assert joined(got) == joined([OURS.event(name, **fields) for name, fields in expected])


def expected_open(sent):
    for name, fields in reversed(sent):
        if "data" in fields:
            return None if fields["message_finished"] else name
    return None


def joined(events):
    """The data of each message, and whether it was finished."""
    messages = []
    under_way = False
    for event in events:
        if event.__match_args__ == ("payload",):
            continue
        if under_way:
            messages[-1][0] += event.data
            messages[-1][1] = event.message_finished
        else:
            messages.append([event.data, event.message_finished])
        under_way = not event.message_finished
    return messages


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("offer", [None, DEFLATE])
def test_every_byte_wrong_in_every_way(side, offer):
    """Nothing is raised but at the end of the stream; what came before the byte stays as it is."""
    peer = PeerDeflater()
    frames = [
        {"opcode": TEXT, "payload": "é€".encode(), "fin": False},
        {"opcode": PING, "payload": b"p"},
        {"opcode": CONTINUATION, "payload": "😀".encode()},
        {"opcode": BINARY, "payload": bytes(130)[:5]},
    ]
    if offer is not None:
        first, last = peer.pieces([b"hello ", b"hello"])
        frames += [
            {"opcode": TEXT, "payload": first, "fin": False, "rsv": 4},
            {"opcode": CONTINUATION, "payload": last},
        ]
    frames.append({"opcode": CLOSE, "payload": b"\x03\xe8bye"})
    sizes = [len(broken([frame], side)) for frame in frames]
    stream = broken(frames, side)
    good = next(told_one for told_one, _ in read_by(OURS, side, offer, [stream]))
    for place in range(len(stream)):
        # How many frames end before this byte: each of them is one event.
        intact = sum(place >= end for end in itertools.accumulate(sizes))
        for flipped in range(1, 256):
            wrong = bytearray(stream)
            wrong[place] ^= flipped
            (events, _), (end, state) = read_by(OURS, side, offer, [bytes(wrong), None])
            assert events[:intact] == good[:intact]
            assert end == [("CloseConnection", {"code": 1006, "reason": None})]
            assert state == "CLOSED"
