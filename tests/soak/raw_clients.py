"""Raw clients of our servers: well behaved ones, and all others.

Always holds: what comes back is compared byte by byte; each wait for our side is bounded by LIMIT,
after which it is a fault.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable

from aio.traffic import frame_to
from soak.messages import KIB, LARGEST, mistake_in, opcode_of, payload_of
from soak.raw_basics import ENDS, LIMIT, Side

from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawFrame,
    RawPeer,
    raw_connect,
)

# Messages beyond this size end a burst: more at once might not fit into what lies between two
# blocking ends.
LARGE = 16 * KIB
BURST = 48 * KIB


class Closed(Exception):
    """Our side sent a CLOSE."""


class Client(threading.Thread):
    """Connects, does something, goes, comes back."""

    def __init__(self, side: Side, number: int) -> None:
        super().__init__(name=f"raw client {number}")
        self.side = side
        self.accounts = side.accounts
        self.random = random.Random(f"{side.seed}/{self.name}")
        self.plans: list[tuple[int, str, Callable[[], None]]] = [
            (40, "patient", self.talk),
            (4, "patient", self.read_slowly),
            (3, "patient", self.flood_with_pings),
            (3, "patient", self.end_half),
            (3, "patient", self.stall_in_head),
            (2, "patient", self.trickle_head),
            (3, "patient", self.garbage_for_head),
            (3, "patient", self.stall_in_tls),
            (2, "patient", self.garbage_in_tls),
            (4, "patient", self.send_garbage),
            (5, "patient", self.reset),
            (5, "impatient", self.be_silent),
            (3, "impatient", self.stall_in_frame),
            (3, "impatient", self.read_nothing),
        ]
        if side.is_mortal:
            self.plans = [(1, "impatient", self.talk)]
        # Of the session that runs.
        self.server = ""
        self.what = ""
        self.answers_pings = True

    def run(self) -> None:
        self.rest(self.random.random() * self.side.ramp)
        weights = [weight for weight, *_ in self.plans]
        while not self.side.stopping.is_set():
            ((_, patience, plan),) = self.random.choices(self.plans, weights)
            self.begin(patience, plan.__name__)
            since = time.monotonic()
            try:
                plan()
            except TimeoutError:
                begun = time.monotonic() - since
                self.fault(f"nothing from our side in {LIMIT} s, {begun:.1f} s after the start")
            except (*ENDS, Closed) as exc:
                if patience == "patient":
                    self.accounts.cut(self.server, since, f"{self.what}: {exc!r}")
            self.rest(self.random.random() * 2)

    def begin(self, patience: str, name: str) -> None:
        names = [each for each in self.side.servers if each.endswith("-" + patience)]
        if name.endswith("_tls"):
            names = [each for each in names if each.startswith("tls")]
        self.server = self.random.choice(names)
        self.seed = self.random.getrandbits(32)
        self.what = f"{self.name}, {name} at {self.server}, stream {self.seed}"
        self.sent = 0
        self.received = 0
        self.answers_pings = True
        self.pong: bytes | None = None
        self.accounts.count(f"raw client, {name}")

    def fault(self, text: str) -> None:
        if not self.side.is_mortal:
            self.accounts.fault(f"{self.what}: {text}")

    def rest(self, seconds: float) -> None:
        self.side.stopping.wait(seconds)

    @property
    def is_secure(self) -> bool:
        return self.server.startswith("tls")

    def connect(self, secure: bool = True, receive_buffer: int | None = None) -> RawPeer:
        context = self.side.client_ssl if self.is_secure and secure else None
        port = self.side.servers[self.server]
        # uvloop accepts one connection an iteration, so others may be long ahead of us.
        peer = raw_connect(port, context, LIMIT, receive_buffer)
        peer.sock.settimeout(LIMIT)
        return peer

    def upgrade(self, peer: RawPeer, path: str = "/echo", query: str = "") -> None:
        target = f"{path}?seed={self.seed}{query}"
        head = peer.request_upgrade(path=target.encode())
        if not head.startswith(b"HTTP/1.1 101 "):
            self.fault(f"no upgrade: {head!r}")
            raise EOFError("no upgrade")

    # Frames

    def send_messages(self, peer: RawPeer, count: int, largest: int = LARGEST) -> None:
        """Some messages in one burst; fewer than `count` where they are large."""
        frames = []
        size = 0
        for _ in range(count):
            payload = payload_of(self.seed, self.sent)
            if len(payload) > largest:
                break
            frames.append(frame_to("server", opcode_of(self.sent), payload))
            self.sent += 1
            size += len(payload)
            if len(payload) > LARGE or size > BURST:
                break
        data = b"".join(frames)
        if self.random.random() < 0.2:
            # In two pieces, somewhere.
            cut = self.random.randint(0, min(len(data), 1000))
            peer.send(data[:cut])
            self.rest(self.random.random() * 0.3)
            data = data[cut:]
        peer.send(data)

    def recv_messages(self, peer: RawPeer) -> None:
        """The echo of all that was sent."""
        parts: list[bytes] = []
        while self.received < self.sent:
            frame = self.recv_data(peer)
            expected = CONTINUATION if parts else opcode_of(self.received)
            if frame.opcode != expected:
                self.fault(f"opcode {frame.opcode} instead of {expected}")
            parts.append(frame.payload)
            if frame.fin:
                mistake = mistake_in(b"".join(parts), self.seed, self.received)
                if mistake is not None:
                    self.fault(mistake)
                parts.clear()
                self.received += 1
                self.accounts.count("messages received by raw clients")

    def recv_data(self, peer: RawPeer) -> RawFrame:
        """The next frame that is no control frame; PINGs are answered."""
        while True:
            frame = peer.recv_frame()
            if frame.masked or frame.rsv:
                self.fault(f"a masked frame, or RSV: {frame.masked}, {frame.rsv}")
            if frame.opcode == CLOSE:
                if self.answers_pings:
                    with contextlib.suppress(*ENDS):
                        peer.send(frame_to("server", CLOSE, frame.payload))
                raise Closed(frame.payload)
            if frame.opcode == PING and self.answers_pings:
                peer.send(frame_to("server", PONG, frame.payload))
            elif frame.opcode == PONG:
                self.pong = frame.payload
                if frame.payload == b"newest":
                    return frame
            elif frame.opcode in (CONTINUATION, TEXT, BINARY):
                return frame

    def close(self, peer: RawPeer) -> None:
        """The closing handshake. After our CLOSE not even a PONG is sent."""
        self.answers_pings = False
        peer.send(frame_to("server", CLOSE, b"\x03\xe8bye"))
        try:
            while True:
                self.recv_data(peer)
        except Closed as exc:
            if exc.args[0] != b"\x03\xe8bye":
                raise
        self.until_end(peer)
        self.accounts.count("sessions of raw clients, complete")

    def until_end(self, peer: RawPeer) -> None:
        """Our side has to end this connection, whatever it sends before that."""
        until = time.monotonic() + LIMIT
        peer.sock.settimeout(0.5)
        with contextlib.suppress(*ENDS):
            while not self.side.stopping.is_set():
                try:
                    if not peer.recv_some():
                        break
                except TimeoutError:
                    pass
                if time.monotonic() > until:
                    self.fault(f"not closed after {LIMIT} s")
                    break

    # Peers that behave

    def talk(self) -> None:
        holds = self.random.choice(("", "&holds=1"))
        with self.connect() as peer:
            self.upgrade(peer, query=holds)
            for _ in range(self.random.randint(1, 6)):
                self.send_messages(peer, self.random.choice((1, 1, 2, 5, 30, 200)))
                self.recv_messages(peer)
                if self.side.stopping.is_set():
                    break
                self.rest(self.random.random() * 1.5)
            self.close(peer)

    def read_slowly(self) -> None:
        with self.connect(receive_buffer=16 * KIB) as peer:
            self.upgrade(peer, query="&gentle=1")
            # Through such a small buffer megabytes would take minutes.
            self.send_messages(peer, 200, LARGE)
            payloads = sum(len(payload_of(self.seed, n)) for n in range(self.sent))
            for _ in range(self.random.randint(1, 10)):
                if len(peer.unread) >= payloads:
                    break  # the next to come would be a PING
                peer.unread += peer.sock.recv(self.random.randint(1, 4000))
                self.rest(self.random.random() * 0.2)
            self.recv_messages(peer)
            self.close(peer)

    def flood_with_pings(self) -> None:
        """Answered, or the newest of those that had to wait."""
        with self.connect() as peer:
            self.upgrade(peer)
            flood = b"".join(frame_to("server", PING, b"%d" % n) for n in range(500))
            peer.send(flood, frame_to("server", PING, b"newest"))
            while self.recv_data(peer).payload != b"newest":
                pass
            self.send_messages(peer, 3)
            self.recv_messages(peer)
            self.close(peer)

    def end_half(self) -> None:
        """FIN behind the last message; the echo still comes. TLS ends both ways at once."""
        with self.connect() as peer:
            self.upgrade(peer)
            self.send_messages(peer, 20)
            if not self.is_secure:
                peer.end_sending()
                self.answers_pings = False
                self.recv_messages(peer)
                self.until_end(peer)

    # Peers that do not

    def stall_in_head(self) -> None:
        with self.connect() as peer:
            peer.send(b"GET /echo HTTP/1.1\r\nHost: local")
            self.until_end(peer)

    def trickle_head(self) -> None:
        """A byte now and then: one absolute deadline."""
        with self.connect() as peer, contextlib.suppress(*ENDS):
            peer.send(b"GET /echo HTTP/1.1\r\n")
            until = time.monotonic() + LIMIT
            while not self.side.stopping.is_set():
                peer.send(b"X")
                self.rest(0.2)
                if time.monotonic() > until:
                    self.fault("a head may take for ever")
                    break

    def garbage_for_head(self) -> None:
        with self.connect() as peer:
            with contextlib.suppress(*ENDS):
                peer.send(self.random.randbytes(self.random.randint(1, 30_000)))
            self.until_end(peer)

    def stall_in_tls(self) -> None:
        with self.connect(secure=False) as peer:
            hello = client_hello(self.side.client_ssl)
            peer.send(hello[: self.random.randint(0, len(hello))])
            self.until_end(peer)

    def garbage_in_tls(self) -> None:
        """Before the TLS handshake, or after it."""
        early = self.random.random() < 0.5
        with self.connect(secure=not early) as peer:
            if not early:
                self.upgrade(peer, query="&good=1")
                self.send_messages(peer, 1)
                assert isinstance(peer.sock, ssl.SSLSocket)
                peer.sock = socket.socket(fileno=peer.sock.detach())
                peer.sock.settimeout(LIMIT)
            with contextlib.suppress(*ENDS):
                # No type of a record is 0xdb.
                peer.send(b"\xdb", self.random.randbytes(self.random.randint(5, 3000)))
            self.until_end(peer)

    def send_garbage(self) -> None:
        """What comes ahead of it is echoed."""
        good = self.random.choice((0, 1, 4))
        with self.connect() as peer:
            self.upgrade(peer, query=f"&good={good}")
            for _ in range(good):
                self.send_messages(peer, 1)
                self.recv_messages(peer)
            with contextlib.suppress(*ENDS):
                # Opcode 3 is reserved.
                peer.send(b"\x83", self.random.randbytes(self.random.randint(10, 100_000)))
            self.until_end(peer)

    def reset(self) -> None:
        """RST, at any point."""
        if self.is_secure and self.random.random() < 0.2:
            with self.connect(secure=False) as peer:
                hello = client_hello(self.side.client_ssl)
                peer.send(hello[: self.random.choice((0, 100, len(hello)))])
                self.rest(self.random.choice((0.0, 0.05)))
                peer.reset()
            return
        with self.connect() as peer:
            point = self.random.randrange(5)
            if point == 0:
                peer.send(b"GET /echo HTTP/1.1\r\n")
            if point >= 1:
                self.upgrade(peer, query="&good=50")
            if point >= 2:
                self.send_messages(peer, 50)
            if point >= 3:
                peer.send(frame_to("server", BINARY, b"half of it", length=100_000))
            if point >= 4:
                self.rest(self.random.random() * 0.1)
            peer.reset()

    def be_silent(self) -> None:
        """Vanished: no FIN, no RST, no answer. Auto ping finds out."""
        with self.connect() as peer:
            self.upgrade(peer)
            self.send_messages(peer, 5)
            self.recv_messages(peer)
            self.answers_pings = False
            self.until_end(peer)

    def stall_in_frame(self) -> None:
        with self.connect() as peer:
            self.upgrade(peer, query="&good=2")
            self.send_messages(peer, 1)
            self.recv_messages(peer)
            self.answers_pings = False
            peer.send(
                frame_to("server", BINARY, bytes(500), length=self.random.choice((600, 10**6)))
            )
            self.until_end(peer)

    def read_nothing(self) -> None:
        """While our side sends as fast as it may. Later, what is there ends with the connection."""
        with self.connect() as peer:
            self.upgrade(peer, "/push", "&total=2000")
            self.rest(3.0)
            self.until_end(peer)


def client_hello(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
