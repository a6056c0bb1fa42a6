"""The parameters of the three doors, checked before anything is opened.

Always holds: a refusal names the parameter, the value and the rule, and is a TypeError or a
ValueError.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from picows.aio.keepalive import AutoPingSettings
from picows.aio.logs import AnyLogger, get_logger
from picows.aio.settings import Settings
from picows.aio.transport import WSAutoPingStrategy
from picows.handshake.deflate import PerMessageDeflate

__all__ = [
    "MAX_SECONDS",
    "OverflowPolicy",
    "check_callable",
    "check_client_context",
    "check_count",
    "check_kwargs",
    "check_optional",
    "check_server_address",
    "check_timeout",
    "make_settings",
]

# A year. Loops do not take infinity, and uvloop nothing near it.
MAX_SECONDS = 365 * 86400.0

# Header and padding on top of it still fit into a Py_ssize_t.
_MAX_SIZE = sys.maxsize - 1024 * 1024

Check = Callable[[str, object], object]

# In the order of the enum of that name in writer.pxd.
OverflowPolicy = Literal["close", "drop", "raise"]
_OVERFLOW_POLICIES = get_args(OverflowPolicy)


def check_callable(name: str, value: object) -> None:
    """Something to call."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")


def check_optional(check: Check) -> Check:
    """None, or what `check` takes."""
    return lambda name, value: None if value is None else check(name, value)


def check_flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_seconds(name: str, value: object) -> float:
    """Seconds, more than 0, not more than a year."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # Not of NaN either.
    if not 0 < value <= MAX_SECONDS:
        raise ValueError(
            f"{name} must be more than 0 and at most {MAX_SECONDS:.0f} seconds, not {_shown(value)}"
        )
    return float(value)


def check_timeout(name: str, value: object) -> float | None:
    """As check_seconds, or None for no limit."""
    return None if value is None else check_seconds(name, value)


def check_count(
    name: str, value: object, least: int = 0, most: int = sys.maxsize, unit: str = ""
) -> int:
    """An int in a range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int{unit and f' ({unit})'}, not {value!r}")
    if not least <= value <= most:
        raise ValueError(
            f"{name} must be from {least} to {most}{unit and f' {unit}'}, not {_shown(value)}"
        )
    return value


def check_size(name: str, value: object) -> int:
    """Bytes, at least 1."""
    return check_count(name, value, 1, _MAX_SIZE, "bytes")


def check_port(name: str, value: object) -> int:
    """A TCP port; 0 lets the system choose."""
    return check_count(name, value, 0, 65535)


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """One of a few words."""
    check_text(name, value)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return str(value)


def check_text(name: str, value: object) -> str:
    """A str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    return value


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


def make_settings(
    *,
    is_client_side: bool,
    logger_name: str | AnyLogger | None,
    disconnect_on_exception: bool,
    enable_auto_ping: bool,
    auto_ping_idle_timeout: float,
    auto_ping_reply_timeout: float,
    auto_ping_strategy: WSAutoPingStrategy,
    enable_auto_pong: bool,
    coalesce_writes: bool,
    use_aiofastnet: bool | None,
    max_frame_size: int,
    read_buffer_init_size: int,
    assemble_messages: bool,
    max_message_size: int,
    max_fragments: int,
    permessage_deflate: bool | PerMessageDeflate | None,
    max_write_buffer: int | None,
    overflow_policy: OverflowPolicy,
    busy_poll: float = 0,
) -> Settings:
    """What every connection of one entry point has in common."""
    if use_aiofastnet is not None:
        check_flag("use_aiofastnet", use_aiofastnet)
    auto_ping = AutoPingSettings(
        check_seconds("auto_ping_idle_timeout", auto_ping_idle_timeout),
        check_seconds("auto_ping_reply_timeout", auto_ping_reply_timeout),
        _check_strategy("auto_ping_strategy", auto_ping_strategy),
    )
    return Settings(
        is_client_side=is_client_side,
        logger=get_logger(logger_name, "client" if is_client_side else "server"),
        disconnect_on_exception=check_flag("disconnect_on_exception", disconnect_on_exception),
        auto_ping=auto_ping if check_flag("enable_auto_ping", enable_auto_ping) else None,
        enable_auto_pong=check_flag("enable_auto_pong", enable_auto_pong),
        coalesce_writes=check_flag("coalesce_writes", coalesce_writes),
        # aiofastnet copies what it cannot send at once; asyncio and uvloop keep the caller's
        # memory.
        transport_copies=use_aiofastnet is not False,
        max_frame_size=check_size("max_frame_size", max_frame_size),
        read_buffer_init_size=check_size("read_buffer_init_size", read_buffer_init_size),
        assemble_messages=check_flag("assemble_messages", assemble_messages),
        max_message_size=check_size("max_message_size", max_message_size),
        max_fragments=check_count("max_fragments", max_fragments, 1),
        deflate=_check_deflate("permessage_deflate", permessage_deflate),
        # 0 is none.
        max_write_buffer=(
            0 if max_write_buffer is None else check_size("max_write_buffer", max_write_buffer)
        ),
        overflow_policy=_OVERFLOW_POLICIES.index(
            check_choice("overflow_policy", overflow_policy, _OVERFLOW_POLICIES)
        ),
        busy_poll=_check_busy_poll("busy_poll", busy_poll),
    )


def _shown(value: float) -> str:
    """Python prints no int of thousands of digits."""
    return str(value) if abs(value) < 2**200 or value != value else "that"


def _check_deflate(name: str, value: object) -> PerMessageDeflate | None:
    if isinstance(value, PerMessageDeflate):
        return value
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or a PerMessageDeflate, not {value!r}")
    if not value:
        return None
    # Of the windows of 15 bits that RFC 7692 begins with, a connection would take 300 KB.
    return PerMessageDeflate(client_max_window_bits=12, server_max_window_bits=12)


def _check_busy_poll(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # Not of NaN either.
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1 seconds, not {_shown(value)}")
    return float(value)


def _check_strategy(name: str, value: Any) -> WSAutoPingStrategy:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a WSAutoPingStrategy, not {value!r}")
    try:
        return WSAutoPingStrategy(value)
    except ValueError:
        known = ", ".join(f"WSAutoPingStrategy.{each.name}" for each in WSAutoPingStrategy)
        raise ValueError(f"{name} must be one of {known}, not {value!r}") from None
