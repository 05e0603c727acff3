"""What enters the linear layers of a model while it works."""

from __future__ import annotations

import hashlib
import inspect
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .attention import Attention
from .convolution import Convolution, is_covered, patches
from .hashes import identity, sha256


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Inputs of one layer over every call of the calibration.

    Attributes:
        maximum: (K,) float32, largest magnitude of each channel over all tokens.
        rows: (R, K) float32, tokens drawn evenly from all of them.
        peaks: largest magnitude in each call, in order; how it drifts over denoising steps.
        n_tokens: that were seen.
    """

    maximum: Tensor
    rows: Tensor
    peaks: tuple[float, ...]
    n_tokens: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of every linear layer that was called, by name; an attention's are named as in `Attention`.

    Attributes:
        layers: by name.
        attentions: {name of an nn.MultiheadAttention: whether its keys come from elsewhere}, those
            that an `Attention` can stand for in every call seen; others have no layers here.
        model: `identity` of the model that was watched.
        source: where the batches came from, for people and for the file.
    """

    layers: dict[str, LayerStatistics]
    attentions: dict[str, bool]
    model: str
    source: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Everything measured, by name."""
        found = {}
        for name, layer in self.layers.items():
            found[f"{name}/maximum"], found[f"{name}/rows"] = layer.maximum, layer.rows
            found[f"{name}/peaks"] = torch.tensor(layer.peaks, dtype=torch.float64)
            found[f"{name}/n_tokens"] = torch.tensor(layer.n_tokens)
        return found

    def digest(self) -> str:
        """Hash of what was measured and on what model (not of where the batches came from)."""
        said = f"{self.model} {sorted(self.attentions.items())} {sha256(self.tensors())}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def check(self, model: nn.Module) -> None:
        """Refuse a model that was not the one watched.

        Raises:
            ValueError: other weights, or a policy with another sampler.
        """
        if identity(model) != self.model:
            raise ValueError(
                "the statistics are of another checkpoint or sampler (fingerprints differ), or the "
                "model was changed since: collect them anew"
            )

    def save(self, path: str | Path) -> Path:
        """Write safetensors, see statistics_file.py; a folder gets statistics.safetensors."""
        from .statistics_file import save_statistics

        return save_statistics(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Statistics:
        """Read what `save` wrote; `check` refuses another model."""
        from .statistics_file import load_statistics

        return load_statistics(path)


def stable_seed(seed: int, name: str) -> int:
    """A seed for one layer, the same in every process."""
    return zlib.crc32(f"{seed} {name}".encode())


@dataclass
class _Recorder:
    n_rows: int
    generator: torch.Generator
    maximum: Tensor | None = None
    rows: Tensor | None = None
    keys: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    peaks: list[float] = field(default_factory=list)
    n_tokens: int = 0

    def add(self, x: Tensor) -> None:
        x = x.detach().reshape(-1, x.shape[-1]).float().cpu()
        if not len(x):
            return
        if not torch.isfinite(x).all():
            raise FloatingPointError("an input of the calibration is not finite")
        maximum = x.abs().amax(0)
        self.maximum = maximum if self.maximum is None else torch.maximum(self.maximum, maximum)
        self.peaks.append(float(maximum.max()))
        self.n_tokens += len(x)
        # every token has a random key, and the largest keys stay: an even draw in one pass
        keys = torch.rand(len(x), generator=self.generator, dtype=torch.float64)
        keys = torch.cat([self.keys, keys])
        rows = x if self.rows is None else torch.cat([self.rows, x])
        kept = keys.topk(min(self.n_rows, len(keys))).indices.sort().values
        self.keys, self.rows = keys[kept], rows[kept]

    def result(self) -> LayerStatistics:
        assert self.maximum is not None
        assert self.rows is not None
        return LayerStatistics(
            self.maximum.clone(), self.rows.clone(), tuple(self.peaks), self.n_tokens
        )


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    n_batches: int,
    run: Callable[[nn.Module, Any], Any] = lambda model, batch: model(*batch),
    rows: int = 512,
    seed: int = 0,
    source: dict[str, Any] | None = None,
) -> Statistics:
    """Run a model and watch its linear layers, those inside nn.MultiheadAttention too.

    Args:
        model: in eval mode; left as it was.
        batches: what `run` takes; at least `n_batches`, further ones are not touched.
        n_batches: how many to run. One query of a policy is many calls, and all of them count.
        run: how a batch is run, e.g. `lambda policy, batch: policy.act(*batch)`.
        rows: tokens kept per layer.
        seed: of the draw of tokens.
        source: of the batches, kept in the statistics.

    Raises:
        ValueError: fewer batches than asked, training mode, or no linear layer that ran.
        FloatingPointError: an input is not finite.
    """
    if model.training:
        raise ValueError("the model must be in eval mode: call model.eval() first")
    for setting, value in (("n_batches", n_batches), ("rows", rows)):
        if value < 1:
            raise ValueError(f"{setting} must be at least 1, got {value}")
    recorders: dict[str, _Recorder] = {}
    attentions: dict[str, Attention] = {}
    refused: dict[str, str] = {}

    def record(name: str, x: Tensor) -> None:
        if name not in recorders:
            generator = torch.Generator().manual_seed(stable_seed(seed, name))
            recorders[name] = _Recorder(rows, generator)
        recorders[name].add(x)

    def on_linear(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        record(name, args[0] if args else kwargs["input"])

    def on_convolution(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        assert isinstance(module, Convolution)
        record(name, patches(module, args[0] if args else kwargs["input"]))

    def on_attention(
        name: str, stock: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        assert isinstance(stock, nn.MultiheadAttention)
        given = inspect.signature(stock.forward).bind(*args, **kwargs).arguments
        query, key, value = (given.pop(n) for n in ("query", "key", "value"))
        cross = key is not query
        if name not in attentions and not refused.get(name):
            try:
                attentions[name] = Attention.from_stock(stock, cross, name)
            except ValueError as error:
                refused[name] = str(error)
        if name in refused:
            return
        if key is not value or attentions[name].cross != cross or query.dim() != 3:
            refused[name] = "must always be self-attention, or cross-attention to one memory"
            return
        for linear, x in (("q_proj", query), ("kv_proj", key)) if cross else (("in_proj", query),):
            record(f"{name}.{linear}", x)
        if not stock.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        masks = {n: given.get(n) for n in ("attn_mask", "key_padding_mask")}
        heads = attentions[name].heads(query, key, **masks, is_causal=given.get("is_causal", False))
        record(f"{name}.out_proj", heads)

    hooks = []
    done = 0
    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                hook = partial(on_attention, name)
                hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            elif type(module) is nn.Linear:
                hook = partial(on_linear, name)
                hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            elif is_covered(model, name, module):
                hook = partial(on_convolution, name)
                hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        chosen = islice(batches, n_batches)
        with torch.no_grad():
            for batch in tqdm(chosen, "statistics", total=n_batches, unit="batch", disable=None):
                run(model, batch)
                done += 1
    finally:
        for handle in hooks:
            handle.remove()
    if done < n_batches:
        raise ValueError(
            f"n_batches must be at most the batches there are, {done}, got {n_batches}"
        )
    kinds = {name: a.cross for name, a in attentions.items() if name not in refused}
    layers = {
        name: recorder.result()
        for name, recorder in recorders.items()
        if recorder.n_tokens and name.rpartition(".")[0] not in refused
    }
    if not layers:
        raise ValueError(f"no linear layer ran in {done} batches: the model goes around its layers")
    return Statistics(layers, kinds, identity(model), source or {})
