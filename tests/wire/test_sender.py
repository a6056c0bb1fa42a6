"""What may be sent. The frames themselves are seen on the wire by the tests of aio."""

import pytest

from picows.wire.buffers import BufferPool
from picows.wire.frame import WSCloseCode
from picows.wire.receiver import Receiver
from picows.wire.sender import check_close_code
from raw_peer import encode_close

ALLOWED = {0, 1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


def is_refused(code) -> bool:
    try:
        check_close_code(code)
    except ValueError:
        return True
    return False


def test_line_19_every_close_code():
    for code in range(65536):
        assert is_refused(code) is (code not in ALLOWED), code


# 2**32 + 1000 and 2**64 + 1000 are 1000 in C.
@pytest.mark.parametrize(
    "code", [-1, -1000, 65536 + 1000, 2**31, 2**32, 2**32 + 1000, 2**64 + 1000, -(2**32) + 1000]
)
def test_numbers_that_are_no_close_code(code):
    with pytest.raises(ValueError, match=f"{code} must not be sent"):
        check_close_code(code)


def test_what_may_be_sent_may_be_received():
    """Peers of ours never refuse our own CLOSE."""
    pool = BufferPool()
    for code in sorted(ALLOWED - {0}):
        receiver = Receiver(pool, False, 125, 125)
        assert len(receiver.receive_data(encode_close(code))) == 1


def test_members():
    for code in WSCloseCode:
        # RFC 6455 section 7.4.1: 1006 says that there was no CLOSE.
        assert is_refused(code) is (code == WSCloseCode.ABNORMAL_CLOSURE)
    with pytest.raises(ValueError, match="close code 1006"):  # the number, not the member's name
        check_close_code(WSCloseCode.ABNORMAL_CLOSURE)


@pytest.mark.parametrize("code", [None, "1000", b"1000", 1000.0, True, False, [1000]])
def test_other_types(code):
    with pytest.raises(TypeError, match="close_code must be an int"):
        check_close_code(code)
