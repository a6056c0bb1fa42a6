"""Types of the arguments."""

from __future__ import annotations

__all__ = ["Headers"]

# Fields of a message's head, in order. Received ones have their names in lower case.
Headers = list[tuple[bytes, bytes]]
