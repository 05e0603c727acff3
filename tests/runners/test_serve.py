"""A served policy: real processes, openpi's messages, and what goes wrong on the way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("websockets", reason="pip install 'skipstep[serve]'")
pytest.importorskip("msgpack", reason="pip install 'skipstep[serve]'")

from accel import accelerated
from policies import load_policy
from runners.cli import run
from runners.episodes.loop import act_padded, query_noise
from runners.serve.client import Client
from runners.serve.packing import pack, unpack
from tests.helpers.places import FIXTURES, PROJECT

CHECKPOINT = FIXTURES / "kitchen_lowdim_transformer/latest.ckpt"
WORDS = (
    *("serve", f"task.checkpoint={CHECKPOINT}", "sampler=ddpm", "sampler.steps=3", "serve.port=0"),
    *("serve.window_ms=20", "policy_batch=4", "noise_seed=3"),
)
SHAPE = (4, 60)  # of the fixture: four observations


class Running(NamedTuple):
    process: subprocess.Popen[str]
    url: str


def start(folder: Path, *more: str) -> Running:
    command = [sys.executable, str(PROJECT / "run.py"), *WORDS, *more]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if found := re.fullmatch(r"serving kitchen on (ws://127\.0\.0\.1:\d+)\n", line):
            return Running(process, found[1])
    raise AssertionError(process.communicate())


def stop(running: Running, number: int = signal.SIGTERM) -> str:
    running.process.send_signal(number)
    out, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("serve"))
    yield running
    if running.process.poll() is None:
        stop(running)


def observations(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *SHAPE)).astype(np.float32)


def expected(obs: np.ndarray, client: int) -> list[np.ndarray]:
    """What the library answers to a client's queries, one after another."""
    policy = load_policy(CHECKPOINT)
    with accelerated(policy, sampler="ddpm", steps=3) as fast:
        return [
            act_padded(fast, row[None], [query_noise(3, client, i)], 4)[0]
            for i, row in enumerate(obs)
        ]


def test_answers_are_the_librarys_whoever_else_asks(served: Running) -> None:
    obs = observations(12)
    with Client(served.url) as first, Client(served.url) as second:
        assert first.metadata["n_obs_steps"] == SHAPE[0]
        assert first.metadata["observation"] == {"state": [60]}
        assert first.metadata["n_action_steps"] == 8
        with ThreadPoolExecutor(2) as threads:
            asked = [
                threads.submit(lambda c=c: [c.infer({"state": row}) for row in obs])
                for c in (first, second)
            ]
            answers = [future.result() for future in asked]
    for client, found in enumerate(answers):
        for answer, right in zip(found, expected(obs, client), strict=True):
            assert answer["actions"].dtype == np.float32
            np.testing.assert_array_equal(answer["actions"], right.astype(np.float32))
            assert {"infer_ms", "queue_ms", "total_ms"} == answer["server_timing"].keys()


WRONG: dict[str, tuple[Any, str]] = {
    "a step": ({"state": np.zeros(60)}, "state must have shape (4, 60) or (B, 4, 60), got (60,)"),
    "rows": ({"state": np.zeros((1, 4, 60))}, "a request is of one robot"),
    "no name": ({"stat": np.zeros(SHAPE)}, "state of 60 numbers is missing"),
    "not finite": ({"state": np.full(SHAPE, np.inf)}, "state[0, 0] must be finite, got inf"),
    "texts": ({"state": np.array(["a"])}, "state must hold numbers, got <U1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_a_sentence_and_the_client_goes_on(served: Running, name: str) -> None:
    obs, words = WRONG[name]
    with Client(served.url) as client:
        with pytest.raises(RuntimeError, match=re.escape(words)):
            client.infer(obs)
        lerobot = {"observation.state": np.zeros(SHAPE), "prompt": "open the door"}
        assert client.infer(lerobot)["actions"].shape == (8, 9)


@pytest.mark.parametrize(
    "message",
    [b"", b"\xc1", b"\x81", b"\x93\x01\x02", pack([1, 2]), b"\x91" * 2000, "a text"],
)
def test_garbage_is_answered_with_a_sentence(served: Running, message: str | bytes) -> None:
    from websockets.sync.client import connect

    with connect(served.url, compression=None) as socket:
        socket.recv()
        socket.send(message)
        said = socket.recv()
        assert isinstance(said, str)
        assert "\n" not in said
    with Client(served.url) as client:
        assert client.infer({"state": np.zeros(SHAPE)})["actions"].shape == (8, 9)


def test_the_code_of_the_page_runs(served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    page = (PROJECT / "docs/how-to/serve.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(code.replace("ws://127.0.0.1:8000", served.url), {})
    assert capsys.readouterr().out == (
        "{'state': [60]} 4\n(8, 9) ['infer_ms', 'queue_ms', 'total_ms']\n"
    )


def test_a_health_line(served: Running) -> None:
    with urllib.request.urlopen(served.url.replace("ws", "http") + "/healthz") as answer:
        assert answer.read() == b"ok\n"


def test_openpis_client_gets_the_same_actions(served: Running) -> None:
    openpi = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client")
    host, port = served.url.removeprefix("ws://").split(":")
    client = openpi.WebsocketClientPolicy(host, int(port))
    assert client.get_server_metadata()["server"] == "skipstep"
    obs = observations(2)
    number = client_number(served)
    for answer, right in zip(
        [client.infer({"state": row}) for row in obs], expected(obs, number - 1), strict=True
    ):
        np.testing.assert_array_equal(answer["actions"], right.astype(np.float32))
    with pytest.raises(RuntimeError, match="is missing"):
        client.infer({"wrong": np.zeros(3)})


def client_number(served: Running) -> int:
    """How many clients came before one that connects now: found by its noise."""
    obs = observations(1)
    with Client(served.url) as client:
        actions = client.infer({"state": obs[0]})["actions"]
    for number in range(200):
        if np.array_equal(actions, expected(obs, number)[0].astype(np.float32)):
            return number
    raise AssertionError("its noise is of no client")


def test_a_key_is_asked_for_and_signals_end_it_with_a_summary(tmp_path: Path) -> None:
    running = start(tmp_path, "serve.key=secret", "serve.keys={a/b: state}")
    for key in (None, "wrong"):
        with pytest.raises(ConnectionError, match="HTTP 401"):
            Client(running.url, key)
    with urllib.request.urlopen(running.url.replace("ws", "http") + "/healthz") as answer:
        assert answer.status == 200
    with Client(running.url, "secret") as client:
        assert client.infer({"a/b": np.zeros(SHAPE)})["actions"].shape == (8, 9)
    port = running.url.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, str(PROJECT / "run.py"), *WORDS[:4], f"serve.port={port}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: serve.port: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )
    said = stop(running, signal.SIGINT)
    assert re.search(r"requests +1 in 1 batches, 0 refused or failed", said)
    with pytest.raises(ConnectionError, match="no server at"):
        Client(running.url, "secret", timeout_s=0)


MISTAKES = {
    "serve.host=0.0.0.0": "serve.host=0.0.0.0 is reached from other machines: it needs serve.key",
    "serve.host=example.org": "serve.host=example.org is reached from other machines",
    "serve.port=70000": "serve.port must be from 0 (one that is free) to 65535, got 70000",
    "serve.window_ms=-1": "serve.window_ms must be from 0 to 1000, got -1",
    "serve.prt=3": "runner.prt: unknown key",
    "realtime=true": "realtime must be false with runner=serve",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_line(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["serve", f"task.checkpoint={CHECKPOINT}", word]) == 2
    assert MISTAKES[word] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


VALUES = [
    {"a": np.arange(6, dtype=">i2").reshape(2, 3), "b": [1, 2.5, "x", None, True, b"y"]},
    {"n": {"m": np.float64(0.5), "k": np.zeros((0, 3)), "t": np.array(["ab", "c"])}},
]


@pytest.mark.parametrize("value", VALUES)
def test_messages_come_back_as_they_were(value: Any) -> None:
    np.testing.assert_equal(unpack(pack(value)), value)


@pytest.mark.parametrize(
    "array",
    [np.array([1j]), np.array([object()]), np.zeros(2, [("a", "i4")])],
    ids=["complex", "object", "record"],
)
def test_only_numbers_and_texts_are_packed(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="arrays must hold numbers or texts"):
        pack({"a": array})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({b"dtype": "|O"}, "must hold numbers or texts, got object"),
        ({b"shape": [3]}, r"of float64 and shape \(3,\) got 16 bytes"),
        ({b"shape": [-1, -2]}, "shape must be whole numbers"),
        ({b"shape": [2**40, 2**40]}, "got 16 bytes"),
        ({b"dtype": "nonsense"}, "not a message"),
        ({b"shape": None}, "not a message"),
        ({b"data": "text"}, "not a message|got 4 bytes"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(change: Any, words: str) -> None:
    import msgpack

    honest = {b"__ndarray__": True, b"data": bytes(16), b"dtype": "<f8", b"shape": [2]}
    with pytest.raises(ValueError, match=words):
        unpack(msgpack.packb({**honest, **change}))
