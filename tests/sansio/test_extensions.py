"""sansio/extensions.py, sansio/negotiation.py: extensions of users; permessage-deflate as one."""

import pytest
from aio.deflate_peer import PeerDeflater
from aio.traffic import frame_to
from hypothesis import given
from hypothesis import strategies as st
from sansio.both import OURS, THEIRS, cut, drained

from picows.errors import WSError, WSInvalidHeaderError
from picows.handshake.deflate import DeflateAgreement
from picows.sansio.connection import CLIENT, SERVER, Connection
from picows.sansio.events import BytesMessage, CloseConnection, Ping, TextMessage
from picows.sansio.extensions import SUPPORTED_EXTENSIONS, Extension, PerMessageDeflate
from picows.sansio.frame_protocol import CloseReason, FrameProtocol, Opcode, RsvBits
from picows.sansio.handshake import client_extensions_handshake, server_extensions_handshake
from picows.sansio.utilities import RemoteProtocolError
from raw_peer import BINARY, CLOSE, CONTINUATION, PING, TEXT, encode_frame

DEFLATE = "permessage-deflate"
NO_BITS = (False, False, False)
LIBRARIES = pytest.mark.parametrize("library", [OURS, THEIRS], ids=repr)
SIDES = pytest.mark.parametrize("side", ["client", "server"])


def tracer(library, name, heard, answers=None):
    """An extension of this library that writes down what it is asked, and marks what it sees."""
    answers = answers or {}
    words = library.frame_protocol

    class Tracer(library.extensions.Extension):
        def offer(self):
            return True

        def enabled(self):
            return answers.get("enabled", True)

        def frame_inbound_header(self, proto, opcode, rsv, payload_length):
            heard.append((name, "header", proto.client, opcode, tuple(rsv), payload_length))
            return self.answer("header", words.RsvBits(*NO_BITS))

        def frame_inbound_payload_data(self, proto, data):
            heard.append((name, "payload", type(data), data))
            return self.answer("payload", data + name.encode())

        def frame_inbound_complete(self, proto, fin):
            heard.append((name, "complete", fin))
            return self.answer("complete", None)

        def frame_outbound(self, proto, opcode, rsv, data, fin):
            heard.append((name, "outbound", proto.client, opcode, tuple(rsv), data, fin))
            return self.answer("outbound", (rsv, data + name.encode()))

        def answer(self, question, otherwise):
            answer = answers.get(question, otherwise)
            if isinstance(answer, int):
                return words.CloseReason(answer)
            if isinstance(answer, tuple) and len(answer) == 3:
                return words.RsvBits(*answer)
            if question == "outbound":
                return words.RsvBits(*answer[0]), answer[1]
            return answer

    extension = Tracer()
    extension.name = name
    return extension


def heard_of(library, side, pieces, first=None, second=None, sent=()):
    """What two extensions hear, what is told, and what is sent (by a server, without a mask)."""
    heard = []
    connection = library.connection.Connection(
        library.side(side),
        [tracer(library, "a", heard, first), tracer(library, "b", heard, second)],
    )
    events = []
    for piece in pieces:
        connection.receive_data(piece)
        events += drained(connection)
    for _, fields in events:
        # Where an extension refuses a frame, each says so in its own words.
        if fields.get("reason") in ("an extension refuses a frame", "error in extension"):
            fields["reason"] = "(refused)"
    data = [connection.send(library.event(name, **fields)) for name, fields in sent]
    return heard, events, data if side == "server" else [each[:1] for each in data]


# -- what extensions of users see ------------------------------------------------------------------

STREAMS = {
    "text": [(TEXT, b"hi", {})],
    "empty": [(BINARY, b"", {})],
    "fragments": [
        (BINARY, b"x", {"fin": False}),
        (PING, b"p", {}),
        (CONTINUATION, b"", {"fin": False}),
        (CONTINUATION, b"y", {}),
    ],
    "close": [(CLOSE, b"\x03\xe8bye", {})],
    "close without a code, until it is marked": [(CLOSE, b"", {})],
    "close with a code that would be wrong": [(CLOSE, b"\x00", {})],
    "reserved bit": [(BINARY, b"x", {"rsv": 4})],
    "all reserved bits": [(BINARY, b"x", {"rsv": 7})],
    "reserved bit of a PING": [(PING, b"x", {"rsv": 1})],
}
ANSWERS = {
    "nothing special": {},
    "bit 1": {"header": (True, False, False)},
    "all bits": {"header": (True, True, True)},
    "a header fails": {"header": 1008},
    "a payload fails": {"payload": 1009},
    "the end fails": {"complete": 1011},
    "more at the end": {"complete": b"END"},
    "nothing left": {"payload": b""},
    "no text": {"payload": b"\xff"},
    "disabled": {"enabled": False},
}


@SIDES
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("first", ANSWERS)
@pytest.mark.parametrize("second", ["nothing special", "all bits", "a payload fails", "disabled"])
def test_what_extensions_are_asked(side, stream, first, second):
    data = b"".join(
        frame_to(side, opcode, payload, **more) for opcode, payload, more in STREAMS[stream]
    )
    arguments = side, [data], ANSWERS[first], ANSWERS[second]
    ours, theirs = heard_of(OURS, *arguments), heard_of(THEIRS, *arguments)
    assert ours == theirs


@SIDES
@given(places=st.lists(st.integers(0, 60)))
def test_what_they_are_asked_of_pieces(side, places):
    data = b"".join(
        frame_to(side, opcode, payload, **more)
        for opcode, payload, more in (
            *STREAMS["text"],
            *STREAMS["fragments"],
            (BINARY, bytes(range(20)), {}),
            (PING, b"between", {}),
            *STREAMS["close"],
        )
    )
    pieces = cut(data, places)
    heard, *rest = heard_of(THEIRS, side, pieces)
    # wsproto asks about a header once more when its mask key comes later.
    asked_once = [
        each
        for at, each in enumerate(heard)
        if each[1] != "header" or heard[at + 2 : at + 3] != [each]
    ]
    assert heard_of(OURS, side, pieces) == (asked_once, *rest)


SENT = [
    ("TextMessage", {"data": "x"}),
    ("Ping", {"payload": b"p"}),
    ("BytesMessage", {"data": b"f", "message_finished": False}),
    ("Pong", {}),
    ("BytesMessage", {"data": b"g"}),
    ("CloseConnection", {"code": 1000, "reason": "bye"}),
]


@SIDES
@pytest.mark.parametrize(
    "outbound", [None, ((True, False, False), b"zz"), ((True, True, True), b"")]
)
@pytest.mark.parametrize("enabled", [True, False])
def test_what_they_make_of_what_is_sent(side, outbound, enabled):
    answers = {"enabled": enabled} | ({} if outbound is None else {"outbound": outbound})
    ours, theirs = (
        heard_of(library, side, [], answers, answers if outbound else None, SENT)
        for library in (OURS, THEIRS)
    )
    assert ours == theirs
    order = [name for name, *_ in ours[0]]
    if enabled:
        assert order[:2] == ["b", "a"]


class Plain(Extension):
    name = "x-plain"

    def offer(self):
        return True


@LIBRARIES
def test_what_an_extension_does_by_itself(library):
    class Nothing(library.extensions.Extension):
        name = "x"

        def offer(self):
            return True

    words = library.frame_protocol
    extension = Nothing()
    none = words.RsvBits(*NO_BITS)
    some = words.RsvBits(True, False, True)
    assert not extension.enabled()
    assert extension.accept("x") is None
    assert extension.finalize("x") is None
    assert extension.frame_inbound_header(None, words.Opcode.TEXT, some, 3) == none
    assert extension.frame_inbound_payload_data(None, b"x") == b"x"
    assert extension.frame_inbound_complete(None, True) is None
    assert extension.frame_outbound(None, words.Opcode.TEXT, some, b"x", True) == (some, b"x")
    with pytest.raises(TypeError, match="abstract"):
        library.extensions.Extension()


class Answering(Plain):
    """Returns or raises what it is told to."""

    def __init__(self, **answers):
        self.answers = answers

    def enabled(self):
        return True

    def given(self, question, otherwise):
        answer = self.answers.get(question, otherwise)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def frame_inbound_header(self, proto, opcode, rsv, payload_length):
        return self.given("header", RsvBits(*NO_BITS))

    def frame_inbound_payload_data(self, proto, data):
        return self.given("payload", data)

    def frame_inbound_complete(self, proto, fin):
        return self.given("complete", None)

    def frame_outbound(self, proto, opcode, rsv, data, fin):
        return self.given("outbound", (rsv, data))


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")])
def test_payloads_in_other_shapes(data):
    connection = Connection(CLIENT, [Answering(payload=data)])
    connection.receive_data(encode_frame(BINARY, b"x"))
    assert list(connection.events()) == [BytesMessage(b"abc")]
    connection = Connection(SERVER, [Answering(outbound=((False, False, False), data))])
    assert connection.send(TextMessage("x")) == b"\x81\x03abc"


@pytest.mark.parametrize("question", ["header", "payload", "complete"])
def test_what_an_extension_raises_is_raised(question):
    connection = Connection(CLIENT, [Answering(**{question: KeyError("its own")})])
    connection.receive_data(encode_frame(BINARY, b"x"))
    with pytest.raises(KeyError, match="its own"):
        next(connection.events())


@pytest.mark.parametrize(
    ("question", "answer"),
    [("header", None), ("payload", "text"), ("payload", None), ("complete", "text")],
)
def test_what_an_extension_must_not_answer(question, answer):
    connection = Connection(CLIENT, [Answering(**{question: answer})])
    connection.receive_data(encode_frame(BINARY, b"x"))
    with pytest.raises((TypeError, AttributeError)):
        next(connection.events())


def test_what_an_extension_raises_when_sending():
    connection = Connection(SERVER, [Answering(outbound=KeyError("its own"))])
    with pytest.raises(KeyError, match="its own"):
        connection.send(TextMessage("x", message_finished=False))
    # Nothing was sent, so no message has begun.
    with pytest.raises(KeyError):
        connection.send(BytesMessage(b"x"))


@pytest.mark.parametrize("fin", [True, False])
def test_line_30_what_was_compressed_and_not_sent_is_missing_to_the_peer(fin):
    """An extension behind the compression fails: messages end, but not the closing handshake."""
    failing = Answering()
    connection = Connection(SERVER, [failing, *OURS.agreed("server", DEFLATE)])
    assert connection.send(TextMessage("x" * 100))[0] == 0xC1
    connection.send(Ping(b"x"))
    failing.answers["outbound"] = KeyError("its own")
    with pytest.raises(KeyError, match="its own"):
        connection.send(TextMessage("x" * 100, message_finished=fin))
    failing.answers.clear()
    for message in (TextMessage("x" * 100), BytesMessage(b"y")):
        with pytest.raises(RuntimeError, match="ends the connection"):
            connection.send(message)
    assert connection.send(Ping(b"x")) == b"\x89\x01x"
    assert connection.send(CloseConnection(1011)) == b"\x88\x02\x03\xf3"


def test_line_30_what_was_not_compressed_is_missing_to_nobody():
    failing = Answering()
    deflate = PerMessageDeflate(threshold=50)
    assert deflate.accept(DEFLATE) is not None
    connection = Connection(SERVER, [failing, deflate])
    for event in (TextMessage("short"), Ping(b"x" * 100)):
        failing.answers["outbound"] = KeyError("its own")
        with pytest.raises(KeyError, match="its own"):
            connection.send(event)
        failing.answers.clear()
        assert connection.send(TextMessage("x" * 100))[0] == 0xC1


def test_what_extensions_make_is_bounded():
    connection = Connection(CLIENT, [Answering(payload=bytes(101))], max_message_size=100)
    connection.receive_data(encode_frame(BINARY, b"x"))
    (event,) = connection.events()
    assert event.code == 1009
    connection = Connection(CLIENT, [Answering(complete=bytes(60))], max_message_size=100)
    connection.receive_data(encode_frame(BINARY, b"x", fin=False) + encode_frame(CONTINUATION))
    first, second = connection.events()
    assert len(first.data) == 61
    assert second.code == 1009


@pytest.mark.parametrize("assembled", [False, True])
def test_assembled_behind_extensions(assembled):
    heard = []
    connection = Connection(CLIENT, [tracer(OURS, "a", heard)], assemble_messages=assembled)
    data = encode_frame(TEXT, "é".encode()[:1], fin=False)
    connection.receive_data(data)
    events = list(connection.events())
    # "é" cut in half, with a mark between: no text any more.
    assert [event.code for event in events if isinstance(event, CloseConnection)] == [1007]
    connection = Connection(CLIENT, [tracer(OURS, "a", [])], assemble_messages=assembled)
    connection.receive_data(encode_frame(TEXT, b"x", fin=False) + encode_frame(CONTINUATION, b"y"))
    text = "".join(event.data for event in connection.events())
    assert text == "xaya"


# -- permessage-deflate, by its methods ------------------------------------------------------------


def test_it_is_an_extension():
    assert isinstance(PerMessageDeflate(), Extension)
    assert issubclass(PerMessageDeflate, Extension)
    assert {DEFLATE: PerMessageDeflate} == SUPPORTED_EXTENSIONS
    assert set(SUPPORTED_EXTENSIONS) == set(THEIRS.extensions.SUPPORTED_EXTENSIONS)


def test_one_class_for_asyncio_and_for_this():
    import picows

    assert PerMessageDeflate is picows.PerMessageDeflate


ARGUMENTS = [
    (),
    (True,),
    (False, 10),
    (False, 10, True),
    (True, 9, True, 9),
    (False, None, False, 12),
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_offer(arguments):
    ours, theirs = (library.extensions.PerMessageDeflate(*arguments) for library in (OURS, THEIRS))
    assert ours.offer() == theirs.offer()
    assert repr(ours) == repr(theirs)
    assert ours.name == theirs.name
    assert not ours.enabled()
    for name in (
        *("client_no_context_takeover", "client_max_window_bits"),
        *("server_no_context_takeover", "server_max_window_bits"),
        *("DEFAULT_CLIENT_MAX_WINDOW_BITS", "DEFAULT_SERVER_MAX_WINDOW_BITS"),
    ):
        assert getattr(ours, name) == getattr(theirs, name)


OFFERS = [
    DEFLATE,
    f"{DEFLATE}; client_max_window_bits",
    f"{DEFLATE}; client_max_window_bits=10",
    f"{DEFLATE}; server_max_window_bits=10",
    f"{DEFLATE}; server_max_window_bits=8",
    f"{DEFLATE}; server_max_window_bits=7",
    f"{DEFLATE}; server_max_window_bits=16",
    f"{DEFLATE}; server_no_context_takeover",
    f"{DEFLATE}; client_no_context_takeover; server_no_context_takeover",
    f"{DEFLATE} ; client_max_window_bits = 10 ; client_no_context_takeover",
]


def parameters(text):
    """In any order."""
    return text and sorted(each.strip() for each in text.split(";"))


@pytest.mark.parametrize("offer", OFFERS)
def test_accept(offer):
    ours, theirs = (library.extensions.PerMessageDeflate() for library in (OURS, THEIRS))
    assert parameters(ours.accept(offer)) == parameters(theirs.accept(offer))
    assert ours.enabled() == theirs.enabled()
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "offer",
    [
        DEFLATE,
        f"{DEFLATE}; client_max_window_bits=10",
        f"{DEFLATE}; server_max_window_bits=10; client_no_context_takeover",
        f"{DEFLATE}; server_no_context_takeover",
    ],
)
def test_finalize(offer):
    ours, theirs = (library.extensions.PerMessageDeflate() for library in (OURS, THEIRS))
    assert ours.finalize(offer) is theirs.finalize(offer) is None
    assert ours.enabled()
    assert theirs.enabled()
    assert repr(ours) == repr(theirs)


MALFORMED = [
    "",
    ";",
    ";;;",
    "x",
    "client_max_window_bits=10",
    f"{DEFLATE}; unknown",
    f"{DEFLATE}; unknown=1",
    f"{DEFLATE}; server_max_window_bits=x",
    f"{DEFLATE}; server_max_window_bits=",
    f"{DEFLATE}; server_max_window_bits=010",
    f"{DEFLATE}; server_max_window_bits=10; server_max_window_bits=10",
    f"{DEFLATE}; client_max_window_bits; client_max_window_bits=10",
    f"{DEFLATE}; server_no_context_takeover=1",
    f'{DEFLATE}; server_max_window_bits="10',
    f"{DEFLATE}, {DEFLATE}",
    f"{DEFLATE}; =",
    f"{DEFLATE}; server_max_window_bits=１０",  # noqa: RUF001 - digits, and not ASCII
    "\x00",
    f"{DEFLATE}\r\n",
]


@pytest.mark.parametrize("offer", MALFORMED)
def test_malformed_parameters(offer):
    """Declined, or refused with an error of ours; wsproto raises ValueError and IndexError."""
    extension = PerMessageDeflate()
    assert extension.accept(offer) is None
    assert not extension.enabled()
    with pytest.raises(WSInvalidHeaderError):
        extension.finalize(offer)
    assert not extension.enabled()
    if "," not in offer:  # which is two offers
        assert server_extensions_handshake([offer], [extension]) is None
    if offer:
        with pytest.raises(RemoteProtocolError) as caught:
            client_extensions_handshake([offer], [extension])
        assert caught.value.event_hint is not None


@given(st.text(max_size=40) | st.from_regex(r"permessage-deflate(; ?[a-z_]+(=\"?\d*\"?)?)*"))
def test_any_parameters(offer):
    extension = PerMessageDeflate()
    answer = extension.accept(offer)
    assert (answer is not None) == extension.enabled()
    try:
        extension.finalize(offer)
    except WSError:
        pass
    else:
        assert extension.enabled()
    server_extensions_handshake([offer], [extension])
    try:
        client_extensions_handshake([offer], [extension])
    except RemoteProtocolError:
        pass


def test_parameters_that_wsproto_cannot_have():
    extension = PerMessageDeflate()
    assert (
        extension.accept(f'{DEFLATE}; client_max_window_bits="10"') == "client_max_window_bits=10"
    )
    extension = PerMessageDeflate()
    # A window of 8 bits of the client's: inflated, though never deflated to.
    assert extension.accept(f"{DEFLATE}; client_max_window_bits=8") == "client_max_window_bits=8"
    assert extension.client_max_window_bits == 8


def test_settings_stay_what_they_were():
    """What one connection agreed on does not narrow what the next one offers or accepts."""
    extension = PerMessageDeflate()
    offer = extension.offer()
    extension.accept(f"{DEFLATE}; server_max_window_bits=9; client_max_window_bits=9")
    assert extension.server_max_window_bits == 9
    assert extension.offer() == offer
    assert extension.agree([]) == (DeflateAgreement(False, False, 15, 15), "")
    assert extension.accept(DEFLATE) == ""
    assert extension.server_max_window_bits == 15
    extension.reset()
    assert not extension.enabled()
    assert extension.server_max_window_bits == 15


def test_asyncio_leaves_it_as_it_is():
    """agree() and confirm() are all that asyncio's handshakes call."""
    extension = PerMessageDeflate()
    before = dict(vars(extension))
    assert extension.agree([("server_max_window_bits", "9")]) is not None
    assert extension.confirm([("server_max_window_bits", "9")]) is not None
    assert vars(extension) == before


def agreed(side, offer=DEFLATE, **settings):
    extension = PerMessageDeflate(**settings)
    if side == "client":
        extension.finalize(offer)
    else:
        extension.accept(offer)
    return extension


def test_codecs_need_an_agreement():
    with pytest.raises(RuntimeError, match="not agreed on"):
        PerMessageDeflate().codecs(True)


class Idle(Plain):
    """Makes the connection call the methods of all its extensions."""

    def enabled(self):
        return True


@SIDES
@given(st.data())
def test_by_methods_as_in_c(side, data):
    """permessage-deflate beside another extension does what it does alone."""
    offer = data.draw(
        st.sampled_from(
            [DEFLATE, f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover"]
        )
    )
    kind = CLIENT if side == "client" else SERVER
    alone = Connection(kind, [agreed(side, offer)])
    beside = Connection(kind, [Idle(), agreed(side, offer), Idle()])
    peer = PeerDeflater(takeover=offer == DEFLATE)
    stream = b""
    for text, compressed in data.draw(st.lists(st.tuples(st.text(), st.booleans()), max_size=6)):
        octets = text.encode()
        pieces = cut(octets, data.draw(st.lists(st.integers(0, len(octets)), max_size=2)))
        if compressed:
            pieces = peer.pieces(pieces)
        for at, piece in enumerate(pieces):
            stream += frame_to(
                side,
                CONTINUATION if at else TEXT,
                piece,
                fin=at == len(pieces) - 1,
                rsv=4 if compressed and not at else 0,
            ) + frame_to(side, PING, b"p")
    for piece in cut(stream, data.draw(st.lists(st.integers(0, len(stream) + 1), max_size=6))):
        alone.receive_data(piece)
        beside.receive_data(piece)
        assert list(alone.events()) == list(beside.events())
    other = Connection(
        SERVER if side == "client" else CLIENT,
        [agreed("server" if side == "client" else "client", offer)],
    )
    for event in (
        TextMessage("hello " * 30),
        TextMessage("part ", message_finished=False),
        Ping(b"between"),
        TextMessage("end"),
        BytesMessage(b"short"),
        TextMessage("hello " * 30),
    ):
        one, two = alone.send(event), beside.send(event)
        assert len(one) == len(two)
        assert one[0] == two[0]
        other.receive_data(two)
        assert list(other.events()) == [event]


def test_methods_bound_what_they_inflate():
    extension = agreed("client", max_inflated_size=1000)
    connection = Connection(CLIENT, [extension, Idle()])
    message = PeerDeflater().message
    connection.receive_data(encode_frame(BINARY, message(bytes(1000)), rsv=4))
    assert list(connection.events()) == [BytesMessage(bytes(1000))]
    first, second = PeerDeflater().pieces([bytes(600), bytes(600)])
    extension = agreed("client", max_inflated_size=1000)
    connection = Connection(CLIENT, [extension, Idle()])
    connection.receive_data(encode_frame(BINARY, first, fin=False, rsv=4))
    connection.receive_data(encode_frame(CONTINUATION, second))
    assert [getattr(event, "code", None) for event in connection.events()] == [None, 1009]


@LIBRARIES
def test_methods_one_by_one(library):
    words, extension = library.frame_protocol, library.extensions.PerMessageDeflate()
    extension.accept(DEFLATE)
    proto = words.FrameProtocol(False, [])
    header, payload = extension.frame_inbound_header, extension.frame_inbound_payload_data
    bits, none = words.RsvBits(True, False, False), words.RsvBits(*NO_BITS)
    compressed = PeerDeflater().message(b"hello")
    assert header(proto, words.Opcode.TEXT, bits, len(compressed)) == bits
    assert payload(proto, compressed) + extension.frame_inbound_complete(proto, True) == b"hello"
    assert header(proto, words.Opcode.TEXT, none, 3) == bits
    assert payload(proto, b"abc") == b"abc"
    assert extension.frame_inbound_complete(proto, True) is None
    for opcode in (words.Opcode.PING, words.Opcode.CLOSE, words.Opcode.CONTINUATION):
        assert header(proto, opcode, bits, 1) == words.CloseReason.PROTOCOL_ERROR
    assert header(proto, words.Opcode.BINARY, bits, 3) == bits
    assert payload(proto, b"\xff\xff\xff") == words.CloseReason.INVALID_FRAME_PAYLOAD_DATA
    assert extension.frame_outbound(proto, words.Opcode.PING, none, b"x", True) == (none, b"x")
    rsv, data = extension.frame_outbound(proto, words.Opcode.TEXT, none, b"x" * 100, True)
    assert rsv == bits
    assert len(data) < 20


def test_methods_of_what_was_not_agreed_on():
    extension, proto = PerMessageDeflate(), FrameProtocol(False, [])
    bits, none = RsvBits(True, False, False), RsvBits(*NO_BITS)
    assert extension.frame_inbound_header(proto, Opcode.TEXT, bits, 1) == none
    assert extension.frame_inbound_payload_data(proto, b"x") == b"x"
    assert extension.frame_inbound_complete(proto, True) is None
    assert extension.frame_outbound(proto, Opcode.TEXT, none, b"x" * 100, True) == (
        none,
        b"x" * 100,
    )


def test_a_class_of_their_own():
    """A subclass may see and change what it likes: its methods are called."""

    class Loud(PerMessageDeflate):
        def frame_inbound_payload_data(self, proto, data):
            data = super().frame_inbound_payload_data(proto, data)
            return data if isinstance(data, CloseReason) else data.upper()

    extension = Loud()
    extension.finalize(DEFLATE)
    connection = Connection(CLIENT, [extension])
    connection.receive_data(encode_frame(TEXT, PeerDeflater().message(b"hello"), rsv=4))
    # The inflater keeps nothing of so short a message for its end.
    assert [event.data for event in connection.events()] == ["HELLO"]


# -- the handshake of extensions alone -------------------------------------------------------------


class Named(Plain):
    def __init__(self, name, answer=True):
        self.name = name
        self.answer = answer
        self.heard = []

    def accept(self, offer):
        self.heard.append(offer)
        return self.answer

    def finalize(self, offer):
        self.heard.append(offer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (True, b"x"),
        ("", b"x"),
        ("p=1", b"x; p=1"),
        ("p=1; q", b"x; p=1; q"),
        (None, None),
        (False, None),
    ],
)
def test_server_answers(answer, expected):
    extension = Named("x", answer)
    assert server_extensions_handshake(["x; a=1"], [extension]) == expected
    assert extension.heard == ["x; a=1"]


@LIBRARIES
def test_server_and_client(library):
    class One(library.extensions.Extension):
        def __init__(self, name):
            self.name = name

        def offer(self):
            return True

        def accept(self, offer):
            return "seen"

    a, b = One("x-a"), One("x-b")
    server, client = (
        library.handshake.server_extensions_handshake,
        library.handshake.client_extensions_handshake,
    )
    assert server(["x-b", "x-a; y"], [a, b]) == b"x-b; seen, x-a; seen"
    assert server([], [a, b]) is None
    assert server(["x-c"], [a, b]) is None
    assert client(["x-b", "x-a; y"], [a, b]) == [b, a]
    assert client([], [a, b]) == []
    with pytest.raises(library.utilities.RemoteProtocolError, match="unrecognized extension x-c"):
        client(["x-c"], [a, b])


def test_values_as_they_came():
    """Fields need not have been split, and quoted commas separate nothing."""
    a, b = Named("x-a"), Named("x-b")
    value = 'x-a; y="1,2", x-b; z, x-a'
    assert server_extensions_handshake([value], [a, b]) == b"x-a, x-b"
    assert a.heard == ['x-a; y="1,2"']
    a, b = Named("x-a"), Named("x-b")
    assert client_extensions_handshake(['x-b; z, x-a; y="1,2"'], [a, b]) == [b, a]
    assert a.heard == ['x-a; y="1,2"']


def test_names_compare_without_case():
    assert server_extensions_handshake(["X-A"], [Named("x-a")]) == b"x-a"
    extension = PerMessageDeflate()
    assert server_extensions_handshake(["PerMessage-Deflate"], [extension]) == DEFLATE.encode()


def test_deviation_the_first_offer_that_is_accepted_counts():
    """RFC 7692 section 5: offers are in the client's order of preference."""
    extension = PerMessageDeflate()
    answer = server_extensions_handshake(
        [
            f"{DEFLATE}; unknown",
            f"{DEFLATE}; server_max_window_bits=10",
            DEFLATE,
        ],
        [extension],
    )
    assert answer == f"{DEFLATE}; server_max_window_bits=10".encode()
    assert extension.server_max_window_bits == 10


def test_deviation_an_extension_is_agreed_on_once():
    with pytest.raises(RemoteProtocolError, match="unrecognized"):
        client_extensions_handshake([DEFLATE, DEFLATE], [PerMessageDeflate()])


def test_extensions_that_are_none():
    for call in (server_extensions_handshake, client_extensions_handshake):
        with pytest.raises(TypeError, match="must hold Extension objects"):
            call([DEFLATE], [PerMessageDeflate])


def test_what_was_agreed_on_before_is_forgotten():
    extension = agreed("server")
    assert server_extensions_handshake([], [extension]) is None
    assert not extension.enabled()
    extension = agreed("client")
    assert client_extensions_handshake([], [extension]) == []
    assert not extension.enabled()
