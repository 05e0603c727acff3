"""Before the installation: what pip cannot bring. Prints the one apt line that brings it."""

from __future__ import annotations

import ctypes.util
import shutil
import sys
from pathlib import Path

NEEDS = {  # package: (is it there, what for)
    "gcc": (
        lambda: shutil.which("gcc") or shutil.which("cc"),
        "building evdev, which robosuite depends on",
    ),
    "linux-libc-dev": (lambda: Path("/usr/include/linux/input.h").exists(), "building evdev"),
    "python3-venv": (lambda: __import__("ensurepip"), "creating the virtual environment"),
    "libegl1 libegl-mesa0 libgl1-mesa-dri": (lambda: ctypes.util.find_library("EGL"), "videos"),
    "libgl1": (lambda: ctypes.util.find_library("GL"), "videos"),
    "libglib2.0-0": (
        lambda: ctypes.util.find_library("glib-2.0"),
        "OpenCV, which robosuite and gym-pusht import",
    ),
}


def missing() -> dict[str, str]:
    """{apt packages: what they are for}."""
    found = {}
    for packages, (there, purpose) in NEEDS.items():
        try:
            present = there()
        except ImportError:
            present = False
        if not present:
            found[packages] = purpose
    return found


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs before anything checks it)
        version = sys.version.split()[0]
        print(f"Python 3.11 or newer is needed, this is {version}: make PYTHON=python3.11")
        return 2
    if lacking := missing():
        print(f"needed for {', '.join(lacking.values())}:")
        print(f"    apt-get install -y {' '.join(lacking)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
