"""policies/reference/interpolation.py: the values OmegaConf gives, without its resolvers."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from policies.reference.interpolation import resolve

CONFIG: dict[str, Any] = {
    "task": {
        "obs_dim": 20,
        "name": "lift",
        "ratio": 0.5,
        "off": False,
        "none": None,
        "keys": ["a", "b"],
        "again": "${.obs_dim}",
        "up": "${..horizon}",
        "runner": {"steps": "${...horizon}", "name": "${task.name}"},
    },
    "horizon": 16,
    "which": "task",
    "obs_dim": "${task.obs_dim}",
    "chain": "${obs_dim}",
    "path": "data/${task.name}/${horizon}_${task.off}_${task.none}.ckpt",
    "item": "${task.keys[1]}",
    "dotted": "${task.keys.0}",
    "nested": "${${which}.obs_dim}",
    "whole": "${task.runner}",
    "through": "${whole.steps}",
    "listed": ["${horizon}", "${.0}", {"x": "${..0}"}],
    "escaped": "\\${horizon}",
    "none": "${task.none}",
    "false": "${task.off}",
}


def test_references_are_those_of_omegaconf() -> None:
    assert resolve(CONFIG) == OmegaConf.to_container(OmegaConf.create(CONFIG), resolve=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${eval:'${obs} if ${cond} else 0'}", 20),
        ("${eval:'${obs}-1+${n}'}", 21),
        ("${eval: ${obs} + ${n} }", 22),
        ('${eval:\'500 if "${kind}" == "mh" else 400\'}', 400),
        ('${eval:"${n} * 2"}', 4),
        ("n=${eval:'${n} * 2'}", "n=4"),
    ],
)
def test_eval_is_arithmetic_on_the_substituted_text(text: str, value: object) -> None:
    config = {"obs": 20, "n": 2, "cond": True, "kind": "ph", "x": text}
    assert resolve(config)["x"] == value


@pytest.mark.parametrize(
    "text",
    [
        "${now:%Y.%m.%d}_${n}",
        "${oc.env:HOME}",
        "${hydra:runtime.cwd}",
        "${missing}",
        "${n.x}",
        "${list[7]}",
        "${x}",
        "${y}",
        "${......n}",
        "${undefined}",
        "${",
        "${n",
        "${eval:'__import__(\"os\").getcwd()'}",
        "${eval:'1 / 0'}",
        "${eval:'${missing}'}",
        "a${list}",
    ],
)
def test_what_cannot_be_resolved_stays_text(text: str) -> None:
    config = {"n": 2, "list": [1], "y": "${x}", "undefined": "???", "x": text}
    resolved = resolve(config)
    assert resolved["x"] == text
    assert resolved["n"] == 2


def test_a_container_that_holds_itself_ends() -> None:
    assert resolve({"a": {"b": "${a}"}})["a"]["b"]["b"] == "${a}"


def test_growth_is_bounded() -> None:
    config = {f"k{i}": [f"${{k{i + 1}}}"] * 10 for i in range(30)} | {"k30": 0}
    with pytest.raises(ValueError, match="more than"):
        resolve(config)
    text = {f"k{i}": f"${{k{i + 1}}}" * 10 for i in range(30)} | {"k30": "x" * 100}
    assert resolve(text)["k29"] == "x" * 1000
