"""Raw peers: a process of threads on blocking sockets, clients of our servers and servers for our
clients. They talk, and do everything else that peers do.

    python -m soak.raw_side --seed N --clients N --servers JSON --certificates FOLDER [--mortal]

--servers: the ports of our servers by name (loop_side.py). Prints the ports of its own, and at the
end, which is when its standard input ends, its figures. `--mortal`: expects to be stopped and
killed at any time, so that it only talks, and takes every end of a connection for granted.

Always holds: what a peer gets back is compared byte by byte; and each wait for our side is bounded,
by LIMIT, after which it is a fault.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from soak.accounts import lift_file_limit
from soak.messages import say
from soak.raw_basics import Side
from soak.raw_clients import Client
from soak.raw_servers import Listening


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--servers", type=json.loads, required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--mortal", action="store_true")
    args = parser.parse_args()
    lift_file_limit()
    side = Side(args)
    side.accounts.watch_the_rest()
    ports = {}
    if not side.is_mortal:
        for kind in ("plain", "tls", "no tls"):
            listening = Listening(side, kind)
            listening.start()
            ports[kind] = listening.port
    say(ready=ports)
    clients = [Client(side, number) for number in range(args.clients)]
    for client in clients:
        client.start()
    sys.stdin.read()
    side.stopping.set()
    for client in clients:
        client.join()
    say(done={"counts": dict(side.accounts.counts), "cuts": side.accounts.cuts})
    return 0


if __name__ == "__main__":
    sys.exit(main())
