"""A cache, a quantisation and a sampler by the words of a command line, without a task or a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from accel import CACHES, QUANTIZERS
from accel.calibration.file import json_path
from policies import DiffusionPolicy

from ..errors import UserError
from ..jobs.calibration_choice import calibration_values, load, load_statistics
from ..jobs.settings import CalibrationChoice, SamplerChoice, build, choose
from ..overrides import key_of
from ..places import PROJECT
from ..plugins import load_plugins
from .composing import compose_checked, first_lines
from .mistakes import check_words

CONF = PROJECT / "conf"
TAKEN = ("cache", "quant", "sampler", "calibration", "plugins")


@dataclass(frozen=True)
class Method:
    """How a policy is made cheaper.

    Attributes:
        calibration: its file or folder, None: from the observations beside the checkpoint.
    """

    cache: Any
    quant: Any
    sampler: SamplerChoice
    calibration: str | None

    def sampled(self, policy: DiffusionPolicy) -> DiffusionPolicy:
        """The policy with this sampler."""
        chosen = self.sampler.over(policy.config.sampler)
        return policy if chosen == policy.config.sampler else policy.with_sampler(chosen)

    def rests_on(self) -> dict[str, Any]:
        """What `accel.robot.accelerate` takes of it: calibration and statistics."""
        if self.calibration is None:
            return {}
        path, found = Path(self.calibration), dict[str, Any]()
        if CACHES[self.cache.name].calibrated:
            found["calibration"] = load(path)
        if self.quant.name != "none":
            found["statistics"] = load_statistics(json_path(path).parent)
        return found


def method_of(words: Sequence[str], command: str) -> Method:
    """What these words choose.

    Args:
        words: `cache=uniform cache.steps=20 sampler=ddpm`, as of a run.
        command: that takes them, for messages.

    Raises:
        UserError: one line: a word that is no setting, or one of something else.
    """
    check_words(words)
    for word in words:
        key = key_of(word)
        if key.partition(".")[0] not in TAKEN or key.startswith("-"):
            raise UserError(f"{command} takes {', '.join(f'{k}=' for k in TAKEN)}, got {word}")
        if key.startswith("calibration.") and key != "calibration.path":
            raise UserError(
                f"{command} plays no episodes: calibration.path= names a calibration that "
                f"runner=calibrate made, got {word}"
            )
    try:
        load_plugins(words, CONF)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose_checked(words)
        chosen: CalibrationChoice = build(CalibrationChoice, calibration_values(cfg), "calibration")
        return Method(
            choose(CACHES, cfg.cache, "cache"),
            choose(QUANTIZERS, cfg.quant, "quant"),
            build(SamplerChoice, cfg.sampler, "sampler"),
            chosen.path,
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(first_lines(error)) from error
