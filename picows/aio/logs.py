"""Loggers of the library: `picows.client`, `picows.server`, or the user's own."""

from __future__ import annotations

import logging
from typing import Any, Union

__all__ = ["PICOWS_DEBUG_LL", "AnyLogger", "get_logger"]

# Below logging.DEBUG, so that an application that debugs itself is not told of every frame.
PICOWS_DEBUG_LL = 9

AnyLogger = Union[logging.Logger, "logging.LoggerAdapter[Any]"]

# Every connection of a client asks; `logging` takes a lock to answer.
_DEFAULTS = {name: logging.getLogger(f"picows.{name}") for name in ("client", "server")}


def get_logger(logger_name: str | AnyLogger | None, default: str) -> AnyLogger:
    """The logger that the parameter `logger_name` of the entry points means.

    None is `picows.<default>`, a str `picows.<str>`; a Logger or LoggerAdapter is used as it is.
    """
    if logger_name is None:
        return _DEFAULTS[default]
    if isinstance(logger_name, str):
        if not logger_name:
            raise ValueError("logger_name must not be empty")
        return logging.getLogger(f"picows.{logger_name}")
    if isinstance(logger_name, (logging.Logger, logging.LoggerAdapter)):
        return logger_name
    raise TypeError(
        "logger_name must be a str, a Logger, a LoggerAdapter or None, "
        f"not {type(logger_name).__name__}"
    )
