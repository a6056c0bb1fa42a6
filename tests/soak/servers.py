"""Our servers in the soak test: one of each kind, which goes now and then and comes back at the
same address with other options.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from soak.accounts import Deliberate
from soak.listeners import Echo, Push

import loops
from picows import (
    WSAutoPingStrategy,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

if TYPE_CHECKING:
    from soak.loop_side import LoopSide

# Seconds for what has no reason to take long.
LIMIT = 60 * loops.TIME_FACTOR
# What an auto ping of ours gives a peer that lives; and, `impatient`, one that may be dead.
PATIENT = {"auto_ping_idle_timeout": 0.5, "auto_ping_reply_timeout": 20 * loops.TIME_FACTOR}
HANDSHAKE_TIMEOUT = 12 * loops.TIME_FACTOR

# TLS and transports; who stays silent is thrown out by the impatient ones.
SERVERS = [
    f"{security}-{transports}-{patience}"
    for security, transports, patience in itertools.product(
        ("plain", "tls", "unix"), ("aiofastnet", "own"), ("patient", "impatient")
    )
    if (security, patience) != ("unix", "impatient")
]


class Server:
    """A server that goes now and then, and comes back at the same address with other options."""

    def __init__(self, side: LoopSide, name: str) -> None:
        self.side = side
        self.name = name
        self.security, self.transports, self.patience = name.split("-")
        self.random = random.Random(f"{side.seed}/{name}")
        self.port = 0
        self.server: Any = None

    @property
    def is_secure(self) -> bool:
        return self.security == "tls"

    @property
    def path(self) -> str:
        return f"{self.side.folder}/{self.name}.sock"

    def url(self, rest: str) -> str:
        if self.security == "unix":
            return f"ws+unix://{self.path}:{rest}"
        return f"{'wss' if self.is_secure else 'ws'}://127.0.0.1:{self.port}{rest}"

    async def start(self) -> None:
        choose = self.random.choice
        options: dict[str, Any] = {
            "use_aiofastnet": choose((None, True)) if self.transports == "aiofastnet" else False,
            "websocket_handshake_timeout": HANDSHAKE_TIMEOUT,
            # uvloop accepts one connection an iteration. Linux forgets those that find no room, and
            # they wait for half a minute.
            "backlog": 1000,
            "enable_auto_ping": self.patience == "impatient" or choose((True, False)),
            "auto_ping_strategy": choose(list(WSAutoPingStrategy)),
            "enable_auto_pong": choose((True, False)),
            "coalesce_writes": choose((True, False)),
            "disconnect_on_exception": choose((True, False)),
            "read_buffer_init_size": choose((1, 16 * 1024, 1024 * 1024)),
            **(PATIENT if self.patience == "patient" else self.side.impatient),
        }
        # While a new server starts, the old one may still have a client in its opening handshake.
        route = functools.partial(self.route, options["enable_auto_pong"])
        if self.security == "unix":
            self.server = await ws_create_server(route, path=self.path, **options)
            return
        if self.is_secure:
            options["ssl"] = self.side.server_ssl
        # Below the ports that the system gives to clients, so that it is still free later.
        while self.port == 0:
            port = self.random.randrange(20000, 32000)
            with contextlib.suppress(OSError):
                self.server = await ws_create_server(route, "127.0.0.1", port, **options)
                self.port = port
                return
        self.server = await ws_create_server(route, "127.0.0.1", self.port, **options)

    async def restart(self) -> None:
        """Shut down, and come back: afterwards, or while the old clients are being told."""
        since = time.monotonic()
        old = self.server
        if self.random.random() < 0.5:
            old.close()
            await self.start()
            await old.shutdown(timeout=2)
        else:
            await old.shutdown(1012, timeout=2)
            await self.start()
        self.side.accounts.away.append((self.name, since, time.monotonic()))
        self.side.accounts.count("servers shut down")

    def route(self, auto_pong: bool, request: WSUpgradeRequest) -> Any:
        """The listener factory: the path says what the client is up to."""
        parts = urlsplit(request.path.decode("ascii"))
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        role = parts.path.removeprefix("/")
        if role == "fails":
            raise Deliberate(role)
        if role == "refuses":
            return WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_error_response(503, b"later"), None
            )
        if role not in ("echo", "push"):
            return None
        common: dict[str, Any] = {
            "auto_pong": auto_pong,
            "is_live": self.patience == "patient",
            "raises": query.get("raises", ""),
        }
        what = f"server {self.name} {parts.path}?{parts.query}"
        seed = int(query["seed"])
        if role == "push":
            return Push(self.side.accounts, what, seed, total=int(query["total"]), **common)
        return Echo(
            self.side.accounts,
            what,
            seed,
            good=int(query["good"]) if "good" in query else None,
            end=int(query["end"]) if "end" in query else None,
            is_gentle=query.get("gentle") == "1",
            holds="holds" in query,
            **common,
        )
