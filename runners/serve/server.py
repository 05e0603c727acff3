"""The websocket: metadata on connecting, then an answer a request; errors are texts.

It speaks what openpi's policy client speaks, so a robot that has that client needs no change.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from accel.robot.inputs import read
from skipstep.observations import each

from ..errors import UserError
from .batching import Batcher
from .packing import pack, unpack

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20  # of a message
HEALTH = "/healthz"
KEPT = 100_000  # latencies
STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Served:
    """What a server answers with.

    Attributes:
        batcher: asks the policy.
        metadata: sent to each client as it connects.
        key: that clients must send; None: none.
        keys: names in a client's observations -> ours.
    """

    batcher: Batcher
    metadata: Mapping[str, Any]
    key: str | None
    keys: Mapping[str, str]


class Server:
    """Counts clients, answers their requests and measures how long that takes."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.policy: Any = served.batcher.policy
        config = getattr(self.policy.policy, "config", None)
        self.aliases = {**getattr(config, "aliases", {}), **served.keys}
        self.clients = itertools.count()
        self.n_errors = 0
        self.latencies_ms: deque[float] = deque(maxlen=KEPT)

    def refuse(self, connection: Any, request: Any) -> Any:
        """An HTTP answer for /healthz and for a wrong key; None lets a client in."""
        if request.path == HEALTH:
            return connection.respond(HTTPStatus.OK, "ok\n")
        key = self.served.key
        given = request.headers.get("Authorization", "")
        if key is not None and not hmac.compare_digest(given.encode(), f"Api-Key {key}".encode()):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "the key is missing or wrong\n")
        return None

    async def talk(self, connection: Any) -> None:
        """One client, from its connecting to its leaving."""
        from websockets.exceptions import ConnectionClosed

        client = next(self.clients)
        try:
            await connection.send(pack(self.served.metadata))
            query = 0
            async for message in connection:
                answer = await self.answer(message, client, query)
                query += isinstance(answer, bytes)
                await connection.send(answer)
        except ConnectionClosed:
            log.info("client %d has gone", client)

    async def answer(self, message: str | bytes, client: int, query: int) -> str | bytes:
        """Actions as a message, or one sentence."""
        asked = time.perf_counter()
        try:
            if isinstance(message, str):
                raise ValueError("a request must be a binary message of msgpack, got a text")
            obs = self.observation(unpack(message))
            actions, waited_s, took_s = await self.served.batcher.ask(obs, client, query)
        except Exception as error:  # of this request: the client is told, others go on
            self.n_errors += 1
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        took = time.perf_counter() - asked
        self.latencies_ms.append(took * 1e3)
        timing = {"infer_ms": took_s * 1e3, "queue_ms": waited_s * 1e3, "total_ms": took * 1e3}
        return pack({"actions": actions.astype(np.float32), "server_timing": timing})

    def observation(self, said: Any) -> Any:
        """One row of numpy, as `act_padded` takes rows."""
        steps = self.policy.n_obs_steps
        if not isinstance(said, Mapping):
            raise ValueError(f"a request must be a mapping of arrays, got {type(said).__name__}")
        if steps == 1:
            said = {name: self._one_step(name, array) for name, array in said.items()}
        arrays = {n: a for n, a in said.items() if isinstance(a, np.ndarray)}
        batch = read(arrays, self.policy.obs_spec, self.aliases, steps, others=True)
        if not batch.one_row:
            raise ValueError(
                f"a request is of one robot: arrays ({steps}, ...) without an axis of rows"
            )
        return each(lambda array: array[0].numpy(), batch.observation(self.policy.obs_spec))

    def _one_step(self, name: str, array: Any) -> Any:
        """A policy that sees one step takes that step without an axis too."""
        spec = self.policy.obs_spec.arrays.get(self.aliases.get(name, name))
        alone = spec is not None and getattr(array, "shape", None) == spec.shape
        return array[None] if alone else array


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    """The one line of a port that is in use, or an address that is not this machine's."""
    return UserError(f"serve.port: cannot listen on {host}:{port}: {error.strerror}")


async def serve(served: Served, host: str, port: int, ready: Callable[[int], None]) -> Server:
    """Answer until SIGINT or SIGTERM; a batch that has begun is finished and answered.

    Args:
        served: what answers.
        host: to listen on.
        port: to listen on; 0: one that is free.
        ready: called with the port once clients can connect.

    Raises:
        UserError: the port is in use, or websockets is not installed.
    """
    try:
        from websockets.asyncio.server import serve as listen
    except ImportError:
        raise UserError("serving needs websockets: pip install 'skipstep[serve]'") from None
    server, stop = Server(served), asyncio.Event()
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in STOPS}
    for number in STOPS:
        loop.add_signal_handler(number, stop.set)
    batches = asyncio.create_task(served.batcher.run())
    settings: Any = {"compression": None, "max_size": MAX_BYTES, "process_request": server.refuse}
    try:
        async with listen(server.talk, host, port, **settings) as listening:
            ready(listening.sockets[0].getsockname()[1])
            await stop.wait()
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    finally:
        batches.cancel()
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
    return server
