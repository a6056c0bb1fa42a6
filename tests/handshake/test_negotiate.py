"""handshake/negotiate.py: key and answer, names of subprotocols and extensions."""

import time
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picows.handshake.negotiate import (
    accept_key,
    extension_names,
    is_key,
    new_key,
    subprotocol_names,
)


def test_example_of_rfc_6455_section_1_3():
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_new_keys():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert len(b64decode(key, validate=True)) == 16
        assert is_key(key)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25j ZQ==",
        "dGhlIHNhbXBsZSBub25jZQ==\n",
        "dGhlIHNhbXBsZSBub25jZ-==",
        b64encode(bytes(15)).decode(),
        b64encode(bytes(17)).decode(),
        b64encode(bytes(18)).decode(),
        "é" * 22 + "==",
    ],
)
def test_line_13_key_of_a_wrong_length(value):
    assert not is_key(value)


@given(st.binary(min_size=16, max_size=16))
def test_any_16_bytes_are_a_key(data):
    assert is_key(b64encode(data).decode())


def test_subprotocol_names():
    assert subprotocol_names([]) == []
    assert subprotocol_names(["a, B.v2", "c"]) == ["a", "B.v2", "c"]


@pytest.mark.parametrize("values", [["a b"], ['"a"'], ["a/b"], ["ä"]])
def test_line_14_subprotocol_is_no_token(values):
    with pytest.raises(ValueError, match="tokens"):
        subprotocol_names(values)


@pytest.mark.parametrize("values", [["a, a"], ["a", "a"]])
def test_subprotocol_twice(values):
    with pytest.raises(ValueError, match="twice"):
        subprotocol_names(values)
    assert subprotocol_names(["a, A"]) == ["a", "A"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["permessage-deflate"], ["permessage-deflate"]),
        (["Permessage-Deflate; client_max_window_bits"], ["permessage-deflate"]),
        (['a;b=1 ; c = 2;d="3" , e'], ["a", "e"]),
        (['a; b="x, y; \\"z\\\\"; c, d'], ["a", "d"]),
        (["a", "b, c"], ["a", "b", "c"]),
        ([",a,,b,"], ["a", "b"]),
    ],
)
def test_extension_names(values, names):
    assert extension_names(values) == names


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "a;",
        "a;;b",
        "a; =1",
        "a; b=",
        "a=1",
        '"a"',
        'a; b="',
        'a; b="\\"',
        "a; b=1 2",
        ";",
        "ä",
    ],
)
def test_malformed_extensions(value):
    for values in ([value], ["fine", value], ["fine, " + value]):
        with pytest.raises(ValueError, match="malformed"):
            extension_names(values)


@pytest.mark.parametrize("unit", [",", " ", "a;", "a;b=", 'a;b="', ";a", "a,", "\\", "a ", '"\\'])
def test_extension_list_takes_linear_time(unit):
    # 16 KiB is what fits into a head. A pattern that backtracks would take minutes.
    started = time.perf_counter()
    for value in (unit * (16384 // len(unit)), "a" + unit * (16384 // len(unit)) + "\x7f"):
        try:
            extension_names([value])
        except ValueError:
            pass
    assert time.perf_counter() - started < 2
