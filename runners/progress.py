"""How far episodes are: a bar in a terminal, elsewhere a line of the log every half a minute."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_S = 30.0  # between lines of the log
REFRESH_S = 0.5  # between looks of the bar


class Progress:
    """Counts finished episodes and the steps of all simulators.

    Args:
        name: of what is played.
        n_episodes: in all.
        terminal: whether there is one to draw in.
        now: seconds, of a clock that only goes on.

    Example:
        >>> with Progress("kitchen", 2, terminal=False) as progress:
        ...     progress.step(8)
        ...     progress.episode("success 1.00")
        ...     print(progress.words())
        1 of 2 episodes, 8 steps, success 1.00
    """

    def __init__(
        self,
        name: str,
        n_episodes: int,
        terminal: bool | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.n_episodes, self.now = name, n_episodes, now
        self.n_done = self.n_steps = 0
        self.said = ""
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.bar = tqdm(
            total=n_episodes, desc=name, unit="episode", disable=not self.terminal, leave=True
        )
        self.began = self.last = now()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def step(self, n: int) -> None:
        """So many steps of a simulator more."""
        self.n_steps += n
        self._tell()

    def episode(self, said: str) -> None:
        """An episode more; `said` of all of them so far, as the rate of success."""
        self.n_done += 1
        self.said = said
        self.bar.update()
        self._tell()

    def words(self) -> str:
        """As a line says it."""
        found = f"{self.n_done} of {self.n_episodes} episodes, {self.n_steps} steps"
        return f"{found}, {self.said}" if self.said else found

    def _tell(self) -> None:
        now = self.now()
        if now - self.last < (REFRESH_S if self.terminal else LINE_S):
            return
        self.last = now
        if self.terminal:
            pace = self.n_steps / max(now - self.began, 1e-9)
            self.bar.set_postfix_str(
                ", ".join(filter(None, [self.said, f"{self.n_steps} steps, {pace:.0f} a second"]))
            )
        else:
            log.info("%s: %s", self.name, self.words())
