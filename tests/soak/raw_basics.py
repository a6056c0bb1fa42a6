"""What raw clients and raw servers have in common."""

from __future__ import annotations

import argparse
import ssl
import threading

from soak.accounts import Accounts

from raw_peer import TIMEOUT

# Seconds in which our side has to do what it should. The accept may come late: uvloop's takes one
# connection an iteration of the loop.
LIMIT = 6 * TIMEOUT

# How a connection ends, other than by FIN between two frames.
ENDS = (ConnectionError, EOFError, ssl.SSLError)


class Side:
    def __init__(self, args: argparse.Namespace) -> None:
        self.seed: int = args.seed
        self.servers: dict[str, int] = args.servers
        self.is_mortal: bool = args.mortal
        # Seconds in which the clients begin.
        self.ramp: float = args.clients / 40
        self.accounts = Accounts()
        self.stopping = threading.Event()
        self.server_ssl = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.server_ssl.load_cert_chain(args.certificates / "server.pem")
        self.client_ssl = ssl.create_default_context(cafile=str(args.certificates / "ca.pem"))
