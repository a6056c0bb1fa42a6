"""Builds feed_listener.pyx against the picows of the interpreter that runs this, into a directory.

Usage: python build_listener.py DIRECTORY. Cython and setuptools must be installed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup


def main() -> None:
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    # A copy: the C file appears beside the .pyx, and two environments must not share it.
    source = target / "feed_listener.pyx"
    shutil.copy(Path(__file__).with_name("feed_listener.pyx"), source)
    extension = Extension("feed_listener", [str(source)], extra_compile_args=["-O2"])
    setup(
        name="feed_listener",
        ext_modules=cythonize([extension], force=True, quiet=True, include_path=sys.path[1:]),
        script_args=[
            "--quiet",
            "build_ext",
            f"--build-lib={target}",
            f"--build-temp={target / 'temp'}",
        ],
    )


if __name__ == "__main__":
    main()
