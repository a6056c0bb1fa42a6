"""A user's Cython project, built and run with nothing but Cython and our wheel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent / "project"


@pytest.fixture(scope="module")
def door(distribution, tmp_path_factory):
    """The project, built in place; the Python that can run it, and its folder."""
    folder = tmp_path_factory.mktemp("door")
    python = distribution.install(folder / "venv")
    project = folder / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    command = [python, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python, project


def test_both_paths_echo_and_vtable(door):
    python, project = door
    done = subprocess.run(
        [python, "-W", "error", "run.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "check_face ok",
        "check_echo ok",
        "check_python_subclass ok",
        "check_vtable ok",
    ]
    assert done.stderr == ""


def test_the_project_saw_no_header_of_ours(door):
    """Public .pxd files lead to no `cdef extern from` of a header that wheels do not hold."""
    _, project = door
    for generated in project.glob("*.c"):
        text = generated.read_text()
        included = {line for line in text.splitlines() if line.startswith('#include "')}
        headers = {line.split('"')[1] for line in included}
        ours = {path.name for path in (PROJECT.parents[2] / "picows").glob("**/*.h")}
        assert ours
        assert headers.isdisjoint(ours)


def test_a_wrong_signature_is_a_compile_error(door):
    """The cdef class would otherwise be called with what it does not expect."""
    python, project = door
    (project / "wrong.pyx").write_text(
        "from picows.picows cimport WSFrame, WSListener, WSTransport\n"
        "cdef class Wrong(WSListener):\n"
        "    cpdef on_ws_frame(self, WSFrame frame):\n"
        "        pass\n"
    )
    # From Python 3.12 on distutils, which Cython.Build needs, is setuptools' own.
    script = "import setuptools; from Cython.Build import cythonize; cythonize('wrong.pyx')"
    command = [python, "-c", script]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode != 0
    assert "wrong.pyx:3" in done.stdout + done.stderr
