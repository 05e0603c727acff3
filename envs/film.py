"""A film of one episode: under each frame stands which task, seed, arm, step and subtasks it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .task import Task
from .video import rendering_words, write_video

Frame = NDArray[np.uint8]
INK, STRIP = (235, 235, 235), (24, 26, 30)
LETTER_PX = 11  # height of letters in a frame of 256 pixels; they grow with it
LINES = 3


class Film:
    """Frames of an episode, from its reset on, which become a video when it ends.

    What fails in it after the first frame ends the film, never the episode.

    Args:
        path: of the mp4.
        task: what is played.
        seed: of the episode.
        who: the arm, in words; empty where there is none.
    """

    def __init__(self, path: Path, task: Task, seed: int, who: str = "") -> None:
        self.path, self.task, self.seed, self.who = path, task, seed, who
        self.frames: list[Frame] = []
        self.failure = ""

    def add(self, frame: Any, info: Mapping[str, Any]) -> None:
        """(H, W, 3) after the reset, and after each step with what it said."""
        words = captions(self.task, self.seed, self.who, len(self.frames), info)
        self.frames.append(captioned(frame, words))

    def look_at(self, env: Any, info: Mapping[str, Any]) -> None:
        """Take a frame of what the environment shows, after a step that said this."""
        if self.frames:
            try:
                self.add(env.render(), info)
            except Exception as error:
                self._fail(error)

    def ended(self, done: bool) -> tuple[str | None, str]:
        """The file that was written if the episode is over, and why there is none, said once."""
        written = None
        if done and self.frames:
            try:
                write_video(self.path, self.frames, self.task.control_hz)
                written = str(self.path)
            except Exception as error:
                self._fail(error)
            self.frames = []
        said, self.failure = self.failure, ""
        return written, said

    def _fail(self, error: Exception) -> None:
        self.frames, self.failure = [], rendering_words(error)


def captions(
    task: Task, seed: int, who: str, step: int, info: Mapping[str, Any]
) -> tuple[str, str, str]:
    """What stands under the frame after `step` steps.

    Returns:
        Task and seed; the arm; step, and the subtasks that are done where the task has some.
    """
    done = info.get("completed_tasks")
    said = f"step {step} of {task.max_steps}"
    if done is not None:
        said += f"; {len(done)} done" + (f": {', '.join(map(str, done))}" if done else "")
    name = " ".join(filter(None, [task.name, str(getattr(task, "world", "") or "")]))
    return f"{name}, seed {seed}", who, said


def captioned(frame: Frame, words: tuple[str, ...]) -> Frame:
    """The frame with lines of text below it; both sizes stay even. As it is without Pillow."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        return frame
    width = frame.shape[1]
    letter = max(LETTER_PX * width // 256, 9)
    line, font = letter + letter // 4, _font(letter)
    strip = Image.new("RGB", (width, 2 * ((LINES * line + letter) // 2)), STRIP)
    pen = ImageDraw.Draw(strip)
    for i, text in enumerate(words):
        fitting = _cut(text, lambda said: pen.textlength(said, font=font), width - letter)
        pen.text((letter // 2, letter // 4 + line * i), fitting, fill=INK, font=font)
    return np.concatenate([frame, np.asarray(strip, np.uint8)])


def _cut(text: str, length: Any, room: float) -> str:
    """As much of a text as there is room for."""
    if length(text) <= room:
        return text
    while text and length(f"{text}...") > room:
        text = text[:-1]
    return f"{text}..."


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
