"""What goes wrong with caches on other people's models: shapes, calls, hooks, compilers, changes.

Each is either right or refused in words that say where and what to do; afterwards the model is what
it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accel import (
    CachePlan,
    FirstBlockConfig,
    IntervalConfig,
    PlanError,
    TaylorConfig,
    TeaCacheConfig,
    attach,
    export_interval,
    import_interval,
)
from accel.attach.attached import Attached
from tests.accel.test_attach import INPUTS, WINDOW, Toy, batches, outputs, toy
from tests.helpers.foreign_models import MODELS

WHOLE = IntervalConfig(start=0, interval=4)
FIRST = FirstBlockConfig(threshold=0.5, cool_down=0)
LINE = TaylorConfig(order=1, warm_up=2, cool_down=0, interval=4)


# --- what the model does between blocks


class Stepping(nn.Module):
    """Adds to the stream between its blocks, in place or not, in some calls."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Toy().first)
        self.blocks.append(Toy().rest[0])
        self.in_place, self.added = in_place, 5.0

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < 2 and self.added:
                x = x.add_(self.added) if self.in_place else x + self.added
        return x


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("config", [WHOLE, LINE, FIRST], ids=lambda c: c.name)
def test_what_the_model_adds_between_blocks_is_not_cached(
    config: Any, in_place: bool, inference: bool
) -> None:
    model = Stepping(in_place)
    cache = attach(model, ["blocks"], 8, config, streams=("hidden",))
    with torch.inference_mode(inference):
        for _ in range(2):
            cache.begin()
            for step in range(8):
                cache.step(step)
                assert float(model(torch.ones(1, 1))) == 4 * (3 * (2 + 5) + 5)
    assert cache.summary()["hits"] > 0


def test_what_is_added_between_blocks_may_begin_and_end_in_a_generation() -> None:
    """A hit adds the blocks' part of an older step to what the model adds in this one."""
    model = Stepping(in_place=False)
    cache = attach(model, ["blocks"], 8, WHOLE, streams=("hidden",))
    cache.begin()
    found = []
    for step in range(8):
        model.added = 5.0 if 2 <= step < 6 else 0.0
        cache.step(step)
        found.append(float(model(torch.ones(1, 1))))
    whole = 4 * (3 * (2 + 5) + 5)
    assert found == [24, 24, 34, 34, whole, whole, whole - 10, whole - 10]


class Two(nn.Module):
    """Two stacks that alternate."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.ModuleList(Toy().first), nn.ModuleList(Toy().first)

    def forward(self, x: Tensor) -> Tensor:
        for a, b in zip(self.a, self.b, strict=True):
            x = b(a(x))
        return x


def test_stacks_that_alternate_are_listed_block_by_block() -> None:
    model = Two()
    cache = attach(model, ["a", "b"], 8, WHOLE, streams=("hidden",))
    cache.step(0)
    words = r"blocks run in another order than listed: a.0, b.0, a.1; list them in the order"
    with pytest.raises(RuntimeError, match=words):
        model(torch.ones(1))
    cache.disable()
    cache = attach(model, ["a.0", "b.0", "a.1", "b.1"], 8, WHOLE, streams=("hidden",))
    assert outputs(cache)[:2] == [36, 10 + 35]


# --- shapes


@pytest.mark.parametrize("kind", ["delta", "output"])
@pytest.mark.parametrize("config", [WHOLE, LINE, FIRST, WINDOW], ids=["i", "t", "f", "w"])
def test_rows_and_lengths_may_change_within_a_generation(config: Any, kind: str) -> None:
    """Guidance that stops: what is stored of two rows is never added to one; it is computed."""
    if config is WINDOW and kind == "output":
        config = IntervalConfig(start=1, interval=3, n_blocks=2)
    cache = toy(config, kind=kind)
    cache.begin()
    shapes = [(2, 3), (2, 3), (2, 3), (1, 3), (1, 3), (1, 4), (1, 4), (2, 4)]
    for step, shape in enumerate(shapes):
        cache.step(step)
        found = cache.model(torch.ones(shape))
        assert found.shape == shape
        assert (found == 24).all()
    assert cache.hits.sum() > 0
    assert cache.computed[3].all()  # of another shape than what was stored


def test_decisions_of_batches_that_change_have_no_trace() -> None:
    cache = toy(FIRST)
    batches(cache, [[1.0, 1.0], [1.0, 1.0], [1.0], [1.0]])
    with pytest.raises(RuntimeError, match="batches of 1, 2 rows: there is no trace"):
        cache.trace()
    cache.begin()
    with pytest.raises(RuntimeError, match="no step yet"):
        cache.trace()


def test_calibrating_needs_one_batch_and_whole_generations() -> None:
    cache = toy()
    with pytest.raises(RuntimeError, match=r"step 2 .*\(1, 1\) .*\(2, 1\).*one batch and length"):
        cache.calibrate(lambda: batches(cache, [[1.0, 2.0], [1.0, 2.0], [1.0]]))
    with pytest.raises(RuntimeError, match="a whole generation of 8 steps, got 2 of main"):
        cache.calibrate(lambda: batches(cache, [[1.0], [2.0]]))
    cache.calibrate(lambda: [outputs(cache, INPUTS), outputs(cache, INPUTS[::-1])])
    measured = cache._measured
    assert measured is not None
    assert measured.arrays["probe"].shape == (2, 8)  # both generations


# --- calls


class Walked(nn.Module):
    """Reads its layers' parts by hand, as vision-language-action experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Toy().first)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x * block.factor
        return x


VERBS: dict[str, Callable[[Attached, Path], Any]] = {
    "step": lambda cache, path: cache.step(1),
    "begin": lambda cache, path: cache.begin(),
    "reset": lambda cache, path: cache.reset(),
    "summary": lambda cache, path: cache.summary(),
    "trace": lambda cache, path: cache.trace(),
    "save": lambda cache, path: cache.save(path / "plan.json"),
    "calibrate": lambda cache, path: cache.calibrate(partial(generation, cache)),
    "search": lambda cache, path: cache.search(partial(generation, cache)),
}
HARMLESS = {"enable", "disable", "clear", "update_config", "load"}  # they use no block


def generation(cache: Attached) -> Tensor:
    cache.begin()
    cache.step(0)
    return cache.model(torch.ones(1))


def test_the_verbs_are_all_there_are() -> None:
    public = {name for name, value in vars(Attached).items() if callable(value) and name[0] != "_"}
    assert public == {*VERBS, *HARMLESS, "renew"}  # which the counter calls


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_says_nothing_where_blocks_are_never_called(
    verb: str, by_hand: bool, tmp_path: Path
) -> None:
    model = Walked()
    cache = attach(model, ["blocks"], 8, WHOLE, streams=("hidden",))
    cache.begin()
    cache.step(0)
    call = model.forward if by_hand else model
    assert float(call(torch.ones(1))) == 6
    with pytest.raises(RuntimeError, match="no block ran in step 0 of branch main: the model does"):
        VERBS[verb](cache, tmp_path)
    cache.disable()
    assert not model._forward_hooks
    assert float(model(torch.ones(1))) == 6


def test_a_stack_that_never_runs_is_named_when_a_generation_is_over() -> None:
    model = Two()
    model.forward = lambda x: model.a[1](model.a[0](x))  # type: ignore[method-assign]
    cache = attach(model, ["a", "b"], 2, streams=("hidden",))
    for step in range(2):
        cache.step(step)
        model(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"b.0 ran in no step of a generation.*\(2 of 4 blocks"):
        cache.summary()
    with pytest.raises(RuntimeError, match=r"b.0 ran in no step"):
        cache.begin()


def test_a_generation_that_failed_before_its_blocks_begins_again() -> None:
    cache = toy(WINDOW)
    cache.begin()
    cache.step(0)
    cache.model.forward = lambda x: x.nothing
    with pytest.raises(AttributeError):
        cache.model(torch.ones(1))
    del cache.model.forward
    cache.begin()
    assert outputs(cache) == outputs(toy(WINDOW))


def test_a_step_that_comes_twice_names_the_branches() -> None:
    cache = toy(WINDOW)
    outputs(cache, INPUTS[:4])
    with pytest.raises(RuntimeError, match="called twice in step 3: name the branches"):
        cache.model(torch.ones(1))
    cache.begin()
    cache.step(0)
    cache.model(torch.ones(1))
    with pytest.raises(RuntimeError, match=r"step 0 of branch main came twice: call step"):
        cache.step(0)
    assert outputs(cache) == outputs(toy(WINDOW))


class Skipping(nn.Module):
    """Leaves out a block in some calls, as skip-layer guidance does."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([*Toy().first, *Toy().rest])

    def forward(self, x: Tensor, without: int | None = None) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = x if index == without else block(x)
        return x


@pytest.mark.parametrize("kind", ["delta", "output"])
@pytest.mark.parametrize("without", [0, 1, 2])
def test_calls_that_skip_a_block_are_a_branch_or_are_refused(without: int, kind: str) -> None:
    model = Skipping()
    settings: dict[str, Any] = {"streams": ("hidden",), "kind": kind}
    cache = attach(model, ["blocks"], 8, WHOLE, branches=("all", "less"), **settings)
    expected = [24, 24 / [2, 3, 4][without]]
    for step in range(4):
        for branch, skipped, value in zip(("all", "less"), (None, without), expected, strict=True):
            cache.step(step, branch)
            assert float(model(torch.ones(1), skipped)) == value
    assert cache.hits.sum() > 0
    cache.disable()
    cache = attach(model, ["blocks"], 8, WHOLE, **settings)
    cache.step(0)
    model(torch.ones(1))
    cache.step(1)
    with pytest.raises(RuntimeError, match=r"other blocks run around blocks.2 in this step"):
        model(torch.ones(1), without)
    cache.disable()
    assert float(model(torch.ones(1))) == 24


# --- counting by timesteps


def test_timesteps_are_compared_as_the_model_gets_them() -> None:
    given = [954.545, 900.0, 841.27, 700.1, 500.3, 250.0, 100.7, 20.1]
    for kind, scale in ((torch.bfloat16, 1.0), (torch.bfloat16, 0.001), (torch.float32, 0.001)):
        cache = toy(WINDOW, timesteps=given, timestep_scale=scale)
        for t, x in zip(given, INPUTS, strict=True):
            cast = torch.tensor([t], dtype=torch.float32).to(kind) * scale
            cache.model(torch.tensor([x]), cast)
        assert cache.computed[0, 0] == 1
    cache = toy(WINDOW, timesteps=given, timestep_scale=lambda t: 1 - t / 1000)
    for t in given:
        cache.model(torch.ones(1), torch.tensor([1 - t / 1000]))
    cache = toy(WINDOW, timesteps=given)
    for t in given:  # whole numbers, and tokens with timesteps of their own
        cache.model(torch.ones(1), torch.tensor([[0, int(t)]]))
    cache = toy(WINDOW, timesteps=given)
    with pytest.raises(
        RuntimeError, match=r"timestep 0.954545, step 0 has 954.545.*timestep_scale"
    ):
        cache.model(torch.ones(1), torch.tensor([0.954545]))
    assert float(cache.model(torch.ones(1), 954.545)) == 24


@pytest.mark.parametrize("window", [(0, 4), (3, 8), (2, 5)])
def test_guidance_in_part_of_the_steps_counts_per_branch(window: tuple[int, int]) -> None:
    given = [float(t) for t in range(8, 0, -1)]
    plain = outputs(toy(WINDOW))
    cache = toy(WINDOW, branches=("cond", "uncond"), timesteps=given)
    for _ in range(2):
        found, guided = [], []
        for step, (t, x) in enumerate(zip(given, INPUTS, strict=True)):
            found.append(float(cache.model(torch.tensor([x]), t)))
            if window[0] <= step < window[1]:
                guided.append(float(cache.model(torch.tensor([-1.0]), t)))
        assert found == plain
        assert guided == [-24.0] * len(guided)


# --- blocks, hooks and compilers


def test_a_block_that_is_listed_twice_is_refused_by_name() -> None:
    model = Toy()
    model.first.append(model.first[0])
    for blocks in (["first"], ["rest", "rest"], ["first.1", "first"]):
        with pytest.raises(
            ValueError, match=r"blocks: \S+ is the same module as \S+: a block that"
        ):
            attach(model, blocks, 8, streams=("hidden",))
        assert all("forward" not in vars(module) for module in model.modules())


def hooked(module: nn.Module) -> Callable[[], None]:
    """As diffusers' hooks: a forward around what is there; returns how to take it off."""
    from diffusers.hooks import HookRegistry, ModelHook

    class Doubling(ModelHook):
        def post_forward(self, module: nn.Module, output: Any) -> Any:
            return output * 2

    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(Doubling(), "doubling")
    return lambda: registry.remove_hook("doubling")


def test_only_our_own_forward_is_taken_off() -> None:
    model = Toy()
    off = hooked(model.first[0])
    with pytest.raises(RuntimeError, match=r"first.0 has a replaced .* attach before it, or take"):
        attach(model, ["first", "rest"], 8, streams=("hidden",))
    assert float(model(torch.ones(1))) == 48
    off()
    cache = attach_to(model)
    off = hooked(model.first[0])
    assert outputs(cache)[:2] == [48, 2 * (10 + 1) * 12]  # its doubling, of a hit too
    cache.disable()
    assert [float(model(torch.ones(1))) for _ in range(3)] == [48] * 3
    cache.enable()
    assert outputs(cache)[:2] == [48, 2 * (10 + 1) * 12]
    cache.disable()
    off()
    assert float(model(torch.ones(1))) == 24
    cache.disable()
    left = [vars(module).get("forward", module.forward) for module in model.modules()]
    assert all(a.__func__ is type(m).forward for a, m in zip(left, model.modules(), strict=True))


def attach_to(model: nn.Module) -> Attached:
    config = IntervalConfig(start=0, interval=4, first_block=0, n_blocks=1)
    return attach(model, ["first", "rest"], 8, config, streams=("hidden",))


def test_group_offloading_goes_on_after_the_cache_was_taken_off() -> None:
    pytest.importorskip("accelerate", reason="diffusers' offloading needs it")
    from diffusers.hooks import apply_group_offloading

    foreign = MODELS["DiT"]()
    x, cpu = foreign.latent, torch.device("cpu")
    with torch.no_grad():
        plain = foreign.call(foreign.model, x, 500.0)
        cache = attach(foreign.model, **foreign.attach_to, cache=WHOLE)
        apply_group_offloading(
            foreign.model, cpu, cpu, offload_type="block_level", num_blocks_per_group=1
        )
        for step in range(3):
            cache.step(step)
            torch.testing.assert_close(foreign.call(foreign.model, x, 500.0), plain)
        assert cache.hits.sum() > 0
        cache.disable()
        assert foreign.model.transformer_blocks[0]._diffusers_hook.hooks
        assert torch.equal(foreign.call(foreign.model, x, 500.0), plain)
        with pytest.raises(
            RuntimeError, match=r"transformer_blocks.0 has a replaced .* attach bef"
        ):
            attach(foreign.model, **foreign.attach_to)


@pytest.mark.parametrize("how", ["wrapped", "in place", "model", "model before"])
def test_compiled_blocks_and_models_are_cached_without_recompiling(how: str) -> None:
    torch._dynamo.reset()
    model, calls = Toy(), []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    compiled = partial(torch.compile, backend=backend)
    called: Any = model
    if how == "wrapped":
        for stack in (model.first, model.rest):
            for index, block in enumerate(stack):
                stack[index] = compiled(block)
    if how == "in place":
        for block in (*model.first, *model.rest):
            block.compile(backend=backend)
    if how == "model before":
        called = compiled(model)
    cache = attach(model, ["first", "rest"], 8, WINDOW, streams=("hidden",))
    if how == "model":
        called = compiled(model)
    expected = outputs(toy(WINDOW), INPUTS[:5])
    counts = []
    for _ in range(2):
        cache.begin()
        found = []
        for step, x in enumerate(INPUTS[:5]):
            cache.step(step)
            found.append(float(called(torch.tensor([x]))))
        assert found == expected
        counts.append(len(calls))
    assert counts[0] == counts[1]
    assert counts[0] > 0 or how.startswith("model")
    cache.disable()
    assert float(called(torch.ones(1))) == 24
    if how == "model":
        cache.enable()
        cache.step(0)
        whole = torch.compile(model, backend="eager", fullgraph=True)
        with pytest.raises(Exception, match="compile the blocks, not the model, before attaching"):
            whole(torch.ones(1))
        cache.disable()
        assert float(model(torch.ones(1))) == 24


# --- models that changed, and searches


def test_a_model_that_changed_since_its_calibration_is_refused(tmp_path: Path) -> None:
    cache = toy()
    config = TeaCacheConfig(threshold=0.9, degree=1, cool_down=0)
    cache.calibrate(lambda: outputs(cache))
    cache.update_config(config)
    cache.save(tmp_path / "plan.json")
    with torch.no_grad():
        cache.model.weight.mul_(2)
    for verb in (cache.begin, partial(cache.save, tmp_path / "other.json")):
        with pytest.raises(RuntimeError, match="the model has changed since its plan was made"):
            verb()
    with pytest.raises(PlanError, match=r"calibrated on other weights.*calibrate\(run\) again"):
        cache.update_config(config)
    with pytest.raises(PlanError, match="made for another model"):
        cache.load(tmp_path / "plan.json")
    assert not (tmp_path / "other.json").exists()
    cache.calibrate(lambda: outputs(cache))
    cache.update_config(config)
    assert outputs(cache)[0] == 24


def test_searches_take_lists_of_arrays_as_the_original_tool_gives() -> None:
    cache = toy()

    def videos() -> list[np.ndarray]:
        found = outputs(cache, [1.0, 2, 3, 4, 5, 6, 7, 8])
        return [np.array(found[:4], np.float32), np.array([found[4:]], np.float32)]

    found = cache.search(videos, ratio=1.3, intervals=(2,), starts=(0,))
    again = cache.search(
        lambda: torch.tensor(outputs(cache, [1.0, 2, 3, 4, 5, 6, 7, 8])),
        ratio=1.3,
        intervals=(2,),
        starts=(0,),
    )
    assert [f.config for f in found] == [f.config for f in again]
    assert [f.score for f in found] == pytest.approx([f.score for f in again])
    lengths = iter(range(3, 99))
    with pytest.raises(ValueError, match=r"run\(\) must return equal shapes, got \[\[4\]\] and"):
        cache.search(lambda: [outputs(cache), np.ones(next(lengths))][1:])
    with pytest.raises(TypeError, match=r"a tensor, an array or a list of them .* got dict"):
        cache.search(lambda: [outputs(cache), {}][1])


def test_four_integers_go_out_as_they_come_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.json"
    export_interval(IntervalConfig(start=5, interval=2, first_block=3, n_blocks=10), path)
    assert import_interval(path) == IntervalConfig("interval", 5, 2, 3, 10)
    export_interval(IntervalConfig(start=5, interval=2, first_block=3), path, n_blocks=54)
    assert import_interval(path).n_blocks == 51
    with pytest.raises(ValueError, match=r"cache.n_blocks must be a number .* got None"):
        export_interval(IntervalConfig(), path)
    export_interval(IntervalConfig(n_blocks=1), path)
    assert "one block" in caplog.text
    assert import_interval(path).n_blocks == 1


# --- bands of tokens


def test_low_and_high_frequencies_along_tokens_are_forecast_apart(tmp_path: Path) -> None:
    """The low band of what is added follows a line, the high one is reused; and not in reverse."""
    model = nn.Module()
    model.blocks = nn.ModuleList([Adds()])
    model.forward = lambda x: model.blocks[0](torch.zeros_like(x), x)[0]  # type: ignore[method-assign]
    slow = torch.ones(1, 40, 2)
    fast = torch.tensor([1.0, -1.0]).repeat(20)[None, :, None].expand(1, 40, 2)

    def run(low: int, high: int) -> list[Tensor]:
        config = TaylorConfig(low_order=low, high_order=high, warm_up=2, cool_down=0, interval=9)
        cache = attach(model, ["blocks"], 5, config, streams=("hidden", "added"))
        cache.save(tmp_path / "plan.json")
        cache.load(tmp_path / "plan.json")
        found = []
        for step in range(5):
            cache.step(step)
            found.append(model(torch.zeros(1, 40, 2) + step * slow + step**2 * fast))
        cache.disable()
        return found

    lines = run(low=1, high=0)
    for step in range(2, 5):
        torch.testing.assert_close(lines[step], step * slow + fast, atol=1e-5, rtol=0)
    reused = run(low=0, high=1)
    for step in range(2, 5):
        torch.testing.assert_close(reused[step], slow + step * fast, atol=1e-5, rtol=0)


class Adds(nn.Module):
    def forward(self, hidden: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        return hidden + added, added


def test_bands_need_tokens() -> None:
    cache = toy(TaylorConfig(low_order=0, high_order=1, warm_up=2, cool_down=0, interval=9))
    with pytest.raises(RuntimeError, match=r"need streams of \(batch, tokens, width\), got \(1,\)"):
        outputs(cache)
    plan = cache.plan
    assert isinstance(plan, CachePlan)
    assert plan.bands is not None
