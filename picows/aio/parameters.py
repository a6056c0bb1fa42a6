"""The parameters that `ws_connect` and `ws_create_server` share, checked before anything is opened.

Always holds: a refusal names the parameter, the value and the rule.
"""

from __future__ import annotations

import math
import sys

from picows.aio.connection import Settings
from picows.aio.logs import AnyLogger, get_logger

__all__ = ["check_callable", "check_flag", "check_timeout", "make_settings"]

# Header and padding on top of it still fit into a Py_ssize_t.
_MAX_SIZE = sys.maxsize - 1024 * 1024


def check_callable(name: str, value: object) -> None:
    """Something to call."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r}")


def check_flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_timeout(name: str, value: object) -> float | None:
    """Seconds, more than 0, or None for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number of seconds over 0, or None, not {value}")
    return float(value)


def check_size(name: str, value: object) -> int:
    """Bytes, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int (bytes), not {value!r}")
    if not 1 <= value <= _MAX_SIZE:
        raise ValueError(f"{name} must be from 1 to {_MAX_SIZE} bytes, not {value}")
    return value


def make_settings(
    *,
    is_client_side: bool,
    logger_name: str | AnyLogger | None,
    disconnect_on_exception: bool,
    enable_auto_pong: bool,
    coalesce_writes: bool,
    use_aiofastnet: bool | None,
    max_frame_size: int,
    read_buffer_init_size: int,
) -> Settings:
    """What every connection of one entry point has in common."""
    if use_aiofastnet is not None:
        check_flag("use_aiofastnet", use_aiofastnet)
    return Settings(
        is_client_side=is_client_side,
        logger=get_logger(logger_name, "client" if is_client_side else "server"),
        disconnect_on_exception=check_flag("disconnect_on_exception", disconnect_on_exception),
        enable_auto_pong=check_flag("enable_auto_pong", enable_auto_pong),
        coalesce_writes=check_flag("coalesce_writes", coalesce_writes),
        # aiofastnet copies what it cannot send at once; asyncio and uvloop keep the caller's
        # memory.
        transport_copies=use_aiofastnet is not False,
        max_frame_size=check_size("max_frame_size", max_frame_size),
        read_buffer_init_size=check_size("read_buffer_init_size", read_buffer_init_size),
    )
