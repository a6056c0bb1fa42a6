"""A testee of the Autobahn TestSuite, in a process of its own.

    python -m autobahn.agent server --api message --loop uvloop
    python -m autobahn.agent client --api message --loop uvloop --url ws://... --name NAME

The server prints "listening on ws://127.0.0.1:PORT" and echoes until SIGTERM. The client goes
through all cases of a fuzzing server and lets it write its reports under NAME. An api is a module
<api>_api.py beside this one, with serve(), converse(url) and ask(url); see message_api.py. Those
of PEERS are made of other packages and run by the Python of .venv-peers, where `picows` is not
ours: this file needs none of them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import traceback
from importlib import import_module
from typing import Any
from urllib.parse import quote

APIS = ("message", "sansio")
PEERS = ("websockets", "aiohttp", "pypi_picows")
LOOPS = ("asyncio", "uvloop")

# Seconds for one case. The slowest sends a thousand messages of 128 KiB.
CASE_LIMIT = 300


async def serve(api: Any) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server, port = await api.serve()
    print(f"listening on ws://127.0.0.1:{port}", flush=True)
    await stop.wait()
    server.close()
    await server.wait_closed()


async def go_through_cases(api: Any, url: str, name: str) -> None:
    count = int(await api.ask(f"{url}/getCaseCount"))
    for number in range(1, count + 1):
        case = f"{url}/runCase?case={number}&agent={quote(name)}"
        try:
            await asyncio.wait_for(api.converse(case), CASE_LIMIT)
        except Exception:
            # The others are worth to be seen too; the report will miss this one, or call it failed.
            print(f"case {number} of {count}:", file=sys.stderr)
            traceback.print_exc()
    await api.ask(f"{url}/updateReports?agent={quote(name)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="a testee of the Autobahn TestSuite")
    parser.add_argument("side", choices=["server", "client"])
    parser.add_argument("--api", choices=APIS + PEERS, required=True)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--url", help="the client's fuzzing server")
    parser.add_argument("--name", help="the client's name in the reports")
    args = parser.parse_args()
    api = import_module(f"autobahn.{args.api}_api")
    if args.side == "server":
        import_module(args.loop).run(serve(api))
    else:
        import_module(args.loop).run(go_through_cases(api, args.url, args.name))


if __name__ == "__main__":
    main()
