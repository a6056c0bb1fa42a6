"""How contestants are started: environments, the floor's binary, certificates, worker processes.

Always true here: every process that was started is stopped by its own handle, also after an error;
a worker's stderr goes to a file, whose end is in the error when the worker fails; a contestant's
process sees the packages of its own environment alone, so the two picows never meet.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .plan import CONTESTANTS, FLOOR, Contestant, Group
from .ticks import quotes, ticks

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent
WORKERS = HERE / "workers"
BUILD = ROOT / "build" / "benchmarks"
START_LIMIT = 60.0  # seconds; a hundred TLS handshakes on a busy core take a while
SLICE_LIMIT = 120.0  # seconds beyond the slice's own length; thousands of TLS handshakes
TICKS = 2000  # messages of the compression benchmarks

PROBE = """
import json, platform, sys
import {package} as p
import importlib.metadata as m
versions = {{}}
for name in ("picows", "websockets", "aiohttp", "uvloop", "aiofastnet", "socketify", "Cython"):
    try:
        versions[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
versions["{package}"] = getattr(p, "__version__", versions.get("{package}"))
print(json.dumps({{"python": platform.python_version(), "file": p.__file__, "versions": versions}}))
"""

CERTIFICATES = """
import sys, trustme
from pathlib import Path
ca, target = trustme.CA(), Path(sys.argv[1])
cert = ca.issue_cert("localhost", "127.0.0.1")
ca.cert_pem.write_to_path(target / "ca.pem")
cert.private_key_pem.write_to_path(target / "key.pem")
for i, pem in enumerate(cert.cert_chain_pems):
    pem.write_to_path(target / "cert.pem", append=i > 0)
"""


class BenchmarkError(Exception):
    """Something that the user of run.py can act on."""


@dataclass
class Environment:
    """An interpreter with contestants; `tools` holds packages for building, not for measuring."""

    python: Path
    tools: Path | None = None

    def variables(self) -> dict[str, str]:
        variables = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_"))
        }
        if self.tools is not None:
            variables["PYTHONPATH"] = str(self.tools)
        variables["PYTHONHASHSEED"] = "0"
        return variables

    def probe(self, package: str) -> dict[str, object]:
        """Versions, and where the package comes from."""
        output = self.run("-c", PROBE.format(package=package))
        found: dict[str, object] = json.loads(output)
        return found

    def run(self, *arguments: str) -> str:
        """Run the interpreter in a directory without packages and return what it printed."""
        try:
            done = subprocess.run(
                [str(self.python), *arguments],
                env=self.variables(),
                cwd=WORKERS,
                capture_output=True,
                text=True,
                check=True,
            )
        except OSError as error:
            raise BenchmarkError(f"{self.python}: {error.strerror}") from error
        except subprocess.CalledProcessError as error:
            raise BenchmarkError(f"{self.python}: {last_line(error.stderr)}") from error
        return done.stdout


class PlainMalloc(Environment):
    """The same without Python's own allocator."""

    def variables(self) -> dict[str, str]:
        return super().variables() | {"PYTHONMALLOC": "malloc"}


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "ended without a word"


@dataclass
class Machinery:
    """Everything that is built or made once a run."""

    environments: dict[str, Environment]  # by a contestant's `environment`
    cores: tuple[int, int]  # the measured one, the other one
    scratch: Path
    listeners: dict[str, Path] = field(default_factory=dict)
    started: int = 0

    @property
    def floor(self) -> Path:
        return BUILD / "floor"

    def environment(self, contestant: Contestant) -> Environment:
        return self.environments[contestant.environment]

    def build_floor(self) -> None:
        try:
            subprocess.run(
                ["make", "--silent", f"BUILD={BUILD}"],
                cwd=HERE / "floor",
                check=True,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError as error:
            raise BenchmarkError("make is missing: apt-get install build-essential") from error
        except subprocess.CalledProcessError as error:
            raise BenchmarkError(
                f"the floor does not build (apt-get install libssl-dev?):\n{error.stderr}"
            ) from error

    def make_certificates(self) -> None:
        self.environments["peers"].run("-c", CERTIFICATES, str(self.scratch))

    def ticks(self, are_alike: bool) -> Path:
        return self.scratch / ("quotes.jsonl" if are_alike else "ticks.jsonl")

    def write_ticks(self) -> None:
        for are_alike, make in ((False, ticks), (True, quotes)):
            self.ticks(are_alike).write_bytes(b"".join(tick + b"\n" for tick in make(TICKS)))

    def build_listener(self, contestant: Contestant) -> None:
        """Build the Cython listener against the contestant's picows, unless it is there already."""
        environment = self.environment(contestant)
        found = environment.probe(contestant.package)
        package = Path(str(found["file"])).parent
        digest = hashlib.sha256(str(environment.python).encode())
        # The listener is only right for the declarations that it was compiled with.
        sources = sorted(package.rglob("*.pxd")) + sorted(package.rglob("*.so"))
        for path in [*sources, *sorted(WORKERS.glob("*listener*"))]:
            digest.update(path.read_bytes())
        target = BUILD / f"listener-{digest.hexdigest()[:16]}"
        if not list(target.glob("feed_listener*.so")):
            tools = self._build_tools(environment, str(found["python"]))
            builder = Environment(environment.python, tools)
            builder.run(str(WORKERS / "build_listener.py"), str(target))
        self.listeners[contestant.name] = target

    def _build_tools(self, environment: Environment, python: str) -> Path:
        """One Cython for all contestants, outside of their environments."""
        target = BUILD / f"tools-{python}"
        if not target.exists():
            requirements = str(HERE / "requirements-build.txt")
            pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
            environment.run(*pip, "--target", str(target), "-r", requirements)
        return target

    def can_join(self, contestant: Contestant, group: Group) -> bool:
        if group.role == "feed-cython" and contestant.name not in (FLOOR, *self.listeners):
            return False
        return group.admits(contestant)

    # ---- Processes --------------------------------------------------------------------------

    def start(self, command: list[str], environment: Environment | None) -> Worker:
        self.started += 1
        return Worker(
            command,
            environment.variables() if environment else None,
            self.scratch / f"stderr-{self.started}.txt",
        )

    def start_floor(self, role: str, group: Group, core: int, *options: object) -> Worker:
        command = [str(self.floor), role, group.work, "--core", str(core), *map(str, options)]
        if group.work in ("inflate", "deflate"):
            command += ["--ticks", str(self.ticks(group.ticks_are_alike))]
        return self.start(command, None)

    def start_python(
        self, contestant: Contestant, group: Group, core: int, *options: object
    ) -> Worker:
        """The contestant's worker, in the group's role."""
        environment = self.environment(contestant)
        program, own = str(contestant.worker), list(contestant.options)
        if group.role in ("inflate", "deflate"):
            options += ("--ticks", self.ticks(group.ticks_are_alike))
            if contestant.deflating:
                program, *own = contestant.deflating
        command = [str(environment.python), str(WORKERS / program), group.role]
        command += ["--loop", group.loop, "--core", str(core)]
        command += map(str, (*own, *group.options, *options))
        if group.role == "feed-cython":
            command += ["--listener-dir", str(self.listeners[contestant.name])]
        if group.plain_malloc:
            environment = PlainMalloc(environment.python, environment.tools)
        return self.start(command, environment)

    def server_tls(self, group: Group) -> list[object]:
        paths = ["--cert", self.scratch / "cert.pem", "--key", self.scratch / "key.pem"]
        return list(paths) if group.tls else []

    def client_tls(self, group: Group) -> list[object]:
        return ["--ca", self.scratch / "ca.pem"] if group.tls else []


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Worker:
    """A process that speaks JSON lines."""

    def __init__(self, command: list[str], variables: dict[str, str] | None, log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=variables,
                cwd=WORKERS,
                text=True,
            )
        try:
            self.hello = self._receive(START_LIMIT)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return int(self.hello["pid"])

    @property
    def port(self) -> int:
        return int(self.hello["port"])

    def ask(self, command: str, seconds: float) -> dict[str, float]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except OSError:
            raise BenchmarkError(self._complaint()) from None
        return self._receive(seconds + SLICE_LIMIT)

    def _receive(self, limit: float) -> dict[str, float]:
        # One answer a command, so nothing can hide in the text layer's buffer from select.
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit)[0]:
            raise BenchmarkError(f"no answer in {limit:.0f} s; {self._complaint()}")
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(self._complaint())
        answer: dict[str, float] = json.loads(line)
        return answer

    def _complaint(self) -> str:
        return last_line(self._log.read_text(errors="replace"))

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]


@dataclass
class Pair:
    """A client that obeys commands and the server it talks to."""

    client: Worker
    server: Worker
    floor_client: bool
    contestant_serves: bool

    def measure(self, size: int, seconds: float) -> dict[str, float]:
        """One slice: count, wall, and CPU seconds of the contestant (cpu) and of the other side."""
        peer = self.server.pid
        if self.floor_client:
            command = f"run {size} {seconds} {peer}"
        else:
            command = json.dumps({"size": size, "seconds": seconds, "peer_pid": peer})
        answer = self.client.ask(command, seconds)
        cpu, other = answer["cpu"], answer["peer_cpu"]
        if self.contestant_serves:
            cpu, other = other, cpu
        found = {"count": answer["count"], "wall": answer["wall"], "cpu": cpu, "other_cpu": other}
        return found | {key: answer[key] for key in ("ratio",) if key in answer}


@contextlib.contextmanager
def processes_of(
    machinery: Machinery, group: Group, names: list[str]
) -> Iterator[tuple[dict[str, Pair], dict[str, str]]]:
    """Start what a group needs; give the pairs, and why a contestant has none."""
    measured, other = machinery.cores
    far = measured if group.one_core else other
    with contextlib.ExitStack() as stack:

        def keep(worker: Worker) -> Worker:
            stack.callback(worker.stop)
            return worker

        def floor_server(core: int) -> Worker:
            return keep(machinery.start_floor("server", group, core, *machinery.server_tls(group)))

        def floor_client(core: int, port: int) -> Worker:
            options: list[object] = ["--port", port, "--conns", group.connections]
            options += ["--depth", group.depth, "--window", group.window]
            options += machinery.client_tls(group)
            return keep(machinery.start_floor("client", group, core, *options))

        def pair_of(contestant: Contestant) -> Pair:
            is_floor = contestant.name == FLOOR
            if group.contestant_serves:
                if is_floor:
                    server = floor_server(measured)
                else:
                    options = machinery.server_tls(group)
                    server = keep(machinery.start_python(contestant, group, measured, *options))
                return Pair(floor_client(far, server.port), server, True, True)
            assert shared is not None
            if is_floor:
                return Pair(floor_client(measured, shared.port), shared, True, False)
            options = ["--port", shared.port, *machinery.client_tls(group)]
            client = machinery.start_python(contestant, group, measured, *options)
            return Pair(keep(client), shared, False, False)

        # One server for all clients, so that nothing but the client differs.
        shared = None if group.contestant_serves else floor_server(far)
        pairs: dict[str, Pair] = {}
        failures: dict[str, str] = {}
        for name in names:
            try:
                pairs[name] = pair_of(CONTESTANTS[name])
            except BenchmarkError as error:
                failures[name] = str(error)
        yield pairs, failures
