"""frame.kernel_time_ns: when the system had received what brought the frame (SO_TIMESTAMPNS).

Linux begins to stamp packets a moment after the first socket of the machine has asked for it, so
each test goes on until a frame has a time.
"""

from __future__ import annotations

import array
import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from aio.detached import Collecting, Detached
from aio.traffic import SIDES, Recorder, connected, frame_to, octets, some_iterations

from loops import open_files
from picows import (
    WSFrame,
    WSInvalidHeaderError,
    WSListener,
    WSTransport,
    ws_connect,
    ws_create_server,
)
from picows.aio.socket_transport import HAVE_KERNEL_TIMESTAMPS
from raw_peer import BINARY, CONTINUATION, PING, TEXT, RawPeer, RawServer, in_thread

pytestmark = [
    pytest.mark.skipif(not HAVE_KERNEL_TIMESTAMPS, reason="SO_TIMESTAMPNS is Linux' own"),
    pytest.mark.net(tls=(False,), aiofastnet=(None,)),
]
both_sides = pytest.mark.parametrize("side", SIDES)


class Asking(Recorder):
    """Keeps the frames that `keeps` says, and notes what each told in its callback."""

    def __init__(self, react: Any = None, keeps: Any = lambda frame: False) -> None:
        super().__init__(react)
        self.keeps = keeps
        self.times: list[int | None] = []
        self.kept: list[WSFrame] = []

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.times.append(frame.kernel_time_ns)
        if self.keeps(frame):
            self.kept.append(frame)
        super().on_ws_frame(transport, frame)

    async def until_stamped(self, side: str, peer: RawPeer) -> None:
        """Until the system has begun."""
        while not (self.times and self.times[-1]):
            await self.feed(peer, frame_to(side, TEXT, b"?"), 1)
            await asyncio.sleep(0.001)
        self.times.clear()
        self.kept.clear()

    async def feed(self, peer: RawPeer, data: bytes, count: int) -> tuple[int, int]:
        """Send what are so many frames in one segment; returns times before and after."""
        seen = len(self.times)
        before = time.time_ns()
        peer.send(data)
        await self.until(lambda: len(self.times) >= seen + count)
        return before, time.time_ns()


# -- the parameter ---------------------------------------------------------------------------------


REFUSED_BY_CONNECT: list[tuple[str, dict[str, Any], str]] = [
    ("wss://localhost/", {}, "plain TCP, but the URL is wss://localhost/"),
    ("ws+unix:///tmp/none", {}, "plain TCP, but the URL is ws+unix:///tmp/none"),
    ("ws://localhost/", {"proxy": "http://localhost:1/"}, "plain TCP, but there is a proxy"),
    ("ws://localhost/", {"use_aiofastnet": True}, "use_aiofastnet=None, not True"),
    ("ws://localhost/", {"use_aiofastnet": False}, "use_aiofastnet=None, not False"),
]


@pytest.mark.parametrize(("url", "options", "reason"), REFUSED_BY_CONNECT, ids=lambda each: None)
async def test_connect_refuses_it(url: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^kernel_timestamps=True .*{re.escape(reason)}"):
        await ws_connect(WSListener, url, kernel_timestamps=True, **options)


async def test_a_redirect_to_tls_is_refused() -> None:
    def redirect(peer: RawPeer) -> None:
        peer.recv_head()
        peer.send(b"HTTP/1.1 302 Found\r\nLocation: wss://localhost/\r\nContent-Length: 0\r\n\r\n")
        assert peer.recv_all() == b""

    async with RawServer(redirect) as server:
        with pytest.raises(
            WSInvalidHeaderError,
            match=r"^the Location header is invalid: kernel_timestamps=True is for plain TCP,"
            r" not for wss://localhost/$",
        ):
            await ws_connect(WSListener, server.url(), kernel_timestamps=True)


async def test_create_server_refuses_it(certificates: Any, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as unix_socket:
        rows: list[tuple[dict[str, Any], str]] = [
            ({"ssl": certificates.server}, "plain TCP, but ssl was given"),
            ({"path": path}, "plain TCP, but path is a Unix socket"),
            ({"sock": unix_socket}, "plain TCP, but sock is no TCP socket"),
            ({"use_aiofastnet": True}, "use_aiofastnet=None, not True"),
            ({"use_aiofastnet": False}, "use_aiofastnet=None, not False"),
        ]
        for options, reason in rows:
            if not ({"path", "sock"} & options.keys()):
                options.update(host="127.0.0.1", port=0)
            with pytest.raises(ValueError, match=f"^kernel_timestamps=True .*{re.escape(reason)}"):
                await ws_create_server(lambda request: None, kernel_timestamps=True, **options)
    assert not path.exists()


@pytest.mark.parametrize("wrong", [1, 0, None, "yes"], ids=repr)
async def test_it_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(TypeError, match="kernel_timestamps must be True or False"):
        await ws_connect(WSListener, "ws://localhost/", kernel_timestamps=wrong)
    with pytest.raises(TypeError, match="kernel_timestamps must be True or False"):
        await ws_create_server(lambda request: None, "localhost", 0, kernel_timestamps=wrong)


@both_sides
@pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))
async def test_by_default_there_is_none(net: Any, side: str) -> None:
    """Not even where the system stamps."""
    asking, other = Asking(), Asking(keeps=lambda frame: True)
    async with (
        connected(net, side, asking, kernel_timestamps=True) as stamped,
        connected(net, side, other) as peer,
    ):
        await asking.until_stamped(side, stamped)
        await other.feed(peer, frame_to(side, TEXT, b"x") * 2, 2)
        assert other.times == [None, None]
        assert [frame.kernel_time_ns for frame in other.kept] == [None, None]


@both_sides
def test_without_a_socket_there_is_none(side: str) -> None:
    frames: list[WSFrame] = []
    times: list[int | None] = []

    def react(transport: WSTransport, frame: WSFrame) -> None:
        times.append(frame.kernel_time_ns)
        frames.append(frame)

    with Detached(side, Collecting(react), kernel_timestamps=True) as connection:
        connection.feed(frame_to(side, BINARY, b"x") + frame_to(side, BINARY, octets(50_000)))
    assert times == [None, None]
    assert [frame.kernel_time_ns for frame in frames] == [None, None]


def test_nobody_sets_it() -> None:
    kept: list[Any] = []
    with Detached("server", Collecting(lambda _, frame: kept.append(frame))) as connection:
        connection.feed(frame_to("server", TEXT, b"x"))
    with pytest.raises(AttributeError):
        kept[0].kernel_time_ns = 5


async def test_a_unix_socket_of_the_factory_has_none_and_takes_no_files(
    net: Any, tmp_path: Path
) -> None:
    """Its peer may send some along, which nobody would close."""
    path = str(tmp_path / "socket")
    listener = Asking()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(path)
        theirs, _ = listening.accept()
        peer = RawPeer(theirs)
        await asyncio.gather(
            in_thread(peer.accept_upgrade),
            ws_connect(
                lambda: listener,
                "ws://localhost/",
                socket_factory=lambda url: ours,
                kernel_timestamps=True,
            ),
        )
        before = open_files()
        files = array.array("i", [theirs.fileno()] * 2)
        theirs.sendmsg(
            [frame_to("client", TEXT, b"x")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
        )
        await listener.until_frames(1)
        assert listener.times == [None]
        assert open_files() == before
        peer.close()
        await listener.until_gone()


# -- the time --------------------------------------------------------------------------------------


@both_sides
async def test_between_two_clocks_and_the_same_for_all_of_a_read(net: Any, side: str) -> None:
    listener = Asking(keeps=lambda frame: frame.payload_size != 1)
    async with connected(net, side, listener, kernel_timestamps=True) as peer:
        await listener.until_stamped(side, peer)
        spans = []
        for size in (0, 100, 20_000):
            data = frame_to(side, TEXT, b"x") * 2 + frame_to(side, BINARY, octets(size))
            spans.append(await listener.feed(peer, data, 3))
            (first, *others) = listener.times[-3:]
            assert others == [first, first]
            await asyncio.sleep(0.001)
        for (before, after), moment in zip(spans, listener.times[::3], strict=True):
            assert moment is not None
            assert before < moment < after
        # Those that moved and the one that kept its memory, as many reads later.
        kept = [frame.kernel_time_ns for frame in listener.kept]
        assert kept == listener.times[::3]
        peer.close()
        await listener.until_gone()
    assert [frame.kernel_time_ns for frame in listener.kept] == kept


@both_sides
async def test_a_frame_in_pieces_has_the_time_of_its_last(net: Any, side: str) -> None:
    listener = Asking()
    async with connected(net, side, listener, kernel_timestamps=True) as peer:
        await listener.until_stamped(side, peer)
        for size in (10, 100_000):
            data = frame_to(side, BINARY, octets(size))
            await in_thread(peer.send, data[: size // 2])
            await some_iterations()
            before, after = await listener.feed(peer, data[size // 2 :], 1)
            moment = listener.times[-1]
            assert moment is not None
            assert before < moment < after


@both_sides
@pytest.mark.parametrize("assemble", [False, True])
async def test_messages_have_the_time_of_their_last_frame(
    net: Any, side: str, assemble: bool
) -> None:
    listener = Asking(keeps=lambda frame: True)
    options = {"assemble_messages": assemble, "kernel_timestamps": True}
    async with connected(net, side, listener, **options) as peer:
        await listener.until_stamped(side, peer)
        peer.send(frame_to(side, TEXT, b"one ", fin=False))
        await some_iterations()
        peer.send(frame_to(side, PING, b"between"))
        before, after = await listener.feed(peer, frame_to(side, CONTINUATION, b"two"), 1)
        assert len(listener.times) == (1 if assemble else 2)
        moment = listener.times[-1]
        assert moment is not None
        assert before < moment < after
        assert [frame.kernel_time_ns for frame in listener.kept] == listener.times


@both_sides
async def test_frames_that_waited_have_the_time_of_their_read(net: Any, side: str) -> None:
    """Of the read in which it was paused; what waited in the socket has that of its arrival."""

    def pause(transport: WSTransport, frame: WSFrame) -> None:
        if frame.get_payload_as_bytes() == b"pause":
            transport.pause_reading()

    listener = Asking(pause)
    async with connected(net, side, listener, kernel_timestamps=True) as peer:
        await listener.until_stamped(side, peer)
        data = frame_to(side, TEXT, b"pause") + frame_to(side, TEXT, b"x") * 2
        before, after = await listener.feed(peer, data, 1)
        peer.send(frame_to(side, TEXT, b"late"))
        later = time.time_ns()
        await some_iterations()
        assert len(listener.times) == 1
        listener.transport.resume_reading()
        await listener.until(lambda: len(listener.times) == 4)
        first, second, third, late = listener.times
        assert first is not None
        assert late is not None
        assert first == second == third
        assert before < first < after <= late < later


@both_sides
async def test_what_is_read_inside_a_callback_does_not_change_its_frame(
    net: Any, side: str
) -> None:
    """As a re-entered loop brings it."""

    def read_another(transport: WSTransport, frame: WSFrame) -> None:
        if frame.get_payload_as_bytes() == b"first":
            peer.send(frame_to(side, TEXT, b"another"))
            below: Any = transport.underlying_transport
            below._read()
            asked_again.append(frame.kernel_time_ns)

    asked_again: list[int | None] = []
    listener = Asking(read_another)
    async with connected(net, side, listener, kernel_timestamps=True) as peer:
        await listener.until_stamped(side, peer)
        data = frame_to(side, TEXT, b"first") + frame_to(side, TEXT, b"second")
        before, after = await listener.feed(peer, data, 3)
        first, second, another = listener.times
        assert first is not None
        assert another is not None
        assert asked_again == [first]
        assert before < first == second <= another < after


@both_sides
async def test_frames_behind_the_handshake_have_that_of_its_read(net: Any, side: str) -> None:
    starter = Asking()
    async with connected(net, side, starter, kernel_timestamps=True) as peer:
        await starter.until_stamped(side, peer)
        # As long as it is open, everything on the machine is stamped.
        listener = Asking()
        before = time.time_ns()
        first_frames = frame_to(side, TEXT, b"x") * 2
        async with connected(net, side, listener, then=first_frames, kernel_timestamps=True):
            await listener.until_frames(2)
            first, second = listener.times
            assert first is not None
            assert first == second
            assert before < first < time.time_ns()


@both_sides
async def test_connections_do_not_show_each_other_theirs(net: Any, side: str) -> None:
    """They share frames and buffers."""
    one, two = Asking(keeps=lambda frame: True), Asking(keeps=lambda frame: True)
    async with (
        connected(net, side, one, kernel_timestamps=True) as peer_of_one,
        connected(net, side, two, kernel_timestamps=True) as peer_of_two,
    ):
        await one.until_stamped(side, peer_of_one)
        await two.until_stamped(side, peer_of_two)
        for _ in range(3):
            await one.feed(peer_of_one, frame_to(side, TEXT, b"x"), 1)
            await two.feed(peer_of_two, frame_to(side, TEXT, b"x"), 1)
        everything = [each for pair in zip(one.times, two.times, strict=True) for each in pair]
        assert None not in everything
        assert everything == sorted(everything, key=lambda each: each or 0)
        assert len(set(everything)) == 6
        assert [frame.kernel_time_ns for frame in one.kept] == one.times
        assert [frame.kernel_time_ns for frame in two.kept] == two.times
