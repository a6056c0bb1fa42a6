"""picows_mask against a naive oracle: each kernel, length, alignment; nothing outside touched."""

import pytest

from picows.wire import octets

KEYS = [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x01\x20\x80\xfe", b"\x00\x00\x00\x01"]
LENGTHS = range(301)
OFFSETS = range(65)
# Bytes that differ from their neighbours at every distance that a vector may be shifted by.
PATTERN = bytes((i * 167 + i // 256 * 59 + 13) & 0xFF for i in range(4096))


def oracle(data: bytes, key: bytes) -> bytes:
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(data))


@pytest.fixture(params=octets.mask_kernels(), autouse=True)
def kernel(request):
    before = octets.mask_kernel()
    octets.use_mask_kernel(request.param)
    yield request.param
    octets.use_mask_kernel(before)


def test_kernel_in_use(kernel):
    assert octets.mask_kernel() == kernel
    assert octets.mask_kernels()[-1] == "portable"


@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_in_place_at_every_alignment(key):
    payload = PATTERN[:300]
    masked = oracle(payload, key)
    for offset in OFFSETS:
        before = PATTERN[1000 : 1000 + offset]
        for length in LENGTHS:
            behind = PATTERN[2000:2064]
            buffer = bytearray(before + payload[:length] + behind)
            octets.mask_into(memoryview(buffer)[: offset + length], offset, key)
            assert buffer == before + masked[:length] + behind, (offset, length)


@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_copy_at_every_alignment(key):
    masked = oracle(PATTERN[:300], key)
    guard = PATTERN[2000:2430]
    for offset in OFFSETS:
        # 7 is prime to 64: source and target meet at every alignment to each other.
        start = offset * 7 % 64
        held = bytes(start) + PATTERN[:300]
        source = memoryview(held)[start:]
        buffer = bytearray(guard)
        for length in LENGTHS:
            buffer[:] = guard
            octets.mask_into(buffer, offset, key, source[:length])
            expected = guard[:offset] + masked[:length] + guard[offset + length :]
            assert buffer == expected, (offset, length)
        assert held == bytes(start) + PATTERN[:300]


@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_masked_copy(key):
    masked = oracle(PATTERN[:300], key)
    for length in LENGTHS:
        assert octets.mask(PATTERN[:length], key) == masked[:length], length


@pytest.mark.parametrize("length", [1023, 1024, 1029, 4095, 4096, 65536, 65539])
def test_long(length):
    key = b"\x37\xfa\x21\x3d"
    payload = (PATTERN * 17)[:length]
    masked = oracle(payload, key)
    assert octets.mask(payload, key) == masked
    for offset in (2, 4, 6, 8, 10, 14, 31, 32, 33):
        buffer = bytearray(offset) + payload
        octets.mask_into(buffer, offset, key)
        assert buffer == bytes(offset) + masked


def test_rfc_6455_section_5_7():
    assert octets.mask(b"Hello", b"\x37\xfa\x21\x3d") == b"\x7f\x9f\x4d\x51\x58"


def test_twice_gives_back():
    key = b"\x12\x34\x56\x78"
    for length in LENGTHS:
        payload = PATTERN[:length]
        assert octets.mask(octets.mask(payload, key), key) == payload


def test_misuse():
    with pytest.raises(ValueError, match="no masking kernel 'mmx' here; there are "):
        octets.use_mask_kernel("mmx")
    for key in (b"", b"123", b"12345"):
        with pytest.raises(ValueError, match=f"4 bytes, not {len(key)}"):
            octets.mask(b"payload", key)
    with pytest.raises(TypeError):
        octets.mask("payload", b"1234")
    with pytest.raises(BufferError):
        octets.mask_into(b"payload", 0, b"1234")
    buffer = bytearray(b"payload")
    for offset in (-1, 8):
        with pytest.raises(ValueError, match="outside the 7 bytes"):
            octets.mask_into(buffer, offset, b"1234")
    source = bytearray(b"12345")
    with pytest.raises(ValueError, match="5 bytes do not fit behind offset 3 of 7"):
        octets.mask_into(buffer, 3, b"1234", source)
    assert buffer == b"payload"
    octets.mask(source, b"1234")
    for data in (buffer, source):
        data.append(0)  # BufferError if an export had been left behind
