"""sansio/utilities.py and sansio/typing.py: the small things, as wsproto has them."""

import base64
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sansio.both import OURS, THEIRS

import picows
from picows.sansio.typing import Headers

ours, theirs = OURS.utilities, THEIRS.utilities


def test_example_of_rfc_6455_section_1_3():
    assert ours.generate_accept_token(b"dGhlIHNhbXBsZSBub25jZQ==") == (
        b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    )


@given(st.binary(min_size=16, max_size=16))
def test_accept_token(nonce):
    key = base64.b64encode(nonce)
    assert ours.generate_accept_token(key) == theirs.generate_accept_token(key)


def test_nonce():
    nonces = {ours.generate_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(base64.b64decode(nonce, validate=True)) == 16 for nonce in nonces)


NAME = st.sampled_from([b"a", b"A", b"b", b"set-cookie"])


@given(st.lists(st.tuples(NAME, st.binary(max_size=5))))
def test_normed_header_dict(fields):
    assert ours.normed_header_dict(fields) == theirs.normed_header_dict(fields)


def test_repeated_fields_are_joined():
    fields = [(b"a", b"1"), (b"b", b"x"), (b"a", b"2")]
    assert ours.normed_header_dict(fields) == {b"a": b"1, 2", b"b": b"x"}


@given(st.text(st.characters(min_codepoint=9, max_codepoint=126, exclude_characters='"')))
def test_split_comma_header(text):
    value = text.encode("ascii")
    assert ours.split_comma_header(value) == theirs.split_comma_header(value)


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (b'a; x="1,2", b', ['a; x="1,2"', "b"]),
        (b'a; x="\\",", b', ['a; x="\\","', "b"]),
        # Not closed: it is one member to the end.
        (b'a; x="1,2, b', ['a; x="1,2, b']),
    ],
)
def test_deviation_a_quoted_comma_separates_nothing(value, members):
    assert ours.split_comma_header(value) == members


def test_split_comma_header_is_ascii():
    for library in (ours, theirs):
        with pytest.raises(UnicodeDecodeError):
            library.split_comma_header(b"\xe9")


def test_errors():
    assert issubclass(ours.LocalProtocolError, ours.ProtocolError)
    assert issubclass(ours.RemoteProtocolError, ours.ProtocolError)
    # The base of all errors of ours that are about WebSocket.
    assert issubclass(ours.ProtocolError, picows.WSError)
    for library in (OURS, THEIRS):
        assert str(library.utilities.LocalProtocolError("x")) == "x"
        error = library.utilities.RemoteProtocolError("x")
        assert (str(error), error.args, error.event_hint) == ("x", ("x",), None)
        hint = library.events.RejectConnection(status_code=426)
        error = library.utilities.RemoteProtocolError("x", event_hint=hint)
        assert (error.args, error.event_hint) == (("x",), hint)


def test_headers_type():
    assert typing.get_origin(Headers) is list
    assert typing.get_args(Headers) == (tuple[bytes, bytes],)


@pytest.mark.parametrize("place", range(len(THEIRS.modules)))
def test_names(place):
    """All that is documented of wsproto's modules, and what servers built on it import besides."""
    documented = {
        "": {"WSConnection", "ConnectionType", "Connection", "ConnectionState", "H11Handshake"},
        "connection": {"Connection", "ConnectionState", "ConnectionType", "CLIENT", "SERVER"},
        "extensions": {"Extension", "PerMessageDeflate", "SUPPORTED_EXTENSIONS"},
        "frame_protocol": {
            *("CloseReason", "Opcode", "ParseFailed", "RsvBits", "Frame", "FrameProtocol"),
        },
        "handshake": {
            *("H11Handshake", "server_extensions_handshake", "client_extensions_handshake"),
            *("WEBSOCKET_UPGRADE", "WEBSOCKET_VERSION"),
        },
        "utilities": {
            *("ProtocolError", "LocalProtocolError", "RemoteProtocolError", "generate_nonce"),
            *("generate_accept_token", "normed_header_dict", "split_comma_header"),
        },
    }
    mine, other = OURS.modules[place], THEIRS.modules[place]
    names = documented.get(other.__name__.partition(".")[2], set(OURS.events.__all__))
    assert all(hasattr(other, name) for name in names)
    assert names <= set(mine.__all__)
    assert all(hasattr(mine, name) for name in mine.__all__)


@pytest.mark.parametrize("name", ["ConnectionState", "ConnectionType"])
def test_enums(name):
    mine, other = getattr(OURS.connection, name), getattr(THEIRS.connection, name)
    assert [repr(member) for member in mine] == [repr(member) for member in other]


@pytest.mark.parametrize("name", ["CloseReason", "Opcode"])
def test_int_enums(name):
    mine, other = getattr(OURS.frame_protocol, name), getattr(THEIRS.frame_protocol, name)
    assert [repr(member) for member in mine] == [repr(member) for member in other]
    assert all(member == int(member) for member in mine)


def test_constants():
    assert OURS.handshake.WEBSOCKET_VERSION == THEIRS.handshake.WEBSOCKET_VERSION
    assert OURS.handshake.WEBSOCKET_UPGRADE == THEIRS.handshake.WEBSOCKET_UPGRADE
    assert OURS.connection.CLIENT is OURS.connection.ConnectionType.CLIENT
    assert OURS.connection.SERVER is OURS.connection.ConnectionType.SERVER


def test_submodules_come_with_the_package():
    import picows.sansio as package

    for name in ("connection", "events", "extensions", "frame_protocol", "handshake", "utilities"):
        assert getattr(package, name).__name__ == f"picows.sansio.{name}"
