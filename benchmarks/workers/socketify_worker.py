"""The worker of `socketify`, a server on uWebSockets: it brings its own loop, whatever --loop says.

No compression, no idle timeout, no limits of size. A broadcast is a topic that all subscribe to.
"""

from __future__ import annotations

import gc
import os
import resource
import threading
from typing import Any

from common import parse_args, say
from malloc import allocated
from socketify import (  # type: ignore[import-not-found, unused-ignore]
    App,
    AppListenOptions,
    OpCode,
)

TOPIC = "all"


def answer() -> None:
    while os.read(0, 64):
        gc.collect()
        say(malloc=allocated())
    os._exit(0)


def main() -> None:
    args = parse_args(("echo-server", "broadcast-server"))
    os.sched_setaffinity(0, {args.core})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    app = App()

    def subscribe(connection: Any) -> None:
        connection.subscribe(TOPIC)

    def echo(connection: Any, message: Any, opcode: Any) -> None:
        connection.send(message, opcode)

    def hand_on(connection: Any, message: Any, opcode: Any) -> None:
        app.publish(TOPIC, message, OpCode.BINARY)

    behaviour: dict[str, Any] = {
        "compression": 0,
        "idle_timeout": 0,
        "max_payload_length": 64 * 1024 * 1024,
        "max_backpressure": 64 * 1024 * 1024,
    }
    if args.role == "broadcast-server":
        behaviour |= {"open": subscribe, "message": hand_on}
    else:
        behaviour |= {"message": echo}
    app.ws("/*", behaviour)

    def started(config: Any) -> None:
        threading.Thread(target=answer, daemon=True).start()
        say(port=config.port, pid=os.getpid())
        gc.collect()
        gc.freeze()

    app.listen(AppListenOptions(port=0, host="127.0.0.1"), started)
    app.run()


if __name__ == "__main__":
    main()
