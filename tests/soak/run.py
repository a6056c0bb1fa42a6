"""The soak test: `make soak SOAK_TIME=600`.

For SOAK_TIME seconds 500 connections on asyncio, and at the same time 500 on uvloop, connect, talk,
stall, vanish, send garbage and come back. For each kind of loop there are

    loop_side.py   one event loop with all of picows in it: servers (plain, TLS, Unix sockets;
                   aiofastnet and own transports; auto ping; all options), which are shut down and
                   come back, and clients of them and of raw servers. Alone in its process, so that
                   its memory is picows' and nobody else's
    raw_side.py    a process with threads on blocking sockets, clients and servers, well behaved and
                   not: they stall in the middle of TLS, of the upgrade, of a frame, send garbage
                   and RST, read nothing, or keep a socket open and never answer again
    ... --mortal   two more of these, which are stopped (SIGSTOP), so that auto ping has to find
                   out, and killed (SIGKILL)

and this process, which tells them what to do. Each message is known to both of its ends
(messages.py) and compared byte by byte. The load comes in rounds; after each one all connections
are closed, and no task, timer, file, buffer or object may be left. The first round is for warming
up: at the end of the last one resident memory and what malloc has given out must be what they were
after the first, but for ALLOWED_GROWTH.

Exit status 1, with the faults printed as they come, when something did not hold. The figures go to
build/soak/figures.json as well; `--seed` repeats a run's dice, though not its timing.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trustme

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = ("asyncio", "uvloop")

# Of the connections: our clients of our servers, our clients of raw servers, raw clients of our
# servers; the rest are those of the mortal processes.
SHARES = {"clients": 0.36, "raw": 0.14, "raw clients": 0.4}
MORTALS = 2

# Bytes, from the end of the first round to the end of the last.
ALLOWED_GROWTH = {"malloc": 512 * 1024, "mapped": 512 * 1024, "rss": 8 * 1024 * 1024}

# Seconds that a process may take for anything that is not the load itself.
LIMIT = 240


class Child:
    """A process of ours that speaks lines of JSON; its faults are the run's."""

    def __init__(self, run: Run, name: str, process: asyncio.subprocess.Process) -> None:
        self.run = run
        self.name = name
        self.process = process
        self.said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.readers = [
            asyncio.ensure_future(self._read_lines()),
            asyncio.ensure_future(self._read_errors()),
        ]

    @classmethod
    async def start(cls, run: Run, module: str, *args: object, **options: object) -> Child:
        # The raw sides are not what is tested: their sockets may be left to the cycle collector.
        warnings = "error" if module == "loop_side" else "ignore"
        command = ["-X", "faulthandler", "-W", warnings, "-m", f"soak.{module}", *map(str, args)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        path = [os.environ.get("PYTHONPATH"), str(ROOT), str(ROOT / "tests")]
        env = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(each for each in path if each),
            PYTHONSAFEPATH="1",
            # All of Python's memory is seen in what malloc has given out.
            PYTHONMALLOC="malloc",
            # One heap, and what is large is mapped always, not only at first: less of what is free
            # stays resident between what is not.
            MALLOC_ARENA_MAX="1",
            MALLOC_MMAP_THRESHOLD_="65536",
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            env=env,
            # Python 3.10 searches the current folder first. Not the one of the build in place.
            cwd=ROOT / "tests",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 26,
        )
        return cls(run, f"{run.kind}, {module}", process)

    async def _read_lines(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message = json.loads(line)
            if "fault" in message:
                self.run.fault(self.name, message["fault"])
            else:
                self.said.put_nowait(message)
        self.said.put_nowait(None)

    async def _read_errors(self) -> None:
        """Nothing is written there, but by a crash."""
        assert self.process.stderr is not None
        text = (await self.process.stderr.read()).decode(errors="replace")
        if text:
            self.run.fault(self.name, f"wrote to stderr:\n{text}")

    def tell(self, **message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def wait_for(self, key: str) -> Any:
        message = await asyncio.wait_for(self.said.get(), LIMIT)
        if message is None:
            raise RuntimeError(f"{self.name} ended, instead of saying {key!r}")
        return message[key]

    def send_signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def end(self) -> int:
        """Its input ends; so should it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await self.wait()

    async def wait(self) -> int:
        try:
            code = await asyncio.wait_for(self.process.wait(), LIMIT)
        except asyncio.TimeoutError:
            self.run.fault(self.name, "does not end")
            self.send_signal(signal.SIGABRT)
            code = await self.process.wait()
        await asyncio.gather(*self.readers)
        return code


class Run:
    """The processes of one kind of loop, and what they found."""

    def __init__(self, kind: str, args: argparse.Namespace, certificates: str) -> None:
        self.kind = kind
        self.args = args
        self.certificates = certificates
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults = 0
        self.memory: list[dict[str, int]] = []
        self.worst_lag = 0.0
        self.children: list[Child] = []
        self.random = random.Random(f"{args.seed}/{kind}")

    def fault(self, where: str, text: str) -> None:
        self.faults += 1
        print(f"FAULT in {where}: {text}", flush=True)

    async def start(self, module: str, *args: object, **options: object) -> Child:
        child = await Child.start(
            self, module, *args, certificates=self.certificates, seed=self.dice(), **options
        )
        self.children.append(child)
        return child

    def dice(self) -> int:
        return self.random.getrandbits(32)

    async def go(self) -> None:
        try:
            await self._go()
        except (RuntimeError, asyncio.TimeoutError, BrokenPipeError) as exc:
            self.fault(self.kind, f"the run ended early: {exc!r}")
        finally:
            for child in self.children:
                if child.process.returncode is None:
                    child.send_signal(signal.SIGKILL)
                    await child.process.wait()

    async def _go(self) -> None:
        connections, rounds = self.args.connections, self.args.rounds
        numbers = {name: round(share * connections) for name, share in SHARES.items()}
        mortal = max((connections - sum(numbers.values())) // MORTALS, 1)
        side = await self.start(
            "loop_side", self.kind, clients=numbers["clients"], raw=numbers["raw"]
        )
        until = time.monotonic() + self.args.seconds
        settling = 1.0
        for number in range(rounds):
            side.tell(do="open")
            servers = json.dumps(await side.wait_for("opened"))
            steady = await self.start("raw_side", clients=numbers["raw clients"], servers=servers)
            side.tell(do="go", raw=await steady.wait_for("ready"))
            mortals = [
                asyncio.ensure_future(self.live_and_die(mortal, servers)) for _ in range(MORTALS)
            ]
            await asyncio.sleep(max((until - time.monotonic()) / (rounds - number) - settling, 1.0))
            stopped_at = time.monotonic()
            side.tell(do="stop")
            await side.wait_for("stopped")
            for task in mortals:
                task.cancel()
            await asyncio.wait(mortals)
            await steady.end()
            done = await steady.wait_for("done")
            side.tell(do="close", is_last=number == rounds - 1)
            quiet = await side.wait_for("quiet")
            settling = time.monotonic() - stopped_at
            self.judge(quiet["cuts"] + done["cuts"], quiet["away"])
            self.counts.update(quiet["counts"])
            self.counts.update(done["counts"])
            self.memory.append(quiet["memory"])
            self.worst_lag = max(self.worst_lag, quiet["worst lag"])
            done_by = self.args.seconds - (until - time.monotonic())
            print(
                f"{done_by:5.0f} s, {self.kind}: round {number + 1} of {rounds},"
                f" {self.counts['connections of servers']:,} connections of servers,"
                f" {self.counts['connections of clients']:,} of clients, {self.faults} faults",
                flush=True,
            )
        side.tell(do="end")
        code = await side.end()
        await side.wait_for("ended")
        if code != 0 and not self.faults:
            self.fault(side.name, f"ended with {code}")
        self.judge_memory()

    async def live_and_die(self, clients: int, servers: str) -> None:
        """A process that is stopped, goes on or is killed, again and again."""
        while True:
            child = await Child.start(
                self,
                "raw_side",
                "--mortal",
                clients=clients,
                servers=servers,
                certificates=self.certificates,
                seed=self.dice(),
            )
            try:
                while True:
                    await asyncio.sleep(self.random.uniform(2, 8))
                    if self.random.random() < 0.7:
                        child.send_signal(signal.SIGSTOP)
                        self.counts["processes stopped"] += 1
                        await asyncio.sleep(self.random.uniform(1, 4))
                    if self.random.random() < 0.4:
                        break
                    child.send_signal(signal.SIGCONT)
                self.counts["processes killed"] += 1
            finally:
                child.send_signal(signal.SIGKILL)
                await child.wait()

    def judge(
        self, cuts: list[tuple[str, float, float, str]], away: list[tuple[str, float, float]]
    ) -> None:
        """A session may end early where its server was shut down meanwhile."""
        for server, since, until, what in cuts:
            if any(
                name == server and gone <= until + 0.1 and back >= since - 0.1
                for name, gone, back in away
            ):
                self.counts["sessions cut by a shutdown"] += 1
            else:
                self.fault(
                    self.kind,
                    f"a session with {server} was disturbed after {until - since:.1f} s: {what}",
                )

    def judge_memory(self) -> None:
        if "PICOWS_SANITIZE" in os.environ:
            return  # ASan keeps what was freed
        first, last = self.memory[0], self.memory[-1]
        for name, allowed in ALLOWED_GROWTH.items():
            if name in first and last[name] - first[name] > allowed:
                series = [each[name] for each in self.memory]
                self.fault(self.kind, f"{name} grows by more than {allowed} bytes: {series}")


def table(runs: list[Run]) -> str:
    rows: list[tuple[str, list[str]]] = [("", [run.kind for run in runs])]
    for name in sorted({name for run in runs for name in run.counts}):
        rows.append((name, [f"{run.counts[name]:,}" for run in runs]))
    for name in ALLOWED_GROWTH:
        for when, index in (("after the first round", 0), ("at the end", -1)):
            values = [run.memory[index].get(name) if run.memory else None for run in runs]
            cells = ["-" if value is None else f"{value / 1024:,.0f} KiB" for value in values]
            rows.append((f"{name} {when}", cells))
    rows.append(("longest wait of the loop", [f"{run.worst_lag:.2f} s" for run in runs]))
    rows.append(("faults", [str(run.faults) for run in runs]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells) for name, cells in rows
    )


async def soak(args: argparse.Namespace) -> list[Run]:
    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="picows-soak-") as folder:
        authority.cert_pem.write_to_path(f"{folder}/ca.pem")
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_and_cert_chain_pem.write_to_path(f"{folder}/server.pem")
        runs = [Run(kind, args, folder) for kind in args.loops]
        await asyncio.gather(*(run.go() for run in runs))
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="of load, all rounds together")
    parser.add_argument("--connections", type=int, default=500, help="on each loop")
    parser.add_argument("--rounds", type=int, help="default: one a minute, at least two")
    parser.add_argument("--loops", nargs="+", choices=KINDS, default=KINDS, help="default: both")
    parser.add_argument("--seed", type=int, default=random.getrandbits(32))
    parser.add_argument(
        "--json", type=Path, default=ROOT / "build/soak/figures.json", help="where figures go"
    )
    args = parser.parse_args()
    if sys.platform != "linux":
        parser.error("the soak test reads /proc: Linux only")
    args.rounds = args.rounds or max(2, int(args.seconds // 60))
    print(
        f"{args.connections} connections on each of {', '.join(args.loops)};"
        f" {args.seconds:g} s in {args.rounds} rounds; --seed {args.seed}",
        flush=True,
    )
    runs = asyncio.run(soak(args))
    print(table(runs))
    figures = {
        "seed": args.seed,
        "seconds": args.seconds,
        "connections": args.connections,
        "rounds": args.rounds,
        "loops": {
            run.kind: {
                "faults": run.faults,
                "counts": dict(run.counts),
                "memory": run.memory,
                "worst lag": run.worst_lag,
            }
            for run in runs
        },
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"in {args.json}")
    return 1 if any(run.faults for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
