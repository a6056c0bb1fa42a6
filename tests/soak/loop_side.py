"""The process that the soak test is about: one event loop, our servers, our clients, all checks.

    python -m soak.loop_side KIND --seed N --clients N --raw N --certificates FOLDER

run.py tells it, in lines of JSON on its standard input, {"do": ...}:

    open    start a server of each kind; answers with their ports
    go      the clients begin; has the ports of raw_side.py's servers
    stop    the clients come to an end; answers when they have
    close   shut the servers down; look at what is left, and answer with all figures
    end     leave the loop, and look at what is left then
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import ssl
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from soak.accounts import Accounts, lift_file_limit
from soak.clients import RawSlot, Slot
from soak.messages import say
from soak.quiet import leftovers, loop_states, memory_figures, objects_of_ours
from soak.servers import LIMIT, SERVERS, Server

import loops


class LoopSide:
    def __init__(self, args: argparse.Namespace) -> None:
        self.kind: str = args.kind
        self.seed: int = args.seed
        self.clients: int = args.clients
        self.raw_clients: int = args.raw
        # Seconds in which they begin.
        self.ramp = (self.clients + self.raw_clients) / 50
        # The more threads a raw peer has on the same machine, the later it comes to its answer.
        self.impatient = {
            "auto_ping_idle_timeout": 0.4,
            "auto_ping_reply_timeout": max(1.0, (self.clients + self.raw_clients) / 60),
        }
        self.certificates: Path = args.certificates
        self.accounts = Accounts()
        self.lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.folder = tempfile.mkdtemp(prefix="picows-soak-")
        self.round = 0
        self.worst_lag = 0.0

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.accounts.loop_error)
        reader = threading.Thread(target=self._read, args=[loop], daemon=True)
        reader.start()
        # What there was before the first connection.
        self.own_tasks = asyncio.all_tasks(loop)
        self.files = loops.open_files()
        self.objects = objects_of_ours()
        while (line := await self.lines.get())["do"] != "end":
            await getattr(self, "do_" + line["do"])(line)
        reader.join()
        os.rmdir(self.folder)
        # They know the loop, of which nothing may be left.
        del self.lines, self.own_tasks

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        told: dict[str, Any] = {}
        for line in sys.stdin:
            told = json.loads(line)
            loop.call_soon_threadsafe(self.lines.put_nowait, told)
        if told.get("do") != "end":
            # Whoever runs us is gone.
            os._exit(2)

    # The round

    async def do_open(self, line: dict[str, Any]) -> None:
        self.round += 1
        self.running = True
        self.accounts.counts.clear()
        self.accounts.away.clear()
        self.accounts.cuts.clear()
        self.worst_lag = 0.0
        # Each round its own: OpenSSL keeps sessions with its contexts.
        self.server_ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server_ssl.load_cert_chain(self.certificates / "server.pem")
        self.client_ssl = ssl.create_default_context(cafile=str(self.certificates / "ca.pem"))
        self.servers = {name: Server(self, name) for name in SERVERS}
        for server in self.servers.values():
            await server.start()
        say(opened={name: server.port for name, server in self.servers.items() if server.port})

    async def do_go(self, line: dict[str, Any]) -> None:
        self.raw_ports: dict[str, int] = line["raw"]
        slots = [Slot(self, f"client {n}") for n in range(self.clients)]
        raw = [RawSlot(self, f"client of a raw server {n}") for n in range(self.raw_clients)]
        self.tasks = [
            asyncio.ensure_future(coroutine)
            for coroutine in (
                self._watch_the_clock(),
                self._restart_servers(),
                *(slot.run() for slot in [*slots, *raw]),
            )
        ]

    async def do_stop(self, line: dict[str, Any]) -> None:
        self.running = False
        _, stuck = await asyncio.wait(self.tasks, timeout=2 * LIMIT)
        for task in stuck:
            self.accounts.fault(f"a client does not come to its end: {task.get_stack()}")
            task.cancel()
        for task in self.tasks:
            if not task.cancelled() and task.done() and task.exception() is not None:
                text = "".join(traceback.format_exception(task.exception()))
                self.accounts.fault(f"a client failed: {text}")
        self.tasks = []
        say(stopped=True)

    async def do_close(self, line: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        since = time.monotonic()
        await asyncio.gather(
            *(server.server.shutdown(timeout=3) for server in self.servers.values())
        )
        self.accounts.away += [(name, since, time.monotonic()) for name in self.servers]
        self.servers = {}
        del self.server_ssl, self.client_ssl
        # After the last round some outlive the loop.
        self.accounts.look_at_all_kept(but=10 if line["is_last"] else 0)
        objects = self.objects + collections.Counter(
            f"{type(view).__module__}.{type(view).__name__}" for view, _ in self.accounts.kept
        )
        deadline = loop.time() + 5 * loops.SETTLE_TIME
        while left := leftovers(loop, self.files, objects, self.own_tasks):
            if loop.time() > deadline:
                break
            await asyncio.sleep(0.05)
        for each in left:
            self.accounts.fault(f"left when all connections were closed: {each}")
        if self.accounts.open:
            self.accounts.fault(f"{self.accounts.open} connections were never disconnected")
        say(
            quiet={
                "counts": dict(self.accounts.counts),
                "memory": memory_figures(),
                "worst lag": round(self.worst_lag, 3),
                "away": self.accounts.away,
                "cuts": self.accounts.cuts,
            }
        )

    async def _watch_the_clock(self) -> None:
        loop = asyncio.get_running_loop()
        while self.running:
            due = loop.time() + 0.1
            await asyncio.sleep(0.1)
            self.worst_lag = max(self.worst_lag, loop.time() - due)

    async def _restart_servers(self) -> None:
        dice = random.Random(f"{self.seed}/{self.round}/restarts")
        while self.running:
            await asyncio.sleep(dice.uniform(0.3, 1.2))
            await self.servers[dice.choice(SERVERS)].restart()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=loops.LOOP_KINDS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--raw", type=int, required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    lift_file_limit()
    side = LoopSide(parser.parse_args())
    accounts = side.accounts
    accounts.watch_the_rest()
    loops.warm_up()
    try:
        loops.Run(side.kind, limit=365 * 86400).run(side.main)
    except pytest.fail.Exception as exc:
        accounts.fault(f"after the last round: {exc}")
    accounts.look_at_all_kept()
    more = objects_of_ours() - side.objects
    if more or loop_states():
        accounts.fault(f"objects that outlive the loop: {dict(more)}, {loop_states()}")
    say(ended=True)
    return 1 if accounts.faults else 0


if __name__ == "__main__":
    sys.exit(main())
