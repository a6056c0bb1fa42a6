"""Any sequence of events that one side sends, cut anywhere, comes out equal on the other: for
either side, with and without permessage-deflate, from the opening handshake on (WSConnection) or
behind one made elsewhere (Connection), in parts or as whole messages, however the bytes arrive.

What "equal" means is said by `in_parts` and `in_messages`: they make of the events that were sent
those that have to come, and know nothing of frames.
"""

from __future__ import annotations

import pytest
from aio.deflate_peer import far
from aio.traffic import octets
from hypothesis import given, settings
from hypothesis import strategies as st
from sansio.both import cut

from picows.sansio import CLIENT, SERVER, Connection, ConnectionState, WSConnection
from picows.sansio.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.handshake import client_extensions_handshake, server_extensions_handshake

# -- what is sent ----------------------------------------------------------------------------------

texts = st.text(max_size=40) | st.sampled_from(["", "é" * 130, "x" * 126, "€😀" * 20, "ab" * 700])
# Twice the same, further apart than the smallest window reaches.
blobs = st.binary(max_size=40) | st.sampled_from([b"", bytes(126), octets(600) * 2])
large = st.sampled_from([far(40_000), octets(66_000), bytes(70_000)])
controls = st.builds(Ping, st.binary(max_size=125)) | st.builds(Pong, st.binary(max_size=125))
codes = st.sampled_from([1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
closes = st.builds(CloseConnection, codes, st.none() | st.text(max_size=30))


@st.composite
def conversations(draw, contents):
    """What one side may send: messages in fragments, control frames anywhere between, and at the
    end perhaps a CLOSE, also in the middle of a message.
    """
    events = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([TextMessage, BytesMessage]))
        content = texts if kind is TextMessage else contents
        pieces = draw(st.lists(content, min_size=1, max_size=4))
        for number, data in enumerate(pieces, 1):
            events += draw(st.lists(controls, max_size=2))
            if kind is BytesMessage and draw(st.booleans()):
                data = bytearray(data)
            events.append(kind(data, message_finished=number == len(pieces)))
    if draw(st.booleans()):
        del events[draw(st.integers(0, len(events))) :]
        events.append(draw(closes))
    return events


# -- what comes of it ------------------------------------------------------------------------------


def in_parts(events):
    """The parts of a message put together, as far as nothing stands between them: what arrives of a
    frame, and when, depends on how the bytes come. A part of nothing may come or not.
    """
    merged = []
    kind = None  # of the message under way
    for event in events:
        if not isinstance(event, Message):
            merged.append(told(event))
            continue
        assert kind in (None, type(event))
        if kind is None or not isinstance(merged[-1], list):
            merged.append([type(event), type(event.data)(), False])
        merged[-1][1] += event.data
        merged[-1][2] = event.message_finished
        kind = None if event.message_finished else type(event)
    return [each for each in merged if not isinstance(each, list) or each[1] or each[2]]


def in_messages(events):
    """Whole messages, where their last fragments stand; one that does not end does not come."""
    whole = []
    data = None
    for event in events:
        if not isinstance(event, Message):
            whole.append(told(event))
            continue
        data = event.data if data is None else data + event.data
        if event.message_finished:
            whole.append(type(event)(data if isinstance(data, str) else bytes(data)))
            data = None
    return whole


def told(event):
    """No reason and an empty one look the same on the wire."""
    if isinstance(event, CloseConnection):
        return CloseConnection(event.code, event.reason or "")
    return event


# -- the way ---------------------------------------------------------------------------------------

bits = st.integers(9, 15)


def extension(draw, name):
    """The settings of one side."""
    if name == "none":
        return []
    own = {"level": draw(st.sampled_from([1, 9])), "threshold": draw(st.sampled_from([0, 64]))}
    if name == "windows":
        own["client_max_window_bits"], own["server_max_window_bits"] = draw(bits), draw(bits)
        own["client_no_context_takeover"] = draw(st.booleans())
        own["server_no_context_takeover"] = draw(st.booleans())
    elif name == "no takeover":
        own["client_no_context_takeover"] = own["server_no_context_takeover"] = True
    return [PerMessageDeflate(**own)]


def opened(draw, door, sender, name, assembled, pieces_of):
    """A connection that sends and one that receives, and what the receiver has not received yet."""
    theirs, ours = extension(draw, name), extension(draw, name)
    clients, servers = (theirs, ours) if sender == "client" else (ours, theirs)
    receives = {"assemble_messages": assembled}
    options = [{}, receives] if sender == "client" else [receives, {}]
    if door is Connection:
        offers = [f"{each.name}; {each.offer()}" for each in clients]
        answer = server_extensions_handshake(offers, servers)
        assert (answer is None) == (name == "none")
        client_extensions_handshake([] if answer is None else [answer.decode()], clients)
        sides = [
            Connection(kind, extensions, **own)
            for kind, extensions, own in zip(
                [CLIENT, SERVER], [clients, servers], options, strict=True
            )
        ]
        rest = b""
    else:
        sides = [
            WSConnection(kind, **own) for kind, own in zip([CLIENT, SERVER], options, strict=True)
        ]
        request = Request(host="example.com", target="/", extensions=clients)
        for piece in pieces_of(sides[0].send(request)):
            sides[1].receive_data(piece)
        (asked,) = sides[1].events()
        assert asked.target == "/"
        # Where the server sends, its frames come right behind its answer.
        rest = sides[1].send(AcceptConnection(extensions=servers))
        if sender == "client":
            sides[0].receive_data(rest)
            (accepted,) = sides[0].events()
            assert len(accepted.extensions) == len(clients)
            rest = b""
    return (*(sides if sender == "client" else sides[::-1]), rest)


def bytewise(data):
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("chunking", ["whole", "bytewise", "anyhow"])
@pytest.mark.parametrize("assembled", [False, True], ids=["parts", "messages"])
@pytest.mark.parametrize("name", ["none", "takeover", "no takeover", "windows"])
@pytest.mark.parametrize("door", [WSConnection, Connection], ids=lambda door: door.__name__)
@pytest.mark.parametrize("sender", ["client", "server"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_what_is_sent_comes_out(data, sender, door, name, assembled, chunking):
    draw = data.draw

    def pieces_of(stream):
        if chunking == "anyhow":
            return cut(stream, draw(st.lists(st.integers(0, max(len(stream), 1)), max_size=12)))
        return [stream] if chunking == "whole" else bytewise(stream)

    one, other, rest = opened(draw, door, sender, name, assembled, pieces_of)
    sent = draw(conversations(blobs if chunking == "bytewise" else blobs | large))
    stream = rest + b"".join(map(one.send, sent))

    # Read after each piece, or some pieces later.
    patient = draw(st.booleans())
    received = []
    for piece in pieces_of(stream):
        other.receive_data(piece)
        if not patient or draw(st.booleans()):
            received += other.events()
    received += other.events()

    if rest:
        assert isinstance(received.pop(0), AcceptConnection)
    if assembled:
        assert list(map(told, received)) == in_messages(sent)
    else:
        assert in_parts(received) == in_parts(sent)
        # One event, one frame, and so each frame is finished once.
        parts = [event for event in received if isinstance(event, Message)]
        frames = [event for event in sent if isinstance(event, Message)]
        assert sum(part.frame_finished for part in parts) == len(frames)
    # The answer comes back, and it is over; or else the end of the stream is what is told last.
    if sent and isinstance(sent[-1], CloseConnection):
        assert other.state is ConnectionState.REMOTE_CLOSING
        one.receive_data(other.send(received[-1].response()))
        assert list(map(told, one.events())) == [told(sent[-1])]
        assert one.state is other.state is ConnectionState.CLOSED
    else:
        assert one.state is other.state is ConnectionState.OPEN
        other.receive_data(None)
        assert list(other.events()) == [CloseConnection(1006, None)]


# -- the measure itself ----------------------------------------------------------------------------

SENT = [
    TextMessage("na", message_finished=False),
    Ping(b"1"),
    TextMessage("ïv", message_finished=False),
    TextMessage("e"),
    BytesMessage(b"", message_finished=False),
    Pong(b"2"),
    BytesMessage(bytearray(b"ab")),
    CloseConnection(1000),
]


def test_parts_however_they_are_cut():
    parts = [
        TextMessage("n", frame_finished=False, message_finished=False),
        *(TextMessage("a", message_finished=False), Ping(b"1")),
        *(TextMessage(letter, message_finished=False) for letter in "ïv"),
        *(TextMessage("e"), Pong(b"2"), BytesMessage(b"ab"), CloseConnection(1000, "")),
    ]
    assert in_parts(parts) == in_parts(SENT)


EMPTY_PART = 4  # which may come or not


def outcome(measure, events):
    try:
        return measure(events)
    except (AssertionError, TypeError):
        return "no sequence of events that could be sent"


@pytest.mark.parametrize("measure", [in_parts, in_messages])
@pytest.mark.parametrize("at", [at for at in range(len(SENT)) if at != EMPTY_PART])
def test_what_is_lost_repeated_or_replaced_is_seen(measure, at):
    for instead in ([], [SENT[at]] * 2, [Ping(b"3")], [TextMessage("x", message_finished=False)]):
        assert outcome(measure, [*SENT[:at], *instead, *SENT[at + 1 :]]) != measure(SENT), instead


@pytest.mark.parametrize("measure", [in_parts, in_messages])
@pytest.mark.parametrize("at", range(len(SENT) - 1))
def test_another_order_is_seen(measure, at):
    first, second = SENT[at : at + 2]
    swapped = outcome(measure, [*SENT[:at], second, first, *SENT[at + 2 :]])
    # Of whole messages, only the last fragment stands before or behind a control frame.
    hidden = measure is in_messages and at in (0, 1, 4)
    # A part of nothing may stand on either side of it.
    hidden = hidden or (measure is in_parts and at == EMPTY_PART)
    assert (swapped == measure(SENT)) == hidden
