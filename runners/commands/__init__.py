"""Subcommands: `skipstep report ...`, and `python run.py report ...` of a checkout.

A command is a module with `run(words) -> exit code`, which is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

COMMANDS = {  # name -> module, what it does
    "report": ("runners.report.build", "tables and one page of a study: report multirun/main"),
    "show": ("runners.commands.showing", "the table of a study: show multirun/main"),
    "sync": ("runners.sync", "send to W&B what ran offline: sync multirun/main"),
    "import": (
        "runners.commands.importing",
        "a policy of another library to a folder of ours: import last.ckpt my_policy",
    ),
    "export": (
        "runners.commands.exporting",
        "a policy to diffusion_policy, LeRobot, ONNX, OpenVINO: export my_policy out.ckpt",
    ),
    "bench": ("runners.commands.bench", "how fast queries are here, in each engine"),
    "doctor": ("runners.commands.doctor", "what this machine has, and what is missing"),
}
RUNS = {"serve": ("runner=serve", "a policy behind a websocket: serve serve.port=8000")}
"""Name -> the setting that it stands for, what it does; the words after it are settings."""
WORDS = {name: words for name, (_, words) in {**COMMANDS, **RUNS}.items()}


def run_command(name: str, words: Sequence[str]) -> int:
    """0: done; 1: it failed; 2: a mistake of the user."""
    module = import_module(COMMANDS[name][0])
    code: int = module.run(list(words))
    return code
