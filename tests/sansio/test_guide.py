"""The guide to this API, "Advanced Usage", as it is known to users of wsproto: its code, with the
imports changed. And what becomes of it where the guide itself is wrong.
"""

import struct

import pytest
from sansio.both import OURS, THEIRS

from picows.sansio.connection import Connection, ConnectionState, ConnectionType
from picows.sansio.events import (
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    TextMessage,
)
from picows.sansio.extensions import PerMessageDeflate
from picows.sansio.handshake import client_extensions_handshake, server_extensions_handshake
from raw_peer import TEXT, encode_frame


class Socket:
    """What the guide calls `sock`."""

    def __init__(self, *incoming):
        self.incoming = list(incoming)
        self.sent = b""

    def send(self, data):
        self.sent += data

    def recv(self, size):
        data, self.incoming[0] = self.incoming[0][:size], self.incoming[0][size:]
        if not self.incoming[0]:
            del self.incoming[0]
        return data


def test_post_handshake_connection():
    extensions = []  # Agreed extensions
    sock = Socket(encode_frame(TEXT, b"Hi too"))

    connection = Connection(ConnectionType.CLIENT, extensions)
    sock.send(connection.send(Message(data=b"Hi")))

    connection.receive_data(sock.recv(4096))

    seen = []
    for event in connection.events():
        seen.append(event)  # As with WSConnection, only without any handshake events

    assert seen == [TextMessage("Hi too")]
    peer = Connection(ConnectionType.SERVER)
    peer.receive_data(sock.sent)
    assert list(peer.events()) == [BytesMessage(b"Hi")]


def test_the_guide_forgets_the_first_argument():
    extensions = [PerMessageDeflate()]
    with pytest.raises(TypeError, match=r"connection_type must be .*, and comes first"):
        Connection(extensions)
    # What wsproto does: a server without extensions, silently.
    assert THEIRS.connection.Connection(extensions) is not None


@pytest.mark.parametrize("offered", [True, False])
def test_http_2_server(offered):
    response_headers = []
    # WebSocket request has been received
    request_extensions: list[str]
    request_extensions = ["permessage-deflate; client_max_window_bits"] if offered else []

    supported_extensions = [PerMessageDeflate()]
    accepts = server_extensions_handshake(request_extensions, supported_extensions)
    if accepts:
        response_headers.append({"sec-websocket-extensions": accepts})
    # Send the response headers
    connection = Connection(ConnectionType.SERVER, supported_extensions)

    assert bool(accepts) == offered == bool(response_headers)
    assert connection.send(TextMessage("x" * 100))[0] == (0xC1 if offered else 0x81)


@pytest.mark.parametrize("accepted", [True, False])
def test_http_2_client(accepted):
    # WebSocket response has been received
    accepted_extensions: list[str]
    accepted_extensions = ["permessage-deflate; client_max_window_bits=12"] if accepted else []

    proposed_extensions = [PerMessageDeflate()]
    extensions = client_extensions_handshake(accepted_extensions, proposed_extensions)
    # The guide has another name for them here.
    supported_extensions = extensions
    connection = Connection(ConnectionType.CLIENT, supported_extensions)

    assert connection.send(TextMessage("x" * 100))[0] == (0xC1 if accepted else 0x81)
    # Those that were proposed would do as well.
    connection = Connection(ConnectionType.CLIENT, proposed_extensions)
    assert connection.send(TextMessage("x" * 100))[0] == (0xC1 if accepted else 0x81)


def test_the_guide_calls_it_receive_bytes():
    connection = Connection(ConnectionType.CLIENT)
    connection.receive_bytes(encode_frame(TEXT, b"x"))
    connection.receive_bytes(None)
    assert list(connection.events()) == [TextMessage("x"), CloseConnection(1006, None)]
    assert not hasattr(THEIRS.connection.Connection, "receive_bytes")


# -- a stream of HTTP/2 ----------------------------------------------------------------------------


class Stream:
    """One direction of an HTTP/2 stream: DATA frames (RFC 9113 section 6.1) of at most 100 bytes,
    with a window, which is the back-pressure.
    """

    def __init__(self, window=300):
        self.window = window
        self.unsent = b""
        self.frames = []

    def send(self, data):
        self.unsent += data
        self.flush()

    def flush(self):
        while self.unsent and self.window:
            size = min(len(self.unsent), self.window, 100)
            payload, self.unsent = self.unsent[:size], self.unsent[size:]
            self.window -= size
            head = struct.pack("!I", size)[1:] + b"\x00\x00" + struct.pack("!I", 1)
            self.frames.append(head + payload)

    def receive(self):
        """The payload of the next DATA frame."""
        frame = self.frames.pop(0)
        assert int.from_bytes(frame[:3], "big") == len(frame) - 9
        return frame[9:]

    def acknowledge(self, size):
        self.window += size
        self.flush()


@pytest.mark.parametrize("offer", [None, "permessage-deflate"])
@pytest.mark.parametrize(("one", "other"), [(OURS, OURS), (OURS, THEIRS), (THEIRS, OURS)], ids=repr)
def test_over_streams_of_http_2(one, other, offer):
    client, server = one.open("client", offer), other.open("server", offer)
    there, back = Stream(), Stream()
    messages = [f"message {number} " * number for number in range(1, 30)]
    for text in messages:
        there.send(client.send(one.event("TextMessage", data=text)))
    there.send(client.send(one.event("CloseConnection", code=1000)))
    echoed, message = [], ""
    text = ""
    while there.frames or back.frames:
        if there.frames:
            data = there.receive()
            server.receive_data(data)
            for event in server.events():
                if type(event).__name__ == "CloseConnection":
                    back.send(server.send(event.response()))
                    continue
                message += event.data
                if event.message_finished:
                    back.send(server.send(other.event("TextMessage", data=message)))
                    message = ""
            there.acknowledge(len(data))
        if back.frames:
            data = back.receive()
            client.receive_data(data)
            for event in client.events():
                if type(event).__name__ == "TextMessage":
                    text += event.data
                    if event.message_finished:
                        echoed.append(text)
                        text = ""
            back.acknowledge(len(data))
        for stream in (there, back):
            assert sum(len(frame) - 9 for frame in stream.frames) <= 300
    assert echoed == messages
    assert client.state.name == server.state.name == "CLOSED"


def test_a_stream_that_is_reset():
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(encode_frame(TEXT, b"half", mask=b"mask")[:-2])
    connection.receive_data(None)
    first, second = connection.events()
    assert (first.data, second.code) == ("ha", 1006)
    assert connection.state is ConnectionState.CLOSED


# -- back-pressure: the two rules ------------------------------------------------------------------


def test_who_reads_no_faster_than_it_works_holds_one_read():
    """Rule 1: only what was received and not yet told lies in the connection."""
    connection = Connection(ConnectionType.SERVER)
    frame = encode_frame(TEXT, b"x" * 100, mask=b"mask")
    handled = 0
    for _ in range(1000):
        connection.receive_data(frame)
        for event in connection.events():
            assert event == TextMessage("x" * 100)
            connection.send(event)
            handled += 1
        assert list(connection.events()) == []
    assert handled == 1000


def test_a_ping_is_answered_between():
    connection = Connection(ConnectionType.CLIENT)
    connection.receive_data(encode_frame(9, b"alive?"))
    (event,) = connection.events()
    assert event == Ping(b"alive?")
    peer = Connection(ConnectionType.SERVER)
    peer.receive_data(connection.send(event.response()))
    assert [answer.payload for answer in peer.events()] == [b"alive?"]
