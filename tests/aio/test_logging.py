"""What is logged and under which name, what is never logged, and what it costs when it is off."""

from __future__ import annotations

import base64
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aio.traffic import SIDES, Recorder, connected, frame_to, read_to_end

import picows.handshake.client
from picows import (
    PICOWS_DEBUG_LL,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
)
from raw_peer import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    RawPeer,
    RawServer,
    encode_frame,
    in_thread,
    raw_connect,
    upgrade_request,
)

both_sides = pytest.mark.parametrize("side", SIDES)
# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))

ROOM = 14


class Log(logging.Logger):
    """A logger of its own, which keeps its records, and counts how often it is asked."""

    def __init__(self, level: int) -> None:
        super().__init__("log", level)
        self.records: list[logging.LogRecord] = []
        self.questions = 0
        self.calls = 0

    def isEnabledFor(self, level: int) -> bool:
        self.questions += 1
        return super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        self.calls += 1
        super().log(level, msg, *args, **kwargs)

    def handle(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


async def converse(side: str, listener: Recorder, peer: RawPeer, frames: int) -> None:
    """So many frames in either direction, each kind of send among them, and PINGs."""
    transport = listener.transport
    for number in range(frames):
        peer.send(frame_to(side, TEXT, b"in %d" % number), frame_to(side, PING, b"p"))
        await listener.until_frames(number + 1)
        transport.send(WSMsgType.TEXT, "out")
        transport.send(WSMsgType.BINARY, bytes(20_000))
        transport.send_reuse_external_bytearray(WSMsgType.BINARY, bytearray(ROOM), ROOM)
        transport.send_ping(b"p")
        for _ in range(5):
            await in_thread(peer.recv_frame)


async def whole_life(net: Any, side: str, log: logging.Logger, frames: int) -> None:
    """From the upgrade to the end of the connection."""
    listener = Recorder()
    async with connected(net, side, listener, logger_name=log) as peer:
        await converse(side, listener, peer, frames)
        listener.transport.send_close(1000)
        listener.transport.send(WSMsgType.TEXT, b"too late")
        peer.send(frame_to(side, CLOSE, b"\x03\xe8"))
        await listener.until_frames(frames + 1)
        listener.transport.disconnect()
        await in_thread(read_to_end, peer)


# -- names and levels ------------------------------------------------------------------------------


def test_the_level_is_below_debug() -> None:
    assert PICOWS_DEBUG_LL == 9 < logging.DEBUG


@pytest.fixture
def levels() -> Iterator[None]:
    """Puts the levels of picows' loggers back."""
    names = ("picows", "picows.client", "picows.server", "picows.feed")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@one
@both_sides
@pytest.mark.parametrize("logger_name", [None, "feed"])
async def test_the_level_of_the_parent_logger_is_what_counts(
    net: Any, side: str, logger_name: str | None, caplog: pytest.LogCaptureFixture, levels: None
) -> None:
    """As the guide has it: logging.getLogger("picows").setLevel(picows.PICOWS_DEBUG_LL)."""
    for level, wanted in ((PICOWS_DEBUG_LL, True), (logging.DEBUG, False)):
        logging.getLogger("picows").setLevel(level)
        caplog.clear()
        await whole_life(net, side, logger_name, 1)  # type: ignore[arg-type]
        records = [each for each in caplog.records if each.name.startswith("picows")]
        assert bool(records) is wanted
        assert {each.levelno for each in records} <= {PICOWS_DEBUG_LL}
        assert {each.name for each in records} <= {f"picows.{logger_name or side}"}


@both_sides
@pytest.mark.net(loops=("asyncio",), aiofastnet=(None,))
async def test_a_logger_and_an_adapter_are_used_as_they_are(net: Any, side: str) -> None:
    """On both sides; through an adapter every record carries what the adapter adds."""

    class Adapter(logging.LoggerAdapter):  # type: ignore[type-arg]
        def process(self, msg: Any, kwargs: Any) -> Any:
            kwargs["extra"] = self.extra
            return f"venue: {msg}", kwargs

    def fail(transport: object, frame: object) -> None:
        raise LookupError

    for adapt in (False, True):
        log = Log(PICOWS_DEBUG_LL)
        given = Adapter(log, {"venue": "x"}) if adapt else log
        await whole_life(net, side, given, 1)  # type: ignore[arg-type]
        debug = len(log.records)
        assert debug
        listener = Recorder(fail)
        options = {"disconnect_on_exception": False, "logger_name": given}
        async with connected(net, side, listener, **options) as peer:
            peer.send(frame_to(side, TEXT, b"x"))
            await listener.until_frames(1)
        (error,) = [record for record in log.records if record.exc_info]
        assert error.levelno == logging.ERROR
        assert all(line.startswith("venue: ") is adapt for line in log.lines)
        assert all(
            getattr(record, "venue", None) == ("x" if adapt else None) for record in log.records
        )


@pytest.mark.parametrize("kind", ["default", "name", "logger", "adapter"])
@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(False,))
async def test_no_logger_is_left_behind_by_a_connection(net: Any, kind: str) -> None:
    """logging never forgets a logger that was asked for by name."""
    own = logging.getLogger("application.feed")
    logger_name = {
        "default": None,
        "name": "feed",
        "logger": own,
        "adapter": logging.LoggerAdapter(own, {}),
    }[kind]

    async def one_more() -> None:
        transport, _ = await net.connect(Recorder, server, logger_name=logger_name)
        transport.send(WSMsgType.TEXT, b"x")
        transport.disconnect()
        await transport.wait_disconnected()

    server = await net.serve(lambda request: WSListener(), logger_name=logger_name)
    await one_more()
    before = set(logging.Logger.manager.loggerDict)
    gc.collect()
    alive = count_loggers()
    for _ in range(100):
        await one_more()
    await server.shutdown()
    assert set(logging.Logger.manager.loggerDict) == before
    gc.collect()
    assert count_loggers() == alive


def count_loggers() -> int:
    """Also those that nobody can look up."""
    return sum(
        isinstance(each, (logging.Logger, logging.LoggerAdapter, logging.Handler))
        for each in gc.get_objects()
    )


# -- what is logged --------------------------------------------------------------------------------


@one
@both_sides
async def test_frames_are_logged_in_both_directions(net: Any, side: str) -> None:
    log = Log(PICOWS_DEBUG_LL)
    await whole_life(net, side, log, 3)
    lines = log.lines
    assert sum(line.startswith("< WSFrame(TEXT, fin=True") for line in lines) == 3
    assert sum(line.startswith("> TEXT") for line in lines) == 3
    assert sum(line.startswith("> BINARY") for line in lines) == 6
    assert sum(line.startswith("> BINARY") and "20000" in line for line in lines) == 3
    assert sum(line.startswith("> PING") for line in lines) == 3
    assert sum(line.startswith("> PONG") for line in lines) == 3
    assert sum(line.startswith("> CLOSE") for line in lines) == 1
    assert sum(line.startswith("< WSFrame(CLOSE") for line in lines) == 1
    assert sum("not sent" in line for line in lines) == 1
    assert sum("connection lost" in line for line in lines) == 1
    assert {record.levelno for record in log.records} == {PICOWS_DEBUG_LL}
    assert {record.name for record in log.records} == {"log"}


@one
@both_sides
async def test_what_is_sent_and_received_is_not_logged(net: Any, side: str) -> None:
    """Many a venue's first message is the login; reasons, PINGs and what was not sent as well."""
    secret = b"hunter2"
    log = Log(PICOWS_DEBUG_LL)
    listener = Recorder()
    async with connected(net, side, listener, logger_name=log, enable_auto_pong=False) as peer:
        transport = listener.transport
        for opcode in (TEXT, BINARY, PING):
            peer.send(frame_to(side, opcode, secret))
        peer.send(frame_to(side, CLOSE, b"\x03\xe8" + secret))
        await listener.until_frames(4)
        transport.send(WSMsgType.TEXT, secret)
        transport.send(WSMsgType.TEXT, secret.decode())
        transport.send_ping(secret)
        transport.send_close(1000, secret)
        transport.send(WSMsgType.TEXT, secret)
        with pytest.raises(ValueError, match="125"):
            transport.send_ping(secret * 20)
    listener = Recorder()
    async with connected(net, side, listener, logger_name=log) as peer:
        # A violation that holds it.
        peer.send(frame_to(side, 3, secret))
        await in_thread(read_to_end, peer)
    assert log.records
    for record in log.records:
        assert "hunter2" not in record.getMessage()
        # Nor in what somebody's handler might show.
        assert "hunter2" not in repr(record.__dict__)


# -- secrets ---------------------------------------------------------------------------------------

FIELDS = {
    "Authorization": "Bearer hunter2",
    "Proxy-Authorization": "Basic aHVudGVyMg==",  # hunter2
    "Cookie": "session=hunter2; theme=dark",
    "X-API-Key": "hunter2",
    "KC-API-PASSPHRASE": "hunter2",
    "X-Signature": "hunter2",
    "X-Auth-Token": "hunter2",
    "Client-Secret": "hunter2",
}
QUERY = (
    "token=hunter2&access_token=hunter2&api_key=hunter2&apikey=hunter2&listenKey=hunter2"
    "&signature=hunter2&secret=hunter2&password=hunter2&auth=hunter2&depth=visible"
)
# In clear, percent-encoded, and in the base64 of each way that it is sent in.
SECRETS = (
    "hunter2",
    "hunter%32",
    "aHVudGVyMg",
    base64.b64encode(b"user:hunter2").decode(),
)


def check_no_secret(records: list[logging.LogRecord]) -> None:
    assert records
    for record in records:
        text = logging.Formatter().format(record) + repr(record.args)
        for secret in SECRETS:
            assert secret not in text


ANSWERS: dict[str, bytes] = {
    "403": b"HTTP/1.1 403 Forbidden\r\nSet-Cookie: a=hunter2\r\nContent-Length: 7\r\n\r\nhunter2",
    "redirect": (
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /?token=hunter2\r\nContent-Length: 0\r\n\r\n"
    ),
    "malformed": b"HTTP/1.1 101 OK\r\nSet-Cookie: hunter2\nX: y\r\n\r\n",
    "no HTTP": b"hunter2\r\n",
    "end of stream": b"HTTP/1.1 200 OK\r\nSet-Cookie: hunter2",
    "no upgrade": b"HTTP/1.1 101 OK\r\nSet-Cookie: hunter2\r\n\r\n",
}


@one
@pytest.mark.parametrize("answer", [None, *ANSWERS])
async def test_a_client_logs_no_secret(
    net: Any, answer: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """All that the process logs, the loggers of others included; whatever the server answers."""
    caplog.set_level(1)

    def script(peer: RawPeer) -> None:
        if answer is None:
            peer.accept_upgrade(b"Set-Cookie: session=hunter2")
            peer.recv_all()
        else:
            peer.recv_head()
            peer.send(ANSWERS[answer])

    async with RawServer(script) as server:
        url = f"ws://user:hunter%32@127.0.0.1:{server.port}/feed?{QUERY}"
        fields = dict(FIELDS)
        if answer is None:
            # Or the URL's own would not be sent.
            del fields["Authorization"]
        try:
            transport, _ = await net.connect(Recorder, url, extra_headers=fields)
        except WSHandshakeError:
            assert answer is not None
        else:
            transport.disconnect()
            await transport.wait_disconnected()
    check_no_secret(caplog.records)
    # And it does say what it may.
    assert "visible" in caplog.text
    for name in FIELDS:
        assert name in caplog.text


@one
async def test_a_server_logs_no_secret(net: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)

    def route(request: WSUpgradeRequest) -> Any:
        if b"none" in request.path:
            return None
        if b"nonsense" in request.path:
            return 42
        if b"refuse" in request.path:
            fields = {"Set-Cookie": "session=hunter2"}
            response = WSUpgradeResponse.create_error_response(403, b"hunter2", fields)
            return WSUpgradeResponseWithListener(response, None)
        if b"unoffered" in request.path:
            fields = {"Sec-WebSocket-Protocol": "hunter2"}
            response = WSUpgradeResponse.create_101_response(fields)
            return WSUpgradeResponseWithListener(response, WSListener())
        if b"unsendable" in request.path:
            response = WSUpgradeResponse.create_ok_response()
            response.headers["Set-Cookie"] = "hunter2\r\n"
            return WSUpgradeResponseWithListener(response, None)
        return WSListener()

    def ask(*pieces: bytes) -> None:
        with raw_connect(port) as peer:
            peer.send(*pieces)
            peer.end_sending()
            peer.recv_all()

    server = await net.serve(route)
    port = server.sockets[0].getsockname()[1]
    lines = [f"{name}: {value}".encode() for name, value in FIELDS.items()]
    for where in ("", "none", "nonsense", "refuse", "unoffered", "unsendable"):
        path = f"/{where}?{QUERY}".encode()
        whole = upgrade_request(*lines, path=path)
        await in_thread(ask, whole)
        await in_thread(ask, whole, encode_frame(TEXT, b"hunter2"))  # not masked: a violation
        await in_thread(ask, whole[:-2])
        await in_thread(ask, whole.replace(b"GET", b"POST"))
        await in_thread(ask, whole.replace(b"Cookie:", b"Cookie :"))
        await in_thread(ask, whole.replace(b"Version: 13", b"Version: hunter2"))
        await in_thread(ask, whole.replace(b"Upgrade: websocket", b"Upgrade: hunter2"))
    await server.shutdown()
    check_no_secret([each for each in caplog.records if each.name.startswith("picows")])


# -- nothing when it is off ------------------------------------------------------------------------


@both_sides
@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_no_record_is_made_when_the_level_is_higher(net: Any, side: str) -> None:
    log = Log(logging.DEBUG)
    await whole_life(net, side, log, 3)
    assert log.records == []


@both_sides
@pytest.mark.net(loops=("asyncio",))
async def test_frames_do_not_even_ask_the_logger(net: Any, side: str) -> None:
    """A connection asks when it is made, and where something happens that is no frame."""
    asked = []
    for frames in (1, 50):
        log = Log(logging.DEBUG)
        await whole_life(net, side, log, frames)
        asked.append((log.questions, log.calls))
    assert asked[0] == asked[1]


@one
async def test_a_request_is_not_written_out_for_a_log_that_is_off(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starring out its secrets costs more than the request."""
    written = []
    redacted_request = picows.handshake.client.ClientHandshake.redacted_request

    def count(self: Any) -> str:
        written.append(self)
        return redacted_request(self)

    monkeypatch.setattr(picows.handshake.client.ClientHandshake, "redacted_request", count)
    await whole_life(net, "client", Log(logging.DEBUG), 1)
    assert written == []
    await whole_life(net, "client", Log(PICOWS_DEBUG_LL), 1)
    assert len(written) == 1


@one
@both_sides
async def test_a_log_that_is_on_formats_nothing_that_no_handler_asks_for(
    net: Any, side: str
) -> None:
    """A QueueHandler, or a filter that drops the record: the text is the handler's to make."""
    log = Log(PICOWS_DEBUG_LL)
    await whole_life(net, side, log, 3)
    with_frames = [each for each in log.records if str(each.msg).startswith(("<", ">"))]
    assert with_frames
    for record in with_frames:
        assert "%" in str(record.msg)
        assert record.args
