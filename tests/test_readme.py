"""The README's server and client, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.rst"


def programs() -> list[str]:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in blocks]


def test_server_and_client(picows_env, tmp_path):
    server_program, client_program = programs()
    # A free port instead of 9001, and a line when the server listens.
    server_program = server_program.replace("9001", "0").replace(
        "    await server.serve_forever()",
        "    print(server.sockets[0].getsockname()[1], flush=True)\n"
        "    await server.serve_forever()",
    )
    server = subprocess.Popen(
        [sys.executable, "-c", server_program],
        env=picows_env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            port = server.stdout.readline().strip()
            assert port.isdigit(), server.stderr.read()
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", client_program.replace("9001", port)],
                env=picows_env,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            server.kill()
    assert (done.stdout, done.stderr, done.returncode) == ("Hello, world\n", "", 0)


@pytest.mark.parametrize("program", programs())
def test_twenty_lines(program):
    """As the README promises: about twenty lines each."""
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 20
