"""Which sites of a step have run: a place that the model goes around is an error, never silence."""

from __future__ import annotations

from collections.abc import Sequence


class Order:
    """The calls of one query.

    Args:
        names: of the sites, in the order in which they run.
        n_steps: of a query.
    """

    def __init__(self, names: Sequence[str], n_steps: int) -> None:
        self.names, self.n_steps = names, n_steps
        self.step, self.inside = -1, False
        self._ran: list[int] = []

    def begin_query(self) -> None:
        """The next step is 0."""
        self.step, self.inside = -1, False

    def begin_step(self) -> None:
        """The denoiser is called.

        Raises:
            RuntimeError: more often than a query has steps.
        """
        if self.step + 1 >= self.n_steps:
            raise RuntimeError(
                f"the query runs more than {self.n_steps} denoising steps, which its plan has: "
                "num_steps has changed; accelerate the policy again with n_steps"
            )
        self.step, self.inside, self._ran = self.step + 1, True, []

    def arrive(self, site: int) -> None:
        """A site runs.

        Raises:
            RuntimeError: it ran before in this step, or a later one did.
        """
        if self._ran and site <= self._ran[-1]:
            what = "ran twice" if site in self._ran else f"ran after {self.names[self._ran[-1]]}"
            raise RuntimeError(
                f"{self.names[site]} {what} in step {self.step}: layers must run once each, in "
                "their order"
            )
        self._ran.append(site)

    def end_step(self) -> None:
        """The denoiser returns.

        Raises:
            RuntimeError: a site did not run.
        """
        self.inside = False
        if len(self._ran) < len(self.names):
            missing = min(set(range(len(self.names))) - set(self._ran))
            raise RuntimeError(
                f"{self.names[missing]} did not run in step {self.step}: the model goes around its "
                "modules (they were replaced, compiled or fused after accelerate_vla, or it "
                "computes with their weights), so nothing would be cached there"
            )

    def end_query(self) -> None:
        """The query is over.

        Raises:
            RuntimeError: it had another number of steps.
        """
        if self.step + 1 != self.n_steps:
            raise RuntimeError(
                f"the query ran {self.step + 1} denoising steps through denoise_step, its plan has "
                f"{self.n_steps}: nothing, or something else, was cached; accelerate the policy "
                "again with n_steps"
            )
