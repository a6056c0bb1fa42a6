"""Our clients in the soak test: each connects, does something, goes, and comes back.

Always holds: what happens to a session is either what its plan says, or a fault, or a cut, which
run.py forgives if the server was away at that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from soak.accounts import Deliberate
from soak.listeners import Caller
from soak.servers import LIMIT, PATIENT, SERVERS, Server

from picows import (
    WSAutoPingStrategy,
    WSHandshakeError,
    WSInvalidStatusError,
    WSListener,
    WSProtocolError,
    ws_connect,
)

if TYPE_CHECKING:
    from soak.loop_side import LoopSide

# What a raw server does, and how `ws_connect` may end then; None: it connects.
FAILURES = (OSError, WSHandshakeError, asyncio.TimeoutError)
RAW_ROLES: dict[str, tuple[int, Any]] = {
    "talk": (20, None),
    "garbage": (4, None),
    "reserved": (4, None),
    "huge": (2, None),
    "reset": (4, None),
    "fin": (4, None),
    "half-frame": (4, None),
    "silent": (4, None),
    "stalled": (4, None),
    "pings": (4, None),
    "half-head": (3, asyncio.TimeoutError),
    "garbage-head": (3, WSHandshakeError),
    "fin-head": (3, FAILURES),
    "reset-head": (3, FAILURES),
    "status": (3, WSInvalidStatusError),
}


class Slot:
    """A client of our own servers: connects, does something, goes, comes back."""

    def __init__(self, side: LoopSide, name: str) -> None:
        self.side = side
        self.accounts = side.accounts
        self.name = name
        self.random = random.Random(f"{side.seed}/{side.round}/{name}")
        self.plans: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (40, self.talk),
            (10, self.be_pushed),
            (6, self.raise_an_exception),
            (6, self.cancel_connecting),
            (4, self.be_refused),
        ]

    async def run(self) -> None:
        await asyncio.sleep(self.random.random() * self.side.ramp)
        weights = [weight for weight, _ in self.plans]
        while self.side.running:
            (_, plan) = self.random.choices(self.plans, weights)[0]
            await plan()
            await asyncio.sleep(self.random.random() * 2)

    def fault(self, text: str) -> None:
        self.accounts.fault(f"{self.name}: {text}")

    def options(self) -> dict[str, Any]:
        choose = self.random.choice
        return {
            "enable_auto_ping": choose((True, False)),
            "auto_ping_strategy": choose(list(WSAutoPingStrategy)),
            "enable_auto_pong": choose((True, False)),
            "coalesce_writes": choose((True, False)),
            "disconnect_on_exception": choose((True, False)),
            "read_buffer_init_size": choose((1, 16 * 1024, 1024 * 1024)),
            "websocket_handshake_timeout": LIMIT,
            "use_aiofastnet": choose((None, True, False)),
            **PATIENT,
        }

    def choose_server(self, patience: str = "patient") -> Server:
        names = [name for name in SERVERS if name.endswith("-" + patience)]
        return self.side.servers[self.random.choice(names)]

    def caller(self, what: str, seed: int, options: dict[str, Any], **kwargs: Any) -> Caller:
        return Caller(
            self.accounts,
            f"{self.name} {what} ({described(options)})",
            seed,
            auto_pong=options["enable_auto_pong"],
            **kwargs,
        )

    async def talk(self) -> None:
        server = self.choose_server()
        seed = self.random.getrandbits(32)
        total = self.random.choice((0, 1, 3, 10, 30, 100))
        window = self.random.choice((1, 2, 10, 50))
        ending = self.random.choice(("close", "end", "leave", "drop", "abort"))
        query = f"seed={seed}&gentle={self.random.choice('01')}"
        if self.random.random() < 0.3:
            query += "&holds=1"
        if ending == "end" and total:
            query += f"&end={total}"
        await self._session(
            server,
            f"/echo?{query}",
            lambda options: self.caller(
                f"{server.name} {query}",
                seed,
                options,
                total=total,
                window=window,
                holds=self.random.random() < 0.3,
            ),
            "close" if ending == "end" and not total else ending,
        )

    async def be_pushed(self) -> None:
        """A server that sends as fast as it may, and a client that stops reading meanwhile."""
        server = self.choose_server()
        seed = self.random.getrandbits(32)
        total = self.random.choice((10, 100, 300))
        await self._session(
            server,
            f"/push?seed={seed}&total={total}",
            lambda options: self.caller(
                f"{server.name} push {seed}",
                seed,
                options,
                total=0,
                window=0,
                awaited=total,
                holds=True,
            ),
            self.random.choice(("close", "leave", "drop", "abort")),
            pause=self.random.choice((0.0, self.random.uniform(0.2, 1.5))),
        )

    async def _session(
        self,
        server: Server,
        path: str,
        make: Callable[[dict[str, Any]], Caller],
        ending: str,
        pause: float = 0.0,
    ) -> None:
        """Everything has to go well, unless the server is shut down."""
        since = time.monotonic()
        options = self.options()
        if server.is_secure:
            options["ssl_context"] = self.side.client_ssl
        listener = make(options)
        try:
            transport, _ = await ws_connect(lambda: listener, server.url(path), **options)
        except FAILURES as exc:
            self.accounts.cut(server.name, since, f"{self.name} {path}: connecting: {exc!r}")
            return
        if pause:
            listener.hold_for(pause)
        if self.random.random() < 0.1:
            await self._measure(transport)
        await self.until_done(listener)
        is_complete = listener.is_complete
        if listener.state == "open" and not listener.ended:
            if ending in ("close", "leave"):
                with contextlib.suppress(OSError):
                    transport.send_close(1000, "bye")
            if ending in ("leave", "drop", "abort"):
                listener.disconnect(graceful=ending != "abort")
        try:
            await self.within(LIMIT, transport.wait_disconnected(), listener.what)
        except Exception as exc:
            self.fault(f"{listener.what}: wait_disconnected raised {exc!r}")
        if not is_complete:
            what = f"{listener.what}: {listener.received} of {listener.awaited} messages"
            self.accounts.cut(server.name, since, what)
        elif ending in ("close", "end") and listener.close_code != 1000:
            self.accounts.cut(
                server.name, since, f"{listener.what}: {ending}, CLOSE {listener.close_code}"
            )
        else:
            self.accounts.count("sessions of ours, complete")

    async def _measure(self, transport: Any) -> None:
        """Round trips; some of them are given up."""
        measuring = asyncio.ensure_future(transport.measure_roundtrip_time(3))
        await asyncio.wait([measuring], timeout=self.random.choice((0.01, LIMIT)))
        if not measuring.done():
            measuring.cancel()
        try:
            await measuring
            self.accounts.count("round trips measured", 3)
        except (asyncio.CancelledError, ConnectionResetError):
            pass
        except OSError:
            self.accounts.count("sends that the system refused")

    async def until_done(self, listener: Caller) -> None:
        """As long as there is progress: on a busy loop a hundred round trips take their time."""
        received = -1
        while not listener.done.done() and received != listener.received:
            received = listener.received
            await asyncio.wait([listener.done], timeout=LIMIT)
        if not listener.done.done():
            self.fault(f"{listener.what}: no message for {LIMIT} s after {received}")

    async def within(self, seconds: float, awaitable: Any, what: str) -> None:
        try:
            await asyncio.wait_for(awaitable, seconds)
        except asyncio.TimeoutError:
            self.fault(f"{what}: nothing for {seconds} s, {awaitable!r}")

    async def raise_an_exception(self) -> None:
        """In a callback of the server, or of the client, whose wait_disconnected tells."""
        server = self.choose_server()
        since = time.monotonic()
        seed = self.random.getrandbits(32)
        options = self.options()
        if server.is_secure:
            options["ssl_context"] = self.side.client_ssl
        where = self.random.choice(("connected", "frame", "disconnected"))
        is_ours = self.random.random() < 0.5
        what = f"raises in {where}, {'client' if is_ours else 'server'}, {seed}"
        listener = self.caller(
            what, seed, options, total=5, window=2, raises=where if is_ours else ""
        )
        path = f"/echo?seed={seed}" + ("" if is_ours else f"&raises={where}")
        try:
            transport, _ = await ws_connect(lambda: listener, server.url(path), **options)
        except FAILURES as exc:
            self.accounts.cut(server.name, since, f"{self.name} {path}: connecting: {exc!r}")
            return
        await self.until_done(listener)
        if not listener.ended:
            listener.disconnect()
        raised = None
        try:
            await self.within(LIMIT, transport.wait_disconnected(), what)
        except Deliberate as exc:
            raised = str(exc)
        except Exception as exc:
            self.fault(f"{what}: wait_disconnected raised {exc!r}")
        if raised is not None and not (is_ours and raised == where):
            self.fault(f"{what}: wait_disconnected raised {raised!r}")
        survives = where == "frame" and not options["disconnect_on_exception"]
        if is_ours and raised is None and not survives:
            self.accounts.cut(server.name, since, f"{what}: wait_disconnected raised nothing")

    async def cancel_connecting(self) -> None:
        server = self.choose_server()
        options = self.options()
        if server.is_secure:
            options["ssl_context"] = self.side.client_ssl
        seed = self.random.getrandbits(32)
        listener = self.caller(f"cancelled {seed}", seed, options, total=0, window=0)
        patience = self.random.random() ** 2 * 0.05
        if self.random.random() < 0.5:
            options["websocket_handshake_timeout"] = patience + 0.0001
            patience = LIMIT
        task = asyncio.ensure_future(
            ws_connect(lambda: listener, server.url(f"/echo?seed={seed}"), **options)
        )
        await asyncio.wait([task], timeout=patience)
        task.cancel()
        self.accounts.count("connecting, cancelled")
        try:
            transport, _ = await task
        except (*FAILURES, asyncio.CancelledError):
            return
        listener.disconnect(graceful=self.random.random() < 0.5)
        await self.within(LIMIT, transport.wait_disconnected(), listener.what)

    async def be_refused(self) -> None:
        server = self.choose_server()
        since = time.monotonic()
        options = self.options()
        if server.is_secure:
            options["ssl_context"] = self.side.client_ssl
        path, status = self.random.choice((("fails", 500), ("refuses", 503), ("nowhere", 404)))
        try:
            await ws_connect(WSListener, server.url("/" + path), **options)
        except WSInvalidStatusError as exc:
            if exc.response.status != status:
                self.fault(f"{path}: {exc.response.status} instead of {status}")
            self.accounts.count("upgrades refused")
        except FAILURES as exc:
            self.accounts.cut(server.name, since, f"{self.name} {path}: {exc!r}")
        else:
            self.fault(f"{path}: connected")


def described(options: dict[str, Any]) -> str:
    """For a fault: what may have to do with it."""
    names = {
        "use_aiofastnet": "aiofastnet",
        "enable_auto_ping": "auto ping",
        "enable_auto_pong": "auto pong",
        "coalesce_writes": "coalescing",
    }
    return ", ".join(
        text if options[name] in (True, None) else f"no {text}" for name, text in names.items()
    )


class RawSlot(Slot):
    """A client of the servers in raw_side.py, which do whatever the path says."""

    def __init__(self, side: LoopSide, name: str) -> None:
        super().__init__(side, name)
        self.plans = [(20, self.visit), (1, self.trip_over_tls)]

    async def visit(self) -> None:
        roles = list(RAW_ROLES)
        role = self.random.choices(roles, [weight for weight, _ in RAW_ROLES.values()])[0]
        expected = RAW_ROLES[role][1]
        seed = self.random.getrandbits(32)
        good = self.random.choice((0, 1, 5, 20))
        is_secure = self.random.random() < 0.4
        options = self.options()
        if is_secure:
            options["ssl_context"] = self.side.client_ssl
        if expected is asyncio.TimeoutError:
            options["websocket_handshake_timeout"] = 0.5
        is_own = options["use_aiofastnet"] is False
        is_live = role not in ("silent", "stalled")
        if not is_live:
            options.update(self.side.impatient, enable_auto_ping=True)
        listener = self.caller(
            f"{role} {seed} {'TLS' if is_secure else 'plain'}",
            seed,
            options,
            total=good,
            window=5,
            good=good,
            is_live=is_live,
            # uvloop's own TLS drops what a paused connection has not read when TCP ends before TLS
            # does, which is how these peers go.
            holds=is_live and self.random.random() < 0.3 and not (is_secure and is_own),
        )
        scheme, port = ("wss", "tls") if is_secure else ("ws", "plain")
        url = f"{scheme}://127.0.0.1:{self.side.raw_ports[port]}/{role}?seed={seed}&good={good}"
        self.accounts.count(f"raw server, {role}")
        try:
            transport, _ = await ws_connect(lambda: listener, url, **options)
        except FAILURES as exc:
            if expected is None or not isinstance(exc, expected):
                text = "".join(traceback.format_exception(exc))
                self.fault(f"{listener.what}: connecting: {text}")
            return
        if expected is not None:
            self.fault(f"{listener.what}: connected")
        await self.until_done(listener)
        if not listener.is_complete and role not in ("reset",):
            self.fault(f"{listener.what}: {listener.received} of {good} messages")
        if role == "talk" and not listener.ended:
            transport.send_close(1000, "bye")
        try:
            # Whatever the role, the connection ends: the peer ends it, or broke the protocol, or
            # auto ping finds out.
            await self.within(LIMIT, transport.wait_disconnected(), listener.what)
        except WSProtocolError as exc:
            codes = {"garbage": (1002, 1007, 1009), "reserved": (1002,), "huge": (1009,)}
            if exc.code not in codes.get(role, ()):
                self.fault(f"{listener.what}: {exc.code} {exc}")
            return
        except Exception as exc:
            self.fault(f"{listener.what}: wait_disconnected raised {exc!r}")
            return
        if role in ("reserved", "huge"):
            self.fault(f"{listener.what}: no violation")
        if role == "talk" and listener.close_code != 1000:
            self.fault(f"{listener.what}: CLOSE {listener.close_code}")

    async def trip_over_tls(self) -> None:
        """A server that is silent, ends, or talks nonsense instead of TLS."""
        options = self.options()
        options["ssl_context"] = self.side.client_ssl
        options["websocket_handshake_timeout"] = 0.5
        url = f"wss://127.0.0.1:{self.side.raw_ports['no tls']}/"
        self.accounts.count("raw server, no TLS")
        try:
            await ws_connect(WSListener, url, **options)
        except FAILURES:
            return
        self.fault("connected where there is no TLS")
