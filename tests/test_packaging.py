"""What users download: an sdist that can be built, a wheel with what they need and nothing else."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

import picows

ROOT = Path(__file__).resolve().parent.parent
OUR_C = {"picows/wire/mask.c", "picows/wire/utf8.c"}

pytestmark = pytest.mark.time_limit(600)


def sources(*suffixes: str) -> set[str]:
    paths = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("picows/**/*")}
    return {path for path in paths if path.endswith(suffixes)}


@pytest.fixture(scope="module")
def wheel_names(distribution) -> set[str]:
    with zipfile.ZipFile(distribution.wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(distribution) -> Message:
    with zipfile.ZipFile(distribution.wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def sdist_names(distribution) -> set[str]:
    with tarfile.open(distribution.sdist) as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    return {name.partition("/")[2] for name in files}


def test_wheel_holds_modules_and_interfaces(wheel_names):
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = {path.removesuffix(".pyx") + suffix for path in sources(".pyx")}
    expected = sources(".py", ".pxd", ".pyi", "py.typed") | built
    ours = {name for name in wheel_names if ".dist-info/" not in name}
    assert ours == expected
    assert "picows/py.typed" in ours


def test_wheel_holds_no_sources(wheel_names):
    unwanted = {".pyx", ".c", ".h", ".cpp", ".o", ".pyc"}
    assert not {name for name in wheel_names if PurePosixPath(name).suffix in unwanted}


def test_metadata(metadata, wheel_names):
    assert metadata["Name"] == "picows"
    assert metadata["Version"] == picows.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    required = {line.partition(";")[0].split(">")[0] for line in metadata.get_all("Requires-Dist")}
    assert required == {
        "multidict",
        "python-socks[asyncio]",
        "aiofastnet",
        "aiohappyeyeballs",
        "async-timeout",
    }
    assert any(name.endswith("/licenses/LICENSE") for name in wheel_names)


def test_sdist_holds_all_sources(sdist_names):
    assert sdist_names >= sources(".py", ".pyx", ".pxd", ".pyi", ".h", "py.typed") | OUR_C
    assert sdist_names >= {"setup.py", "pyproject.toml", "LICENSE", "README.rst", "Makefile"}
    assert sdist_names >= {"tests/conftest.py", "docs/index.rst", "requirements/dev.txt"}


def test_sdist_holds_nothing_generated(sdist_names):
    assert not {name for name in sdist_names if name.startswith(("build/", ".venv", "dist/"))}
    assert not {name for name in sdist_names if name.endswith((".so", ".pyd", ".pyc", ".o"))}
    assert {name for name in sdist_names if name.endswith(".c") and "picows/" in name} == OUR_C


def test_nothing_generated_lies_beside_the_sources():
    assert sources(".c", ".cpp") == OUR_C


def test_wheel_works_in_a_fresh_environment(distribution, tmp_path):
    python = distribution.install(tmp_path / "venv")
    # -I: neither the current folder nor the environment helps.
    program = (
        "import picows, picows.picows, picows.wire.octets as octets\n"
        "print(picows.__file__)\n"
        "print(picows.__version__)\n"
        "print(octets.utf8_valid(b'ok'), picows.picows.ws_connect is picows.ws_connect)\n"
    )
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where, version, works = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert version == picows.__version__
    assert works == "True True"
    assert done.stderr == ""


def run_setup(picows_env, *arguments, **variables):
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=ROOT,
        env=picows_env | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("variable", ["PICOWS_BUILD", "PICOWS_ZLIB"])
def test_unknown_build_is_refused(picows_env, variable):
    done = run_setup(picows_env, "--version", **{variable: "fastest"})
    assert done.returncode == 1
    assert f"{variable}='fastest' is not known" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("zlib", ["zlib", "zlib-ng"])
def test_a_zlib_that_was_asked_for_is_not_replaced(picows_env, tmp_path, zlib):
    """Though Python's module would do."""
    folders = ["--build-base", tmp_path / "base", "--build-lib", tmp_path / "lib"]
    # -nostdinc: no header of the system's.
    variables = {"PICOWS_ZLIB": zlib, "CFLAGS": "-nostdinc", "C_INCLUDE_PATH": ""}
    done = run_setup(picows_env, "--quiet", "build", *folders, **variables)
    assert done.returncode == 1
    assert f"PICOWS_ZLIB={zlib}: header and library were not found" in done.stderr
    assert "Traceback" not in done.stderr
