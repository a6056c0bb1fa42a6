"""handshake/deflate.py: what the two sides agree on, by the letter of RFC 7692 sections 5 and 7.1,
alone and in whole handshakes.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picows.errors import WSHandshakeError, WSInvalidHeaderError
from picows.handshake.client import ClientHandshake
from picows.handshake.deflate import DeflateAgreement, PerMessageDeflate
from picows.handshake.http11 import WSUpgradeResponse, WSUpgradeResponseWithListener
from picows.handshake.negotiate import Parameters, accept_key
from picows.handshake.server import ServerHandshake
from picows.urls import parse_url
from raw_peer import upgrade_request

URL = parse_url("ws://example.com/")
NAME = "permessage-deflate"
SERVER_ALONE, CLIENT_ALONE = "server_no_context_takeover", "client_no_context_takeover"
SERVER_BITS, CLIENT_BITS = "server_max_window_bits", "client_max_window_bits"
NAMES = (SERVER_ALONE, CLIENT_ALONE, SERVER_BITS, CLIENT_BITS)
HEADER = b"Sec-WebSocket-Extensions: "
LISTENER = object()
FLAGS = (False, True)

# Values that are no "decimal integer value without leading zeroes between 8 to 15" (7.1.2.1).
BAD_BITS = (
    *("", "0", "1", "7", "16", "17", "99", "80", "150", "-8", "-9", "+9", "08", "09", "010", "015"),
    *(
        "9.0",
        "9.",
        "1e1",
        "0x9",
        "0b1010",
        "1_0",
        "true",
        "True",
        "None",
        "nine",
        " 9",
        "9 ",
        "9\t",
    ),
    *("9,10", "9;", "\u0669", "\uff19", "\u00b9\u2070", "9\0", "\r\n9", "9" * 5000, "1" * 20_000),
)


def configurations() -> Iterator[PerMessageDeflate]:
    for bits in itertools.product(range(9, 16), repeat=2):
        for alone in itertools.product(FLAGS, repeat=2):
            yield PerMessageDeflate(alone[0], bits[0], alone[1], bits[1])


def parsed(parameters: str) -> Parameters:
    """Parameters of ours as another one reads them: plain tokens."""
    found: Parameters = []
    for each in parameters.split(";"):
        if each.strip():
            name, equals, value = each.strip().partition("=")
            found.append((name, value if equals else None))
    return found


def all_parameters(bits: tuple[object, ...]) -> Iterator[Parameters]:
    """Each of the four absent, or with each of its values; `bits` without None for no value."""
    missing = object()
    for values in itertools.product((missing, None), (missing, None), *[(missing, *bits)] * 2):
        yield [
            (name, None if value is None else str(value))
            for name, value in zip(NAMES, values, strict=True)
            if value is not missing
        ]


# -- the class -------------------------------------------------------------------------------------


def test_defaults() -> None:
    deflate = PerMessageDeflate()
    assert not deflate.client_no_context_takeover
    assert not deflate.server_no_context_takeover
    assert (deflate.client_max_window_bits, deflate.server_max_window_bits) == (15, 15)
    assert deflate.name == NAME
    assert "max_window_bits=15" in repr(deflate)
    named = PerMessageDeflate(
        client_no_context_takeover=True,
        client_max_window_bits=9,
        server_no_context_takeover=False,
        server_max_window_bits=10,
    )
    assert repr(PerMessageDeflate(True, 9, False, 10)) == repr(named)
    assert SERVER_ALONE not in repr(named)
    assert CLIENT_ALONE in repr(named)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (CLIENT_BITS, (9, 15), (8, 16, 0, -15)),
        (SERVER_BITS, (9, 15), (8, 16, 0, -15)),
        ("level", (1, 9), (0, 10, -1)),
        ("memory_level", (1, 9), (0, 10)),
        ("threshold", (0, 1, 2**40), (-1, 2**60)),
        ("max_inflated_size", (1, 2**40), (0, -1, 2**63, 2**64)),
    ],
)
def test_numbers(name: str, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    for value in good:
        assert getattr(PerMessageDeflate(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"{name} must be from .*, not {value}"):
            PerMessageDeflate(**{name: value})
    wrong: Any
    for wrong in ("9", 9.0, True, False, [9]):
        with pytest.raises(TypeError, match=f"{name} must be an int"):
            PerMessageDeflate(**{name: wrong})


@pytest.mark.parametrize("name", [SERVER_ALONE, CLIENT_ALONE])
@pytest.mark.parametrize("wrong", [0, 1, None, "", "yes"])
def test_flags(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        PerMessageDeflate(**{name: wrong})


# -- the server ------------------------------------------------------------------------------------


def check_answer(ours: PerMessageDeflate, offer: Parameters) -> None:
    agreed = ours.agree(offer)
    offered = dict(offer)
    cannot = offered.get(SERVER_BITS, "15") in (None, "8")
    assert (agreed is None) == cannot, offer
    if agreed is None:
        return
    agreement, text = agreed
    response = parsed(text)
    answer = dict(response)
    assert len(answer) == len(response)
    assert answer.keys() <= set(NAMES)
    # 7.1.1.1: accepted by including it; and it may come unasked.
    assert (SERVER_ALONE in answer) == (SERVER_ALONE in offered or ours.server_no_context_takeover)
    assert agreement.server_no_context_takeover == (SERVER_ALONE in answer)
    # 7.1.1.2: what a client offers it keeps to; and it may come unasked.
    assert CLIENT_ALONE in answer or not ours.client_no_context_takeover
    assert agreement.client_no_context_takeover == (
        CLIENT_ALONE in offered or CLIENT_ALONE in answer
    )
    assert not (answer.keys() & {SERVER_ALONE, CLIENT_ALONE}) or all(
        answer[name] is None for name in answer.keys() & {SERVER_ALONE, CLIENT_ALONE}
    )
    # 7.1.2.1: the same or a smaller value.
    if SERVER_BITS in offered:
        assert int(answer[SERVER_BITS] or 0) <= int(offered[SERVER_BITS] or 0)
    bits = int(answer.get(SERVER_BITS, "15") or 0)
    assert 9 <= bits <= ours.server_max_window_bits
    assert agreement.server_max_window_bits == bits
    # 7.1.2.2: only where it was offered; equal to or smaller than its value.
    assert CLIENT_BITS not in answer or CLIENT_BITS in offered
    bits = int(answer.get(CLIENT_BITS, "15") or 0)
    if CLIENT_BITS in offered:
        assert 8 <= bits <= int(offered[CLIENT_BITS] or 15)
        assert bits <= ours.client_max_window_bits
    # Without its word a client may use any window.
    assert agreement.client_max_window_bits == bits


def test_line_28_every_offer_to_every_server() -> None:
    offers = list(all_parameters((None, *range(8, 16))))
    assert len(offers) == 400
    for ours in configurations():
        for offer in offers:
            check_answer(ours, offer)


def test_line_29_every_client_with_every_server() -> None:
    """What both make of the same words is the same, and what both can live with."""
    answers: dict[tuple[str, str], tuple[DeflateAgreement, str]] = {}
    for client, server in itertools.product(configurations(), configurations()):
        offer = client.offer_parameters()
        key = (offer, repr(server))
        if key not in answers:
            agreed = server.agree(parsed(offer))
            assert agreed is not None
            answers[key] = agreed
        agreement, answer = answers[key]
        assert client.confirm(parsed(answer)) == agreement
        assert agreement == DeflateAgreement(
            client.server_no_context_takeover or server.server_no_context_takeover,
            client.client_no_context_takeover or server.client_no_context_takeover,
            min(client.server_max_window_bits, server.server_max_window_bits),
            min(client.client_max_window_bits, server.client_max_window_bits),
        )


def bad_parameters() -> Iterator[Parameters]:
    for name in (SERVER_BITS, CLIENT_BITS):
        for value in BAD_BITS:
            yield [(name, value)]
        yield [(name, "10"), (name, "10")]
        yield [(name, "10"), (name, "9")]
        yield [(name, "10"), (SERVER_ALONE, None), (name, None)]
    for name in (SERVER_ALONE, CLIENT_ALONE):
        for value in ("", "1", "true", "false", "10"):
            yield [(name, value)]
        yield [(name, None), (name, None)]
    for name in ("", "unknown", "x", SERVER_ALONE + "s", "max_window_bits", NAME, "client", "s"):
        yield [(name, None)]
        yield [(name, "10")]
        yield [(SERVER_BITS, "10"), (name, None)]


def test_line_28_parameters_that_are_not_allowed() -> None:
    """Unknown, repeated, out of range: an offer is declined, a response is none; nobody raises."""
    for deflate in (PerMessageDeflate(), PerMessageDeflate(True, 9, True, 9)):
        for parameters in bad_parameters():
            assert deflate.agree(parameters) is None, parameters
            assert deflate.confirm(parameters) is None, parameters
            # Nor does what is fine around them help.
            around: Parameters = [(SERVER_BITS, "9"), (SERVER_ALONE, None), (CLIENT_ALONE, None)]
            for parameter in around:
                if parameter[0] not in dict(parameters):
                    assert deflate.agree([parameter, *parameters]) is None
                    assert deflate.confirm([parameter, *parameters]) is None


def test_line_28_window_bits_without_a_value() -> None:
    """In an offer for the client alone (7.1.2.2), in a response for nobody."""
    deflate = PerMessageDeflate()
    assert deflate.agree([(CLIENT_BITS, None)]) is not None
    assert deflate.agree([(SERVER_BITS, None)]) is None
    for name in (CLIENT_BITS, SERVER_BITS):
        assert deflate.confirm([(name, None)]) is None


def test_line_28_window_bits_of_8() -> None:
    """zlib inflates such messages and deflates none: so it is for the other side alone."""
    deflate = PerMessageDeflate()
    assert deflate.agree([(SERVER_BITS, "8")]) is None
    agreed = deflate.agree([(CLIENT_BITS, "8")])
    assert agreed == (DeflateAgreement(False, False, 15, 8), f"{CLIENT_BITS}=8")
    assert deflate.confirm([(SERVER_BITS, "8")]) == DeflateAgreement(False, False, 8, 15)
    # As a client we then send what we have as it is.
    assert deflate.confirm([(CLIENT_BITS, "8")]) == DeflateAgreement(False, False, 15, 8)


# -- the client ------------------------------------------------------------------------------------


def test_line_28_every_response_to_every_client() -> None:
    responses = list(all_parameters((None, *range(8, 16))))
    for ours in configurations():
        for response in responses:
            agreement = ours.confirm(response)
            answer = dict(response)
            bits = answer.get(SERVER_BITS, "15")
            acceptable = (
                bits is not None
                and answer.get(CLIENT_BITS, "8") is not None
                # 7.1.2.1: the same or a smaller value; 15 need not be said.
                and int(bits) <= ours.server_max_window_bits
                # 7.1.1.1
                and (SERVER_ALONE in answer or not ours.server_no_context_takeover)
            )
            assert (agreement is not None) == acceptable, response
            if agreement is None:
                continue
            assert agreement.server_no_context_takeover == (SERVER_ALONE in answer)
            assert agreement.server_max_window_bits == int(bits or 0)
            # Of our own half: what we offered, and not more than the server allows.
            assert agreement.client_no_context_takeover == (
                CLIENT_ALONE in answer or ours.client_no_context_takeover
            )
            assert agreement.client_max_window_bits == min(
                int(answer.get(CLIENT_BITS, "15") or 0), ours.client_max_window_bits
            )


@pytest.mark.parametrize("ours", [PerMessageDeflate(), PerMessageDeflate(True, 9, True, 10)])
def test_offer(ours: PerMessageDeflate) -> None:
    """Always with both windows: so the server may choose smaller ones, and says what it took."""
    handshake = ClientHandshake(URL, deflate=ours)
    (value,) = handshake.request.headers.getall("Sec-WebSocket-Extensions")
    name, _, rest = value.partition(";")
    assert name == NAME
    offer = dict(parsed(rest))
    assert offer.pop(SERVER_BITS) == str(ours.server_max_window_bits)
    assert offer.pop(CLIENT_BITS) == str(ours.client_max_window_bits)
    assert (SERVER_ALONE in offer) == ours.server_no_context_takeover
    assert (CLIENT_ALONE in offer) == ours.client_no_context_takeover
    assert handshake.deflate_agreement is None


@pytest.mark.parametrize("name", ["Sec-WebSocket-Extensions", "sec-websocket-EXTENSIONS"])
def test_offer_beside_the_users_own(name: str) -> None:
    with pytest.raises(ValueError, match="Sec-WebSocket-Extensions"):
        ClientHandshake(URL, {name: "x-own"}, deflate=PerMessageDeflate())


# -- whole handshakes ------------------------------------------------------------------------------


def server_says(
    *lines: bytes,
    deflate: PerMessageDeflate | None = None,
    response: WSUpgradeResponse | None = None,
) -> tuple[list[str], DeflateAgreement | None]:
    """What our server answers to a request with these header lines; it answers 101 to each."""
    handshake = ServerHandshake(PerMessageDeflate() if deflate is None else deflate)
    handshake.receive_data(upgrade_request(*lines))
    result = WSUpgradeResponseWithListener(response, LISTENER) if response else LISTENER
    sent, listener, raw = handshake.respond(result)
    assert (sent.status, listener) == (101, LISTENER)
    values = sent.headers.getall("Sec-WebSocket-Extensions", [])
    head = raw.decode("ascii").split("\r\n")
    found = [line.partition(": ")[2] for line in head if line.startswith("Sec-WebSocket-Ext")]
    assert found == values
    return values, handshake.deflate_agreement


def offers(*values: bytes) -> list[bytes]:
    return [HEADER + value for value in values]


def declined(*values: bytes) -> bool:
    found, agreement = server_says(*offers(*values))
    assert bool(found) == (agreement is not None)
    return not found


def test_line_29_both_handshakes() -> None:
    for client, server in itertools.product(
        (PerMessageDeflate(), PerMessageDeflate(True, 10, False, 12)),
        (PerMessageDeflate(), PerMessageDeflate(False, 9, True, 15)),
    ):
        asking = ClientHandshake(URL, deflate=client)
        answering = ServerHandshake(server)
        answering.receive_data(asking.request_bytes())
        _, _, raw = answering.respond(LISTENER)
        assert asking.receive_data(raw) is not None
        assert asking.deflate_agreement is not None
        assert asking.deflate_agreement == answering.deflate_agreement


def test_only_where_both_want_it() -> None:
    handshake = ServerHandshake()
    handshake.receive_data(upgrade_request(HEADER + b"permessage-deflate"))
    sent, _, _ = handshake.respond(LISTENER)
    assert "Sec-WebSocket-Extensions" not in sent.headers
    assert handshake.deflate_agreement is None
    assert server_says() == ([], None)
    asking = ClientHandshake(URL, deflate=PerMessageDeflate())
    assert asking.receive_data(answer_of(asking)) is not None
    assert asking.deflate_agreement is None


@pytest.mark.parametrize(
    "value",
    [
        b"permessage-deflate",
        b"Permessage-Deflate",
        b"PERMESSAGE-DEFLATE ; CLIENT_MAX_WINDOW_BITS",
        b"permessage-deflate; client_max_window_bits",
        b"permessage-deflate;client_max_window_bits=15",
        b"permessage-deflate\t;\t server_max_window_bits\t=\t10",
        b'permessage-deflate; server_max_window_bits="10"',
        b'permessage-deflate; server_max_window_bits="1\\0"; client_max_window_bits="\\9"',
        b",,permessage-deflate ,, ",
        b"x-own, permessage-deflate",
        b'x-own; a="permessage-deflate; \\", ;"; b, permessage-deflate',
        # Several offers: the first that can be kept (section 5).
        b"permessage-deflate; unknown, permessage-deflate",
        b"permessage-deflate; server_max_window_bits=8,permessage-deflate; a=b,permessage-deflate",
    ],
)
def test_line_28_offers_that_are_taken(value: bytes) -> None:
    assert not declined(value)
    assert not declined(b"x-other", value)
    assert not declined(value, b"x-other; y=1")


@pytest.mark.parametrize(
    "value",
    [
        # Tokens, not substrings.
        b"x-permessage-deflate",
        b"permessage-deflate2",
        b"permessage-deflat",
        b"permessage-deflate-frame",
        b"x-webkit-deflate-frame",
        b"permessage_deflate",
        b'x-own; a="permessage-deflate"',
        b'x-own; a="b, permessage-deflate"',
        b'x-own; a="\\", permessage-deflate"',
        b"x-own; permessage-deflate",
        b"x-own; a=permessage-deflate",
        # Not allowed.
        b"permessage-deflate; unknown",
        b"permessage-deflate; server_max_window_bits",
        b"permessage-deflate; server_max_window_bits=8",
        b"permessage-deflate; server_max_window_bits=16",
        b"permessage-deflate; client_max_window_bits=7",
        b"permessage-deflate; client_max_window_bits=09",
        b'permessage-deflate; client_max_window_bits=""',
        b'permessage-deflate; client_max_window_bits=" 9"',
        b"permessage-deflate; client_max_window_bits=" + b"9" * 5000,
        b"permessage-deflate; server_no_context_takeover=1",
        b'permessage-deflate; server_no_context_takeover=""',
        b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        b"permessage-deflate; Server_Max_Window_Bits=10; server_max_window_bits=10",
        # No list of extensions.
        b'"permessage-deflate"',
        b"permessage-deflate;",
        b"permessage-deflate; ;client_max_window_bits",
        b"permessage-deflate client_max_window_bits",
        b"permessage-deflate=1",
        b"permessage-deflate; client_max_window_bits=",
        b"permessage-deflate; =10",
        b"permessage-deflate; client_max_window_bits=9 10",
        b'permessage-deflate; client_max_window_bits="9',
        b"permessage-deflate/1",
        b"",
        b",",
    ],
)
def test_line_28_offers_that_are_declined(value: bytes) -> None:
    """The connection is opened without it (section 5.1)."""
    assert declined(value)
    assert declined(b"x-other", value)


def test_line_28_several_header_lines() -> None:
    """One list, in their order."""
    values, agreement = server_says(
        *offers(
            b"permessage-deflate; unknown",
            b"x-own, permessage-deflate; server_max_window_bits=11",
            b"permessage-deflate; server_max_window_bits=10",
        )
    )
    assert values == [f"{NAME}; {SERVER_BITS}=11"]
    assert agreement == DeflateAgreement(False, False, 11, 15)


def test_the_factorys_own_101() -> None:
    """Our answer beside its extensions; its own permessage-deflate is its own to speak."""
    line = HEADER + b"x-own, permessage-deflate"

    def own(value: str) -> WSUpgradeResponse:
        return WSUpgradeResponse.create_101_response({"Sec-WebSocket-Extensions": value})

    values, agreement = server_says(line, response=own("x-own"))
    assert values == ["x-own", NAME]
    assert agreement == DeflateAgreement(False, False, 15, 15)
    for value in ("permessage-deflate", "x-own, Permessage-Deflate"):
        response = own(value)
        assert server_says(line, response=response) == ([value], None)
        # A response may serve many clients: nothing of ours is left in it.
        assert response.headers.getall("Sec-WebSocket-Extensions") == [value]
    plain = WSUpgradeResponse.create_101_response({"X-More": "yes"})
    for _ in range(2):
        assert server_says(line, response=plain)[0] == [NAME]
    assert "Sec-WebSocket-Extensions" not in plain.headers


def answer_of(handshake: ClientHandshake, *values: bytes) -> bytes:
    accept = accept_key(handshake.request.headers["Sec-WebSocket-Key"]).encode()
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *offers(*values),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("values", "agreement"),
    [
        ([b"permessage-deflate"], (False, False, 15, 15)),
        ([b"Permessage-DEFLATE"], (False, False, 15, 15)),
        ([b"permessage-deflate; server_max_window_bits=8"], (False, False, 8, 15)),
        ([b'permessage-deflate; client_max_window_bits="12"'], (False, False, 15, 12)),
        ([b"permessage-deflate;server_no_context_takeover"], (True, False, 15, 15)),
        ([b"permessage-deflate ; client_no_context_takeover"], (False, True, 15, 15)),
        ([b",", b" permessage-deflate ,"], (False, False, 15, 15)),
        ([b""], None),
        ([], None),
    ],
)
def test_responses_that_are_taken(values: list[bytes], agreement: tuple[Any, ...] | None) -> None:
    handshake = ClientHandshake(URL, deflate=PerMessageDeflate())
    assert handshake.receive_data(answer_of(handshake, *values)) is not None
    assert handshake.deflate_agreement == agreement


@pytest.mark.parametrize(
    "values",
    [
        [b"permessage-deflate, permessage-deflate"],
        [b"permessage-deflate", b"permessage-deflate; server_max_window_bits=10"],
        [b"x-own"],
        [b"permessage-deflate, x-own"],
        [b"x-permessage-deflate"],
        [b"permessage-deflate2"],
        [b'x; a="permessage-deflate"'],
        [b"permessage-deflate; unknown"],
        [b"permessage-deflate; server_max_window_bits"],
        [b"permessage-deflate; client_max_window_bits"],
        [b"permessage-deflate; server_max_window_bits=7"],
        [b"permessage-deflate; server_max_window_bits=16"],
        [b"permessage-deflate; client_max_window_bits=010"],
        [b'permessage-deflate; client_max_window_bits="1 0"'],
        [b"permessage-deflate; client_max_window_bits=" + b"1" * 10_000],
        [b"permessage-deflate; server_no_context_takeover=true"],
        [b"permessage-deflate; server_no_context_takeover; SERVER_NO_CONTEXT_TAKEOVER"],
        [b"permessage-deflate; client_max_window_bits=10; client_max_window_bits=10"],
        [b"permessage-deflate;"],
        [b"permessage-deflate; a b"],
        [b'permessage-deflate; server_max_window_bits="10'],
        [b'"permessage-deflate"'],
    ],
)
def test_line_28_responses_that_are_none(values: list[bytes]) -> None:
    handshake = ClientHandshake(URL, deflate=PerMessageDeflate())
    with pytest.raises(WSInvalidHeaderError) as caught:
        handshake.receive_data(answer_of(handshake, *values))
    assert type(caught.value) is WSInvalidHeaderError
    assert caught.value.name == "Sec-WebSocket-Extensions"
    assert caught.value.value is not None
    assert caught.value.response is not None


@pytest.mark.parametrize(
    ("ours", "value"),
    [
        (PerMessageDeflate(server_no_context_takeover=True), b"permessage-deflate"),
        (
            PerMessageDeflate(server_max_window_bits=12),
            b"permessage-deflate; server_max_window_bits=13",
        ),
        (PerMessageDeflate(server_max_window_bits=14), b"permessage-deflate"),
    ],
)
def test_line_28_responses_that_are_no_answer(ours: PerMessageDeflate, value: bytes) -> None:
    """The server promised less than it was asked for (7.1.1.1, 7.1.2.1)."""
    handshake = ClientHandshake(URL, deflate=ours)
    with pytest.raises(WSInvalidHeaderError, match="Extensions"):
        handshake.receive_data(answer_of(handshake, value))


def test_line_12_nobody_asked_for_it() -> None:
    handshake = ClientHandshake(URL, {"Sec-WebSocket-Extensions": "x-own"})
    with pytest.raises(WSInvalidHeaderError, match="Extensions"):
        handshake.receive_data(answer_of(handshake, b"permessage-deflate"))
    # Its user asked for it, and speaks it.
    handshake = ClientHandshake(URL, {"Sec-WebSocket-Extensions": "permessage-deflate"})
    assert handshake.receive_data(answer_of(handshake, b"permessage-deflate; a=b")) is not None
    assert handshake.deflate_agreement is None


# -- anything --------------------------------------------------------------------------------------

# Bytes beyond ASCII are refused with the whole head.
PIECES = [
    *(name.encode() for name in NAMES),
    *(b"permessage-deflate", b"x-own", b"; ", b";", b", ", b",", b"=", b'"', b"\\", b" ", b"\t"),
    *(b"8", b"9", b"10", b"15", b"16", b"015", b"-1", b"_", b"(", b"a"),
]
WELL_FORMED = st.lists(
    st.builds(
        lambda name, value: name + (b"" if value is None else b"=" + value),
        st.sampled_from([*(name.encode() for name in NAMES), b"unknown"]),
        st.sampled_from([None, b"8", b"9", b"10", b"15", b"16", b'"12"', b'"\\9"']),
    ),
    max_size=4,
).map(lambda parameters: b"; ".join([b"permessage-deflate", *parameters]))
VALUES = st.lists(
    st.one_of(
        st.lists(WELL_FORMED, max_size=3).map(b", ".join),
        st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    ),
    max_size=3,
)


@given(VALUES)
@settings(max_examples=1000)
def test_line_28_any_offer(values: list[bytes]) -> None:
    found, agreement = server_says(*offers(*values))
    assert len(found) == (agreement is not None)
    if agreement is not None:
        assert 9 <= agreement.server_max_window_bits <= 15
        assert 8 <= agreement.client_max_window_bits <= 15
        name, _, rest = found[0].partition("; ")
        assert name == NAME
        # A client of ours that offered as much would agree.
        assert set(dict(parsed(rest))) <= set(NAMES)
        assert PerMessageDeflate().confirm(parsed(rest)) is not None


@given(VALUES, st.booleans(), st.integers(9, 15))
@settings(max_examples=1000)
def test_line_28_any_response(values: list[bytes], alone: bool, bits: int) -> None:
    ours = PerMessageDeflate(server_no_context_takeover=alone, server_max_window_bits=bits)
    handshake = ClientHandshake(URL, deflate=ours)
    try:
        response = handshake.receive_data(answer_of(handshake, *values))
    except WSHandshakeError as exc:
        assert isinstance(exc, WSInvalidHeaderError)
        assert exc.name == "Sec-WebSocket-Extensions"
        return
    assert response is not None
    agreement = handshake.deflate_agreement
    if agreement is None:
        assert NAME.encode() not in b"".join(values).lower()
    else:
        assert agreement.server_max_window_bits <= bits
        assert agreement.server_no_context_takeover or not alone


@pytest.mark.parametrize(
    "unit",
    [
        b"permessage-deflate, ",
        b"permessage-deflate; unknown, ",
        b"permessage-deflate; server_max_window_bits=8,",
        b"permessage-deflate; a=",
        b'permessage-deflate; a="',
        b"; client_no_context_takeover",
        b'; a="\\',
        b"permessage-deflate;",
    ],
)
def test_a_list_of_many_members_takes_linear_time(unit: bytes) -> None:
    # As much as fits into a head. A pattern that goes back would take minutes.
    value = unit * (15_000 // len(unit))
    started = time.perf_counter()
    server_says(HEADER + b"permessage-deflate" + value)
    server_says(HEADER + value)
    assert time.perf_counter() - started < 2


def test_headers_of_many_lines() -> None:
    lines = offers(*[b"permessage-deflate; unknown"] * 90, b"permessage-deflate")
    assert server_says(*lines)[1] == DeflateAgreement(False, False, 15, 15)


def test_agreement_is_what_it_says() -> None:
    """A tuple of four, in the order in which connections take it apart."""
    assert DeflateAgreement._fields == NAMES
