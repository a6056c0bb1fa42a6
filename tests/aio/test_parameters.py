"""Every parameter of ws_connect and ws_create_server: what is refused, and how it is said.

The tables below have rows for each parameter and each keyword that goes to the loop, and are held
against the signatures: a new parameter without rows fails. A refusal is a TypeError or a
ValueError that names the parameter and the rule, and comes before anything is opened.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aio.traffic import Recorder

import loops
from picows import (
    PerMessageDeflate,
    WSAutoPingStrategy,
    WSCloseCode,
    WSInvalidStatusError,
    WSInvalidURL,
    WSListener,
    WSMsgType,
    ws_connect,
    ws_create_server,
)
from picows.aio.parameters import CONNECTION_KWARGS, SERVER_KWARGS
from raw_peer import RawPeer, RawServer, field, in_thread, raw_connect

# Where the combination of loop and transports cannot matter.
one = pytest.mark.net(loops=("asyncio",), tls=(False,), aiofastnet=(None,))

INFINITY = float("inf")
NAN = float("nan")
# Beyond what a C int, a Py_ssize_t holds; and beyond what Python puts into decimal digits.
BEYOND_INT = 2**31
BEYOND_SIZE = 2**63
BEYOND_DIGITS = 10**5000

CLIENT_CONTEXT = ssl.create_default_context()
SERVER_CONTEXT = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
UNIX = "ws+unix:///nonexistent/x.sock:/"
WSS = "wss://127.0.0.1:1/"
OWN_EXTENSION = {"sec-websocket-extensions": "x-mine"}


class Wrong(NamedTuple):
    """What a value is refused with. `also` is what has to be given for it to be wrong."""

    value: Any
    error: type[Exception]
    rule: str
    also: dict[str, Any] = {}  # never written to


def type_errors(rule: str, *values: Any) -> list[Wrong]:
    return [Wrong(value, TypeError, rule) for value in values]


def value_errors(rule: str, *values: Any) -> list[Wrong]:
    return [Wrong(value, ValueError, rule) for value in values]


def closed_socket(kind: int = socket.SOCK_STREAM) -> socket.socket:
    """What it is can still be asked."""
    with socket.socket(socket.AF_INET, kind) as sock:
        return sock


class Odd:
    """Equal to everything, true and false; and no value of any parameter."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        return "Odd()"


FLAG = type_errors("must be True or False", None, 0, 1, "", "yes", b"", [], 1.0, Odd())
SECONDS = [
    *type_errors("must be a number of seconds", None, "5", b"5", True, False, [], 1j, Odd()),
    *type_errors("must be a number of seconds", Fraction(1, 2)),
    *value_errors(r"more than 0 and at most 31536000 seconds", 0, 0.0, -1, -0.001, NAN),
    *value_errors(r"more than 0 and at most 31536000 seconds", INFINITY, -INFINITY),
    *value_errors(r"more than 0 and at most 31536000 seconds", 31536001, 1e300, BEYOND_DIGITS),
]
TIMEOUT = [each for each in SECONDS if each.value is not None]
SIZE = [
    *type_errors(r"must be an int \(bytes\)", None, "1", b"1", 1.0, 1e6, True, [], Odd()),
    *value_errors("must be from 1 to", 0, -1, BEYOND_SIZE, BEYOND_SIZE - 1, BEYOND_DIGITS),
]
C_INT = [
    *type_errors("must be an int", "1", 1.0, True, [], Odd()),
    *value_errors("must be from 0 to", -1, BEYOND_INT, BEYOND_SIZE, BEYOND_DIGITS),
]
HOST_NAME = [
    *type_errors("must be a str", b"localhost", 5, True, ["localhost"], Odd()),
    # asyncio takes the empty one for "do not look at the name in the certificate".
    *value_errors("name|address", "", "a\0b", "a..b", ".a", "x" * 64, "a b", "a\r\nb", "\ud800"),
]
LOGGER_NAME = [
    *type_errors("must be a str, a Logger", 5, b"feed", True, object(), ["feed"], Odd()),
    *value_errors("must not be empty", ""),
]
STRATEGY = [
    *type_errors("must be a WSAutoPingStrategy", None, "PING_WHEN_IDLE", 1.0, True, Odd()),
    *value_errors("must be one of .*PING_WHEN_IDLE", 0, 3, -1, WSCloseCode.OK),
]

KERNEL_TIMESTAMPS = [
    *FLAG,
    *[
        Wrong(True, ValueError, "needs use_aiofastnet=None", {"use_aiofastnet": each})
        for each in (True, False)
    ],
]

COMMON: dict[str, list[Wrong]] = {
    "ws_listener_factory": type_errors("must be callable", None, "x", 5, WSListener(), [Recorder]),
    "disconnect_on_exception": FLAG,
    "websocket_handshake_timeout": TIMEOUT,
    "logger_name": LOGGER_NAME,
    "enable_auto_ping": FLAG,
    "auto_ping_idle_timeout": SECONDS,
    "auto_ping_reply_timeout": SECONDS,
    "auto_ping_strategy": STRATEGY,
    "enable_auto_pong": FLAG,
    "max_frame_size": SIZE,
    "read_buffer_init_size": SIZE,
    "use_aiofastnet": [each for each in FLAG if each.value is not None],
    "coalesce_writes": FLAG,
    "assemble_messages": FLAG,
    "max_message_size": SIZE,
    "max_fragments": [
        *type_errors("must be an int", None, "1", 1.0, True, Odd()),
        *value_errors("must be from 1 to", 0, -1, BEYOND_SIZE, BEYOND_DIGITS),
    ],
    "permessage_deflate": type_errors(
        "must be True, False or a PerMessageDeflate", 0, 1, "yes", {}, PerMessageDeflate, Odd()
    ),
    # None is no limit.
    "max_write_buffer": [each for each in SIZE if each.value is not None],
    "overflow_policy": [
        *type_errors(
            "must be (a str|one of close, drop, raise)", None, 0, True, b"drop", ["drop"], Odd()
        ),
        *value_errors("must be one of close, drop, raise", "", "block", "Close", "drop "),
    ],
    "kernel_timestamps": KERNEL_TIMESTAMPS,
}

CONNECT: dict[str, list[Wrong]] = {
    **COMMON,
    "ws_listener_factory": [
        *COMMON["ws_listener_factory"],
        *type_errors(r"must take no argument or \(request, response\)", lambda request: None),
        *type_errors(r"must take no argument or \(request, response\)", lambda a, b, c: None),
        *type_errors(r"must take no argument or \(request, response\)", lambda *, a, b: None),
    ],
    "url": [
        *type_errors("must be a str", None, b"ws://localhost/", 5, Path("x"), ["ws://h/"]),
        *[Wrong(url, WSInvalidURL, "begin with ws://") for url in ("", "h", "http://h")],
        Wrong("ws://h/#x", WSInvalidURL, "fragment"),
        Wrong("ws://h:0/", WSInvalidURL, "port"),
        Wrong("ws://h/\r\nX: y", WSInvalidURL, "control character"),
        Wrong("ws+unix://x", WSInvalidURL, "absolute path"),
    ],
    "ssl_context": [
        *type_errors(r"must be an ssl\.SSLContext or None", True, False, "x", ssl.SSLContext),
        # Otherwise the end of the deadline is what is said of it.
        Wrong(SERVER_CONTEXT, ValueError, "client", {"url": WSS}),
    ],
    "extra_headers": [
        *type_errors("must be a mapping or an iterable of .* pairs", "X: 1", b"X: 1", 5, True),
        *type_errors("must hold .* pairs", ["ab"], [("a",)], [("a", "b", "c")], [None], [{"a"}]),
        *type_errors("the value of 'X' must be str", {"X": 1}, {"X": b"1"}, {"X": None}),
        *type_errors("a name must be str", {b"X": "1"}, {None: "1"}, [(1, "1")]),
        *value_errors("holds CR, LF, NUL", {"X": "a\r\nY: b"}, {"X": "a\n"}, {"X": "a\0"}),
        *value_errors("beyond ASCII", {"X": "\u00fc"}, {"X": "\ud800"}),
        *value_errors("RFC 9110 token", {"X Y": "a"}, {"": "a"}, {"X:": "a"}, {"\u00fc": "a"}),
        *value_errors("set by the handshake", {"upgrade": "h2c"}, {"CONNECTION": "close"}),
        *value_errors("set by the handshake", {"Sec-WebSocket-Key": "x"}, {"Content-Length": "0"}),
        *value_errors("more than one Host", [("Host", "a"), ("host", "b")]),
    ],
    "permessage_deflate": [
        *COMMON["permessage_deflate"],
        *[
            Wrong(each, ValueError, "Sec-WebSocket-Extensions", {"extra_headers": OWN_EXTENSION})
            for each in (True, PerMessageDeflate())
        ],
    ],
    "max_redirects": [
        *type_errors("must be an int", None, "5", 5.0, True, False, Odd()),
        *value_errors("must be from 0 to", -1, BEYOND_SIZE, BEYOND_DIGITS),
    ],
    "proxy": [
        *type_errors("must be a str or None", b"http://h", 5, True, {"http": "h"}),
        *[
            Wrong(url, WSInvalidURL, "http://, https://")
            for url in ("", "h:1", "ws://h", "ftp://h")
        ],
        Wrong("http://h/path", WSInvalidURL, "no path"),
        Wrong("http://", WSInvalidURL, "no host"),
        Wrong("http://h:0", WSInvalidURL, "port"),
        Wrong("socks4://me:pw@h", WSInvalidURL, "SOCKS4"),
        Wrong("http://127.0.0.1:1", ValueError, "Unix socket", {"url": UNIX}),
    ],
    "proxy_ssl_context": [
        *[
            Wrong(each, TypeError, r"must be an ssl\.SSLContext or None", {"proxy": "https://h"})
            for each in (True, False, "x", ssl.SSLContext)
        ],
        *value_errors("for an https:// proxy", CLIENT_CONTEXT),
        Wrong(CLIENT_CONTEXT, ValueError, "for an https:// proxy", {"proxy": "http://h"}),
        Wrong(CLIENT_CONTEXT, ValueError, "for an https:// proxy", {"proxy": "socks5://h"}),
        Wrong(SERVER_CONTEXT, ValueError, "client", {"proxy": "https://127.0.0.1:1"}),
    ],
    "socket_factory": type_errors("must be callable", "x", 5, True, closed_socket()),
    "busy_poll": [
        *type_errors("must be a number of seconds", None, "1", b"1", True, False, [], 1j, Odd()),
        *value_errors("must be from 0 to 1 seconds", -1, -0.001, 1.001, 2, NAN, INFINITY),
        *value_errors("must be from 0 to 1 seconds", -INFINITY, 1e300, BEYOND_DIGITS),
    ],
    # What goes to the loop.
    "family": [*C_INT, Wrong(socket.AF_INET, ValueError, "Unix socket", {"url": UNIX})],
    "proto": [*C_INT, Wrong(socket.IPPROTO_TCP, ValueError, "Unix socket", {"url": UNIX})],
    "flags": [*C_INT, Wrong(socket.AI_NUMERICHOST, ValueError, "Unix socket", {"url": UNIX})],
    "local_addr": [
        *type_errors("must be a pair of host and port", "127.0.0.1", 5, ("h",), ("h", 1, 2), {}),
        *type_errors("must be a str", (5, 0), (b"h", 0)),
        *type_errors("must be an int", ("h", "0"), ("h", None), ("h", 1.0), ("h", True)),
        *value_errors("must be from 0 to 65535", ("h", -1), ("h", 65536), ("h", BEYOND_DIGITS)),
        *value_errors("name|address", ("a..b", 0), ("a\0b", 0), ("x" * 64, 0)),
        Wrong(("127.0.0.1", 0), ValueError, "Unix socket", {"url": UNIX}),
    ],
    "happy_eyeballs_delay": [*TIMEOUT, Wrong(0.25, ValueError, "Unix socket", {"url": UNIX})],
    "interleave": [
        *type_errors("must be an int", "1", 1.0, True, [], Odd()),
        *value_errors("must be from 0 to", -1, BEYOND_SIZE, BEYOND_DIGITS),
        Wrong(1, ValueError, "Unix socket", {"url": UNIX}),
    ],
    "server_hostname": [
        *[each._replace(also={"url": WSS}) for each in HOST_NAME],
        *value_errors("for TLS", "example.com"),
        Wrong("example.com", ValueError, "for TLS", {"url": UNIX}),
    ],
    "ssl_handshake_timeout": [*TIMEOUT, *value_errors("for TLS", 5)],
    "ssl_shutdown_timeout": [*TIMEOUT, *value_errors("for TLS", 5)],
    # What the loop knows, and the URL or a parameter decides.
    "ssl": type_errors(r"no ssl=.*ssl_context", None, True, CLIENT_CONTEXT),
    "sock": type_errors(r"no sock=.*socket_factory", None, closed_socket()),
    "all_errors": type_errors("no all_errors=", True, False, None),
    "host": type_errors("no host=.*URL", "localhost", None),
    "port": type_errors("no port=.*URL", 1, None),
    "protocol_factory": type_errors("no protocol_factory=.*ws_listener_factory", Recorder),
}

NOWHERE: dict[str, Any] = {"host": None, "port": None}
ON_PATH = {**NOWHERE, "path": "/nonexistent/x.sock"}
ON_SOCK = {**NOWHERE, "sock": closed_socket()}


def tcp_only(*values: Any) -> list[Wrong]:
    """For a server that makes TCP sockets itself."""
    return [
        Wrong(value, ValueError, rule, also)
        for value in values
        for rule, also in ((r"path=.* is a Unix socket", ON_PATH), ("sock", ON_SOCK))
    ]


SERVE: dict[str, list[Wrong]] = {
    **COMMON,
    "host": [
        *type_errors("must be a str, a sequence of str or None", 5, b"h", True, {"h"}, Odd()),
        *type_errors("must be a str", ["h", 5], [b"h"], [None], (5,)),
        *value_errors("name|address", "a..b", "a\0b", "x" * 64, ["127.0.0.1", "a..b"]),
        # Nowhere, then.
        *value_errors("empty", [], ()),
        Wrong("h", ValueError, "path", {**ON_PATH, "host": "h"}),
        Wrong("h", ValueError, "sock", {**ON_SOCK, "host": "h"}),
        Wrong(None, ValueError, "host and port, on path or on sock", NOWHERE),
    ],
    "port": [
        *type_errors("must be an int", "80", 80.0, True, b"80", [80], Odd()),
        *value_errors("must be from 0 to 65535", -1, 65536, BEYOND_SIZE, BEYOND_DIGITS),
        Wrong(0, ValueError, "path", {**ON_PATH, "port": 0}),
        Wrong(0, ValueError, "sock", {**ON_SOCK, "port": 0}),
    ],
    "path": [
        *[
            Wrong(value, TypeError, "must be a str", NOWHERE)
            for value in (5, b"/run/x", True, ["/run/x"])
        ],
        *[
            Wrong(value, ValueError, "must be the path of a Unix socket", NOWHERE)
            for value in ("", "\0abstract", "/run/x\0y")
        ],
        *value_errors("not host and port and path", "/nonexistent/x.sock"),
        Wrong("/nonexistent/x.sock", ValueError, "not path and sock", ON_SOCK),
    ],
    # What goes to the loop.
    "family": [*C_INT, *tcp_only(socket.AF_INET)],
    "flags": [*C_INT, *tcp_only(socket.AI_PASSIVE)],
    "sock": [
        *[
            Wrong(value, TypeError, r"must be a socket\.socket without TLS", ON_SOCK)
            for value in (5, "x", True, 0)
        ],
        Wrong(closed_socket(socket.SOCK_DGRAM), ValueError, "must be a SOCK_STREAM", ON_SOCK),
        *value_errors("not host and port and sock", closed_socket()),
    ],
    "backlog": C_INT,
    "ssl": [
        *type_errors(r"must be an ssl\.SSLContext or None", True, False, "x", ssl.SSLContext),
        # Otherwise it listens, and each client fails.
        *value_errors("server", CLIENT_CONTEXT),
    ],
    "reuse_address": [
        *[each for each in FLAG if each.value is not None],
        *tcp_only(True, False),
    ],
    "reuse_port": [*[each for each in FLAG if each.value is not None], *tcp_only(True, False)],
    "keep_alive": [*[each for each in FLAG if each.value is not None], *tcp_only(True, False)],
    "ssl_handshake_timeout": [*TIMEOUT, *value_errors("for TLS", 5)],
    "ssl_shutdown_timeout": [*TIMEOUT, *value_errors("for TLS", 5)],
    "start_serving": FLAG,
    "protocol_factory": type_errors("no protocol_factory=.*ws_listener_factory", Recorder),
}

ENTRIES = {"ws_connect": (ws_connect, CONNECT), "ws_create_server": (ws_create_server, SERVE)}


def short(value: object) -> str:
    try:
        return re.sub(r" at 0x\w+", "", repr(value))[:40]
    except ValueError:
        return "beyond digits"


def rows() -> Iterator[Any]:
    for entry, (_, table) in ENTRIES.items():
        for name, wrongs in table.items():
            for wrong in wrongs:
                beside = "".join(f", {key}" for key in wrong.also if key != name)
                yield pytest.param(
                    entry, name, wrong, id=f"{entry}-{name}={short(wrong.value)}{beside}"
                )


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_parameter_has_its_rows(entry: str) -> None:
    function, table = ENTRIES[entry]
    parameters = inspect.signature(function).parameters
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    module = sys.modules[function.__module__]
    kwargs = CONNECTION_KWARGS if entry == "ws_connect" else SERVER_KWARGS
    expected = {*parameters, *kwargs, *module._REFUSED_KWARGS} - {"kwargs"}
    assert set(table) == expected
    for name, wrongs in table.items():
        errors = {wrong.error for wrong in wrongs}
        assert TypeError in errors, f"nothing of a wrong type for {name}"


def test_keywords_of_the_loop_are_those_of_asyncio() -> None:
    """Each of them is checked, or refused; so a new one of asyncio's is noticed."""
    loop = asyncio.AbstractEventLoop
    for theirs, entry, ours in (
        (loop.create_connection, "ws_connect", CONNECTION_KWARGS),
        (loop.create_server, "ws_create_server", SERVER_KWARGS),
    ):
        function, _ = ENTRIES[entry]
        refused = sys.modules[function.__module__]._REFUSED_KWARGS
        known = {*ours, *refused, *inspect.signature(function).parameters, "self"}
        assert set(inspect.signature(theirs).parameters) <= known


class Opened:
    """What was opened while this was looking."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[str] = []
        made = socket.socket.__init__
        resolve = asyncio.get_running_loop().getaddrinfo

        def new_socket(sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            self.found.append(f"a socket: {args}, {kwargs}")
            made(sock, *args, **kwargs)

        def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
            self.found.append(f"a look-up: {args}")
            return resolve(*args, **kwargs)

        monkeypatch.setattr(socket.socket, "__init__", new_socket)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def call(entry: str, taken: int, given: dict[str, Any]) -> None:
    """The entry point with good arguments, but for those that are `given`; None takes one away.

    What is not refused ends in an OSError: nobody listens on port 1, and the port `taken` is.
    """
    arguments: dict[str, Any] = {"ws_listener_factory": Recorder}
    if entry == "ws_connect":
        await ws_connect(**{**arguments, "url": "ws://127.0.0.1:1/", **given})
        return
    arguments |= {"host": "127.0.0.1", "port": taken, **given}
    for name in ("host", "port"):
        if arguments[name] is None:
            del arguments[name]
    server = await ws_create_server(**arguments)
    server.close()


@one
@pytest.mark.parametrize(("entry", "name", "wrong"), list(rows()))
async def test_refused(
    net: Any, entry: str, name: str, wrong: Wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        opened = Opened(monkeypatch)
        files = loops.open_files()
        with pytest.raises(wrong.error) as caught:
            await call(entry, taken.getsockname()[1], {**wrong.also, name: wrong.value})
        assert not opened.found
        assert loops.new_files(files) == {}
    # No subclass, such as a UnicodeError that something below has raised.
    assert type(caught.value) is wrong.error
    message = str(caught.value)
    assert re.search(wrong.rule, message), message
    if wrong.error is WSInvalidURL:
        assert f"invalid {'proxy' if name == 'proxy' else 'WebSocket'} URL" in message
    else:
        assert name in message


@one
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("keyword", ["no_such_option", "timeout", "sslcontext", "loop", "Family"])
async def test_unknown_keywords(
    net: Any, entry: str, keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        opened = Opened(monkeypatch)
        with pytest.raises(TypeError) as caught:
            await call(entry, taken.getsockname()[1], {keyword: 1})
        assert not opened.found
    assert f"{entry}() got an unexpected keyword argument {keyword!r}" in str(caught.value)
    # And what there would be instead.
    assert "happy_eyeballs_delay" in str(caught.value) or "reuse_port" in str(caught.value)


@one
@pytest.mark.parametrize(
    ("entry", "keyword"),
    [("ws_connect", "ssl"), ("ws_connect", "sock"), ("ws_create_server", "protocol_factory")],
)
async def test_refused_keywords_name_the_function(net: Any, entry: str, keyword: str) -> None:
    with pytest.raises(TypeError, match=rf"^{entry}\(\) takes no {keyword}="):
        await call(entry, 0, {keyword: None})


# -- what goes through -----------------------------------------------------------------------------

GOOD_FOR_TCP: dict[str, Any] = {
    "family": socket.AF_INET,
    "proto": socket.IPPROTO_TCP,
    "flags": socket.AI_NUMERICHOST,
    "local_addr": ("127.0.0.9", 0),
    "happy_eyeballs_delay": 0.25,
    "interleave": 1,
}
GOOD_FOR_TLS: dict[str, Any] = {
    "server_hostname": "localhost",
    "ssl_handshake_timeout": 7,
    "ssl_shutdown_timeout": 7.5,
}
GOOD_FOR_SERVERS: dict[str, Any] = {
    "family": socket.AF_INET,
    "flags": socket.AI_PASSIVE,
    "backlog": 5,
    "reuse_address": False,
    "reuse_port": True,
    "keep_alive": True,
    "start_serving": False,
}
GOOD_FOR_TLS_SERVERS: dict[str, Any] = {"ssl_handshake_timeout": 7, "ssl_shutdown_timeout": 7.5}


def is_known_below(net: Any, name: str) -> bool:
    """aiofastnet knows each of them; the loops do not."""
    if net.use_aiofastnet is not False:
        return True
    if name in ("happy_eyeballs_delay", "interleave"):
        return bool(net.loop_kind != "uvloop")
    if name == "keep_alive":
        return net.loop_kind != "uvloop" and sys.version_info >= (3, 13)
    if name == "ssl_shutdown_timeout":
        return net.loop_kind == "uvloop" or sys.version_info >= (3, 11)
    return True


def spy(monkeypatch: pytest.MonkeyPatch, module: str, *names: str) -> dict[str, Any]:
    """The keywords with which functions of backend.py are called from `module`."""
    seen: dict[str, Any] = {}

    def wrap(function: Any) -> Any:
        async def spied(*args: Any, **kwargs: Any) -> Any:
            seen.update(kwargs)
            return await function(*args, **kwargs)

        return spied

    for name in names:
        target = f"picows.aio.{module}.{name}"
        monkeypatch.setattr(target, wrap(getattr(sys.modules[f"picows.aio.{module}"], name)))
    return seen


def test_every_keyword_is_seen_to_go_through() -> None:
    assert {*GOOD_FOR_TCP, *GOOD_FOR_TLS} == set(CONNECTION_KWARGS)
    # `ssl` and `sock` go through in tests of their own.
    assert {*GOOD_FOR_SERVERS, *GOOD_FOR_TLS_SERVERS, "ssl", "sock"} == set(SERVER_KWARGS)


async def connect_with(net: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    seen = spy(monkeypatch, "dial", "create_connection", "start_tls")
    server = await net.serve(lambda request: Recorder())
    if is_known_below(net, name):
        transport, _ = await net.connect(Recorder, server, **{name: value})
        assert seen[name] == value
        transport.disconnect()
        await transport.wait_disconnected()
    else:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            await net.connect(Recorder, server, **{name: value})
    await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("name", GOOD_FOR_TCP)
async def test_keywords_for_tcp(net: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await connect_with(net, monkeypatch, name, GOOD_FOR_TCP[name])


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(True,))
@pytest.mark.parametrize("name", GOOD_FOR_TLS)
async def test_keywords_for_tls(net: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await connect_with(net, monkeypatch, name, GOOD_FOR_TLS[name])


@pytest.mark.net(loops=("asyncio", "uvloop"))
@pytest.mark.parametrize("name", [*GOOD_FOR_SERVERS, *GOOD_FOR_TLS_SERVERS])
async def test_keywords_for_servers(net: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, "serve", "create_server")
    kwargs = {name: {**GOOD_FOR_SERVERS, **GOOD_FOR_TLS_SERVERS}[name]}
    if name in GOOD_FOR_TLS_SERVERS and not net.tls:
        with pytest.raises(ValueError, match=f"{name} is for TLS"):
            await net.serve(lambda request: Recorder(), **kwargs)
    elif not is_known_below(net, name):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            await net.serve(lambda request: Recorder(), **kwargs)
    else:
        server = await net.serve(lambda request: Recorder(), **kwargs)
        assert seen[name] == kwargs[name]
        assert seen.get("ssl") is net.server_ssl
        if name == "start_serving":
            assert not server.is_serving()
            await server.start_serving()
        transport, _ = await net.connect(Recorder, server)
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_several_servers_on_one_port(net: Any) -> None:
    first = await net.serve(lambda request: Recorder(), reuse_port=True)
    port = first.sockets[0].getsockname()[1]
    common = {"use_aiofastnet": net.use_aiofastnet, "ssl": net.server_ssl}
    second = await ws_create_server(Recorder, "127.0.0.1", port, reuse_port=True, **common)
    with pytest.raises(OSError, match="in use"):
        await ws_create_server(Recorder, "127.0.0.1", port, **common)
    await second.shutdown()
    await first.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_sequence_of_hosts(net: Any) -> None:
    common = {"use_aiofastnet": net.use_aiofastnet, "ssl": net.server_ssl}
    server = await ws_create_server(
        lambda request: Recorder(), ["127.0.0.1", "127.0.0.2"], 0, **common
    )
    hosts = {sock.getsockname()[0]: sock.getsockname()[1] for sock in server.sockets}
    assert set(hosts) == {"127.0.0.1", "127.0.0.2"}
    transport, _ = await net.connect(Recorder, hosts["127.0.0.1"])
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_a_listening_socket(net: Any) -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    server = await ws_create_server(
        lambda request: Recorder(),
        sock=sock,
        backlog=5,
        ssl=net.server_ssl,
        use_aiofastnet=net.use_aiofastnet,
    )
    transport, _ = await net.connect(Recorder, server)
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"), tls=(True,))
async def test_the_timeout_of_the_tls_handshake(net: Any) -> None:
    """It may be shorter than the deadline, on both sides."""
    short = 0.3 * loops.TIME_FACTOR

    def silent(peer: RawPeer) -> None:
        peer.recv_all()

    async with RawServer(silent) as raw:
        with pytest.raises(ConnectionAbortedError, match="SSL handshake"):
            await net.connect(
                Recorder,
                net.url(raw.port),
                websocket_handshake_timeout=None,
                ssl_handshake_timeout=short,
            )
    server = await net.serve(
        lambda request: Recorder(), websocket_handshake_timeout=None, ssl_handshake_timeout=short
    )
    with await in_thread(raw_connect, server.sockets[0].getsockname()[1]) as peer:
        assert await in_thread(peer.recv_all) == b""
    await server.shutdown()
    net.loop_errors.clear()


async def test_none_means_not_given(net: Any) -> None:
    """Whatever the loop below knows."""
    server = await net.serve(
        lambda request: Recorder(),
        websocket_handshake_timeout=None,
        logger_name=None,
        use_aiofastnet=net.use_aiofastnet,
        path=None,
        sock=None,
        ssl=net.server_ssl,
        reuse_address=None,
        reuse_port=None,
        keep_alive=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    )
    transport, _ = await net.connect(
        Recorder,
        server,
        ssl_context=net.client_ssl,
        websocket_handshake_timeout=None,
        logger_name=None,
        extra_headers=None,
        proxy=None,
        proxy_ssl_context=None,
        socket_factory=None,
        local_addr=None,
        happy_eyeballs_delay=None,
        interleave=None,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    )
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@one
async def test_none_means_not_given_with_a_path(net: Any, tmp_path: Path) -> None:
    server = await ws_create_server(
        Recorder, path=str(tmp_path / "x"), reuse_address=None, reuse_port=None, keep_alive=None
    )
    await server.shutdown()


@pytest.mark.net(loops=("asyncio", "uvloop"))
async def test_the_ends_of_the_ranges(net: Any) -> None:
    """A year, a byte, everything: the loops take it, and frames come through."""
    for seconds, size, strategy in (
        (31_536_000, sys.maxsize - 2**20, WSAutoPingStrategy.PING_PERIODICALLY),
        (31_536_000.0, 1, 2),
        (3600, 2**31, 1),
    ):
        common: dict[str, Any] = {
            "websocket_handshake_timeout": seconds,
            "enable_auto_ping": True,
            "auto_ping_idle_timeout": seconds,
            "auto_ping_reply_timeout": seconds,
            "auto_ping_strategy": strategy,
            "max_frame_size": size,
            "read_buffer_init_size": min(size, 2**31),
        }
        served = Recorder(lambda transport, frame: transport.send(frame.msg_type, b"y"))
        server = await net.serve(lambda request: served, **common)
        transport, listener = await net.connect(
            Recorder, server, max_redirects=sys.maxsize, **common
        )
        transport.send(WSMsgType.BINARY, b"x")
        await listener.until_frames(1)
        assert (served.payloads, listener.payloads) == ([b"x"], [b"y"])
        transport.disconnect()
        await transport.wait_disconnected()
        await server.shutdown()


@one
async def test_a_subclass_of_int_or_str_will_do(net: Any) -> None:
    class Text(str):
        pass

    class Size(int):
        pass

    server = await net.serve(lambda request: Recorder(), max_frame_size=Size(5))
    transport, _ = await net.connect(
        Recorder,
        server,
        max_redirects=Size(1),
        extra_headers={Text("X"): Text("y")},
        logger_name=Text("feed"),
    )
    assert transport.request.headers["X"] == "y"
    transport.disconnect()
    await transport.wait_disconnected()
    await server.shutdown()


@one
async def test_pairs_from_a_generator_are_read_once(net: Any) -> None:
    """And serve each redirect."""
    hosts = []

    def script(peer: RawPeer) -> None:
        hosts.append(field(peer.recv_head(), b"X"))
        peer.send(b"HTTP/1.1 302\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
        peer.recv_all()

    async with RawServer(script) as server:
        with pytest.raises(WSInvalidStatusError):
            await net.connect(Recorder, server.url(), extra_headers=(each for each in [("X", "y")]))
    assert hosts == [b"y"] * 6
