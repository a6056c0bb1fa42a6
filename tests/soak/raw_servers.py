"""Raw servers for our clients, which do what the path of the request says.

Always holds: as in raw_clients.py.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from urllib.parse import parse_qs, urlsplit

from aio.traffic import read_frame
from soak.messages import mistake_in, opcode_of
from soak.raw_basics import ENDS, LIMIT, Side

from raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RawFrame,
    RawPeer,
    encode_close,
    encode_frame,
)


class Listening(threading.Thread):
    """Accepts; each connection gets a thread that does what its path says."""

    def __init__(self, side: Side, kind: str) -> None:
        super().__init__(name=f"raw server {kind}", daemon=True)
        self.side = side
        self.kind = kind
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.socket.getsockname()[1]
        self.random = random.Random(f"{side.seed}/{kind}")

    def run(self) -> None:
        while True:
            sock, _ = self.socket.accept()
            sock.settimeout(LIMIT)
            dice = random.Random(self.random.random())
            threading.Thread(target=self.serve, args=[sock, dice], daemon=True).start()

    def serve(self, sock: socket.socket, dice: random.Random) -> None:
        # Clients cancel and time out: ends of all kinds are normal here. What our client does wrong
        # is found there, and in the content.
        with contextlib.suppress(*ENDS), sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.kind == "no tls":
                self.trip_up(RawPeer(sock), dice)
                return
            if self.kind == "tls":
                sock = self.side.server_ssl.wrap_socket(sock, server_side=True)
            with RawPeer(sock) as peer:
                host = Host(self.side, peer, dice)
                try:
                    host.serve()
                except TimeoutError:
                    self.side.accounts.fault(f"a client of ours, {host.what}: nothing in {LIMIT} s")

    def trip_up(self, peer: RawPeer, dice: random.Random) -> None:
        way = dice.randrange(4)
        if way == 0:
            peer.recv_all()
        elif way == 1:
            peer.send(dice.randbytes(dice.randint(1, 3000)))
            peer.recv_all()
        elif way == 2:
            peer.recv_some(10)
            peer.reset()


class Host:
    """One connection of a client of ours."""

    def __init__(self, side: Side, peer: RawPeer, dice: random.Random) -> None:
        self.accounts = side.accounts
        self.peer = peer
        self.random = dice
        self.what = "?"
        self.received = 0
        self.parts: list[bytes] = []

    def serve(self) -> None:
        peer = self.peer
        head = peer.recv_head()
        self.what = head.split(b" ")[1].decode("ascii")
        target = urlsplit(self.what)
        role = target.path.removeprefix("/")
        query = parse_qs(target.query)
        self.seed = int(query["seed"][0])
        good = int(query["good"][0])
        response = {
            "half-head": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs",
            "garbage-head": b"\xdb" + self.random.randbytes(300) + b"\r\n\r\n",
            "fin-head": b"HTTP/1.1 101 Switching Proto",
            "reset-head": b"HTTP/1.1 101 Switching Protocols\r\n",
            "status": b"HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\nlater",
        }.get(role)
        if response is not None:
            peer.send(response)
            if role == "half-head":
                peer.recv_all()
            elif role == "reset-head":
                peer.reset()
            return
        # The head was read here, and accept_upgrade reads one.
        peer.unread = head + peer.unread
        peer.accept_upgrade()
        while self.received < good or role == "talk":
            if not self.echo_one():
                return
        getattr(self, role.replace("-", "_"))()

    def echo_one(self) -> bool:
        """The next frame, and its answer. False when it was a CLOSE."""
        frame, mask = read_frame(self.peer)
        if mask is None or frame.rsv:
            self.accounts.fault(f"stream {self.seed}: not masked, or RSV {frame.rsv}")
        if frame.opcode == CLOSE:
            self.peer.send(encode_frame(CLOSE, frame.payload))
            self.peer.recv_all()
            return False
        if frame.opcode == PING:
            self.peer.send(encode_frame(PONG, frame.payload))
        elif frame.opcode != PONG:
            self.take(frame)
            self.peer.send(encode_frame(frame.opcode, frame.payload, fin=frame.fin))
        return True

    def take(self, frame: RawFrame) -> None:
        expected = CONTINUATION if self.parts else opcode_of(self.received)
        if frame.opcode != expected:
            self.accounts.fault(
                f"stream {self.seed}: opcode {frame.opcode} instead of {expected},"
                f" message {self.received}"
            )
        self.parts.append(frame.payload)
        if frame.fin:
            mistake = mistake_in(b"".join(self.parts), self.seed, self.received)
            if mistake is not None:
                self.accounts.fault(f"at a raw server: {mistake}")
            self.parts.clear()
            self.received += 1
            self.accounts.count("messages received by raw servers")

    # Roles, after the messages that are to go well

    def garbage(self) -> None:
        self.peer.send(self.random.randbytes(self.random.randint(1, 50_000)))
        self.fin()

    def reserved(self) -> None:
        self.peer.send(b"\x83", self.random.randbytes(10_000))
        self.peer.recv_all()

    def huge(self) -> None:
        self.peer.send(encode_frame(BINARY, bytes(1000), length=2**62))
        self.peer.recv_all()

    def reset(self) -> None:
        self.peer.reset()

    def fin(self) -> None:
        """And not a close, which would be RST if the client has sent something more."""
        self.peer.end_sending()
        self.peer.recv_all()

    def half_frame(self) -> None:
        self.peer.send(encode_frame(BINARY, bytes(1000), length=10**6))
        self.fin()

    def silent(self) -> None:
        self.peer.recv_all()

    def stalled(self) -> None:
        self.peer.send(encode_frame(BINARY, bytes(1000), length=10**6))
        self.peer.recv_all()

    def pings(self) -> None:
        """Without reading; then the newest has to be answered."""
        flood = b"".join(encode_frame(PING, b"%d" % n) for n in range(500))
        self.peer.send(flood, encode_frame(PING, b"newest"))
        while True:
            frame, _ = read_frame(self.peer)
            if frame.opcode == PONG and frame.payload == b"newest":
                break
        self.peer.send(encode_close(1000))
        self.peer.recv_all()
