"""The historic path of the public names; no code."""

from picows import *  # noqa: F403
from picows import __all__ as __all__
