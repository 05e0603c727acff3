"""Per-dimension maps between the env's units and the network's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .modes import MODES, check_modes

STATISTICS = ("min", "max", "mean", "std")


def _frozen(values: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({k: nn.Parameter(v, requires_grad=False) for k, v in values.items()})


class Normalizer(nn.Module):
    """normalised = x * scale + offset, one map per field ("obs", "action", or names of arrays).

    Keys in the state dict are the reference's: params_dict.<field>.{scale,offset,input_stats.*}. Of
    a field that has a mode of `MODES` in the place of a map they are the statistics that it needs:
    params_dict.<field>.<statistic>. Where a field's name has points its parts are nested, and the
    keys are the same.

    Args:
        dims: numbers of each field, or the shape of its map: (C, 1, 1) of an image.
        modes: {field: name in `MODES`}; the others have a map.

    Example:
        >>> normalizer = Normalizer({"action": 1}, {"action": "mean_std"})
        >>> params = normalizer.params("action")
        >>> _ = params["mean"].fill_(3.0), params["std"].fill_(2.0)
        >>> normalizer.unnormalize("action", torch.tensor([0.5])).tolist()
        [4.0]
    """

    def __init__(
        self,
        dims: Mapping[str, int | tuple[int, ...]],
        modes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.modes = dict(modes or {})
        check_modes(self.modes, tuple(dims))
        self.params_dict = nn.ParameterDict()
        for field, dim in dims.items():
            identity = {"scale": torch.ones(dim), "offset": torch.zeros(dim)}
            params = self._new(field)
            if field in self.modes:
                names = MODES[self.modes[field]].statistics
                params.update(_frozen({name: torch.zeros(dim) for name in names}))
                continue
            params.update(_frozen(identity))
            params["input_stats"] = _frozen({k: torch.zeros(dim) for k in STATISTICS})

    def _new(self, field: str) -> nn.ParameterDict:
        found = self.params_dict
        for part in field.split("."):
            if part in ("", "scale", "offset", "input_stats") or hasattr(nn.ParameterDict, part):
                raise ValueError(f"{field!r} cannot be the name of a field: {part!r} is taken")
            if part not in found:
                found[part] = nn.ParameterDict()
            found = found[part]
        return found

    def params(self, field: str) -> nn.ParameterDict:
        """scale, offset and input_stats of a field, or the statistics of its mode."""
        found = self.params_dict
        for part in field.split("."):
            found = found[part]
        return found

    def normalize(self, field: str, x: Tensor) -> Tensor:
        """(..., dim) in the units of the env -> (..., dim) normalised."""
        params = self.params(field)
        if field in self.modes:
            return MODES[self.modes[field]].normalize(x, params)
        out: Tensor = x * params["scale"] + params["offset"]
        return out

    def unnormalize(self, field: str, x: Tensor) -> Tensor:
        """(..., dim) normalised -> (..., dim) in the units of the env."""
        params = self.params(field)
        if field in self.modes:
            return MODES[self.modes[field]].unnormalize(x, params)
        out: Tensor = (x - params["offset"]) / params["scale"]
        return out

    def fit(self, field: str, data: Tensor, mode: str = "limits", range_eps: float = 1e-4) -> None:
        """Set the map of one field from data (n, dim).

        Args:
            field: "obs" or "action".
            data: (n, dim) in the units of the env.
            mode: limits maps [min, max] to [-1, 1]; gaussian maps to mean 0 and deviation 1.
            range_eps: a dimension that moves less than this is only centred, not scaled.

        Raises:
            ValueError: the data, or the map that it asks for, is not finite in float32.
        """
        if mode not in FITS:
            raise ValueError(f"normalizer.mode must be one of {', '.join(FITS)}, got {mode!r}")
        if field in self.modes:
            raise ValueError(f"{field} is normalised by {self.modes[field]}: only a map is fitted")
        data = data.float()
        stats = {
            "min": data.amin(0),
            "max": data.amax(0),
            "mean": data.mean(0),
            "std": data.std(0, correction=min(1, len(data) - 1)),
        }
        scale, offset = FITS[mode](stats, range_eps)
        finite = torch.stack([scale, offset, *stats.values()]).isfinite().all(0)
        finite &= scale >= torch.finfo(scale.dtype).tiny  # 2 / infinity is 0, and has no inverse
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0])
            said = ", ".join(f"{name} {float(value[first]):g}" for name, value in stats.items())
            raise ValueError(
                f"{field}: number {first} cannot be normalised in float32 with "
                f"range_eps={range_eps:g} ({said})"
            )
        params = self.params(field)
        values = {"scale": scale, "offset": offset}
        with torch.no_grad():
            for name, value in values.items():
                params[name].copy_(value)
            for name, value in stats.items():
                params["input_stats"][name].copy_(value)


def _limits(stats: dict[str, Tensor], range_eps: float) -> tuple[Tensor, Tensor]:
    span = stats["max"] - stats["min"]
    still = span < range_eps
    scale = torch.where(
        still, torch.ones_like(span), 2 / torch.where(still, torch.ones_like(span), span)
    )
    offset = torch.where(still, -(stats["min"] + stats["max"]) / 2, -1 - scale * stats["min"])
    return scale, offset


def _gaussian(stats: dict[str, Tensor], range_eps: float) -> tuple[Tensor, Tensor]:
    still = stats["std"] < range_eps
    ones = torch.ones_like(stats["std"])
    scale = torch.where(still, ones, 1 / torch.where(still, ones, stats["std"]))
    return scale, -stats["mean"] * scale


FITS: dict[str, Callable[[dict[str, Tensor], float], tuple[Tensor, Tensor]]] = {
    "limits": _limits,
    "gaussian": _gaussian,
}
