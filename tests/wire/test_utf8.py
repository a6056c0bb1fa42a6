"""The incremental UTF-8 validator against CPython's strict decoder: each kernel, each cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picows.wire import octets

OCTETS = [bytes([i]) for i in range(256)]

# Around the edges of every row of RFC 3629 section 4's table.
LEADS = [0x00, 0x7F, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF]
LEADS += [0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF7, 0xF8, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF]
TAILS = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xF0, 0xFF]

VALID = ["", "a", "é", "€", "😀", "\0\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"]
INVALID = [
    b"\x80",
    b"\xbf",
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
    b"\xc3(",
    b"\xe2\x82(",
    b"\xf0\x9f\x98(",
    b"\xc3\xa9\xa9",
    b"\xe2\x82\xac\xac",
    b"\xf0\x9f\x98\x80\x80",
    b"\xc3\xc3\xa9",
]
CUT_OFF = [b"\xc3", b"\xe2", b"\xe2\x82", b"\xf0", b"\xf0\x9f", b"\xf0\x9f\x98"]

# Each beginning of a character that can be completed, can be by one of these.
COMPLETIONS = [b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\x80", b"\x80\x80\x80", b"\xbf\x80\x80"]

# What stands around a sequence: long enough for the widest vectors, and more than one of them.
FILLS = ["", "a" * 100, "aé" * 40, "€" * 40, "é😀" * 20]


@pytest.fixture(params=octets.utf8_kernels(), autouse=True)
def kernel(request):
    before = octets.utf8_kernel()
    octets.use_utf8_kernel(request.param)
    yield request.param
    octets.use_utf8_kernel(before)


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def can_go_on(start: bytes) -> bool:
    """Whether something makes valid text of this beginning of a character."""
    return any(decodes(start + rest) for rest in COMPLETIONS)


def good_for(data: bytes) -> int:
    """How many bytes of `data` can be the beginning of valid text.

    Not CPython's incremental decoder: it takes ED A0 for a beginning, for "surrogatepass".
    """
    try:
        data.decode()
    except UnicodeDecodeError as exc:
        good = exc.start
        while good < len(data) and can_go_on(data[exc.start : good + 1]):
            good += 1
        return good
    return len(data)


def check(data: bytes) -> None:
    """One-shot, then in two pieces at every cut, then byte by byte."""
    valid = decodes(data)
    good = good_for(data)
    assert octets.utf8_valid(data) is valid, data
    for cut in range(len(data) + 1):
        validator = octets.Utf8Validator()
        assert validator.feed(data[:cut]) is (cut <= good), (data, cut)
        assert validator.feed(data[cut:]) is (good == len(data)), (data, cut)
        assert validator.complete is valid, (data, cut)
    validator = octets.Utf8Validator()
    for i in range(len(data)):
        assert validator.feed(data[i : i + 1]) is (i < good), (data, i)
    assert validator.complete is valid, data


def test_kernel_in_use(kernel):
    assert octets.utf8_kernel() == kernel
    assert octets.utf8_kernels()[-1] == "portable"


def test_every_code_point_in_one_text():
    text = "".join(map(chr, itertools.chain(range(0xD800), range(0xE000, 0x110000))))
    assert octets.utf8_valid(text.encode())
    # Again, with every character at another place in the vectors.
    for shift in range(1, 4):
        assert octets.utf8_valid(b"a" * shift + text.encode())


def test_every_surrogate_alone():
    for code in range(0xD800, 0xE000):
        surrogate = chr(code).encode("utf-8", "surrogatepass")
        assert not octets.utf8_valid(surrogate)
        assert not octets.utf8_valid(b"a" * 50 + surrogate + b"a" * 50)


def valid_by_first_octet(length: int) -> dict[int, set[bytes]]:
    """All valid texts of so many bytes that begin with no ASCII, made by CPython's encoder."""
    shorter = {0: [b""], 1: OCTETS[:128]}
    by_first: dict[int, set[bytes]] = {first: set() for first in range(128, 256)}
    for code in itertools.chain(range(0x80, 0xD800), range(0xE000, 0x10000)):
        character = chr(code).encode()
        for rest in shorter.get(length - len(character), ()):
            by_first[character[0]].add(character + rest)
    return by_first


@pytest.mark.parametrize("before", [b"", b"a" * 31])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_sequence(length, before):
    """Alone, and where it lies on two vectors. ASCII first adds nothing to the shorter ones."""
    behind = before[:29]
    rests = [bytes(rest) + behind for rest in itertools.product(range(256), repeat=length - 1)]
    for first, valid in valid_by_first_octet(length).items():
        head = before + OCTETS[first]
        candidates = [head + rest for rest in rests]
        accepted = set(itertools.compress(candidates, map(octets.utf8_valid, candidates)))
        assert accepted == {before + text + behind for text in valid}, hex(first)


def test_boundaries_of_four():
    for sequence in itertools.product(LEADS, TAILS, TAILS, TAILS):
        data = bytes(sequence)
        valid = decodes(data)
        assert octets.utf8_valid(data) is valid, data
        assert octets.utf8_valid(b"a" * 30 + data + b"a" * 30) is valid, data


def test_first_bad_byte_of_boundaries():
    """regressions.md 25: text fails at its first bad byte, not at the end of the character."""
    for sequence in itertools.product(LEADS, TAILS, TAILS):
        data = bytes(sequence)
        good = good_for(data)
        for before in (b"", b"a" * 33):
            for end in range(4):
                validator = octets.Utf8Validator()
                assert validator.feed(before + data[:end]) is (end <= good), (data, end)


@pytest.mark.parametrize("data", [text.encode() for text in VALID] + INVALID + CUT_OFF)
def test_cut_anywhere(data):
    """regressions.md 25: characters cut in two by fragments or by TCP."""
    for fill in FILLS:
        check(fill.encode() + data)
        check(data + fill.encode())
        check(fill.encode()[:64] + data + fill.encode())


@pytest.mark.parametrize("data", INVALID + CUT_OFF)
def test_bad_at_every_position(data):
    for fill in ("a" * 300, "é" * 150, "€" * 100, "😀" * 75):
        whole = fill.encode()
        size = len(fill[0].encode())
        for at in range(0, len(whole) + 1, size):
            assert not octets.utf8_valid(whole[:at] + data + whole[at:]), at
        assert octets.utf8_valid(whole)


def test_stays_failed():
    for bad in INVALID:
        validator = octets.Utf8Validator()
        assert not validator.feed(bad)
        for more in (b"", b"a", b"a" * 100, "é".encode() * 100, b"\x80"):
            assert not validator.feed(more)
            assert not validator.complete


def test_empty():
    assert octets.utf8_valid(b"")
    validator = octets.Utf8Validator()
    assert validator.complete
    assert validator.feed(b"")
    assert validator.feed(b"\xe2\x82")
    assert validator.feed(b"")
    assert not validator.complete
    assert validator.feed(b"\xac")
    assert validator.complete


def test_bytes_like():
    data = bytearray("naïve ".encode() * 20)
    assert octets.utf8_valid(data)
    assert octets.utf8_valid(memoryview(data)[1:])
    data.append(0)  # BufferError if an export had been left behind
    with pytest.raises(TypeError):
        octets.utf8_valid("text")
    with pytest.raises(ValueError, match="no UTF-8 kernel 'mmx' here; there are "):
        octets.use_utf8_kernel("mmx")


PIECES = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.sampled_from(INVALID + CUT_OFF),
    st.binary(max_size=8),
    st.integers(0, 70).map(lambda size: b"a" * size),
)


@given(st.lists(PIECES, max_size=12))
def test_pieces(pieces):
    whole = b"".join(pieces)
    good = good_for(whole)
    validator = octets.Utf8Validator()
    fed = 0
    for piece in pieces:
        fed += len(piece)
        assert validator.feed(piece) is (fed <= good)
    assert validator.complete is decodes(whole)
    assert octets.utf8_valid(whole) is decodes(whole)
