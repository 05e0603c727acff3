"""Writing a query as a graph, with a JSON beside it that says what it is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from skipstep.guessing import guess

from ..accelerated_policy import AcceleratedPolicy
from ..plans.plan import PlanError
from ..warm import WarmStarted
from .check import Checked, check, given, observations
from .formats import ACTIONS, FORMATS, Format, check_package
from .noise import DRAWING, query_noise
from .query import Query, check_fixed

SCHEMA = "skipstep-graph/1"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: the graph, what belongs to it, and the JSON.
        checked: None where no runtime was there to check it.
    """

    files: tuple[Path, ...]
    checked: Checked | None


def export_graph(
    fast: AcceleratedPolicy | WarmStarted, path: str | Path, to: str = "onnx", batch: int = 1
) -> Exported:
    """Write an accelerated policy as one graph of the whole query, checked against the policy.

    Its inputs are `observation`, (batch, n_obs_steps, obs_dim) in the units of the env (or the
    arrays of the observation by name, where it has several), and `noise`, see `query_noise`; its
    output is `actions`, (batch, n_action_steps, action_dim). `<path>.json` says all of it.

    Args:
        fast: of `accelerated`, open, with a cache that is fixed before the run.
        path: of the graph, ending in .onnx or .xml; what is there is replaced.
        to: a name in `FORMATS`: onnx or openvino.
        batch: rows of a query.

    Raises:
        ValueError: another format or suffix, a package that is not installed, a quantised policy in
            a format without codes, a network that it cannot write, or a graph that does something
            else; nothing is then written.
            PlanError: a cache that decides at run time, or that takes values of the query before.
            TypeError: no accelerated policy, or one that begins near its last chunk.
    """
    if not isinstance(fast, AcceleratedPolicy):
        raise TypeError(
            "export_graph takes what accelerated(policy, ...) gives without warm=, got "
            f"{type(fast).__name__}"
        )
    path = Path(path)
    format = checked_format(to, path, batch, fast.quantised is not None)
    check_fixed(fast.plan.method.partition(" ")[0], fast.plan.decide is not None)
    if fast.keeps_memory:
        raise PlanError(
            "cache.across=true takes values of the query before, and a graph is one query: export "
            "it with across=False"
        )
    obs = observations(fast.policy, batch, seed=0)
    inputs = given(obs, query_noise(fast.policy, range(batch)), fast.policy.obs_spec.single)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        graph = Path(folder, path.name)
        try:
            format.write(Query(fast), tuple(inputs.values()), list(inputs), graph)
        except (RuntimeError, TypeError) as error:  # an operation that cannot be traced
            said = str(error).partition("\n")[0]
            raise ValueError(f"to={to} cannot write this network: {said}") from error
        found = check(fast, graph, format, batch)
        content = json.dumps(sidecar(fast, path, to, inputs, found), indent=1)
        graph.with_suffix(".json").write_text(content + "\n")
        files: list[Path] = []
        for suffix in (*format.beside, ".json", format.suffix):
            os.replace(graph.with_suffix(suffix), path.with_suffix(suffix))
            files.insert(0, path.with_suffix(suffix))
    return Exported(tuple(files), found)


def checked_format(to: str, path: Path, batch: int, quantised: bool) -> Format:
    """The format, where all of this can be.

    Raises:
        ValueError: one line.
    """
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got {to!r}{guess(to, FORMATS)}")
    format = FORMATS[to]
    if path.suffix != format.suffix:
        raise ValueError(f"the file of to={to} must end in {format.suffix}, got {path.name}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if quantised and not format.quantises:
        able = ", ".join(name for name, other in FORMATS.items() if other.quantises)
        raise ValueError(f"to={to} has no quantised weights: quant=none, or to={able}")
    check_package(format.package, f"to={to}")
    return format


def sidecar(
    fast: AcceleratedPolicy,
    path: Path,
    to: str,
    inputs: dict[str, Tensor],
    found: Checked | None,
) -> dict[str, Any]:
    """What a program that loads the graph has to know, and which policy it is."""
    policy, plan, batch = fast.policy, fast.plan, inputs["noise"].shape[1]
    shape = [batch, fast.n_action_steps, fast.action_dim]
    units = {"noise": DRAWING}
    return {
        "schema": SCHEMA,
        "file": path.name,
        "format": to,
        "policy": policy.fingerprint(),
        "family": policy.sizes.family,
        "sampler": policy.sampler_settings,
        "plan": {"digest": plan.digest(), "method": plan.method, "steps": plan.n_steps},
        "quant": quantisation(fast),
        "batch": batch,
        "inputs": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "is": units.get(name, OBSERVED),
            }
            for name, tensor in inputs.items()
        ],
        "outputs": [{"name": ACTIONS, "shape": shape, "dtype": "float32", "is": ACTED}],
        "checked": None if found is None else asdict(found),
    }


OBSERVED = (
    "the last n_obs_steps observations of each row, oldest first, in the units of the env: "
    "normalisation is inside"
)
ACTED = "the actions to execute, in their order, in the units of the env"


def quantisation(fast: AcceleratedPolicy) -> dict[str, Any] | None:
    """What is said of a quantised copy."""
    copy = fast.quantised
    if copy is None:
        return None
    bits = {layer.name: f"W{layer.weight_bits}A{layer.activation_bits}" for layer in copy.layers}
    return {"name": copy.config.name, "digest": copy.digest(), "layers": bits}
