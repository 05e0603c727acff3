"""The prefix of a query, images, text and state in a cache of keys and values, used again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .patches import Patches
from .structure import Vla

MAY_DIFFER = ("images", "state")  # within max_age; what else there is (text, masks) must be equal
CHANGES = ("renew", "refuse")
DEPTH = 5  # of objects that hold keys and values


@dataclass(frozen=True)
class PrefixConfig:
    """Prefixes across queries. An equal observation reuses its prefix, and every bit is the same.

    max_age: queries after the one that made a prefix in which it is used for other images and
        another state too; more is faster, and the policy acts on what it saw then. 0 is never.
    on_change: of an observation for which the prefix may not be used: renew makes another one,
        refuse is an error.
    """

    max_age: int = 0
    on_change: str = "renew"

    def __post_init__(self) -> None:
        if type(self.max_age) is not int or self.max_age < 0:
            raise ValueError(f"prefix.max_age must be at least 0, got {self.max_age!r}")
        if self.on_change not in CHANGES:
            raise ValueError(
                f"prefix.on_change must be one of {', '.join(CHANGES)}, got {self.on_change!r}"
            )


class Prefixes:
    """Ours on `embed_prefix` of a core, and on what makes keys and values of it.

    Args:
        vla: the policy.
        config: when a prefix is used again.
    """

    def __init__(self, vla: Vla, config: PrefixConfig) -> None:
        self.vla, self.config = vla, config
        self.made = self.reused = self.stale = 0
        self._patches = Patches()
        self._names = list(inspect.signature(vla.core.embed_prefix).parameters)
        self.clear()

    def put(self) -> None:
        """On the policy; an episode's end, `policy.reset()`, forgets the prefix."""
        self._patches.put(self.vla.core, "embed_prefix", self._embed)
        self._patches.put(self.vla.joint, "forward", self._forward)
        if callable(getattr(self.vla.policy, "reset", None)):
            self._patches.put(self.vla.policy, "reset", self._reset)

    def take(self) -> None:
        """Off again."""
        self._patches.take()
        self.clear()

    def clear(self) -> None:
        """Forget the prefix."""
        self.age = 0
        self._seen: dict[str, Any] | None = None
        self._embedded: Any = None
        self._keys: Any = None
        self._snapshot: list[Any] = []
        self._reusing = self._query = False

    # --- a query

    def begin(self) -> None:
        """A query begins."""
        self._query, self._reusing = True, False

    def end(self) -> None:
        """It has ended.

        Raises:
            RuntimeError: the model changed the keys and values of its prefix while it denoised.
        """
        self._query = False
        if self._keys is not None and not _same(
            self._snapshot, _tensors((self._embedded, self._keys))
        ):
            raise RuntimeError(
                f"{type(self.vla.core).__name__} changes the keys and values of its prefix while "
                "it denoises, so they cannot be used again: leave prefix out"
            )

    def _embed(self, compute: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._query:
            return compute(*args, **kwargs)
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        self._reusing = self._usable(given)
        if not self._reusing:
            self._embedded = compute(*args, **kwargs)
            self._seen, self._keys, self.age = _copied(given), None, 0
            self.made += 1
        return self._embedded

    def _forward(self, compute: Any, *args: Any, **kwargs: Any) -> Any:
        embeds = kwargs.get("inputs_embeds")
        of_prefix = isinstance(embeds, Sequence) and len(embeds) == 2 and embeds[1] is None
        if not self._query or not of_prefix:
            return compute(*args, **kwargs)
        if not self._reusing:
            self._keys = compute(*args, **kwargs)
            self._snapshot = _snapshot((self._embedded, self._keys))
        return self._keys

    def _reset(self, compute: Any, *args: Any, **kwargs: Any) -> Any:
        self.clear()
        return compute(*args, **kwargs)

    def _usable(self, given: dict[str, Any]) -> bool:
        if self._seen is None or self._keys is None:
            return False
        differing = [n for n in {*given, *self._seen} if not _equal(given, self._seen, n)]
        if not differing:
            self.reused += 1
            return True
        other = [name for name in differing if name not in MAY_DIFFER]
        alike = all(_alike(given.get(name), self._seen.get(name)) for name in differing)
        if not other and alike and self.age < self.config.max_age:
            self.age += 1
            self.reused += 1
            self.stale += 1
            return True
        if self.config.on_change == "refuse":
            why = (
                f"{', '.join(sorted(other))} differ"
                if other
                else f"it is {self.age} queries old, prefix.max_age={self.config.max_age}"
                if alike
                else "shapes differ"
            )
            raise RuntimeError(
                f"the prefix may not be used for this observation, {', '.join(sorted(differing))} "
                f"differ from what it was made of and {why}: prefix.on_change=renew makes another"
            )
        return False


def _tensors(of: Any, depth: int = DEPTH) -> list[Tensor]:
    """All tensors in nested containers and plain objects."""
    if isinstance(of, Tensor):
        return [of]
    if depth < 0 or isinstance(of, nn.Module | str | bytes):
        return []
    inside: Iterator[Any]
    if isinstance(of, Mapping):
        inside = iter(of.values())
    elif isinstance(of, list | tuple):
        inside = iter(of)
    else:
        inside = iter(vars(of).values() if hasattr(of, "__dict__") else ())
    return [tensor for each in inside for tensor in _tensors(each, depth - 1)]


def _snapshot(of: Any) -> list[Any]:
    """Tensors with their versions; copies where versions are not kept."""
    return [(t, t.clone() if t.is_inference() else t._version) for t in _tensors(of)]


def _same(snapshot: list[Any], now: list[Tensor]) -> bool:
    if len(snapshot) != len(now):
        return False
    for (tensor, kept), found in zip(snapshot, now, strict=True):
        if tensor is not found:
            return False
        if not (torch.equal(kept, found) if isinstance(kept, Tensor) else kept == found._version):
            return False
    return True


def _copied(of: Any) -> Any:
    if isinstance(of, Tensor):
        return of.detach().clone()
    if isinstance(of, Mapping):
        return {key: _copied(value) for key, value in of.items()}
    if isinstance(of, list | tuple):
        return [_copied(value) for value in of]
    return of


def _equal(given: Mapping[str, Any], seen: Mapping[str, Any], name: str) -> bool:
    return name in given and name in seen and _alike(given[name], seen[name], values=True)


def _alike(a: Any, b: Any, values: bool = False) -> bool:
    """Whether two arguments have the same shapes, and with `values` the same numbers."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        return same and (not values or torch.equal(a, b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_alike(x, y, values) for x, y in zip(a, b, strict=True))
    return bool(a == b) if not isinstance(a, Tensor) and not isinstance(b, Tensor) else False
