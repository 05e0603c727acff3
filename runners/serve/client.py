"""A client of `skipstep serve`, and of every server that speaks openpi's protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .packing import pack, unpack

RETRY_S = 0.1


class Client:
    """Asks a served policy for actions; a context manager too.

    Args:
        url: as the server says it, ws://127.0.0.1:8000.
        key: `serve.key` of the server, if it has one.
        timeout_s: how long a server that does not listen yet is waited for.

    Attributes:
        metadata: what the server said as it was connected to: `observation`, `n_obs_steps`, ...

    Raises:
        ConnectionError: there is no server, or it refuses the key.

    Example:
        with Client("ws://127.0.0.1:8000") as client:
            actions = client.infer({"state": np.zeros((4, 60))})["actions"]
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 10.0) -> None:
        try:
            from websockets.exceptions import InvalidHandshake
            from websockets.sync.client import connect
        except ImportError:
            raise UserError("a client needs websockets: pip install 'skipstep[serve]'") from None
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        until = time.monotonic() + timeout_s
        while True:
            try:
                self._socket = connect(
                    url, compression=None, max_size=None, additional_headers=headers
                )
                break
            except InvalidHandshake as error:
                raise ConnectionError(f"{url} refuses: {error}") from error
            except OSError as error:
                if time.monotonic() > until:
                    raise ConnectionError(f"no server at {url}: {error}") from error
                time.sleep(RETRY_S)
        self.metadata: dict[str, Any] = unpack(self._bytes(self._socket.recv()))

    def infer(self, obs: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer to the last observations of one robot.

        Args:
            obs: arrays (n_obs_steps, ...) by our names or LeRobot's.

        Returns:
            actions (n_action_steps, action_dim), and `server_timing` in milliseconds.

        Raises:
            RuntimeError: what the server said instead.
        """
        self._socket.send(pack(dict(obs)))
        answer: dict[str, Any] = unpack(self._bytes(self._socket.recv()))
        return answer

    def reset(self) -> None:
        """Nothing is kept between requests; here because openpi's client has it."""

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @staticmethod
    def _bytes(message: str | bytes) -> bytes:
        if isinstance(message, str):
            raise RuntimeError(f"the server answered: {message}")
        return message
