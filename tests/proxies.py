"""Real proxies, started for the tests: Debian's tinyproxy, microsocks and danted, and stunnel4 in
front of tinyproxy for TLS.

Each runs as the current user in a folder of its own, where its log is, on a free port of 127.0.0.1
and, microsocks apart, of ::1. Each is started when it is first asked for, and is ready then. Behind
`end` no process of them is left, not even as a zombie.

    proxy = proxies["socks5"]
    transport, listener = await ws_connect(Listener, url, proxy=proxy.url())
    await proxy.logged(f"connected to localhost:{port}")
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import loops

# Nobody may go to this host (tinyproxy's rule) nor to this port (danted's rule).
FORBIDDEN_HOST = "localhost.forbidden"
FORBIDDEN_PORT = 9

# What a proxy may need to start, to write a line, to end; none needs a second.
PATIENCE = 10 * loops.TIME_FACTOR
PAUSE = 0.005

# The programs lie in sbin, which is not on everybody's PATH.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# Part of util-linux. It ends a proxy also where nothing of ours can: pytest was killed.
UNTIL_WE_END = ["setpriv", "--pdeathsig", "TERM"]

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def has_ipv6() -> bool:
    """Does this machine have ::1?"""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


LOOPBACK = ("127.0.0.1", "::1") if has_ipv6() else ("127.0.0.1",)


def listening_sockets() -> list[socket.socket]:
    """Sockets that listen on the same free port of each address of LOOPBACK, for a server that is
    reached by the name "localhost", whatever that means here.
    """
    for _ in range(100):
        first = socket.create_server((LOOPBACK[0], 0))
        port = first.getsockname()[1]
        try:
            others = [
                socket.create_server((host, port), family=socket.AF_INET6) for host in LOOPBACK[1:]
            ]
        except OSError as exc:
            first.close()
            if exc.errno != errno.EADDRINUSE:
                raise
            continue
        return [first, *others]
    raise AssertionError("no port is free on both of 127.0.0.1 and ::1")


def free_port() -> int:
    sockets = listening_sockets()
    port: int = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    return port


class Proxy:
    """One proxy that runs, and what it has logged."""

    def __init__(
        self,
        scheme: str,
        port: int,
        logs: list[Path],
        target: str,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self.scheme = scheme
        self.port = port
        self.username = username
        self.password = password
        self.logs = logs
        # How its log speaks of a target.
        self.target = target
        self.forget()

    def url(
        self, host: str = "localhost", username: str | None = None, password: str | None = None
    ) -> str:
        """Its URL, with its own user and password or with others."""
        username = self.username if username is None else username
        password = self.password if password is None else password
        # Everything encoded, also what need not be: the other side must decode it.
        userinfo = "" if username is None else percent_encoded(username)
        userinfo += "" if password is None else ":" + percent_encoded(password)
        return f"{self.scheme}://{userinfo and userinfo + '@'}{host}:{self.port}"

    def forget(self) -> None:
        """What is in its logs by now is not of this test."""
        self._offsets = [path.stat().st_size for path in self.logs]

    def log(self) -> str:
        text = ""
        for path, offset in zip(self.logs, self._offsets, strict=True):
            text += path.read_bytes()[offset:].decode("utf-8", "replace")
        return text

    async def logged(self, *texts: str) -> None:
        """Wait for them: some proxies write when the connection is there already."""
        limit = time.monotonic() + PATIENCE
        while missing := [text for text in texts if text not in self.log()]:
            assert time.monotonic() < limit, f"{missing} not in the proxy's log:\n{self.log()}"
            await asyncio.sleep(PAUSE)

    async def was_asked_for(self, host: str, port: int) -> None:
        """Its log names this target as it was given to it: a name is a name."""
        await self.logged(
            self.target.format(
                host=host,
                port=port,
                authority=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                # RFC 1928 section 5
                type=4 if ":" in host else 1 if host[:1].isdigit() else 3,
            )
        )


def percent_encoded(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


class Proxies:
    """All kinds of them; see `_KINDS` for their names."""

    def __init__(self, folder: Path, certificate: Any) -> None:
        """:param certificate: trustme's, with which the https:// proxies show themselves"""
        self._folder = folder
        self._certificate = certificate
        self._running: dict[str, Proxy] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __getitem__(self, name: str) -> Proxy:
        if name not in self._running:
            self._running[name] = _KINDS[name](self)
        return self._running[name]

    def end(self) -> None:
        if not self._processes:
            return
        with adopting_orphans():
            for process in reversed(self._processes):
                process.terminate()
            for process in reversed(self._processes):
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                # danted's main process does not wait for the others, its children.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    while True:
                        os.waitpid(-process.pid, 0)
        self._processes.clear()
        self._running.clear()

    # The kinds

    def _tinyproxy(self, username: str | None = None, password: str | None = None) -> Proxy:
        folder = self._new_folder("tinyproxy")
        (folder / "filter").write_text(FORBIDDEN_HOST + "\n")

        def config(port: int) -> str:
            lines = [
                f"Port {port}",
                *(f"Listen {host}" for host in LOOPBACK),
                "Timeout 600",
                "MaxClients 100",
                f'LogFile "{folder}/log"',
                "LogLevel Info",
                f'Filter "{folder}/filter"',
                "FilterType fnmatch",
            ]
            if username is not None:
                lines.append(f"BasicAuth {username} {password}")
            return "\n".join(lines)

        port = self._start(folder, "tinyproxy", ["-d", "-c", "config"], config)
        target = "CONNECT {authority} HTTP/1.1"
        return Proxy("http", port, [folder / "log"], target, username, password)

    def _stunnel(self, behind: str) -> Proxy:
        proxy = self[behind]
        folder = self._new_folder("stunnel4")
        with open(folder / "certificate", "wb", opener=_private) as file:
            file.write(self._certificate.private_key_and_cert_chain_pem.bytes())

        def config(port: int) -> str:
            lines = [
                "foreground = yes",
                "pid =",
                f"output = {folder}/log",
                "debug = info",
                f"cert = {folder}/certificate",
            ]
            for host in LOOPBACK:
                lines.append(f"[on {host}]")
                lines.append(f"accept = {host}:{port}")
                lines.append(f"connect = 127.0.0.1:{proxy.port}")
            return "\n".join(lines) + "\n"

        port = self._start(folder, "stunnel4", [f"{folder}/config"], config)
        logs = [folder / "log", *proxy.logs]
        return Proxy("https", port, logs, proxy.target, proxy.username, proxy.password)

    def _danted(self) -> Proxy:
        folder = self._new_folder("danted")
        user = pwd.getpwuid(os.getuid()).pw_name

        def config(port: int) -> str:
            lines = [
                # At this level it tells what it was asked for.
                "debug: 1",
                f"logoutput: {folder}/log",
                *(f"internal: {host} port = {port}" for host in LOOPBACK),
                "external: lo",
                "clientmethod: none",
                "socksmethod: none",
                f"user.privileged: {user}",
                f"user.unprivileged: {user}",
                "client pass { from: 0/0 to: 0/0 }",
                *("client pass { from: ::/0 to: ::/0 }" for _ in LOOPBACK[1:]),
                f"socks block {{ from: 0/0 to: 0/0 port = {FORBIDDEN_PORT} }}",
                "socks pass { from: 0/0 to: 0/0 }",
            ]
            return "\n".join(lines)

        port = self._start(folder, "danted", ["-f", "config", "-p", "pid"], config)
        target = "Packet: VER: 4 CMD: 1 address: {host}.{port} "
        return Proxy("socks4", port, [folder / "log"], target)

    def _danted_by_socks5(self) -> Proxy:
        """The same process."""
        proxy = self["socks4"]
        target = "Packet: VER: 5 CMD: 1 FLAG: 0 ATYP: {type} address: {host}.{port} "
        return Proxy("socks5", proxy.port, proxy.logs, target)

    def _microsocks(self, username: str | None = None, password: str | None = None) -> Proxy:
        folder = self._new_folder("microsocks")

        def args(port: int) -> list[str]:
            given = ["-i", "127.0.0.1", "-p", str(port)]
            if username is not None and password is not None:
                given += ["-u", username, "-P", password]
            return given

        port = self._start(folder, "microsocks", args, hosts=("127.0.0.1",))
        target = "connected to {host}:{port}\n"
        return Proxy("socks5", port, [folder / "output"], target, username, password)

    # Processes

    def _new_folder(self, name: str) -> Path:
        folder = self._folder / f"{name}-{len(self._processes)}"
        folder.mkdir()
        return folder

    def _start(
        self,
        folder: Path,
        program: str,
        args: list[str] | Callable[[int], list[str]],
        config: Callable[[int], str] | None = None,
        hosts: tuple[str, ...] = LOOPBACK,
    ) -> int:
        """Start it, and wait until it takes connections; returns its port."""
        if sys.platform != "linux":
            pytest.skip("the proxies are run on Linux only")
        path = shutil.which(program, path=SEARCH_PATH)
        if path is None:
            package = "dante-server" if program == "danted" else program
            pytest.skip(f"no {program} here; Debian: apt-get install {package}")
        limit = time.monotonic() + PATIENCE
        while True:
            port = free_port()
            if config is not None:
                (folder / "config").write_text(config(port) + "\n")
            with open(folder / "output", "wb") as output:
                process = subprocess.Popen(
                    [*UNTIL_WE_END, path, *(args(port) if callable(args) else args)],
                    cwd=folder,
                    env={**os.environ, "TMPDIR": str(folder)},  # danted's shared files
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            self._processes.append(process)
            # Not ready, and ended by now: someone else has taken the port.
            while process.poll() is None:
                if all(takes_connections(host, port) for host in hosts):
                    return port
                assert time.monotonic() < limit, f"{program} does not start:\n{logs_in(folder)}"
                time.sleep(PAUSE)
            assert time.monotonic() < limit, f"{program} ends at once:\n{logs_in(folder)}"


def takes_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def logs_in(folder: Path) -> str:
    return "\n".join(
        (folder / name).read_text(errors="replace")[-5000:]
        for name in ("output", "log")
        if (folder / name).exists()
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Processes whose parent ends become our children, so that we can wait for them: in a container
    the process number 1 may not.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


# microsocks takes any user and password; tinyproxy's are letters, digits, "." and "-"; danted's
# would be those of the system.
_KINDS: dict[str, Callable[[Proxies], Proxy]] = {
    "http": lambda proxies: proxies._tinyproxy(),
    "http-password": lambda proxies: proxies._tinyproxy("us.er", "pass-word"),
    "https": lambda proxies: proxies._stunnel("http"),
    "https-password": lambda proxies: proxies._stunnel("http-password"),
    "socks4": lambda proxies: proxies._danted(),
    "socks5": lambda proxies: proxies._microsocks(),
    "socks5-password": lambda proxies: proxies._microsocks("us@er", "p:@/? %word#"),
    "socks5-danted": lambda proxies: proxies._danted_by_socks5(),
}
