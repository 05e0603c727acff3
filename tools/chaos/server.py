"""A served policy under garbage, slow and vanishing clients, beside an honest one.

What must hold: after each bad client an honest one gets actions of the right shape, all numbers; a
bad request is answered with one line; the server ends with 0.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from runners.serve.client import Client
from runners.serve.packing import pack

from . import runs
from .records import Row, played

SHAPE = (2, 20)
GARBAGE = (b"", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x93" * 50_000, b"GET / HTTP/1.1\r\n\r\n")


def _socket(url: str) -> Any:
    from websockets.sync.client import connect

    return connect(url, compression=None, max_size=None, open_timeout=30)


def _garbage(url: str, rng: random.Random) -> None:
    with _socket(url) as connection:
        connection.recv()
        for _ in range(5):
            content: bytes | str = rng.choice((*GARBAGE, rng.randbytes(200), "a text"))
            connection.send(content)
            answer = connection.recv(timeout=20)
            assert isinstance(answer, str), "garbage was answered with actions"
            assert "\n" not in answer


def _wrong(url: str, rng: random.Random) -> None:
    array = np.zeros(SHAPE, np.float32)
    array.flat[3] = rng.choice((np.nan, np.inf))
    bad = (array, np.zeros((3, 3)), np.zeros(0), np.zeros((10**6,)), np.array(["a"]), 5, None)
    with _socket(url) as connection:
        connection.recv()
        for _ in range(5):
            with contextlib.suppress(TypeError, ValueError):  # what cannot even be packed
                content = pack({"state": rng.choice(bad)})
                connection.send(content)
                answer = connection.recv(timeout=20)
                assert isinstance(answer, str), "a wrong observation was answered with actions"


def _vanishing(url: str, rng: random.Random) -> None:
    for _ in range(5):
        connection = _socket(url)
        connection.send(pack({"state": np.zeros(SHAPE, np.float32)}))
        connection.socket.close()


def _slow(url: str, rng: random.Random) -> None:
    """Half a handshake, byte by byte, and never the end."""
    host, port = re.findall(r"//(.*):(\d+)", url)[0]
    for _ in range(3):
        with socket.create_connection((host, int(port)), 10) as plain:
            for byte in b"GET / HTTP/1.1\r\nHost:"[: rng.randrange(20)]:
                plain.send(bytes([byte]))
                time.sleep(0.002)


CLIENTS: dict[str, Callable[[str, random.Random], None]] = {
    "garbage": _garbage,
    "wrong observations": _wrong,
    "vanishing": _vanishing,
    "slow": _slow,
}


def serve(folder: Path, policy: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, str(runs.PROJECT / "run.py"), "serve", "task=pusht", "serve.port=0"]
    command += [f"task.checkpoint={policy}", "policy_batch=4", "serve.window_ms=1"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"ws://[\d.:]+", line):
            return process, found[0]
    raise RuntimeError("the server did not begin")


def _asked(url: str) -> np.ndarray:
    with Client(url) as client:
        obs = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
        return np.asarray(client.infer({"state": obs})["actions"])


def run(first: int, last: int, until: float = float("inf")) -> list[Row]:
    """Each seed is one bad client of each kind, and an honest one after it."""
    rows = {name: Row(name, first, last) for name in CLIENTS}
    seed = first
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        process, url = serve(Path(folder), runs.random_policy(Path(folder, "policy")))
        shape = _asked(url).shape
        while seed < last and time.monotonic() < until:
            for name, client in CLIENTS.items():
                wrong = ""
                try:
                    client(url, random.Random(f"{name} {seed}"))
                    actions = _asked(url)
                    assert actions.shape == shape, f"the honest client got {actions.shape}"
                    assert np.isfinite(actions).all(), "the honest client got NaN"
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}"
                rows[name].count(seed, "finding" if wrong else "held", wrong)
            seed += 1
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    if code:
        rows["slow"].count(seed - 1, "finding", f"the server ended with {code}")
    return played(rows.values(), seed)
