"""The code of the documentation, run as it stands on the page.

Every ``.. code-block:: python`` of docs/ and of the README is run, in the order of its page, by one
of two ways. Nothing else on a page may look like Python: `test_only_what_is_run_looks_like_python`.

* A piece of code runs in the page's one namespace and one event loop, with `await` at top level, as
  in `python -m asyncio`. loops.py looks at what the page leaves behind.
* A whole program (it calls ``asyncio.run``, or its caption is a file name) is written to the page's
  folder, and must be started by the page: `start(name)`, `run(name)`.

What the reader need not see (a server to talk to, a check of what was printed) stands in comments,
``.. invisible-code-block: python``. They find the helpers of `Page.helpers`. The port numbers of
PORTS on the pages stand for free ports, and /run for the page's own folder, which is the current
one; ca.pem and server.pem are there.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import pytest

import loops

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
# Pages of docs/ are made of these; they hold no Python.
INCLUDED = [
    ROOT / "CHANGELOG.rst",
    ROOT / "CONTRIBUTING.rst",
    ROOT / "docs" / "_static" / "charts.inc",
    ROOT / "tests" / "autobahn" / "tables.rst",
]
TUTORIAL = ROOT / "docs" / "tutorial.rst"

# What a reader would take for a port of a WebSocket server or of a proxy.
PORTS = ("9001", "9002", "9003", "1080", "3128")

LIMIT = 30 * loops.TIME_FACTOR  # seconds that no program here may live

DIRECTIVE = re.compile(r"( *)\.\. ([\w:-]+)::(?: (.*))?")
INVISIBLE = re.compile(r"( *)\.\. invisible-code-block: python")


class Block(NamedTuple):
    line: int  # of the directive, from 1
    language: str
    visible: bool
    caption: str
    first: int  # the first line of code, from 1
    code: str

    @property
    def is_program(self) -> bool:
        return self.visible and (self.caption.endswith(".py") or "asyncio.run(" in self.code)


def blocks_of(text: str) -> list[Block]:
    """Every code block of a page, whatever its language, and the invisible ones."""
    lines = text.splitlines()
    found = []
    at = 0
    while at < len(lines):
        line = lines[at]
        directive = DIRECTIVE.fullmatch(line)
        invisible = INVISIBLE.fullmatch(line)
        opening = at + 1
        at += 1
        if invisible:
            margin, language = len(invisible[1]), "python"
        elif directive and directive[2] == "code-block":
            margin, language = len(directive[1]), directive[3] or ""
        else:
            continue
        caption = ""
        while at < len(lines) and (option := re.fullmatch(r" +:([\w-]+): ?(.*)", lines[at])):
            caption = option[2] if option[1] == "caption" else caption
            at += 1
        first = at
        while at < len(lines) and (not lines[at].strip() or indent_of(lines[at]) > margin):
            at += 1
        code = "\n".join(lines[first:at])
        # Where it stands, so that a traceback shows the page's own lines.
        found.append(Block(opening, language, not invisible, caption, first + 1, code))
    return found


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def is_visible_python(block: Block) -> bool:
    return block.visible and block.language == "python"


def counted(text: str) -> int:
    """How many blocks of Python there are, by another way than the one that finds them."""
    return len(re.findall(r"code-block:: *python", text))


def outside_blocks(text: str) -> list[tuple[int, str]]:
    """The lines of a page that are no code."""
    lines = text.splitlines()
    code = set()
    for block in blocks_of(text):
        code.update(range(block.first, block.first + block.code.count("\n") + 1))
    return [(number, line) for number, line in enumerate(lines, 1) if number not in code]


# -- a page, run -----------------------------------------------------------------------------------


class Program:
    """A program of a page, in a process of its own."""

    def __init__(self, argv: list[str], folder: Path, env: dict[str, str]) -> None:
        # A shell's background jobs ignore Ctrl-C, and so would the program.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, handler)
        # Reading its output has no limit of its own.
        self.limit = Timer(LIMIT, self.process.kill)
        self.limit.start()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def type(self, line: str) -> None:
        """What its user types."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def until_listening(self, port: str) -> None:
        """Wait for a server that does not say when it is ready."""
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
            except ConnectionRefusedError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError(self.process.communicate())

    def end(self, by: str | None = None, logged: str | None = None) -> str:
        """The rest of its output, once it ended well, by "Ctrl-C" or by itself; silently, but for
        one error in its log.
        """
        if by is not None:
            assert by == "Ctrl-C"
            self.process.send_signal(signal.SIGINT)
        output, complaints = self.process.communicate()
        if by and logged is None and complaints.endswith("\nKeyboardInterrupt\n"):
            # Python's own answer to Ctrl-C, where the program does not catch it.
            return output
        if logged is None:
            assert complaints == ""
        else:
            assert complaints.endswith(logged)
            assert complaints.count("Traceback") == 1
        assert self.process.returncode == 0
        return output

    def close(self) -> None:
        self.limit.cancel()
        self.limit.join()
        with self.process:
            self.process.kill()


class Page:
    """One run of a page, in a folder of its own."""

    def __init__(
        self, path: Path, folder: Path, python: str, env: dict[str, str], monkeypatch: Any
    ) -> None:
        self.path = path
        self.folder = folder
        self.python = python
        self.env = env
        self.monkeypatch = monkeypatch
        text = path.read_text(encoding="utf-8")
        self.blocks = [block for block in blocks_of(text) if block.language == "python"]
        # Lines that were run, and programs that wait for it, by name.
        self.done: list[int] = []
        self.waiting: dict[str, Block] = {}
        self.written = 0
        self.programs: list[Program] = []
        self.printed = io.StringIO()
        self.ports = {number: reserve_port() for number in PORTS}
        self.namespace: dict[str, Any] = {"__name__": "__docs__", **self.helpers()}

    def helpers(self) -> dict[str, Any]:
        """What invisible blocks may call."""
        return {
            "start": self.start,
            "run": self.run,
            "printed": self.take_printed,
            "until": until,
            "small_proxy": small_proxy,
            "monkeypatch": self.monkeypatch,
        }

    def start(self, name: str, *args: str) -> Program:
        """A program of the page begins to run."""
        if name in self.waiting:
            self.done.append(self.waiting.pop(name).line)
        argv = [self.python, "-W", "error", name, *args]
        self.programs.append(Program(argv, self.folder, self.env))
        return self.programs[-1]

    def run(self, name: str, *args: str) -> str:
        """A program of the page, from its begin to its end: what it prints."""
        return self.start(name, *args).end()

    def take_printed(self) -> str:
        """What code of the page has printed since this was last asked."""
        text = self.printed.getvalue()
        self.printed.seek(0)
        self.printed.truncate()
        return text

    async def execute(self) -> None:
        """Run the page, and end what is left of its programs."""
        try:
            await self._execute()
        finally:
            for program in self.programs:
                program.close()

    async def _execute(self) -> None:
        for block in self.blocks:
            code = block.code.replace("/run/", f"{self.folder}/")
            for number, reserved in self.ports.items():
                code = re.sub(rf"\b{number}\b", str(reserved.getsockname()[1]), code)
            if block.is_program:
                self.write_program(block, textwrap.dedent(code).strip("\n") + "\n")
                continue
            try:
                await self.evaluate(code, block)
            except asyncio.CancelledError:
                # The time limit: where on the page it was.
                traceback.print_exc()
                raise
            if block.visible:
                self.done.append(block.line)
        assert not self.waiting, f"{self.path} never runs {', '.join(self.waiting)}"

    def write_program(self, block: Block, code: str) -> None:
        self.written += 1
        name = block.caption or f"program{self.written}.py"
        assert name not in self.waiting
        self.waiting[name] = block
        (self.folder / name).write_text(code, encoding="utf-8")

    async def evaluate(self, code: str, block: Block) -> None:
        source = "\n" * (block.first - 1) + textwrap.dedent(code)
        compiled = compile(source, str(self.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(compiled, self.namespace)
        if inspect.isawaitable(result):
            await result

    def close(self) -> None:
        for reserved in self.ports.values():
            reserved.close()


def reserve_port() -> socket.socket:
    """A bound socket that does not listen: a server may share its port, since both say
    SO_REUSEADDR, and the system gives it to nobody else.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


async def until(condition: Callable[[], object]) -> None:
    """Wait for what has no event; the time limit ends what never comes."""
    while not condition():
        await asyncio.sleep(0.001)


async def small_proxy(kind: str, port: int, user: str, password: str) -> SmallProxy:
    """A proxy that listens on `port`; tests/aio has real ones."""
    proxy = SmallProxy(kind, user, password)
    proxy.server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    return proxy


class SmallProxy:
    """An HTTP or SOCKS5 proxy that asks for user and password, and for which every name is this
    machine's.
    """

    server: asyncio.Server

    def __init__(self, kind: str, user: str, password: str) -> None:
        self.read_request = {"http": self.read_connect, "socks5": self.read_socks5}[kind]
        self.user = user
        self.password = password
        # The names and addresses that clients wanted to reach.
        self.asked: list[str] = []

    def close(self) -> None:
        self.server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            wanted = await self.read_request(reader, writer)
            if wanted is None:
                return
            host, port, granted = wanted
            self.asked.append(host)
            there = await asyncio.open_connection("127.0.0.1", port)
            writer.write(granted)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        finally:
            writer.close()

    async def read_connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int, bytes] | None:
        """RFC 9110 section 9.3.6, RFC 7617."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        credentials = b64encode(f"{self.user}:{self.password}".encode()).decode()
        if f"\r\nProxy-Authorization: Basic {credentials}\r\n" not in head:
            writer.write(b"HTTP/1.1 407 Who are you?\r\n\r\n")
            return None
        method, target, _ = head.partition("\r\n")[0].split(" ")
        assert method == "CONNECT"
        host, _, port = target.rpartition(":")
        return host, int(port), b"HTTP/1.1 200 OK\r\n\r\n"

    async def read_socks5(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int, bytes] | None:
        """RFC 1928, RFC 1929."""
        version, count = await reader.readexactly(2)
        assert (version, 2 in await reader.readexactly(count)) == (5, True)
        writer.write(b"\5\2")
        assert await reader.readexactly(1) == b"\1"
        user = await reader.readexactly((await reader.readexactly(1))[0])
        password = await reader.readexactly((await reader.readexactly(1))[0])
        if (user.decode(), password.decode()) != (self.user, self.password):
            writer.write(b"\1\1")
            return None
        writer.write(b"\1\0")
        # CONNECT to a domain name.
        assert await reader.readexactly(4) == b"\5\1\0\3"
        host = await reader.readexactly((await reader.readexactly(1))[0])
        port = int.from_bytes(await reader.readexactly(2), "big")
        return host.decode(), port, b"\5\0\0\1" + bytes(6)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionResetError:
        pass
    finally:
        writer.close()


@contextlib.contextmanager
def logging_of_its_own() -> Iterator[None]:
    """Pages configure logging; pytest has put handlers there, and other tests come after."""
    root, ours = logging.getLogger(), logging.getLogger("picows")
    before = root.handlers[:], root.level, ours.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        ours.setLevel(before[2])


@pytest.fixture
def run_page(tmp_path, monkeypatch, picows_env, certificates):
    """Runs a page, and checks that nothing on it was left out."""

    def run_it(path: Path, kind: str, python: str | None = None) -> None:
        # The documentation speaks of a shell that the reader has just opened.
        monkeypatch.chdir(tmp_path)
        certificates.authority.cert_pem.write_to_path("ca.pem")
        issued = certificates.authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path("server.pem")
        env = {**(dict(os.environ) if python else picows_env), "PYTHONUNBUFFERED": "1"}
        page = Page(path, tmp_path, python or sys.executable, env, monkeypatch)
        try:
            with logging_of_its_own(), contextlib.redirect_stdout(page.printed):
                loops.Run(kind, LIMIT).run(page.execute)
        finally:
            page.close()
        text = path.read_text(encoding="utf-8")
        assert sorted(page.done) == [b.line for b in blocks_of(text) if is_visible_python(b)]
        assert len(page.done) == counted(text)

    return run_it


def pages_with_code() -> list[Any]:
    """Each page with each loop; but pages that hold programs alone bring their own."""
    found = []
    for path in PAGES:
        blocks = [b for b in blocks_of(path.read_text(encoding="utf-8")) if b.language == "python"]
        if path == TUTORIAL or not any(block.visible for block in blocks):
            continue
        only_programs = all(block.is_program for block in blocks if block.visible)
        for kind in loops.LOOP_KINDS[: 1 if only_programs else None]:
            missing = kind == "uvloop" and loops.uvloop is None
            marks = [pytest.mark.skip(reason="no uvloop here")] if missing else []
            found.append(pytest.param(path, kind, id=f"{path.stem}-{kind}", marks=marks))
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="ends programs by signals")
@pytest.mark.parametrize(("path", "kind"), pages_with_code())
def test_page(path, kind, run_page):
    run_page(path, kind)


@pytest.mark.skipif(sys.platform == "win32", reason="ends programs by signals")
def test_tutorial(run_page):
    run_page(TUTORIAL, "asyncio")


@pytest.mark.skipif(sys.platform == "win32", reason="ends programs by signals")
@pytest.mark.time_limit(600)
def test_tutorial_with_the_wheel_alone(run_page, distribution, tmp_path_factory):
    python = distribution.install(tmp_path_factory.mktemp("reader") / "venv")
    run_page(TUTORIAL, "asyncio", str(python))


# -- nothing is left out ---------------------------------------------------------------------------

LANGUAGES = {"python", "shell", "text"}
# Directives that show no code of their own, and the file-showing ones, which are looked at below.
DIRECTIVES = {
    *("toctree", "note", "important", "figure", "image", "list-table", "include", "raw", "only"),
    *("module", "autofunction", "autoclass", "autoexception", "data", "code-block"),
    "literalinclude",
}


@pytest.mark.parametrize("path", PAGES + INCLUDED, ids=lambda path: path.stem)
def test_only_what_is_run_looks_like_python(path):
    text = path.read_text(encoding="utf-8")
    assert not counted(text) or path not in INCLUDED
    for block in blocks_of(text):
        assert block.language in LANGUAGES, f"{path}:{block.line}: {block.language!r}"
    assert len([block for block in blocks_of(text) if is_visible_python(block)]) == counted(text)
    for number, line in outside_blocks(text):
        where = f"{path}:{number}: {line}"
        directive = DIRECTIVE.fullmatch(line)
        if directive:
            assert directive[2] in DIRECTIVES, where
        else:
            # A literal block has no language; Sphinx takes it for Python.
            assert not line.rstrip().endswith("::"), where
            assert not re.match(r" *(>>>|\.\. .*code)", line) or INVISIBLE.fullmatch(line), where


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_files_shown_are_run_elsewhere(path):
    """By tests/cython."""
    for _, line in outside_blocks(path.read_text(encoding="utf-8")):
        directive = DIRECTIVE.fullmatch(line)
        if not directive or directive[2] not in ("literalinclude", "include", "raw"):
            continue
        if directive[2] == "raw":
            assert directive[3] == "html"
            continue
        shown = (path.parent / directive[3]).resolve()
        assert shown.is_file()
        if shown.suffix != ".rst" and shown not in INCLUDED:
            assert directive[2] == "literalinclude"
            assert shown.is_relative_to(ROOT / "tests" / "cython" / "project"), shown


def test_every_example_is_linked_and_has_a_test():
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    tests = "".join(test.read_text(encoding="utf-8") for test in ROOT.glob("tests/**/test_*.py"))
    linked = set(re.findall(r":download:`[^`<]*<[./]*examples/(\S+)>`", pages))
    there = {path.name for path in (ROOT / "examples").glob("*.py*")}
    # These stand by themselves: `make demo`, and what the tutorial builds up.
    assert linked == there - {"demo.py", "echo_server.py", "echo_client.py", "echo_server_ssl.py"}
    for name in there:
        assert name in tests or name.replace(".pyx", "_setup.py") in tests, name


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs" / "index.rst").read_text(encoding="utf-8").splitlines()
    listed = {line.strip() for line in index}
    pages = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in PAGES[1:]}
    assert pages - {"index"} <= listed


@pytest.mark.parametrize("program", [0, 1])
def test_twenty_lines(program):
    """As the README promises: about twenty lines each."""
    programs = [b for b in blocks_of(PAGES[0].read_text(encoding="utf-8")) if b.is_program]
    lines = [line for line in programs[program].code.splitlines() if line.strip()]
    assert len(lines) <= 20


# -- the runner itself -----------------------------------------------------------------------------

SAMPLE = """\
A page
======

.. invisible-code-block: python

   import asyncio

.. code-block:: python

    answer = 41
    answer += 1
    print(answer)

* Nested:

  .. code-block:: python
      :emphasize-lines: 1

      await asyncio.sleep(0)
      assert answer == 42, "seen"

.. code-block:: text

    not run
"""


@pytest.fixture
def sample(tmp_path, run_page):
    def run_sample(text: str) -> None:
        path = tmp_path / "sample.rst"
        path.write_text(text)
        run_page(path, "asyncio")

    return run_sample


def test_code_is_run_in_order(sample):
    sample(SAMPLE + '\n.. invisible-code-block: python\n\n   assert printed() == "42\\n"\n')


def test_failure_shows_the_line_of_the_page(sample):
    with pytest.raises(AssertionError, match="seen") as caught:
        sample(SAMPLE.replace("+= 1", "+= 2"))
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("sample.rst", 20)


def test_task_left_by_a_page(sample, monkeypatch):
    monkeypatch.setattr(loops, "SETTLE_TIME", 0.05)
    with pytest.raises(pytest.fail.Exception, match="tasks left"):
        sample(
            SAMPLE
            + "\n.. code-block:: python\n\n   task = asyncio.ensure_future(asyncio.sleep(60))\n"
        )


def test_program_that_no_test_starts(sample):
    with pytest.raises(AssertionError, match=r"never runs it\.py"):
        sample("\n.. code-block:: python\n   :caption: it.py\n\n   print(1)\n")


def test_program_that_fails(sample):
    with pytest.raises(AssertionError):
        sample(
            "\n.. code-block:: python\n   :caption: it.py\n\n   raise SystemExit(1)\n"
            "\n.. invisible-code-block: python\n\n   run('it.py')\n"
        )


@pytest.mark.parametrize(
    "line",
    [
        "As follows::",
        ">>> 1 + 1",
        ".. code:: python",
        ".. sourcecode:: python",
        ".. highlight:: python",
        ".. code-block:: python3",
        ".. code-block::",
        ".. invisible-code-block: Python",
        ".. code-block: python",
        ".. code-block:: text\n\n    .. code-block:: python",
        "..  code-block:: python",
    ],
)
def test_python_that_would_not_be_run_is_refused(tmp_path, line):
    path = tmp_path / "sample.rst"
    path.write_text(f"A page\n======\n\n{line}\n\n    x = 1\n")
    with pytest.raises(AssertionError):
        test_only_what_is_run_looks_like_python(path)
