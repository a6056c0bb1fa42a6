# cython: language_level=3
"""What all connections of one entry point have in common: `Settings`, which `make_settings` checks
and makes. A client does that for each connection, hence Cython.

Always holds: a refusal names the parameter, the value and the rule, and is a TypeError or a
ValueError.
"""

import sys

from picows.aio.keepalive import AutoPingSettings
from picows.aio.logs import get_logger
from picows.aio.transport import WSAutoPingStrategy
from picows.handshake.deflate import PerMessageDeflate

__all__ = [
    "MAX_SECONDS",
    "Settings",
    "check_count",
    "check_flag",
    "check_seconds",
    "check_text",
    "check_timeout",
    "make_settings",
]

# A year. Loops do not take infinity, and uvloop nothing near it.
MAX_SECONDS = 365 * 86400.0

# In the order of OverflowPolicy in writer.pxd; parameters.py has the type.
cdef tuple _OVERFLOW_POLICIES = ("close", "drop", "raise")

# Header and padding on top of it still fit into a Py_ssize_t.
cdef object _MAX_SIZE = sys.maxsize - 1024 * 1024
cdef object _MAX_COUNT = sys.maxsize


cdef class Settings:
    """The parameters of `ws_connect` or `ws_create_server`, as connections read them."""


def make_settings(
    *,
    is_client_side,
    logger_name,
    disconnect_on_exception,
    enable_auto_ping,
    auto_ping_idle_timeout,
    auto_ping_reply_timeout,
    auto_ping_strategy,
    enable_auto_pong,
    coalesce_writes,
    use_aiofastnet,
    max_frame_size,
    read_buffer_init_size,
    assemble_messages,
    max_message_size,
    max_fragments,
    permessage_deflate,
    max_write_buffer,
    overflow_policy,
    busy_poll=0.0,
    kernel_timestamps=False,
):
    """What every connection of one entry point has in common."""
    cdef Settings settings = Settings.__new__(Settings)
    if use_aiofastnet is not None:
        check_flag("use_aiofastnet", use_aiofastnet)
    idle_timeout = check_seconds("auto_ping_idle_timeout", auto_ping_idle_timeout)
    reply_timeout = check_seconds("auto_ping_reply_timeout", auto_ping_reply_timeout)
    strategy = _check_strategy("auto_ping_strategy", auto_ping_strategy)
    settings.is_client_side = is_client_side
    settings.logger = get_logger(logger_name, "client" if is_client_side else "server")
    settings.disconnect_on_exception = check_flag(
        "disconnect_on_exception", disconnect_on_exception
    )
    if check_flag("enable_auto_ping", enable_auto_ping):
        settings.auto_ping = AutoPingSettings(idle_timeout, reply_timeout, strategy)
    settings.enable_auto_pong = check_flag("enable_auto_pong", enable_auto_pong)
    settings.coalesce_writes = check_flag("coalesce_writes", coalesce_writes)
    # aiofastnet copies what it cannot send at once; asyncio and uvloop keep the caller's memory.
    settings.transport_copies = use_aiofastnet is not False
    settings.max_frame_size = _check_size("max_frame_size", max_frame_size)
    settings.read_buffer_init_size = _check_size("read_buffer_init_size", read_buffer_init_size)
    settings.assemble_messages = check_flag("assemble_messages", assemble_messages)
    settings.max_message_size = _check_size("max_message_size", max_message_size)
    settings.max_fragments = check_count("max_fragments", max_fragments, 1)
    settings.deflate = _check_deflate("permessage_deflate", permessage_deflate)
    if max_write_buffer is not None:
        settings.max_write_buffer = _check_size("max_write_buffer", max_write_buffer)
    settings.overflow_policy = _check_overflow_policy("overflow_policy", overflow_policy)
    settings.busy_poll = _check_busy_poll("busy_poll", busy_poll)
    settings.kernel_timestamps = check_flag("kernel_timestamps", kernel_timestamps)
    return settings


cpdef check_flag(name, value):
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


cpdef check_text(name, value):
    """A str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    return value


cpdef check_seconds(name, value):
    """Seconds, more than 0, not more than a year."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # Not of NaN either.
    if not 0 < value <= MAX_SECONDS:
        raise ValueError(
            f"{name} must be more than 0 and at most {MAX_SECONDS:.0f} seconds, not {_shown(value)}"
        )
    return float(value)


cpdef check_timeout(name, value):
    """As check_seconds, or None for no limit."""
    return None if value is None else check_seconds(name, value)


cpdef check_count(name, value, least=0, most=_MAX_COUNT, str unit=""):
    """An int in a range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int{unit and f' ({unit})'}, not {value!r}")
    if not least <= value <= most:
        raise ValueError(
            f"{name} must be from {least} to {most}{unit and f' {unit}'}, not {_shown(value)}"
        )
    return value


cdef object _check_size(name, value):
    """Bytes, at least 1."""
    return check_count(name, value, 1, _MAX_SIZE, "bytes")


cdef object _check_deflate(name, value):
    if value is None or value is False:
        return None
    if isinstance(value, PerMessageDeflate):
        return value
    if value is not True:
        raise TypeError(f"{name} must be True, False or a PerMessageDeflate, not {value!r}")
    # Of the windows of 15 bits that RFC 7692 begins with, a connection would take 300 KB.
    return PerMessageDeflate(client_max_window_bits=12, server_max_window_bits=12)


cdef int _check_overflow_policy(name, value) except -1:
    check_text(name, value)
    if value not in _OVERFLOW_POLICIES:
        known = ", ".join(_OVERFLOW_POLICIES)
        raise ValueError(f"{name} must be one of {known}, not {value!r}")
    return _OVERFLOW_POLICIES.index(value)


cdef double _check_busy_poll(name, value) except -1:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # Not of NaN either.
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1 seconds, not {_shown(value)}")
    return value


cdef object _check_strategy(name, value):
    if type(value) is WSAutoPingStrategy:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a WSAutoPingStrategy, not {value!r}")
    try:
        return WSAutoPingStrategy(value)
    except ValueError:
        known = ", ".join([f"WSAutoPingStrategy.{each.name}" for each in WSAutoPingStrategy])
        raise ValueError(f"{name} must be one of {known}, not {value!r}") from None


cdef str _shown(value):
    """Python prints no int of thousands of digits."""
    return str(value) if abs(value) < 2**200 or value != value else "that"
