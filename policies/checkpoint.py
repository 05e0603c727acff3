"""Finding, reading and writing checkpoints: our folders, LeRobot's, and the reference's .ckpt."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from skipstep.plain_files import PlainFileError, read_yaml
from skipstep.whole_files import replacing

from .clipping import cuts
from .config import PolicyConfig, TaskInfo
from .encoders.config import EncoderConfig
from .families import family_in
from .family import UnsupportedPolicy
from .folder_digest import DIGEST, check_folder_digest, save_settings
from .lerobot.folder import find_lerobot, read_lerobot
from .policy import DiffusionPolicy
from .reference.files import read_file
from .reference.interpolation import resolve
from .reference.live import own_state, policy_config
from .reference.reader import CheckpointError, describe_trusted
from .sampling.choosing import sampler_warnings
from .sampling.table import SamplerConfig
from .undrawn import Undrawn
from .weights import check_scales, check_sizes, checked

log = logging.getLogger(__name__)

SCHEMA = "skipstep-policy/1"
CONFIG, WEIGHTS = "policy.yaml", "weights.safetensors"
WEIGHT_CHOICES = ("auto", "ema", "model")
SCORE = re.compile(r"test_mean_score=(-?\d+(?:\.\d+)?)")
EPOCH = re.compile(r"epoch=(\d+)")
MESSAGE = 600  # characters of what torch says
DAMAGED = (ArithmeticError, AttributeError, LookupError, MemoryError)
"""What else a file may lead to that says something wrong of itself."""


def load_policy(
    path: str | Path,
    weights: str = "auto",
    device: str = "cpu",
    trust: bool = False,
    pick: str = "best",
) -> DiffusionPolicy:
    """Read a policy; nothing in the file is executed.

    Args:
        path: a folder in our format or in LeRobot's, a reference .ckpt, a folder of those (then
            `pick` chooses), or the output of a training of LeRobot (then it is the last one).
        weights: auto takes the EMA weights where the training used EMA; ema or model insist.
        device: a torch device.
        trust: unpickle a file that holds more than data, *running its code*; says first what that
            is.
        pick: best (highest test_mean_score in the name) or latest, among the .ckpt files of a
            folder.

    Raises:
        FileNotFoundError: nothing there; names what is.
        CheckpointError: truncated, malicious or contradictory file.
        UnsupportedPolicy: a policy this project does not run, by name.

    Example:
        >>> policy = load_policy("checkpoints/kitchen")
        >>> policy.n_obs_steps, policy.obs_dim, policy.n_action_steps, policy.action_dim
        (4, 60, 8, 9)
    """
    if weights not in WEIGHT_CHOICES:
        raise ValueError(f"weights must be one of {', '.join(WEIGHT_CHOICES)}, got {weights!r}")
    found = find_checkpoint(Path(path), pick)
    try:
        config, state = _format(found)(found, weights, trust)
        check_sizes(config, state)
        with Undrawn():
            policy = DiffusionPolicy(config)
        policy.load_state_dict(checked(policy, state))
        check_scales(policy.normalizer)
        if (found / CONFIG).is_file():
            check_folder_digest(read_yaml(found / CONFIG), found / WEIGHTS)
    except RuntimeError as error:  # load_state_dict names keys and shapes, all of them, on lines
        raise CheckpointError(f"{found}: {shorten(str(error), MESSAGE)}") from error
    except KeyError as error:
        raise CheckpointError(f"{found}: {error} is missing") from error
    except (TypeError, ValueError, *DAMAGED) as error:
        if isinstance(error, CheckpointError | UnsupportedPolicy) and str(found) in str(error):
            raise
        kind = type(error) if isinstance(error, UnsupportedPolicy) else CheckpointError
        raise kind(f"{found}: {error}") from error
    for cut in cuts(config, policy.normalizer):
        log.warning("%s: %s", found, cut)
    for words in sampler_warnings(policy.config.sampler):
        log.warning("%s: %s", found, words)
    policy.origin = found
    return policy.to(device).eval()


Read = Callable[[Path, str, bool], tuple[PolicyConfig, dict[str, Tensor]]]


def _format(found: Path) -> Read:
    """What reads a checkpoint that was found."""
    if not found.is_dir():
        return _read_ckpt
    return _read_folder if (found / CONFIG).is_file() else _read_lerobot


def save_policy(
    policy: DiffusionPolicy, folder: str | Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write our folder format; weights in `dtype`, the normaliser in float32.

    The encoder's buffers, running statistics and grids, stay as they are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {k for k, _ in policy.named_buffers() if k.startswith("encoder.")}
    state = {
        k: (v if k in kept else v.to(torch.float32 if k.startswith("normalizer.") else dtype))
        .detach()
        .cpu()
        .contiguous()
        for k, v in policy.state_dict().items()
    }
    settings = {"schema": SCHEMA, **policy.config.settings()}
    writers: dict[str, Callable[[Path], None]] = {
        WEIGHTS: lambda p: save_file(state, p),
        CONFIG: lambda p: save_settings(settings, p, folder / WEIGHTS),
    }
    for name, write in writers.items():
        with replacing(folder / name) as temporary:
            write(temporary)
            temporary.chmod(0o644)


def find_checkpoint(path: Path, pick: str = "best") -> Path:
    """A file or a folder as it is, else LeRobot's last policy, or the chosen .ckpt, in a folder."""
    if path.is_file() or (path / CONFIG).is_file():
        return path
    if found := find_lerobot(path):
        return found
    files = sorted(p for d in (path, path / "checkpoints") for p in d.glob("*.ckpt"))
    if not files:
        raise FileNotFoundError(f"no checkpoint at {path}; {_what_is_there(path)}")
    return PICKS[pick](files)


def _score(file: Path) -> tuple[float, int]:
    score, epoch = SCORE.search(file.name), EPOCH.search(file.name)
    return float(score[1]) if score else float("-inf"), int(epoch[1]) if epoch else -1


def _latest(files: list[Path]) -> Path:
    named = [f for f in files if f.name == "latest.ckpt"]
    return named[0] if named else max(files, key=lambda f: (_score(f)[1], f.stat().st_mtime))


def _best(files: list[Path]) -> Path:
    scored = [f for f in files if SCORE.search(f.name)]
    return max(scored, key=_score) if scored else _latest(files)


PICKS: dict[str, Callable[[list[Path]], Path]] = {"best": _best, "latest": _latest}


def _what_is_there(path: Path) -> str:
    here = path
    while not here.is_dir():
        here = here.parent
    names = sorted(p.name for p in here.iterdir() if not p.name.startswith("."))[:8]
    return f"{here.resolve()} holds {', '.join(names) if names else 'nothing'}"


def _read_folder(folder: Path, weights: str, trust: bool) -> tuple[PolicyConfig, dict[str, Tensor]]:
    if weights == "model":
        raise CheckpointError(
            f"{folder}: weights=model is not there (it holds the weights to deploy: use auto)"
        )
    try:
        raw: Any = read_yaml(folder / CONFIG)
        state = load_file(folder / WEIGHTS)
    except (PlainFileError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
        raise CheckpointError(f"{folder / CONFIG}: schema must be {SCHEMA}")
    sizes = family_in(raw).sizes
    raw.pop("family", None)
    raw.pop(DIGEST, None)
    parts: dict[str, Any] = {
        **{"network": sizes, "sampler": SamplerConfig, "task": TaskInfo},
        "encoder": EncoderConfig,
    }
    wrong = [k for k in parts if k in raw and not isinstance(raw[k], dict)]
    if wrong:
        raise CheckpointError(f"{folder / CONFIG}: {wrong[0]} must be a mapping")
    return PolicyConfig(**{k: parts[k](**v) if k in parts else v for k, v in raw.items()}), state


def _read_lerobot(
    folder: Path, weights: str, trust: bool
) -> tuple[PolicyConfig, dict[str, Tensor]]:
    if weights == "ema":
        raise CheckpointError(f"{folder}: weights=ema is not there (LeRobot keeps no average)")
    return read_lerobot(folder)


def _read_ckpt(file: Path, weights: str, trust: bool) -> tuple[PolicyConfig, dict[str, Tensor]]:
    if trust:
        cfg, states = _run_ckpt(file)
    else:
        cfg, states = read_file(file)
    if weights == "auto":
        weights = (
            "ema" if (cfg.get("training") or {}).get("use_ema", "ema_model" in states) else "model"
        )
    key = {"ema": "ema_model", "model": "model"}[weights]
    if key not in states:
        raise CheckpointError(
            f"{file}: weights={weights} needs state_dicts.{key}, "
            f"the file holds {', '.join(sorted(states))}"
        )
    log.info("%s: %s weights", file, key)
    return policy_config(cfg), own_state(states[key], cfg)


def _run_ckpt(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Full unpickling, for `trust=True` only."""
    try:
        import dill
    except ImportError as error:
        raise ImportError("trust=True needs dill: pip install dill") from error
    for name in describe_trusted(file):
        log.warning("trust=True: %s runs or imports %s", file, name)
    with file.open("rb") as stream:
        payload = torch.load(stream, pickle_module=dill, map_location="cpu", weights_only=False)
    cfg: Any = OmegaConf.to_container(payload["cfg"])
    return resolve(cfg), payload["state_dicts"]
