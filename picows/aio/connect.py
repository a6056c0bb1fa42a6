"""The client's door: `ws_connect`.

Always holds: whatever ends the attempt (an error, the deadline, a cancellation), the socket is
closed and no task or timer is left when `ws_connect` raises.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

from picows.aio.connection import Connection
from picows.aio.dial import Dialer, SocketFactory
from picows.aio.logs import PICOWS_DEBUG_LL, AnyLogger
from picows.aio.parameters import (
    CONNECTION_KWARGS,
    OverflowPolicy,
    check_callable,
    check_client_context,
    check_count,
    check_kernel_timestamps,
    check_kwargs,
    check_timeout,
    make_settings,
)
from picows.aio.settings import Settings
from picows.aio.transport import WSAutoPingStrategy, WSListener, WSTransport
from picows.errors import (
    WSHandshakeError,
    WSInvalidHeaderError,
    WSInvalidStatusError,
    WSInvalidURL,
)
from picows.handshake.client import REDIRECTS, ClientHandshake
from picows.handshake.deflate import PerMessageDeflate
from picows.handshake.headers import normalise_extra_headers
from picows.handshake.http11 import WSUpgradeRequest, WSUpgradeResponse
from picows.urls import WSParsedURL, parse_proxy_url, parse_url, resolve_redirect

if sys.version_info >= (3, 11):
    from asyncio import timeout as deadline
else:
    from async_timeout import timeout as deadline

__all__ = ["ws_connect"]

ClientListenerFactory = (
    Callable[[], WSListener] | Callable[[WSUpgradeRequest, WSUpgradeResponse], WSListener]
)
ExtraHeaders = Mapping[str, str] | Iterable[tuple[str, str]]
CallFactory = Callable[[WSUpgradeRequest, WSUpgradeResponse], WSListener]

_REFUSED_KWARGS = {
    "ssl": "use ssl_context",
    "sock": "use socket_factory",
    "all_errors": "a failed connection raises as loop.create_connection does by default",
    "host": "it is part of the URL",
    "port": "it is part of the URL",
    "protocol_factory": "use ws_listener_factory",
}
_TLS_KWARGS = ("ssl_handshake_timeout", "ssl_shutdown_timeout")

# What belongs to one origin, and is not sent to another one.
_FOR_ONE_ORIGIN = ("authorization", "cookie", "host", "proxy-authorization")


async def ws_connect(
    ws_listener_factory: ClientListenerFactory,
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    disconnect_on_exception: bool = True,
    websocket_handshake_timeout: float | None = 5,
    logger_name: str | AnyLogger | None = None,
    enable_auto_ping: bool = False,
    auto_ping_idle_timeout: float = 10,
    auto_ping_reply_timeout: float = 10,
    auto_ping_strategy: WSAutoPingStrategy = WSAutoPingStrategy.PING_WHEN_IDLE,
    enable_auto_pong: bool = True,
    max_frame_size: int = 10 * 1024 * 1024,
    extra_headers: ExtraHeaders | None = None,
    max_redirects: int = 5,
    proxy: str | None = None,
    proxy_ssl_context: ssl.SSLContext | None = None,
    read_buffer_init_size: int = 16 * 1024,
    socket_factory: SocketFactory | None = None,
    use_aiofastnet: bool | None = None,
    coalesce_writes: bool = False,
    assemble_messages: bool = False,
    max_message_size: int = 64 * 1024 * 1024,
    max_fragments: int = 65536,
    permessage_deflate: bool | PerMessageDeflate = False,
    max_write_buffer: int | None = None,
    overflow_policy: OverflowPolicy = "close",
    busy_poll: float = 0,
    kernel_timestamps: bool = False,
    **kwargs: Any,
) -> tuple[WSTransport, WSListener]:
    """
    Open a WebSocket to `url` and return its transport and listener.

    :param ws_listener_factory: makes the `WSListener`; called with no argument or, if it requires
        two, with the `WSUpgradeRequest` and the `WSUpgradeResponse`
    :param url: ``ws://``, ``wss://``, or ``ws+unix:///run/x.sock:/path`` for a Unix socket; user
        and password in it are sent as Basic ``Authorization``
    :param ssl_context: for ``wss``; by default ``ssl.create_default_context()``
    :param disconnect_on_exception: does an exception in `WSListener.on_ws_frame` close the
        connection?
    :param websocket_handshake_timeout: seconds for the whole way (name look-up, TCP, proxy, TLS,
        redirects, upgrade); None: no limit
    :param logger_name: None logs to ``picows.client``, a str to ``picows.<str>``; a Logger is used
        as it is
    :param enable_auto_ping: send a ping by `WSListener.send_user_specific_ping` now and then, and
        disconnect from a peer that shows no life
    :param auto_ping_idle_timeout: seconds without a received byte until a ping, or between pings
    :param auto_ping_reply_timeout: seconds for the answer
    :param auto_ping_strategy: a `WSAutoPingStrategy`
    :param enable_auto_pong: answer every PING, without showing it to the listener
    :param max_frame_size: bytes of payload; a larger frame closes the connection (1009) before
        anything is allocated
    :param extra_headers: header fields of the request; ``Host`` replaces the generated one
    :param max_redirects: how many redirects (301, 302, 303, 307, 308) are followed; 0: none. Never
        from ``wss`` to ``ws``; credentials and a ``Host`` of yours stay with their origin.
    :param proxy: ``http://``, ``https://``, ``socks4://`` or ``socks5://``, with user and password
        where it asks for them. The proxy looks up the server's name, but for SOCKS4.
    :param proxy_ssl_context: for an ``https://`` proxy; by default ``ssl.create_default_context()``
    :param read_buffer_init_size: bytes that a half-received large frame gets at first, a hint
    :param socket_factory: function or coroutine that gets the `WSParsedURL` of the server, or of
        the proxy, and returns a socket (connected or not), or None for the default way
    :param use_aiofastnet: True uses aiofastnet's transports, False the loop's own; None
        aiofastnet's for TLS and for the way through a proxy, else our own
    :param coalesce_writes: gather what callbacks send while further frames of the same read wait,
        and send it at once; by default every frame leaves at once
    :param assemble_messages: `WSListener.on_ws_frame` gets whole messages, whose order of
        fragments, reserved bits and UTF-8 were checked (RFC 6455 section 5.4); without it, frames
        as they come
    :param max_message_size: bytes of a message; a larger one closes the connection (1009)
    :param max_fragments: frames of a message; more of them close the connection (1009)
    :param permessage_deflate: compress messages (RFC 7692), if the other side can: True, or a
        `PerMessageDeflate`
    :param max_write_buffer: bytes that may wait for a peer that reads slowly; a data message that
        would make them more is not sent, unless nothing waits. None: no limit
    :param overflow_policy: what becomes of the connection then: "close" disconnects at once, "drop"
        leaves the message out, "raise" raises `WSWriteBufferFullError` as well
    :param busy_poll: seconds, at most 1: after a read, ask the system for more that long before the
        loop sleeps; it saves the wake-up and takes the core. 0: never
    :param kernel_timestamps: have `WSFrame.kernel_time_ns`: Linux, ``ws://`` without proxy and
        ``use_aiofastnet=None`` only
    :param kwargs: go to ``loop.create_connection`` (``local_addr``, ``happy_eyeballs_delay``,
        ``server_hostname``, ...)

    :raises WSInvalidURL: `url` or `proxy` is none of ours (a ValueError, too)
    :raises WSHandshakeError: the server did not upgrade; ``.response``, ``.raw_header`` and
        ``.raw_body`` say more. Or the proxy refused.
    :raises asyncio.TimeoutError: `websocket_handshake_timeout` has passed
    :raises OSError, ssl.SSLError: the system's own failures, as they are
    :raises TypeError, ValueError: a parameter is wrong; nothing was opened
    """
    call_factory = _factory_caller(ws_listener_factory)
    target = parse_url(url)
    if ssl_context is not None:
        check_client_context("ssl_context", ssl_context)
    timeout = check_timeout("websocket_handshake_timeout", websocket_handshake_timeout)
    settings = make_settings(
        is_client_side=True,
        logger_name=logger_name,
        disconnect_on_exception=disconnect_on_exception,
        enable_auto_ping=enable_auto_ping,
        auto_ping_idle_timeout=auto_ping_idle_timeout,
        auto_ping_reply_timeout=auto_ping_reply_timeout,
        auto_ping_strategy=auto_ping_strategy,
        enable_auto_pong=enable_auto_pong,
        coalesce_writes=coalesce_writes,
        use_aiofastnet=use_aiofastnet,
        max_frame_size=max_frame_size,
        read_buffer_init_size=read_buffer_init_size,
        assemble_messages=assemble_messages,
        max_message_size=max_message_size,
        max_fragments=max_fragments,
        permessage_deflate=permessage_deflate,
        max_write_buffer=max_write_buffer,
        overflow_policy=overflow_policy,
        busy_poll=busy_poll,
        kernel_timestamps=kernel_timestamps,
    )
    check_count("max_redirects", max_redirects)
    if socket_factory is not None:
        check_callable("socket_factory", socket_factory)
    check_kwargs("ws_connect", kwargs, CONNECTION_KWARGS, _REFUSED_KWARGS)
    _check_combination(target, proxy, proxy_ssl_context, kwargs)
    if kernel_timestamps:
        check_kernel_timestamps(
            use_aiofastnet,
            {
                f"the URL is {target.redacted}": target.is_secure or target.unix_path is not None,
                "there is a proxy": proxy is not None,
            },
        )
    headers = normalise_extra_headers(extra_headers)
    handshake = ClientHandshake(target, headers, max_redirects > 0, settings.deflate)

    loop = asyncio.get_running_loop()
    server_hostname = kwargs.pop("server_hostname", None)
    dialer = Dialer(
        loop=loop,
        use_aiofastnet=use_aiofastnet,
        ssl_context=ssl_context,
        tls_kwargs={name: kwargs.pop(name) for name in _TLS_KWARGS if kwargs.get(name) is not None},
        tcp_kwargs={name: value for name, value in kwargs.items() if value is not None},
        socket_factory=socket_factory,
        proxy=None if proxy is None else parse_proxy_url(proxy),
        proxy_ssl_context=proxy_ssl_context,
    )
    redirects = 0
    connection: Connection
    connected = False
    try:
        async with deadline(timeout):
            while True:
                upgrade = _ClientUpgrade(handshake, call_factory, settings, loop)
                connection = Connection(loop, settings, upgrade, None)
                connected = False
                await dialer.connect(target, connection, server_hostname)
                connected = True
                upgrade.start()
                try:
                    return connection, await upgrade.wait()
                except WSInvalidStatusError as exc:
                    location = _redirect_location(exc, redirects, max_redirects)
                    if location is None:
                        raise
                    redirected = _follow(target, location, exc, kernel_timestamps)
                if redirected.origin != target.origin:
                    headers = [each for each in headers if each[0].lower() not in _FOR_ONE_ORIGIN]
                    server_hostname = None
                settings.logger.log(PICOWS_DEBUG_LL, "redirected to %s", redirected.redacted)
                target = redirected
                redirects += 1
                connection.abort()
                await connection.wait_closed()
                handshake = ClientHandshake(
                    target, headers, redirects < max_redirects, settings.deflate
                )
    except BaseException as exc:
        connection.abort()
        if connected:
            await connection.wait_closed()
        else:
            # uvloop closes a transport that it did not hand out yet without connection_lost.
            connection.forget()
        if isinstance(exc, asyncio.TimeoutError):
            # Silence is a TimeoutError; a refusal whose body is still on its way says more.
            refusal = handshake.give_up()
            if refusal is not None:
                raise refusal from None
        raise


def _check_combination(
    url: WSParsedURL,
    proxy: object,
    proxy_ssl_context: object,
    kwargs: Mapping[str, object],
) -> None:
    """Parameters that contradict each other."""
    if proxy is not None:
        if not isinstance(proxy, str):
            raise TypeError(f"proxy must be a str or None, not {type(proxy).__name__}")
        if url.unix_path is not None:
            raise ValueError(f"a proxy leads to no Unix socket: {url.redacted}")
    if proxy_ssl_context is not None:
        check_client_context("proxy_ssl_context", proxy_ssl_context)
        if proxy is None or not parse_proxy_url(proxy).is_secure:
            raise ValueError("proxy_ssl_context is for an https:// proxy, but proxy is none")
    given = [name for name, value in kwargs.items() if value is not None]
    for name in given:
        if not url.is_secure and (name in _TLS_KWARGS or name == "server_hostname"):
            raise ValueError(f"{name} is for TLS, but the URL is none of wss://: {url.redacted}")
        if url.unix_path is not None:
            raise ValueError(f"{name} is for TCP, but the URL names a Unix socket: {url.redacted}")


def _redirect_location(exc: WSInvalidStatusError, redirects: int, max_redirects: int) -> str | None:
    """The Location to go on at; None where the answer is no redirect, or redirects are off."""
    response = exc.response
    if response is None or response.status not in REDIRECTS or max_redirects == 0:
        return None
    if redirects == max_redirects:
        raise WSInvalidStatusError(
            f"the server redirects once more after {max_redirects} redirects (max_redirects)",
            raw_header=exc.raw_header,
            raw_body=exc.raw_body,
            response=response,
        ) from None
    locations = response.headers.getall("Location", [])
    if len(locations) != 1:
        raise WSInvalidHeaderError(
            "Location",
            ", ".join(locations) or None,
            "a redirect must have one Location header",
            raw_header=exc.raw_header,
            raw_body=exc.raw_body,
            response=response,
        ) from None
    return locations[0]


def _follow(
    base: WSParsedURL, location: str, exc: WSInvalidStatusError, kernel_timestamps: bool
) -> WSParsedURL:
    try:
        target = resolve_redirect(base, location)
        if kernel_timestamps and target.is_secure:
            raise WSInvalidURL(
                location, f"kernel_timestamps=True is for plain TCP, not for {target.redacted}"
            )
        return target
    except WSInvalidURL as reason:
        raise WSInvalidHeaderError(
            "Location",
            location,
            f"the Location header is invalid: {reason}",
            raw_header=exc.raw_header,
            raw_body=exc.raw_body,
            response=exc.response,
        ) from reason


def _factory_caller(factory: Any) -> CallFactory:
    """
    Decide from the signature, never by trying: a TypeError from inside the factory is the caller's
    to see.
    """
    check_callable("ws_listener_factory", factory)
    if _takes_nothing(factory):
        return lambda request, response: factory()
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        # A class without a signature, such as a cdef class: made with no argument.
        return lambda request, response: factory()
    required = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not required:
        return lambda request, response: factory()
    if len(required) == 2 and all(p.kind is not p.KEYWORD_ONLY for p in required):
        return lambda request, response: factory(request, response)
    raise TypeError(
        "ws_listener_factory must take no argument or (request, response),"
        f" not {inspect.signature(factory)}"
    )


def _takes_nothing(factory: object) -> bool:
    """Most factories do not: seen here in a tenth of the time that a signature takes."""
    if type(factory) is FunctionType:
        code = factory.__code__
        # What wraps another function, or has a signature of its own, says so in its __dict__.
        return (
            not factory.__dict__
            and code.co_kwonlyargcount == 0
            and code.co_argcount == len(factory.__defaults__ or ())
        )
    # A subclass of WSListener that says nothing of how it is made?
    return (
        type(factory) is type
        and issubclass(factory, WSListener)
        and factory.__init__ is object.__init__
        and factory.__new__ is WSListener.__new__
        and "__signature__" not in factory.__dict__
    )


class _ClientUpgrade:
    """Drives a ClientHandshake over a connection, until there is a listener or an error."""

    def __init__(
        self,
        handshake: ClientHandshake,
        call_factory: CallFactory,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._done: asyncio.Future[None] = loop.create_future()
        self._listener: WSListener
        self._error: BaseException | None = None
        self._handshake = handshake
        self._call_factory = call_factory
        self._logger = settings.logger
        self._connection: Connection

    async def wait(self) -> WSListener:
        await self._done
        error, self._error = self._error, None
        if error is None:
            return self._listener
        try:
            # Not through the future, which refuses StopIteration.
            raise error
        finally:
            # The traceback refers to this frame, which must not refer back.
            del error

    def connection_made(self, connection: Connection) -> None:
        self._connection = connection

    def start(self) -> None:
        """Send the request.

        Not in connection_made: a write that fails there leaves the closed socket's number with the
        loop (aiofastnet 1.2.0), or closes the number under the socket (uvloop).
        """
        connection = self._connection
        if self._logger.isEnabledFor(PICOWS_DEBUG_LL):
            self._logger.log(
                PICOWS_DEBUG_LL, "upgrade request:\n%s", self._handshake.redacted_request()
            )
        connection.underlying_transport.write(self._handshake.request_bytes())

    def data_received(self, data: bytes) -> None:
        if self._done.done():
            return
        try:
            response = self._handshake.receive_data(data)
            if response is None:
                return
            request = self._handshake.request
            self._listener = self._call_factory(request, response)
            # After this line the connection belongs to the listener.
            self._connection.open(
                self._listener,
                request,
                response,
                self._handshake.trailing_data,
                self._handshake.deflate_agreement,
            )
        except BaseException as exc:
            self._fail(exc)
            return
        if not self._done.done():
            self._done.set_result(None)

    def eof_received(self) -> None:
        try:
            self._handshake.receive_eof()
        except WSHandshakeError as exc:
            self._fail(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.eof_received()
        else:
            self._fail(self._handshake.give_up() or exc)

    def _fail(self, exc: BaseException) -> None:
        if not self._done.done():
            self._error = exc
            self._done.set_result(None)
