"""A user's project: it has Cython, setuptools and the wheel of picows, and no header of ours."""

from Cython.Build import cythonize
from setuptools import setup

setup(name="door", ext_modules=cythonize(["historic.pyx", "face.pyx"], language_level=3))
