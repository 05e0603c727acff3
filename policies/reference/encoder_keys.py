"""The names that image policies of the reference implementation have for weights, and ours.

| a camera K's network | in the file, after `obs_encoder.` | here, after `encoder.nets.i.` |
|---|---|---|
| robomimic: ResNet | `obs_nets.K.backbone.nets.*`, `obs_nets.K.nets.0.nets.*` | `backbone.*` |
| its spatial softmax | `obs_nets.K.pool.*`, `obs_nets.K.nets.1.*` | `pool.*` |
| its linear layer | `obs_nets.K.nets.3.*` | `out.*` |
| the others: ResNet | `key_model_map.K.*` (`rgb` where shared) | `backbone.*` |

robomimic 0.2.0 and 0.3.0 write the same names, most weights twice; one of the two is enough.
`pos_x` and `pos_y` of the spatial softmax are the columns of `pos_grid`; its `temperature` divides
its convolution's weights. The others have torchvision's names. A map of the normaliser
(`normalizer.params_dict.K.*`) is one number for a whole image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from skipstep.observations import is_image

from ..data.normalizer import STATISTICS
from ..encoders.encoder import ObservationEncoder
from ..undrawn import Undrawn
from .seen import Seen

THEIRS, OURS, MAPS = "obs_encoder.", "encoder.nets.", "normalizer.params_dict."
PARTS = {  # of a robomimic network: a name's beginning -> ours
    "backbone.nets.": "backbone.",
    "nets.0.nets.": "backbone.",
    "pool.": "pool.",
    "nets.1.": "pool.",
    "nets.3.": "out.",
}
STEM = {"conv1": "0", "bn1": "1"}  # of torchvision's; `layerN` is N + 3
OF_MAP = ("scale", "offset", *(f"input_stats.{name}" for name in STATISTICS))
RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # what only BatchNorm has
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and deviation of R, G, B


def encoder_state(state: Mapping[str, Tensor], seen: Seen, observes: str) -> dict[str, Tensor]:
    """A state dict of the reference under our names.

    Args:
        state: of a policy.
        seen: what it sees.
        observes: a name in `observers.OBSERVERS`.

    Raises:
        ValueError: names that are missing or unknown, or what contradicts the settings; says which.
    """
    found = {k: v for k, v in state.items() if not k.startswith((THEIRS, MAPS))}
    encoder = NAMINGS[observes](
        {k.removeprefix(THEIRS): v for k, v in state.items() if k.startswith(THEIRS)}, seen
    )
    _check(encoder, seen)
    negative = [k for k, v in encoder.items() if k.endswith("running_var") and bool((v < 0).any())]
    if negative:
        raise ValueError(f"{negative[0]} holds negative numbers")
    return found | encoder | dict(_maps(state, seen))


def _robomimic(state: Mapping[str, Tensor], seen: Seen) -> dict[str, Tensor]:
    numbers = {camera: i for i, camera in enumerate(_cameras(seen))}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        camera, _, rest = key.removeprefix("obs_nets.").partition(".")
        begins = [part for part in PARTS if rest.startswith(part)]
        if not key.startswith("obs_nets.") or camera not in numbers or not begins:
            raise ValueError(f"{THEIRS}{key} is not known, cameras are {', '.join(numbers)}")
        name = f"{numbers[camera]}.{PARTS[begins[0]]}{rest.removeprefix(begins[0])}"
        if name in found and not torch.equal(found[name], value):
            raise ValueError(f"{THEIRS}{key} differs from the same weight's other name")
        found[name] = value
    for camera, i in numbers.items():
        _, height, width = seen.encoder.map_shape(seen.names[camera])
        _softmax(found, f"{i}.pool.", camera, height * width)
    return {OURS + name: value for name, value in found.items()}


def _softmax(state: dict[str, Tensor], pool: str, camera: str, n: int) -> None:
    """Positions as one buffer, and a temperature in the weights that it divides."""
    columns = []
    for name in ("pos_x", "pos_y"):
        column = state.pop(f"{pool}{name}", None)
        if column is None or column.numel() != n:
            got = "nothing" if column is None else f"{column.numel()} numbers"
            raise ValueError(f"camera {camera}: {name} must hold {n} numbers, got {got}")
        columns.append(column.flatten())
    state[f"{pool}pos_grid"] = torch.stack(columns, dim=1)
    temperature = float(state.pop(f"{pool}temperature", torch.ones(1)))
    if not 0 < temperature < float("inf"):
        raise ValueError(f"camera {camera}: temperature must be above 0, got {temperature}")
    for name in (f"{pool}nets.weight", f"{pool}nets.bias"):
        if name in state and temperature != 1:
            state[name] = state[name] / temperature


def _multi_image(state: Mapping[str, Tensor], seen: Seen) -> dict[str, Tensor]:
    cameras = ["rgb"] if seen.encoder.shared else _cameras(seen)
    numbers = {camera: i for i, camera in enumerate(cameras)}
    found = {}
    for key, value in state.items():
        camera, _, rest = key.removeprefix("key_model_map.").partition(".")
        first, _, last = rest.partition(".")
        stage = re.fullmatch("layer([1-4])", first)
        first = str(int(stage[1]) + 3) if stage else STEM.get(first, "")
        if not key.startswith("key_model_map.") or camera not in numbers or not first:
            raise ValueError(f"{THEIRS}{key} is not known, cameras are {', '.join(numbers)}")
        found[f"{OURS}{numbers[camera]}.backbone.{first}.{last}"] = value
    for camera, i in numbers.items():
        if not any(name.startswith(f"{OURS}{i}.") for name in found):
            raise ValueError(f"camera {camera} has no weights")
    return found


NAMINGS: dict[str, Callable[[Mapping[str, Tensor], Seen], dict[str, Tensor]]] = {
    "robomimic": _robomimic,
    "multi_image": _multi_image,
}


def _cameras(seen: Seen) -> list[str]:
    return [theirs for theirs, ours in seen.names.items() if is_image(ours)]


def _check(state: Mapping[str, Tensor], seen: Seen) -> None:
    """Refuse what is missing or too much, with one name of it."""
    with Undrawn(), torch.device("meta"):
        wanted = {f"encoder.{name}" for name in ObservationEncoder(seen.encoder).state_dict()}
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    differ = [name.rpartition(".")[2] in RUNNING for name in (*missing, *unknown)]
    if differ and all(differ):
        said, got = ("Batch", "Group") if missing else ("Group", "Batch")
        raise ValueError(f"the settings say {said}Norm for images, the weights are {got}Norm's")
    for names, what in ((missing, "is missing"), (unknown, "is not known")):
        if names:
            number, _, rest = names[0].removeprefix(OURS).partition(".")
            camera = _cameras(seen)[int(number)]
            raise ValueError(f"camera {camera}: {rest} {what} ({len(names)} such weights in all)")


def _maps(state: Mapping[str, Tensor], seen: Seen) -> Iterator[tuple[str, Tensor]]:
    """Entries of the normaliser under our names, in the shapes of their arrays."""
    maps = {k.removeprefix(MAPS): v for k, v in state.items() if k.startswith(MAPS)}
    names = {**seen.names, "action": "action"}
    for theirs, ours in names.items():
        n = [seen.action_dim] if theirs == "action" else seen.encoder.arrays[ours]
        shape = (n[0], 1, 1) if is_image(ours) else (n[0],)
        entry = {
            name: _shaped(f"{theirs}.{name}", maps.pop(f"{theirs}.{name}", None), shape)
            for name in OF_MAP
        }
        if seen.imagenet and is_image(ours):
            entry |= _by_imagenet(entry["scale"], entry["offset"])
        yield from ((f"{MAPS}{ours}.{name}", value) for name, value in entry.items())
    if maps:
        raise ValueError(f"{MAPS}{min(maps)} is not known, arrays are {', '.join(names)}")


def _shaped(name: str, value: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """One number stands for all of an array; an image has one for all of it."""
    if value is None:
        raise ValueError(f"{MAPS}{name} is missing")
    if value.numel() == 1:
        return value.reshape(()).expand(shape).contiguous()
    if value.shape != shape or len(shape) == 3:
        allowed = "1 number" if len(shape) == 3 else f"1 or {shape[0]} numbers"
        raise ValueError(f"{MAPS}{name} must hold {allowed}, got {tuple(value.shape)}")
    return value


def _by_imagenet(scale: Tensor, offset: Tensor) -> dict[str, Tensor]:
    """The map that is followed by (x - mean) / deviation; borders come later, so it is the same."""
    mean, deviation = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in IMAGENET)
    return {"scale": scale / deviation, "offset": (offset - mean) / deviation}
