"""What the whole suite shares.

* In CI a skipped test is a failed one: a skip there means that an installation step is missing.
* `async def` tests run in a fresh loop each (loops.py), and may leave nothing behind.
* A test that takes the fixture `net` runs once for each combination of loop (asyncio, asyncio in
  debug mode, uvloop), plain or TLS, and transports (our own, aiofastnet's or the loop's).
  `@pytest.mark.net(loops=..., tls=..., aiofastnet=...)` narrows them down, for what cannot depend
  on the rest.
* Child processes get a clean environment: under `make sanitize` neither LD_PRELOAD nor PYTHONPATH
  reaches Chromium, a compiler or another virtual environment. A Python child that imports picows
  itself takes `picows_env`.
"""

from __future__ import annotations

import inspect
import itertools
import os
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
from hypothesis import settings

import loops

if TYPE_CHECKING:
    from proxies import Proxies

pytest_plugins = ["pytester"]

# How long an example takes says how busy the machine is.
settings.register_profile("picows", deadline=None)
settings.load_profile("picows")

INHERITED = {
    name: os.environ.pop(name)
    for name in ("LD_PRELOAD", "PYTHONPATH", "PYTHONMALLOC")
    if name in os.environ
}


# -- skips -----------------------------------------------------------------------------------------


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI is set, where a skipped test fails. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    refuse_skip(report)
    return report


# -- network tests ---------------------------------------------------------------------------------


class Net:
    """What one combination means, and short ways to a server and a client of ours in it."""

    def __init__(
        self, run: loops.Run, tls: bool, use_aiofastnet: bool | None, certificates: Certificates
    ) -> None:
        self.run = run
        self.loop_kind = run.kind
        self.tls = tls
        self.use_aiofastnet = use_aiofastnet
        self.server_ssl = certificates.server if tls else None
        self.client_ssl = certificates.client if tls else None

    @property
    def loop_errors(self) -> list[dict[str, Any]]:
        """What reached the loop's exception handler; a test that provokes an entry clears it."""
        return self.run.loop_errors

    def url(self, server_or_port: Any, path: str = "/") -> str:
        port = server_or_port
        if not isinstance(port, int):
            port = server_or_port.sockets[0].getsockname()[1]
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{port}{path}"

    async def serve(self, factory: Any, **kwargs: Any) -> Any:
        """ws_create_server on a free port of 127.0.0.1."""
        from picows import ws_create_server

        kwargs.setdefault("use_aiofastnet", self.use_aiofastnet)
        if self.tls:
            kwargs.setdefault("ssl", self.server_ssl)
        return await ws_create_server(factory, "127.0.0.1", 0, **kwargs)

    async def connect(self, factory: Any, url_or_server: Any, **kwargs: Any) -> Any:
        """ws_connect to a URL, a port or a server; returns (transport, listener)."""
        from picows import ws_connect

        url = url_or_server if isinstance(url_or_server, str) else self.url(url_or_server)
        kwargs.setdefault("use_aiofastnet", self.use_aiofastnet)
        if self.tls:
            kwargs.setdefault("ssl_context", self.client_ssl)
        return await ws_connect(factory, url, **kwargs)


class Certificates:
    """One certificate authority for the session, and a server certificate for this machine's own
    names.
    """

    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.server = self.issue("localhost", "127.0.0.1", "::1")
        self.client = ssl.create_default_context()
        self.authority.configure_trust(self.client)

    def issue(self, *names: str) -> ssl.SSLContext:
        """A server context with a certificate for other names."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*names).configure_cert(context)
        return context


class CertificateFiles(NamedTuple):
    """The suite's authority, and a certificate with its key, for localhost and 127.0.0.1."""

    ca: Path
    cert: Path


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture(scope="session")
def certificate_files(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> CertificateFiles:
    folder = tmp_path_factory.mktemp("certificates")
    files = CertificateFiles(folder / "ca.pem", folder / "cert.pem")
    issued = certificates.authority.issue_cert("localhost", "127.0.0.1")
    certificates.authority.cert_pem.write_to_path(str(files.ca))
    issued.private_key_and_cert_chain_pem.write_to_path(str(files.cert))
    return files


@pytest.fixture(scope="session")
def proxies(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Proxies]:
    from proxies import Proxies  # it is about Unix programs

    # Not for 127.0.0.1: so a test can see that the name is looked at.
    certificate = certificates.authority.issue_cert("localhost", "::1")
    proxies = Proxies(tmp_path_factory.mktemp("proxies"), certificate)
    yield proxies
    proxies.end()


@pytest.fixture
def net(request: pytest.FixtureRequest, certificates: Certificates) -> Net:
    kind, tls, use_aiofastnet = request.param
    return Net(loops.Run(kind, time_limit(request.node)), tls, use_aiofastnet, certificates)


@pytest.fixture(scope="session")
def picows_env() -> dict[str, str]:
    """The environment for a Python child that imports the same build of picows as this process."""
    env = dict(os.environ, **INHERITED)
    env.setdefault("PYTHONPATH", str(Path(__file__).resolve().parent.parent))
    # `python -c` would look into the current folder first, where the build in place lies.
    env["PYTHONSAFEPATH"] = "1"
    return env


def time_limit(node: pytest.Item) -> float:
    marker = node.get_closest_marker("time_limit")
    return marker.args[0] * loops.TIME_FACTOR if marker else loops.TIME_LIMIT


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "net" not in metafunc.fixturenames:
        return
    chosen: dict[str, Any] = {
        "loops": loops.LOOP_KINDS,
        "tls": (False, True),
        "aiofastnet": (None, True, False),
    }
    marker = metafunc.definition.get_closest_marker("net")
    if marker:
        unknown = marker.kwargs.keys() - chosen.keys()
        if unknown or marker.args:
            raise pytest.UsageError(f"@pytest.mark.net takes {', '.join(chosen)} only")
        chosen.update(marker.kwargs)
    params = []
    for kind, tls, use_aiofastnet in itertools.product(*chosen.values()):
        if tls and use_aiofastnet and None in chosen["aiofastnet"]:
            # With TLS that is the default.
            continue
        default = "aiofastnet" if tls else "picows"
        transports = {None: default, True: "aiofastnet", False: "loop"}[use_aiofastnet]
        name = f"{kind}-{'tls' if tls else 'plain'}-{transports}"
        missing = kind == "uvloop" and loops.uvloop is None
        marks = [pytest.mark.skip(reason="no uvloop here")] if missing else []
        params.append(pytest.param((kind, tls, use_aiofastnet), id=name, marks=marks))
    metafunc.parametrize("net", params, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    net = pyfuncitem.funcargs.get("net")
    run = net.run if net is not None else loops.Run("asyncio", time_limit(pyfuncitem))
    run.run(lambda: pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session", autouse=True)
def warm_loops() -> None:
    loops.warm_up()


# -- what users install ----------------------------------------------------------------------------


class Distribution(NamedTuple):
    sdist: Path
    wheel: Path

    def install(self, folder: Path) -> Path:
        """A fresh virtual environment with the wheel; returns its Python.

        It sees the other packages of this one (multidict, Cython, ...), but not the source tree.
        """
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        install = ["--python", python, "install", "--no-deps", "--no-index", self.wheel]
        subprocess.run([*pip, *install], check=True)
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        theirs = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True)
        ours = sysconfig.get_path("purelib")
        Path(theirs.stdout.strip(), "packages-of-the-suite.pth").write_text(ours + "\n")
        return python


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """The sdist, and the wheel that is built from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    env = {name: value for name, value in os.environ.items() if name != "PICOWS_BUILD"}
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, root]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Distribution(sdist, wheel)


def pytest_report_header() -> str:
    import picows

    where = Path(picows.__file__ or "?").parent
    build = "sanitized" if "LD_PRELOAD" in INHERITED else sys.platform
    return f"picows: {where}, {build}"
