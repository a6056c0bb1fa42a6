"""Who may import whom: the walls of the house, read off the imports and cimports of every module.

RULES is the whole law. A wall is moved there, with a line in docs/architecture.rst on why the new
one is better. Imports under `if TYPE_CHECKING:` are free: they exist for the type checker alone.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Rule(NamedTuple):
    # Modules, or packages with all in them. The first rule that fits a module is its rule.
    module: str
    # What it may import of ours, beside itself and its own package.
    ours: tuple[str, ...]
    # What it may import from elsewhere, beside the standard library.
    others: tuple[str, ...] = ()
    # What of the standard library it must not import.
    banned: tuple[str, ...] = ()


IO = ("asyncio", "socket", "socketserver", "select", "selectors", "ssl")
BELOW_AIO = ("picows.errors", "picows.urls", "picows.wire", "picows.handshake")

RULES = [
    Rule("picows._version", ()),
    Rule("picows.errors", ()),
    Rule("picows.urls", ("picows.errors",)),
    Rule("picows.wire", ("picows.errors",), banned=(*IO, "logging")),
    Rule(
        "picows.handshake",
        ("picows.errors", "picows.urls", "picows.wire.deflate"),
        others=("multidict",),
        banned=IO,
    ),
    Rule("picows.sansio", BELOW_AIO, banned=IO),
    # Optional and replaceable packages are imported in exactly one module each.
    Rule("picows.aio.backend", BELOW_AIO, others=("aiofastnet", "aiohappyeyeballs")),
    Rule("picows.aio.proxy", BELOW_AIO, others=("python_socks",)),
    Rule("picows.aio.connect", BELOW_AIO, others=("async_timeout",)),
    Rule("picows.aio", BELOW_AIO),
    # The two faces: names for users, which nothing inside imports.
    Rule("picows.picows", ("picows",)),
    Rule("picows", ("picows",)),
]
FACES = ("picows", "picows.picows")

# cimports that name C or Cython, not a package.
CYTHON = ("cython", "cpython", "libc", "libcpp", "posix", "numpy")

# Stubs are read, never run; every type checker knows these by itself.
FOR_TYPE_CHECKERS = ("typing_extensions", "_typeshed")


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# -- reading ---------------------------------------------------------------------------------------


class Import(NamedTuple):
    line: int
    name: str  # of a module: "picows.wire.frame", "asyncio"


def resolve(base: str, level: int, module: str, is_package: bool) -> str:
    """The absolute name that a relative import means (PEP 328)."""
    if level == 0:
        return module
    parts = base.split(".")
    up = level - 1 if is_package else level
    parts = parts[: len(parts) - up]
    return ".".join([*parts, module] if module else parts)


def from_imports(module: str, names: list[str], known: set[str], line: int) -> list[Import]:
    """`from picows.wire import frame` imports the module picows.wire.frame, if there is one."""
    found = []
    for name in names:
        submodule = f"{module}.{name}"
        found.append(Import(line, submodule if submodule in known else module))
    return found


def python_imports(text: str, base: str, is_package: bool, known: set[str]) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.extend(Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve(base, node.level, node.module or "", is_package)
            names = [alias.name for alias in node.names]
            found.extend(from_imports(module, names, known, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(text))
    return found


STRING = re.compile(r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'', re.DOTALL)
FROM = re.compile(r"from\s+(\.*)([\w.]*)\s+c?import\s+(.+)")
IMPORT = re.compile(r"c?import\s+(.+)")


def logical_lines(text: str) -> list[tuple[int, str]]:
    """The lines of Cython code, without strings of many lines and comments, brackets joined."""
    text = STRING.sub(lambda match: '""' + "\n" * match.group().count("\n"), text)
    lines: list[tuple[int, str]] = []
    open_brackets = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("#")[0].rstrip()
        continued = open_brackets > 0 or (lines and lines[-1][1].endswith("\\"))
        if continued:
            start, before = lines[-1]
            lines[-1] = (start, before.rstrip("\\") + " " + line.strip())
        else:
            lines.append((number, line))
        open_brackets += line.count("(") - line.count(")")
    return lines


def cython_imports(text: str, base: str, is_package: bool, known: set[str]) -> list[Import]:
    found: list[Import] = []
    type_checking: int | None = None
    for number, line in logical_lines(text):
        statement = line.strip()
        if not statement:
            continue
        indent = len(line) - len(line.lstrip())
        if type_checking is not None and indent > type_checking:
            continue
        type_checking = indent if re.match(r"if .*\bTYPE_CHECKING:", statement) else None
        if match := FROM.fullmatch(statement):
            dots, module, names = match.groups()
            module = resolve(base, len(dots), module, is_package)
            bare = [name.split()[0] for name in names.strip("() ").split(",") if name.strip()]
            found.extend(from_imports(module, bare, known, number))
        elif match := IMPORT.fullmatch(statement):
            found.extend(Import(number, name.split()[0]) for name in match.group(1).split(","))
    return found


def read_imports(path: Path, root: Path, known: set[str]) -> list[Import]:
    base = module_name(path, root)
    is_package = path.stem == "__init__"
    reader = python_imports if path.suffix in (".py", ".pyi") else cython_imports
    return reader(path.read_text(encoding="utf-8"), base, is_package, known)


# -- judging ---------------------------------------------------------------------------------------


def governs(rule: Rule, importer: str) -> bool:
    if rule.module in FACES:  # or the package picows would govern every new folder
        return importer == rule.module
    return inside(importer, rule.module)


def complaint(importer: str, name: str) -> str | None:
    """Why `importer` must not import the module `name`; None when it may."""
    rule = next((rule for rule in RULES if governs(rule, importer)), None)
    if rule is None:
        return f"{importer} has no rule"
    if inside(name, "picows"):
        if importer in FACES:
            return None
        if name in FACES:
            return "that is a face for users; import the module that owns the name"
        home = ".".join(importer.split(".")[:2])
        if any(inside(name, allowed) for allowed in (home, *rule.ours)):
            return None
        return f"not below it (it may import {', '.join((home, *rule.ours))})"
    top = name.partition(".")[0]
    if top in rule.banned:
        return f"{rule.module} stays free of it"
    if top in sys.stdlib_module_names or top in CYTHON or top in rule.others:
        return None
    return "a package from elsewhere; see RULES for the one module that may import it"


def broken_walls(root: Path) -> list[str]:
    suffixes = {".py", ".pyi", ".pyx", ".pxd"}
    paths = sorted(path for path in root.glob("picows/**/*") if path.suffix in suffixes)
    known = {module_name(path, root) for path in paths}
    found = []
    for path in paths:
        importer = module_name(path, root)
        for line, name in read_imports(path, root, known):
            if path.suffix == ".pyi" and name in FOR_TYPE_CHECKERS:
                continue
            if reason := complaint(importer, name):
                found.append(f"{path.relative_to(root)}:{line} imports {name}: {reason}")
    return found


def test_walls_hold():
    assert not broken_walls(ROOT), "\n".join(broken_walls(ROOT))


def test_every_package_has_a_rule_of_its_own():
    modules = [*ROOT.glob("picows/*/*.py"), *ROOT.glob("picows/*/*.pyx")]
    packages = {module_name(path.parent / "__init__", ROOT) for path in modules}
    assert packages <= {rule.module for rule in RULES}


# -- the test can fail -----------------------------------------------------------------------------


def tree(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        path = root / "picows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return broken_walls(root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("errors.py", "import multidict"),
        ("errors.py", "from picows import urls"),
        ("errors.py", "def f():\n    from picows.wire import frame"),
        ("urls.py", "from .wire.frame import WSFrame"),
        ("wire/frame.pyx", "import asyncio"),
        ("wire/frame.pyx", "from asyncio.events import get_event_loop"),
        ("wire/frame.pyx", "    import logging"),
        ("wire/frame.pyx", "import os, socket as s"),
        ("wire/frame.pyx", "from picows.handshake cimport x"),
        ("wire/frame.pxd", "from picows.aio.transport cimport (\n    WSTransport,\n)"),
        ("wire/frame.pxd", "from ..aio.transport cimport WSTransport"),
        ("wire/frame.pxd", "cimport picows.aio.transport"),
        ("wire/frame.pyi", "import multidict"),
        ("wire/frame.py", "from typing_extensions import Buffer"),
        ("wire/frame.pyx", "from picows.picows cimport WSFrame"),
        ("wire/frame.pyx", "from picows cimport WSFrame"),
        ("handshake/client.py", "import picows.aio.connect"),
        ("handshake/client.py", "import socket"),
        ("handshake/client.py", "from picows.wire.octets import mask"),
        ("sansio/connection.py", "from picows.aio import keepalive"),
        ("aio/connect.py", "import aiofastnet"),
        ("aio/backend.py", "import python_socks.async_.asyncio"),
        ("aio/backend.py", "from picows.sansio import connection"),
        ("aio/serve.py", "try:\n    import uvloop\nexcept ImportError:\n    pass"),
        ("nowhere/new.py", "import picows.aio"),
    ],
)
def test_broken_wall_is_seen(tmp_path, name, text):
    others = {
        "wire/other.py": "",
        "aio/transport.pxd": "",
        "aio/keepalive.py": "",
        "sansio/connection.py": "",
    }
    found = tree(tmp_path, {**others, name: text})
    assert len(found) == 1, found
    assert found[0].startswith(f"picows/{name}:")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import picows.aio"),
        ("urls.py", "from picows.errors import WSInvalidURL"),
        ("wire/frame.pyx", '"""\nimport asyncio\n"""\nfrom libc.string cimport memcpy'),
        ("wire/frame.pyx", "# import asyncio\nfrom picows.errors import WSError  # import socket"),
        ("wire/frame.pyx", "if TYPE_CHECKING:\n    import asyncio\n\ncimport cython"),
        ("wire/frame.pyx", 'cdef extern from "mask.h":\n    int f()'),
        ("wire/frame.pyi", "from typing_extensions import Buffer"),
        ("wire/frame.pyx", "from . cimport octets\nfrom .octets cimport mask"),
        ("handshake/client.py", "from multidict import CIMultiDict\nfrom .. import errors"),
        ("handshake/client.py", "from picows.wire.deflate import parameters"),
        ("aio/backend.py", "import aiofastnet, asyncio, ssl"),
        ("aio/connect.py", "from picows.handshake.client import ClientHandshake"),
        ("__init__.py", "from picows.aio.connect import ws_connect"),
        ("picows.pxd", "from picows.wire.frame cimport WSFrame"),
    ],
)
def test_whole_wall_is_left_alone(tmp_path, name, text):
    others = {"wire/octets.pxd": "", "errors.py": "", "handshake/client.py": ""}
    assert tree(tmp_path, {**others, name: text}) == []
