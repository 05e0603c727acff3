"""Every kind of file that this project reads: one that is whole, its reader, and what must hold.

A reader refuses by its own errors, in one line; or what it loads is what is written. Folders of
ours have a digest, so there what is loaded is what was there before the damage.
"""

from __future__ import annotations

from . import data_files, policy_files, run_files
from .kind import Kind

KINDS: dict[str, Kind] = policy_files.KINDS | data_files.KINDS | run_files.KINDS
