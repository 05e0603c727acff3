"""The calls of a model: which step and guidance branch each of them is, and whether blocks ran."""

from __future__ import annotations

from collections.abc import Sequence


class Calls:
    """Which call of the model is going on.

    Args:
        branches: names of guidance branches.
        n_steps: of a generation.
        names: of the blocks.
    """

    def __init__(self, branches: Sequence[str], n_steps: int, names: Sequence[str]) -> None:
        self.branches, self.n_steps, self.names = tuple(branches), n_steps, names
        self.reset()

    def reset(self) -> None:
        """The next call is step 0."""
        self.at = {branch: -1 for branch in self.branches}
        self.ran: list[int] = []
        self.running = self.nested = self.ran_before = False
        self.branch, self.step, self.in_step = "", -1, 0

    # --- the model's own call, where it is called as a module

    def begins(self) -> None:
        """The model is called."""
        self.running, self.nested = True, False
        self.in_step += 1

    def ends(self) -> None:
        """It has returned."""
        self.running = False

    @property
    def aborted(self) -> bool:
        """Whether the model's last call raised an exception."""
        return self.running and not self.nested

    # --- steps

    def announce(self, step: int, branch: str | None) -> range:
        """The next call is this step of this branch; returns the branch's steps up to it.

        A branch may begin late and leave out steps of another one: guidance in part of the steps.

        Raises:
            ValueError: an unknown branch. RuntimeError: not a step that can come now, or no block
                ran in the one before.
        """
        branch = self.branches[0] if branch is None else branch
        if branch not in self.branches:
            raise ValueError(f"branch must be one of {', '.join(self.branches)}, got {branch!r}")
        if self.ran or not self.branch:
            self.ran_before |= bool(self.ran)
        elif not self.running:
            raise self._idle()
        before, latest = self.at[branch], max(self.at.values())
        if step == before and step >= 0:
            raise RuntimeError(
                f"step {step} of branch {branch} came twice: call step(s, branch) once before "
                "every call of the model, with a name for each call that guidance makes"
            )
        shared = step > before and step in (latest, latest + 1)
        if step >= self.n_steps or not shared:
            expected = before + 1
            wanted = f"must be {expected}" if expected < self.n_steps else "needs begin() first"
            raise RuntimeError(f"step {wanted} in branch {branch}, got {step}")
        self.at[branch], self.branch, self.step = step, branch, step
        self.ran, self.nested, self.in_step = [], self.running, 0
        return range(max(before, 0), step)

    def arrive(self, index: int) -> None:
        """A block is called.

        Raises:
            RuntimeError: no step was announced, or the block does not come next.
        """
        if not self.branch:
            raise RuntimeError(
                "the model was called without step(): call begin() before a generation and "
                "step(s, branch) before every call of the model"
            )
        if self.ran and index <= self.ran[-1]:
            raise RuntimeError(self._out_of_order(index))
        self.ran.append(index)

    def _out_of_order(self, index: int) -> str:
        name = self.names[index]
        if index not in self.ran and self.in_step < 2:
            order = [self.names[i] for i in (*self.ran, index)]
            return (
                f"blocks run in another order than listed: {', '.join(order)}; list them in the "
                f"order in which they run, one by one where stacks alternate (blocks={order[:3]})"
            )
        return (
            f"the model was called twice in step {self.step}: name the branches, branches=('cond', "
            "'uncond'), and call step(s, branch) before every call; the second time it was called "
            f"without step(). If it was called once, {name} runs twice in a call and cannot be "
            "cached"
        )

    def check_ran(self) -> None:
        """Refuse that nothing happened.

        Raises:
            RuntimeError: steps were announced, and no block ran in any.
        """
        if self.branch and not self.ran and not self.ran_before and not self.running:
            raise self._idle()

    def _idle(self) -> RuntimeError:
        return RuntimeError(
            f"no block ran in step {self.step} of branch {self.branch}: the model does not call "
            f"{self.names[0]} and its like as modules, so nothing is cached; list blocks that it "
            "calls, or attach to the module that calls them"
        )
