"""The examples in docstrings, run from the project's folder; public entry points have one."""

from __future__ import annotations

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import accel
import envs
import policies
from runners import metrics, statistics
from runners.episodes.loop import evaluate
from tests.helpers.places import PROJECT

ROOMS = ("accel", "envs", "policies", "runners")
PUBLIC = {
    "accel.accelerated": accel.accelerated,
    "accel.attach": accel.attach,
    "accel.quantize": accel.quantize,
    "accel.CachePlan.load": accel.CachePlan.load,
    "accel.CachePlan.save": accel.CachePlan.save,
    "accel.forecast.lagrange": accel.forecast.lagrange,
    "accel.forecast.adams_bashforth": accel.forecast.adams_bashforth,
    "policies.load_policy": policies.load_policy,
    "policies.DiffusionPolicy.act": policies.DiffusionPolicy.act,
    "policies.sampler_table": policies.sampler_table,
    "policies.SamplerConfig": policies.SamplerConfig,
    "policies.choose_sampler": policies.choose_sampler,
    "envs.make_task": envs.make_task,
    "episodes.loop.evaluate": evaluate,
    "metrics.wilson": metrics.wilson,
    "metrics.paired": metrics.paired,
    "metrics.tango": metrics.tango,
    "statistics.holm": statistics.holm,
    "statistics.noninferiority": statistics.noninferiority,
    "statistics.power": statistics.power,
    "statistics.episodes_needed": statistics.episodes_needed,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


WITH_EXAMPLES = [
    module_name(path)
    for room in ROOMS
    for path in sorted((PROJECT / room).rglob("*.py"))
    if ">>> " in path.read_text()
]


def examples(module: Any) -> list[doctest.DocTest]:
    """Those of a module; its decorated functions have the globals of their decorator."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {test.name: test for test in finder.find(module)}
    for name, value in vars(module).items():
        inner = inspect.unwrap(value) if inspect.isfunction(value) else value
        if inner is not value and inner.__module__ == module.__name__:
            found |= {t.name: t for t in finder.find(inner, f"{module.__name__}.{name}", module)}
    return [test for test in found.values() if test.examples]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_say_what_happens(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    module = import_module(name)
    tests = examples(module)
    assert sum(len(test.examples) for test in tests) == Path(
        inspect.getsourcefile(module) or ""
    ).read_text().count(">>> ")
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test)
    assert runner.failures == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_entry_point_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(PUBLIC[name]) or "")


def test_the_library_example_of_the_readme_runs_as_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(PROJECT)
    block = re.search(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.M | re.DOTALL)
    assert block
    exec(block[1], {})
    assert capsys.readouterr().out.startswith("(2, 8, 9) ")
