"""Headless Chromium, driven over its DevTools protocol: commands and events as JSON on a WebSocket.

The calls block; an event loop makes them in a thread. Each page is a target of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import queue
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from conformance.support import LIMIT, clean_environment
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from websockets.sync.client import connect

if TYPE_CHECKING:
    from pathlib import Path

EXECUTABLE = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",  # as root, as in CI, Chromium has no sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-breakpad",
    "--no-first-run",
    # No network but ours:
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


def fingerprint(certificate: bytes) -> str:
    """What Chromium knows a certificate by: base64 of SHA-256 of its public key."""
    key = load_pem_x509_certificate(certificate).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


class Chromium:
    def __init__(self, folder: Path, certificate: bytes) -> None:
        """Start it with `folder` as its empty profile; it accepts one certificate (PEM) that
        no authority known to it has issued."""
        assert EXECUTABLE is not None
        self.process = subprocess.Popen(
            [
                EXECUTABLE,
                *FLAGS,
                f"--user-data-dir={folder}",
                f"--ignore-certificate-errors-spki-list={fingerprint(certificate)}",
            ],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.open = contextlib.ExitStack()
        self.log: list[str] = []
        self.urls: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read_log, name="reads chromium")
        self.reader.start()
        try:
            # The first start on a machine reads a few hundred megabytes.
            url = self.urls.get(timeout=5 * LIMIT)
            if not url:
                raise RuntimeError(f"Chromium did not start:\n{''.join(self.log)}")
            self.devtools = self.open.enter_context(connect(url, max_size=None, proxy=None))
        except BaseException:
            self.process.kill()
            self._wait()
            raise
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("DevTools listening on "):
                self.urls.put(line.split()[-1])
        self.urls.put("")

    def call(self, method: str, session: str | None = None, **params: Any) -> Any:
        """Run a DevTools command and return its result."""
        number = next(self.numbers)
        command: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        self.devtools.send(json.dumps(command))
        while True:
            message = json.loads(self.devtools.recv(timeout=LIMIT))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait_for(self, event: str, session: str) -> None:
        """Return once `event` has come since the last call of this."""
        while True:
            while self.events:
                message = self.events.pop(0)
                if (message.get("method"), message.get("sessionId")) == (event, session):
                    return
            self.events.append(json.loads(self.devtools.recv(timeout=LIMIT)))

    def open_page(self, url: str) -> Page:
        """A page that has loaded `url`."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, target, session)
        page.call("Page.enable")
        self.events.clear()
        loading = page.call("Page.navigate", url=url)
        if "errorText" in loading:
            page.close()
            raise RuntimeError(f"{url}: {loading['errorText']}")
        self.wait_for("Page.loadEventFired", session)
        return page

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self.open.close()
        self._wait()

    def _wait(self) -> None:
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Page:
    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session

    def call(self, method: str, **params: Any) -> Any:
        return self.browser.call(method, self.session, **params)

    def run(self, script: str) -> Any:
        """The JSON value that the body of an async function returns."""
        reply = self.call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"]["exception"]["description"])
        return reply["result"].get("value")

    def reload(self) -> None:
        self.browser.events.clear()
        self.call("Page.reload")
        self.browser.wait_for("Page.loadEventFired", self.session)

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)
