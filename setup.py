"""Builds the extension modules. All that is not about compiling stands in pyproject.toml.

Every picows/**/*.pyx becomes an extension module; nothing has to be listed here but the C files
that one needs.

PICOWS_BUILD chooses the kind of build:

    (unset), release    -O3, assertions compiled out
    debug               -O0 -g, assertions, read buffers poisoned after each batch
    sanitize            the same at -O1, with AddressSanitizer and UndefinedBehaviorSanitizer
    fuzz                with clang: AddressSanitizer, and what libFuzzer is guided by (`make fuzz`)
    coverage            line tracing for coverage.py (`make coverage`)

PICOWS_ZLIB chooses what compresses (docs/topics/compression.rst):

    (unset)             the C library zlib where its header is found, else Python's zlib module
    zlib, zlib-ng       that C library; the build fails where it is not found
    python              Python's zlib module

What always holds: each kind has its own build/<kind>/ for generated C, objects and libraries, so
that two kinds never mix; no generated file lies beside the sources but the .so of an in-place
build, which is always the kind that was asked for last. Where PICOWS_ZLIB is set it is part of the
folder's name.
"""

import copy
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import Cython
import setuptools.errors
from Cython.Build import cythonize
from Cython.Compiler.Errors import CompileError
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
KINDS = ("release", "debug", "sanitize", "fuzz", "coverage")
KIND = os.environ.get("PICOWS_BUILD") or "release"
if KIND not in KINDS:
    sys.exit(f"PICOWS_BUILD={KIND!r} is not known; it is one of {', '.join(KINDS)}, or unset")


class Zlib(NamedTuple):
    # What zlib_calls.h knows it by.
    macros: list[tuple[str, str]]
    libraries: list[str]
    # A program that links where header and library are there.
    probe: str


ZLIBS = {
    "zlib": Zlib([], ["z"], "#include <zlib.h>\nint main(void) { return zlibVersion() == 0; }\n"),
    "zlib-ng": Zlib(
        [("PICOWS_ZLIB_NG", "1")],
        ["z-ng"],
        "#include <zlib-ng.h>\nint main(void) { return zlibng_version() == 0; }\n",
    ),
    "python": Zlib([("PICOWS_NO_ZLIB", "1")], [], "int main(void) { return 0; }\n"),
}
# The only module that calls it.
ZLIB_USER = "picows.wire.deflate"
ZLIB = os.environ.get("PICOWS_ZLIB")
if ZLIB and ZLIB not in ZLIBS:
    sys.exit(f"PICOWS_ZLIB={ZLIB!r} is not known; it is one of {', '.join(ZLIBS)}, or unset")
FOLDER = os.path.join("build", f"{KIND}-{ZLIB}" if ZLIB else KIND)

# C files that are linked into a module, beside the C that Cython makes of it.
C_SOURCES = {
    "picows.wire.octets": ["picows/wire/mask.c", "picows/wire/utf8.c"],
}
INCLUDE_DIRS = ["picows/wire", "picows/aio"]

ALL_MACROS = [
    # Cython's check whether a cpdef method is overridden would look for the version of the
    # instance's dict, and so make CPython build that dict: attributes of listeners would be slow.
    ("CYTHON_USE_DICT_VERSIONS", "0"),
]
MACROS = {
    "release": [("CYTHON_WITHOUT_ASSERTIONS", "1")],
    "debug": [("PICOWS_POISON", "1")],
    "sanitize": [("PICOWS_POISON", "1")],
    "fuzz": [("PICOWS_POISON", "1")],
    # Cython traces through sys.monitoring from 3.13 on, where coverage.py's plugins do not look.
    "coverage": [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")],
}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
# Hidden visibility: modules that link the same C file call their own copy directly, not through the
# PLT.
UNIX_COMPILE_ARGS = {
    "release": ["-O3", "-g0", "-fvisibility=hidden"],
    "debug": ["-O0", "-g", "-UNDEBUG"],
    "sanitize": ["-O1", "-g", "-UNDEBUG", *SANITIZERS, "-fno-sanitize-recover=undefined"],
    # gcc has no libFuzzer.
    "fuzz": [
        *["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"],
        "-fsanitize=address,undefined,fuzzer-no-link",
        "-fno-sanitize-recover=undefined",
    ],
    "coverage": ["-O1", "-g0"],
}
UNIX_LINK_ARGS = {"sanitize": SANITIZERS, "fuzz": ["-fsanitize=address,fuzzer-no-link"]}
MSVC_COMPILE_ARGS = {"release": ["/O2"], "debug": ["/Od", "/Zi"], "coverage": ["/O1"]}

# Defaults; what a module says in its own header goes before them.
DIRECTIVES = {
    # What Cython would pickle are pointers: a copied frame would free memory that it does not own.
    "auto_pickle": False,
    "language_level": "3",
    "linetrace": KIND == "coverage",
    "boundscheck": True,
    "wraparound": True,
}


def extensions() -> list[Extension]:
    headers = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("picows/**/*.h"))
    found = []
    for path in sorted(ROOT.glob("picows/**/*.pyx")):
        source = path.relative_to(ROOT)
        name = ".".join(source.with_suffix("").parts)
        found.append(
            Extension(
                name,
                [source.as_posix(), *C_SOURCES.get(name, [])],
                include_dirs=INCLUDE_DIRS,
                define_macros=[*ALL_MACROS, *MACROS[KIND]],
                depends=["setup.py", *headers],
            )
        )
    return found


class Build(build):
    def initialize_options(self) -> None:
        super().initialize_options()
        self.build_base = FOLDER


class BuildExt(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        if self.parallel is None:
            self.parallel = os.cpu_count()

    def run(self) -> None:
        self.translate()
        super().run()

    def translate(self) -> None:
        """Let Cython write the C of every module, here and not at import, so that an sdist needs
        none of it.
        """
        # Worker processes are forked: where Python spawns them they would run this file again.
        forks = sys.platform == "linux" and sys.version_info < (3, 14)
        try:
            translated = cythonize(
                [copy.copy(extension) for extension in self.extensions],
                build_dir=os.path.join("build", KIND, f"cython-{Cython.__version__}"),
                nthreads=(os.cpu_count() or 1) if forks else 0,
                compiler_directives=DIRECTIVES,
                force=bool(self.force),
                quiet=not self.verbose,
            )
        except CompileError as exc:  # what is wrong, and where, has been printed
            sys.exit(f"Cython could not translate {exc}")
        by_name = {extension.name: extension for extension in translated}
        for extension in self.extensions:
            new = by_name[extension.name]
            extension.sources = list(dict.fromkeys(new.sources))
            extension.depends = list(dict.fromkeys([*extension.depends, *new.depends]))
            extension.include_dirs = new.include_dirs

    def build_extensions(self) -> None:
        msvc = self.compiler.compiler_type == "msvc"
        if msvc and KIND not in MSVC_COMPILE_ARGS:
            sys.exit(f"PICOWS_BUILD={KIND} needs gcc or clang")
        for extension in self.extensions:
            extension.extra_compile_args = (MSVC_COMPILE_ARGS if msvc else UNIX_COMPILE_ARGS)[KIND]
            extension.extra_link_args = [] if msvc else UNIX_LINK_ARGS.get(KIND, [])
        self.find_zlib()
        super().build_extensions()

    def find_zlib(self) -> None:
        zlib = ZLIBS[ZLIB or "zlib"]
        if not self.links(zlib):
            # What was asked for is not replaced quietly.
            if ZLIB:
                sys.exit(f"PICOWS_ZLIB={ZLIB}: header and library were not found")
            zlib = ZLIBS["python"]
        (user,) = (each for each in self.extensions if each.name == ZLIB_USER)
        user.define_macros = [*user.define_macros, *zlib.macros]
        user.libraries = [*user.libraries, *zlib.libraries]

    def links(self, zlib: Zlib) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(zlib.probe)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder)
                self.compiler.link_executable(
                    objects, "probe", output_dir=folder, libraries=zlib.libraries
                )
            except (setuptools.errors.CompileError, setuptools.errors.LinkError):
                return False
        return True

    def build_extension(self, ext: Extension) -> None:
        # Modules are compiled side by side; one folder of objects each, since two may link the same
        # C file.
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name)
        super(BuildExt, own).build_extension(ext)

    def copy_extensions_to_source(self) -> None:
        # setuptools copies what is newer than the file in place; that one may be of another kind
        # and newer.
        build_py = self.get_finalized_command("build_py")
        for extension in self.extensions:
            target, built = self._get_inplace_equivalent(build_py, extension)
            if not same_content(built, target):
                # Replaced, never written over: a process that has it mapped goes on with the old
                # one.
                shutil.copy2(built, target + ".new")
                os.replace(target + ".new", target)


def same_content(one: str, other: str) -> bool:
    if not os.path.exists(other):
        return False
    return Path(one).read_bytes() == Path(other).read_bytes()


if __name__ == "__main__":
    if KIND == "fuzz":
        os.environ.update(CC="clang", LDSHARED="clang -shared")
    setup(ext_modules=extensions(), cmdclass={"build": Build, "build_ext": BuildExt})
