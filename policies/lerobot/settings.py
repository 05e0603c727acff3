"""The settings of a LeRobot config.json, taken one by one; what is left over is refused by name."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from typing import Any

from ..family import UnsupportedPolicy

CONFIG = "config.json"
MOST = 10**6  # of any size

OF_PUBLISHING = "where the policy is published"
OF_TRAINING = "of the training"
OF_RUNNING = "how LeRobot's own process runs it"
CHANGE_NOTHING: dict[str, str] = {  # no action depends on these: why
    "device": f"{OF_RUNNING}: here it is `device`",
    "use_amp": f"{OF_RUNNING}, rounding to 16 bits: here it is float32, as in the file",
    "compile_model": f"{OF_RUNNING}; the keys of the weights may say so",
    "compile_mode": OF_RUNNING,
    "push_to_hub": OF_PUBLISHING,
    "repo_id": OF_PUBLISHING,
    "private": OF_PUBLISHING,
    "tags": OF_PUBLISHING,
    "license": OF_PUBLISHING,
    "pretrained_path": f"{OF_TRAINING}: what it began with",
    "pretrained_revision": f"{OF_TRAINING}: what it began with",
    "pretrained_backbone_weights": f"{OF_TRAINING}: what it began with",
    "drop_n_last_frames": f"{OF_TRAINING}: which windows of the data",
    "crop_is_random": f"{OF_TRAINING}: an evaluation crops from the center",
    "gradient_checkpointing": f"{OF_TRAINING}: its memory",
    "do_mask_loss_for_padding": f"{OF_TRAINING}: its loss",
    "optimizer_lr": OF_TRAINING,
    "optimizer_betas": OF_TRAINING,
    "optimizer_eps": OF_TRAINING,
    "optimizer_weight_decay": OF_TRAINING,
    "scheduler_name": OF_TRAINING,
    "scheduler_warmup_steps": OF_TRAINING,
}
NO_LOOP = "it has no denoising loop, which is what is made cheaper here"
PREFIX = "it needs a vision-language prefix as an encoder, and its expert's layers as a family"
EXPERT = (
    "load it with LeRobot (pip install {package}) and give the live policy to "
    "skipstep.accel.vla.accelerate_vla, see docs/how-to/{page}.md"
)
OTHER_TYPES: dict[str, str] = {
    "act": NO_LOOP,
    "vqbet": NO_LOOP,
    "tdmpc": NO_LOOP,
    "sac": NO_LOOP,
    "reward_classifier": NO_LOOP,
    "pi0_fast": NO_LOOP,
    "pi0": EXPERT.format(package="'lerobot[pi]'", page="pi0"),
    "pi05": EXPERT.format(package="'lerobot[pi]'", page="pi0"),
    "smolvla": EXPERT.format(package="'lerobot[smolvla]'", page="smolvla"),
    "groot": PREFIX,
}


def check_type(said: Mapping[str, Any], known: Collection[str]) -> str:
    """The type of a policy.

    Raises:
        UnsupportedPolicy: none of those that are known, with what it would need.
    """
    if "type" not in said:
        raise UnsupportedPolicy(f"{CONFIG}: type is missing, so it is not LeRobot's (0.3 or later)")
    if (name := said["type"]) not in known:
        why = OTHER_TYPES.get(str(name), f"only {' and '.join(known)} are read")
        raise UnsupportedPolicy(f"{CONFIG}: type {name!r} of LeRobot is not supported: {why}")
    return str(name)


def no_adapter(settings: Settings) -> None:
    """Refuse weights that are only a change of others."""
    if settings.flag("use_peft", False):
        raise UnsupportedPolicy(
            f"{CONFIG}: use_peft=true is not supported: merge the adapter into the weights first"
        )


class Settings:
    """A mapping whose entries are taken with a check; `finish` refuses those that nobody took."""

    def __init__(self, said: Mapping[str, Any], where: str = CONFIG) -> None:
        self._left, self._where = dict(said), where

    def take(self, name: str, *absent: Any) -> Any:
        """The value; where it is not there, the one in `absent`.

        Raises:
            ValueError: it is missing, and nothing stands for it.
        """
        if name in self._left:
            return self._left.pop(name)
        if not absent:
            raise ValueError(f"{self._where}: {name} is missing")
        return absent[0]

    def whole(self, name: str, *absent: Any) -> int:
        value = self.take(name, *absent)
        if not is_whole(value):
            raise self._wrong(name, f"a whole number from 1 to {MOST}", value)
        return int(value)

    def number(self, name: str, *absent: Any, most: float = math.inf) -> float:
        """A finite number above 0, at most `most`."""
        value = self.take(name, *absent)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not 0 < value <= min(most, sys.float_info.max):
            limit = "" if math.isinf(most) else f" and at most {most:g}"
            raise self._wrong(name, f"a number above 0{limit}", value)
        return float(value)

    def flag(self, name: str, *absent: Any) -> bool:
        value = self.take(name, *absent)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def choice(self, name: str, allowed: Collection[str]) -> str:
        value = self.take(name)
        if value not in allowed:
            raise self._wrong(name, f"one of {', '.join(allowed)}", value)
        return str(value)

    def wholes(self, name: str) -> list[int]:
        value = self.take(name)
        if not isinstance(value, list) or not all(map(is_whole, value)):
            raise self._wrong(name, f"a list of whole numbers from 1 to {MOST}", value)
        return list(value)

    def size(self, name: str, *absent: Any) -> list[int] | None:
        """[height, width], or None."""
        value = self.take(name, *absent)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != 2 or not all(map(is_whole, value)):
            raise self._wrong(name, "[height, width] or null", value)
        return list(value)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.take(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "a mapping", value)
        return value

    def finish(self, irrelevant: Collection[str] = ()) -> None:
        """Refuse what was not taken.

        Raises:
            UnsupportedPolicy: names it.
        """
        for name, value in self._left.items():
            if name not in irrelevant:
                raise UnsupportedPolicy(
                    f"{self._where}: {name}={value!r} is not a setting this project knows"
                )

    def _wrong(self, name: str, allowed: str, value: object) -> ValueError:
        return ValueError(f"{self._where}: {name} must be {allowed}, got {value!r}")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
