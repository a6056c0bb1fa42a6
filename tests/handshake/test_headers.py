"""handshake/headers.py: what may leave in a field, what a log may show of it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, istr

from picows.handshake.headers import (
    check_field,
    encode_fields,
    has_token,
    list_members,
    normalise_extra_headers,
    redacted_fields,
)


@pytest.mark.parametrize("name", ["A", "x-y_z", "!#$%&'*+-.^_`|~09Az"])
@pytest.mark.parametrize("value", ["", "a", "a b\tc", "!~", 'k="v, w"; x'])
def test_field_that_may_be_sent(name, value):
    check_field(name, value)


@pytest.mark.parametrize(
    "name", ["", "a b", "a:", ":a", "a\r\nb", "a\n", "a\x00", "ä", "a(b)", " a"]
)
def test_line_14_name_is_no_token(name):
    with pytest.raises(ValueError, match="must be an RFC 9110 token"):
        check_field(name, "value")


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\n", "\r", "\x00", "\x7f", "é", "\x1b[0m", "😀"])
@pytest.mark.parametrize("name", ["X-Name", "Authorization", "Cookie", "Proxy-Authorization"])
def test_line_14_value_is_not_printable_ascii(name, value):
    with pytest.raises(ValueError, match=f"value of header '{name}'") as caught:
        check_field(name, "geheim" + value)
    assert "geheim" not in str(caught.value)


def test_line_15_credential_in_the_place_of_a_name():
    with pytest.raises(ValueError, match="begins with 'Authorization'") as caught:
        check_field("Authorization: Bearer geheim", "")
    assert "geheim" not in str(caught.value)
    with pytest.raises(ValueError, match="token") as caught:
        check_field("a" * 100 + ":", "")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "given_headers",
    [
        {"A": "1", "b": "2"},
        CIMultiDict([("A", "1"), ("b", "2")]),
        [("A", "1"), ("b", "2")],
        [["A", "1"], ["b", " 2\t"]],
        (pair for pair in [("A", "1"), (istr("b"), "2")]),
        {"A": "1", "b": "2"}.items(),
    ],
)
def test_extra_headers_forms(given_headers):
    assert normalise_extra_headers(given_headers) == [("A", "1"), ("b", "2")]


def test_extra_headers_none_and_repeated():
    assert normalise_extra_headers(None) == []
    assert normalise_extra_headers({}) == []
    repeated = CIMultiDict([("A", "1"), ("a", "2")])
    assert normalise_extra_headers(repeated) == [("A", "1"), ("a", "2")]


@pytest.mark.parametrize(
    ("given_headers", "message"),
    [
        (1, "not int"),
        ("A: b", "not str"),
        (b"A: b", "not bytes"),
        (["Ab"], "pairs of str"),
        ([("A", "b", "c")], "pairs of str"),
        ([("A",)], "pairs of str"),
        ([None], "pairs of str"),
        ({"A": 1}, "the value of 'A' must be str, not int"),
        ({"A": None}, "the value of 'A' must be str, not NoneType"),
        ({"A": b"1"}, "the value of 'A' must be str, not bytes"),
        ({b"A": "1"}, "a name must be str, not bytes"),
    ],
)
def test_extra_headers_of_another_type(given_headers, message):
    with pytest.raises(TypeError, match=f"extra_headers.*{message}"):
        normalise_extra_headers(given_headers)


@pytest.mark.parametrize("name", ["upgrade", "Upgrade", "UPGRADE"])
def test_extra_headers_owned_by_the_handshake(name):
    owned = frozenset({"upgrade"})
    with pytest.raises(ValueError, match=f"'{name}' is set by the handshake"):
        normalise_extra_headers({name: "x"}, owned)
    assert normalise_extra_headers({"Upgrade-X": "x"}, owned)


def test_encode_fields():
    headers = CIMultiDict([("Host", "h"), ("A", ""), ("a", "b")])
    assert encode_fields("GET / HTTP/1.1", headers) == (
        b"GET / HTTP/1.1\r\nHost: h\r\nA: \r\na: b\r\n\r\n"
    )
    assert encode_fields("HTTP/1.1 200 ", CIMultiDict()) == b"HTTP/1.1 200 \r\n\r\n"


def test_encode_fields_checks_what_was_put_in_late():
    with pytest.raises(ValueError, match="'A'"):
        encode_fields("x", CIMultiDict({"A": "b\r\nC: d"}))
    with pytest.raises(TypeError, match="'A' must be str, not int"):
        encode_fields("x", CIMultiDict({"A": 1}))


@given(st.lists(st.tuples(st.text(), st.text())))
def test_line_14_nothing_that_is_sent_adds_a_line(pairs):
    headers = CIMultiDict(pairs)
    try:
        raw = encode_fields("S", headers)
    except ValueError:
        return
    assert raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r") == len(pairs) + 2


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("Authorization", True),
        ("PROXY-AUTHORIZATION", True),
        ("cookie", True),
        ("Set-Cookie", True),
        ("X-MBX-APIKEY", True),
        ("OK-ACCESS-PASSPHRASE", True),
        ("X-Auth-Token", True),
        ("ok-access-sign", True),
        ("Sec-WebSocket-Key", False),
        ("Host", False),
        ("User-Agent", False),
    ],
)
def test_line_15_redacted_fields(name, hidden):
    assert redacted_fields(CIMultiDict({name: "v"})) == [(name, "***" if hidden else "v")]


def test_list_members():
    assert list_members([]) == []
    assert list_members([" a ,\tb,, ,c", "", "d"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["Upgrade"], True),
        (["upgrade"], True),
        (["UPGRADE"], True),
        (["keep-alive, Upgrade"], True),
        (["keep-alive,upgrade,"], True),
        (["keep-alive", "Upgrade"], True),
        (["Upgrade", "close"], True),
        ([], False),
        ([""], False),
        (["notupgrade"], False),
        (["upgraded"], False),
        (["keep-alive, not upgrade"], False),
        (["up", "grade"], False),
        (["keep-alive; upgrade"], False),
    ],
)
def test_line_01_connection_tokens(values, found):
    assert has_token(values, "upgrade") == found


@given(st.lists(st.text(alphabet="ab ,\t")))
def test_list_members_against_a_regex(values):
    assert list_members(values) == [
        member.strip(" \t")
        for value in values
        for member in re.findall(r"[^,]+", value)
        if member.strip(" \t")
    ]
