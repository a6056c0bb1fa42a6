"""WSFrame as users hold it in hand, and the two enums."""

import array
import ctypes
import enum
import io
import pickle
import random
import struct
import subprocess
import sys

import pytest

from picows.wire.buffers import BufferPool
from picows.wire.frame import WSCloseCode, WSFrame, WSMsgType
from picows.wire.receiver import Receiver
from raw_peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode_close, encode_frame

OPCODES = [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG]
NOISE = random.Random(5).randbytes(100_000)

# A payload that is moved to the frame's own memory, and one that stays where it was received.
either_memory = pytest.mark.parametrize("size", [1, 1000, 16_384, 16_385, 100_000])


def receive(data, masked=False) -> list[WSFrame]:
    return Receiver(BufferPool(), masked, 10 * 1024 * 1024, 16 * 1024).receive_data(data)


def one_frame(opcode, payload=b"", **kwargs) -> WSFrame:
    (frame,) = receive(encode_frame(opcode, payload, **kwargs), "mask" in kwargs)
    return frame


# -- enums -----------------------------------------------------------------------------------------


def test_msg_types():
    assert {member.name: member.value for member in WSMsgType} == {
        "CONTINUATION": 0,
        "TEXT": 1,
        "BINARY": 2,
        "CLOSE": 8,
        "PING": 9,
        "PONG": 10,
    }


def test_close_codes():
    assert {member.name: member.value for member in WSCloseCode} == {
        "NO_INFO": 0,
        "OK": 1000,
        "GOING_AWAY": 1001,
        "PROTOCOL_ERROR": 1002,
        "UNSUPPORTED_DATA": 1003,
        "ABNORMAL_CLOSURE": 1006,
        "INVALID_TEXT": 1007,
        "POLICY_VIOLATION": 1008,
        "MESSAGE_TOO_BIG": 1009,
        "MANDATORY_EXTENSION": 1010,
        "INTERNAL_ERROR": 1011,
        "SERVICE_RESTART": 1012,
        "TRY_AGAIN_LATER": 1013,
        "BAD_GATEWAY": 1014,
    }


@pytest.mark.parametrize("kind", [WSMsgType, WSCloseCode])
def test_int_enums(kind):
    """Not flags, for which any number is a member."""
    assert issubclass(kind, enum.IntEnum)
    assert kind.__module__ == "picows.wire.frame"
    for value in (3, 7, 11, 999, 1004, 1005, 1015, 4000):
        with pytest.raises(ValueError, match="is not a valid"):
            kind(value)
    for member in kind:
        assert pickle.loads(pickle.dumps(member)) is member


# -- attributes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", OPCODES)
def test_msg_type(opcode):
    frame = one_frame(opcode)
    assert frame.msg_type is WSMsgType(opcode)
    assert frame.msg_type == opcode


@pytest.mark.parametrize("rsv", range(8))
@pytest.mark.parametrize("fin", [False, True])
def test_bits(fin, rsv):
    frame = one_frame(TEXT, b"x", fin=fin, rsv=rsv)
    assert frame.fin is fin
    assert frame.rsv1 is bool(rsv & 4)
    assert frame.rsv2 is bool(rsv & 2)
    assert frame.rsv3 is bool(rsv & 1)
    assert frame.last_in_buffer is True


@pytest.mark.parametrize("mask", [None, b"\1\2\3\4"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_sizes(size, mask):
    kwargs = {} if mask is None else {"mask": mask}
    frame = one_frame(BINARY, NOISE[:size], **kwargs)
    assert frame.payload_size == size
    assert frame.tail_size == 0
    assert frame.get_payload_as_bytes() == NOISE[:size]


NAMES = ["msg_type", "fin", "rsv1", "rsv2", "rsv3", "last_in_buffer", "tail_size", "payload_size"]


@pytest.mark.parametrize("name", NAMES)
def test_attributes_are_read_only(name):
    frame = one_frame(TEXT, b"x")
    before = getattr(frame, name)
    with pytest.raises(AttributeError):
        setattr(frame, name, 1)
    with pytest.raises(AttributeError):
        delattr(frame, name)
    assert getattr(frame, name) == before


def test_str():
    frame = one_frame(TEXT, b"hello")
    expected = (
        "WSFrame(TEXT, fin=True, rsv1=False, rsv2=False, rsv3=False, last_in_buffer=True,"
        " payload_sz=5, tail_sz=0)"
    )
    assert str(frame) == expected
    assert repr(frame) == expected
    assert f"{frame}" == expected


def test_str_of_other_values():
    first, second = receive(encode_frame(BINARY, fin=False, rsv=5) + encode_frame(PONG, rsv=2))
    assert str(first) == (
        "WSFrame(BINARY, fin=False, rsv1=True, rsv2=False, rsv3=True, last_in_buffer=False,"
        " payload_sz=0, tail_sz=2)"
    )
    assert str(second) == (
        "WSFrame(PONG, fin=True, rsv1=False, rsv2=True, rsv3=False, last_in_buffer=True,"
        " payload_sz=0, tail_sz=0)"
    )


def test_str_of_each_type():
    for opcode in OPCODES:
        assert str(one_frame(opcode)).startswith(f"WSFrame({WSMsgType(opcode).name}, ")


def test_made_by_the_receiver_only():
    with pytest.raises(TypeError, match="receiver"):
        WSFrame()
    with pytest.raises(TypeError, match="receiver"):
        type(one_frame(TEXT))()
    assert isinstance(one_frame(TEXT), WSFrame)


def test_frame_without_a_receiver():
    """What __new__ alone makes is empty, and no way to read memory."""
    for kind in (WSFrame, type(one_frame(TEXT))):
        frame = kind.__new__(kind)
        assert frame.get_payload_as_bytes() == b""
        assert frame.get_payload_as_utf8_text() == ""
        assert frame.get_payload_as_ascii_text() == ""
        assert "payload_sz=0" in str(frame)
    # Not even a WSFrame of one's own exports memory.
    with pytest.raises(TypeError):
        memoryview(WSFrame.__new__(WSFrame))


@pytest.mark.parametrize(
    "made", ["frame", "type(frame).__new__(type(frame))", "receiver", "Block()"]
)
def test_no_copies(made, picows_env):
    """A copy would hold the pointers without owning what they point to. Cython's own pickling does
    just that, so it is tried where it cannot take the suite down.
    """
    script = f"""
import copy, pickle
from picows.wire.buffers import Block, BufferPool
from picows.wire.receiver import Receiver
receiver = Receiver(BufferPool(), False, 100, 100)
(frame,) = receiver.receive_data(bytes([0x81, 2]) + b"ok")
it = {made}
for make in (copy.copy, copy.deepcopy, pickle.dumps):
    try:
        make(it)
    except TypeError:
        print(make.__name__, flush=True)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=picows_env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "copy\ndeepcopy\ndumps\n"), done.stderr


# -- payload ---------------------------------------------------------------------------------------


def test_text():
    frame = one_frame(TEXT, "naïve €😀".encode())
    assert frame.get_payload_as_utf8_text() == "naïve €😀"
    assert frame.get_payload_as_bytes() == "naïve €😀".encode()
    with pytest.raises(UnicodeDecodeError):
        frame.get_payload_as_ascii_text()
    assert one_frame(TEXT, b"a\0b").get_payload_as_ascii_text() == "a\0b"
    assert one_frame(TEXT).get_payload_as_utf8_text() == ""
    assert one_frame(TEXT).get_payload_as_ascii_text() == ""


@pytest.mark.parametrize("payload", [b"\xff", b"\xed\xa0\x80", b"cut \xe2\x82"])
def test_text_that_is_not_utf8(payload):
    frame = one_frame(TEXT, payload)
    with pytest.raises(UnicodeDecodeError):
        frame.get_payload_as_utf8_text()
    assert frame.get_payload_as_bytes() == payload


def test_payload_methods_of_every_type():
    """A user reads the payload of whatever arrives; only the close getters ask for the type."""
    for opcode in (CONTINUATION, TEXT, BINARY, PING, PONG):
        frame = one_frame(opcode, b"payload")
        assert frame.get_payload_as_utf8_text() == "payload"
    assert one_frame(CLOSE, b"\x03\xe8ok").get_payload_as_bytes() == b"\x03\xe8ok"


@either_memory
def test_memoryview(size):
    frame = one_frame(BINARY, NOISE[:size])
    view = frame.get_payload_as_memoryview()
    assert view.obj is frame
    assert memoryview(frame).obj is frame
    assert view[:1].cast("b").obj is frame
    assert view.readonly
    assert view.contiguous
    assert (view.nbytes, view.format, view.itemsize, view.shape) == (size, "B", 1, (size,))
    assert view == NOISE[:size]
    with pytest.raises(TypeError):
        view[0] = 0


def test_memoryview_of_nothing():
    frame = one_frame(PING)
    assert bytes(memoryview(frame)) == b""
    assert frame.get_payload_as_memoryview().obj is frame


@either_memory
def test_nobody_writes_through_a_frame(size):
    frame = one_frame(BINARY, NOISE[:size])
    with pytest.raises((TypeError, BufferError)):
        (ctypes.c_char * size).from_buffer(frame)
    with pytest.raises((TypeError, BufferError)):
        struct.pack_into("B", frame, 0, 1)
    with pytest.raises(TypeError):
        io.BytesIO(b"overwritten").readinto(frame)
    assert frame.get_payload_as_bytes() == NOISE[:size]


@either_memory
def test_buffer_protocol(size):
    payload = NOISE[:size]
    frame = one_frame(BINARY, payload)
    assert bytes(frame) == payload
    assert bytearray(frame) == payload
    assert b"".join([frame, frame]) == payload * 2
    numbers = array.array("B")
    numbers.frombytes(frame)
    assert numbers.tobytes() == payload
    assert struct.unpack_from("B", frame, size - 1) == (payload[-1],)


# -- close -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, PING, PONG])
@pytest.mark.parametrize("name", ["get_close_code", "get_close_message", "get_close_reason"])
def test_close_getters_of_other_types(name, opcode):
    for payload in (b"", b"\x03\xe8ok"):
        with pytest.raises(ValueError, match=WSMsgType(opcode).name):
            getattr(one_frame(opcode, payload), name)()


def test_close_without_code():
    frame = one_frame(CLOSE)
    assert frame.get_close_code() is WSCloseCode.NO_INFO
    assert frame.get_close_message() is None
    assert frame.get_close_reason() is None


def test_close_without_reason():
    (frame,) = receive(encode_close(1001))
    assert frame.get_close_code() is WSCloseCode.GOING_AWAY
    assert frame.get_close_message() == b""
    assert frame.get_close_reason() == ""


def test_close_with_reason():
    (frame,) = receive(encode_close(1000, "schön 😀".encode(), mask=b"\x81\x82\x83\x84"), True)
    assert frame.get_close_code() is WSCloseCode.OK
    assert frame.get_close_message() == "schön 😀".encode()
    assert frame.get_close_reason() == "schön 😀"


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015)])
def test_close_code_is_a_member(code):
    (frame,) = receive(encode_close(code))
    assert frame.get_close_code() is WSCloseCode(code)


@pytest.mark.parametrize("code", [3000, 3999, 4000, 4999])
def test_close_code_of_an_application(code):
    (frame,) = receive(encode_close(code))
    assert type(frame.get_close_code()) is int
    assert frame.get_close_code() == code
