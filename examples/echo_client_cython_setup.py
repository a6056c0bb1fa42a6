"""Builds echo_client_cython.pyx. Needs Cython 3 and picows; Cython finds the .pxd files by itself.

    python examples/echo_client_cython_setup.py build_ext --inplace

Nothing but the extension stays behind.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from Cython.Build import cythonize
from setuptools import Extension, setup  # type: ignore[import-untyped]

os.chdir(Path(__file__).parent)  # --inplace builds into the working directory
with TemporaryDirectory() as folder:
    setup(
        name="echo_client_cython",
        ext_modules=cythonize(  # type: ignore[no-untyped-call]
            Extension("echo_client_cython", ["echo_client_cython.pyx"]),
            language_level=3,
            build_dir=folder,
        ),
        options={"build_ext": {"build_temp": folder}},
    )
