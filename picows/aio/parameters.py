"""The parameters of the three doors, checked before anything is opened.

Always holds: a refusal names the parameter, the value and the rule, and is a TypeError or a
ValueError.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from picows.aio.settings import (
    MAX_SECONDS,
    check_count,
    check_flag,
    check_text,
    check_timeout,
    make_settings,
)
from picows.aio.socket_transport import HAVE_KERNEL_TIMESTAMPS

__all__ = [
    "MAX_SECONDS",
    "OverflowPolicy",
    "check_callable",
    "check_client_context",
    "check_count",
    "check_flag",
    "check_kernel_timestamps",
    "check_kwargs",
    "check_optional",
    "check_server_address",
    "check_timeout",
    "make_settings",
]

OverflowPolicy = Literal["close", "drop", "raise"]

Check = Callable[[str, object], object]


def check_callable(name: str, value: object) -> None:
    """Something to call."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")


def check_optional(check: Check) -> Check:
    """None, or what `check` takes."""
    return lambda name, value: None if value is None else check(name, value)


def check_port(name: str, value: object) -> int:
    """A TCP port; 0 lets the system choose."""
    return check_count(name, value, 0, 65535)


def check_int(name: str, value: object) -> int:
    """What the system's calls take as an int."""
    return check_count(name, value, 0, 2**31 - 1)


def check_host(name: str, value: object) -> str:
    """A name or an address."""
    text = check_text(name, value)
    try:
        # As asyncio and ssl do it, whose UnicodeError names nothing.
        encoded = text.encode("idna")
    except UnicodeError:
        encoded = b""
    if not encoded or encoded.startswith(b".") or not all(0x20 < b < 0x7F for b in encoded):
        raise ValueError(f"{name} must be a host name or an address, not {value!r}")
    return text


def check_client_context(name: str, value: object) -> ssl.SSLContext:
    """An ssl.SSLContext for the client's side; None is for the caller to take."""
    return _check_context(name, value, "client", ssl.PROTOCOL_TLS_SERVER)


def check_server_context(name: str, value: object) -> ssl.SSLContext:
    """An ssl.SSLContext for the server's side; None is for the caller to take."""
    return _check_context(name, value, "server", ssl.PROTOCOL_TLS_CLIENT)


def _check_context(name: str, value: object, side: str, other: int) -> ssl.SSLContext:
    if not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext or None, not {value!r}")
    # With one of the other side the TLS handshake never begins.
    if value.protocol == other:
        raise ValueError(f"{name} must be for the {side}'s side, not of {value.protocol!r}")
    return value


def check_address(name: str, value: object) -> None:
    """(host, port) of this machine."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of host and port, not {value!r}")
    if value[0] is not None:
        check_host(f"the host of {name}", value[0])
    check_port(f"the port of {name}", value[1])


def check_socket(name: str, value: object) -> None:
    """A stream socket without TLS."""
    if not isinstance(value, socket.socket) or isinstance(value, ssl.SSLSocket):
        raise TypeError(f"{name} must be a socket.socket without TLS, not {value!r}")
    if value.type != socket.SOCK_STREAM:
        raise ValueError(f"{name} must be a SOCK_STREAM socket, not {value!r}")


# Of loop.create_connection, but for those that the URL decides on.
CONNECTION_KWARGS: dict[str, Check] = {
    "family": check_int,
    "proto": check_int,
    "flags": check_int,
    "local_addr": check_optional(check_address),
    "happy_eyeballs_delay": check_timeout,
    "interleave": check_optional(check_count),
    "server_hostname": check_optional(check_host),
    "ssl_handshake_timeout": check_timeout,
    "ssl_shutdown_timeout": check_timeout,
}

# Of loop.create_server.
SERVER_KWARGS: dict[str, Check] = {
    "family": check_int,
    "flags": check_int,
    "sock": check_optional(check_socket),
    "backlog": check_int,
    "ssl": check_optional(check_server_context),
    "reuse_address": check_optional(check_flag),
    "reuse_port": check_optional(check_flag),
    "keep_alive": check_optional(check_flag),
    "ssl_handshake_timeout": check_timeout,
    "ssl_shutdown_timeout": check_timeout,
    "start_serving": check_flag,
}


def check_kwargs(
    function: str,
    kwargs: Mapping[str, object],
    checks: Mapping[str, Check],
    refused: Mapping[str, str],
) -> None:
    """The **kwargs of an entry point: what the loop takes, and none of what is `refused`."""
    for name, value in kwargs.items():
        if name in refused:
            raise TypeError(f"{function}() takes no {name}=: {refused[name]}")
        if name not in checks:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}; beside its own it takes"
                f" {', '.join(checks)}"
            )
        checks[name](name, value)


def check_server_address(
    host: object, port: object, path: object, kwargs: Mapping[str, object]
) -> None:
    """Where a server listens: `host` and `port`, or `path`, or the socket `sock`."""
    ways = {
        "host and port": host is not None or port is not None,
        "path": path is not None,
        "sock": kwargs.get("sock") is not None,
    }
    chosen = [way for way, is_given in ways.items() if is_given]
    if len(chosen) != 1:
        given = f"not {' and '.join(chosen)}" if chosen else "none of them was given"
        raise ValueError(f"a server listens on host and port, on path or on sock: {given}")
    if path is not None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a str or a path object, not {path!r}")
        if not os.fspath(path) or "\0" in str(path):
            raise ValueError(f"path must be the path of a Unix socket, not {path!r}")
    if path is not None or kwargs.get("sock") is not None:
        for name in ("family", "flags", "reuse_address", "reuse_port", "keep_alive"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name} is for TCP, but path={path!r} is a Unix socket"
                    if path is not None
                    else f"{name} is for sockets that are made here, but sock was given"
                )
    if host is not None and not isinstance(host, str):
        if not isinstance(host, Sequence) or isinstance(host, (bytes, bytearray)):
            raise TypeError(f"host must be a str, a sequence of str or None, not {host!r}")
        if not host:
            raise ValueError("host must not be an empty sequence")
        for each in host:
            check_host("each host", each)
    elif host:
        check_host("host", host)
    if port is not None:
        check_port("port", port)
    if kwargs.get("ssl") is None:
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            if kwargs.get(name) is not None:
                raise ValueError(f"{name} is for TLS, but ssl was not given")


def check_kernel_timestamps(use_aiofastnet: object, hindrances: Mapping[str, bool]) -> None:
    """
    `kernel_timestamps` is True: is the connection plain TCP, on our transport, on Linux?
    `hindrances` says what it is otherwise.
    """
    if not HAVE_KERNEL_TIMESTAMPS:
        raise ValueError("kernel_timestamps=True needs SO_TIMESTAMPNS, which is Linux' own")
    if use_aiofastnet is not None:
        raise ValueError(
            f"kernel_timestamps=True needs use_aiofastnet=None, not {use_aiofastnet!r}"
        )
    for what, is_so in hindrances.items():
        if is_so:
            raise ValueError(f"kernel_timestamps=True is for plain TCP, but {what}")
