"""fuzz_utf8.c's counterpart: the same checks through octets.pyx, against CPython's decoder."""

from __future__ import annotations

import random
import zlib

from picows.wire import octets

# Each beginning of a character that can be completed, can be by one of these.
COMPLETIONS = [b"", b"\x80", b"\xbf", b"\x80\x80", b"\xbf\x80", b"\x80\x80\x80", b"\xbf\x80\x80"]


def decodes(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def good_for(data: bytes) -> int:
    """How many bytes of `data` can be the beginning of valid text."""
    try:
        data.decode()
    except UnicodeDecodeError as exc:
        good = exc.start
        while good < len(data):
            beginning = data[exc.start : good + 1]
            if not any(decodes(beginning + rest) for rest in COMPLETIONS):
                break
            good += 1
        return good
    return len(data)


def check_utf8(data: bytes, choose: random.Random) -> None:
    good = good_for(data)
    whole = decodes(data)
    assert octets.utf8_valid(data) is whole
    validator = octets.Utf8Validator()
    most = choose.choice([1, 8, len(data) + 1])
    fed = 0
    while fed < len(data):
        piece = data[fed : fed + choose.randint(0, most)]
        fed += len(piece)
        assert validator.feed(piece) is (fed <= good)
    assert validator.complete is whole
    assert validator.feed(b"") is (good == len(data))


def check_mask(data: bytes, choose: random.Random) -> None:
    key = choose.randbytes(4)
    repeated = (key * (len(data) // 4 + 1))[: len(data)]
    number = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
    masked = number.to_bytes(len(data), "big")
    assert octets.mask(data, key) == masked
    guard = choose.randbytes(64)
    start = choose.randrange(64)
    buffer = bytearray(guard[:start] + data + guard)
    octets.mask_into(memoryview(buffer)[: start + len(data)], start, key)
    assert buffer == guard[:start] + masked + guard


def one_input(data: bytes) -> None:
    choose = random.Random(zlib.crc32(data))
    kernels = octets.utf8_kernel(), octets.mask_kernel()
    try:
        for name in octets.utf8_kernels():
            octets.use_utf8_kernel(name)
            check_utf8(data, choose)
        for name in octets.mask_kernels():
            octets.use_mask_kernel(name)
            check_mask(data, choose)
    finally:
        octets.use_utf8_kernel(kernels[0])
        octets.use_mask_kernel(kernels[1])
