"""Listening sockets whose connections are carried by our own transports (socket_transport.pyx).

Always holds: a socket is accepted, given to a connection and watched in one step, so that none is
lost in between.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable

from picows.aio.connection import Connection
from picows.aio.socket_transport import accept_stream

__all__ = ["Listening"]

# accept(2): the process, or the system, has no room for another socket now.
_OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# Seconds until it is tried again.
_RETRY_TIME = 1.0


class Listening:
    """What asyncio.Server is to those who accept."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection_factory: Callable[[], Connection],
        sockets: Iterable[socket.socket],
        backlog: int,
    ) -> None:
        self._loop = loop
        self._connection_factory = connection_factory
        self._sockets = tuple(sockets)
        self._backlog = backlog
        self._is_serving = False
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return self._sockets

    def is_serving(self) -> bool:
        return self._is_serving

    async def start_serving(self) -> None:
        if self._is_serving:
            return
        for sock in self._sockets:
            sock.listen(self._backlog)
        self._is_serving = True
        for sock in self._sockets:
            self._watch(sock)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for sock in self._sockets:
            if self._is_serving:
                self._loop.remove_reader(sock.fileno())
            sock.close()
        self._is_serving = False

    def _watch(self, sock: socket.socket) -> None:
        self._timers.pop(sock, None)
        self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        family = int(sock.family)
        # A backlog of 0 lets one wait, too.
        for _ in range(max(self._backlog, 1)):
            if not self._is_serving:
                return
            try:
                number = sock.fileno()
                if accept_stream(self._loop, number, family, self._connection_factory) is None:
                    return
            except OSError as exc:
                if exc.errno not in _OUT_OF_ROOM:
                    raise
                self._loop.remove_reader(sock.fileno())
                self._timers[sock] = self._loop.call_later(_RETRY_TIME, self._watch, sock)
                self._loop.call_exception_handler(
                    {"message": "no more connections can be accepted now", "exception": exc}
                )
                return
