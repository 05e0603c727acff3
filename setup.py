"""Which packages a wheel holds: every folder with an `__init__.py`, as skipstep.FOLDER.

The rest is in pyproject.toml, whose own search for packages puts no name before theirs.
"""

from setuptools import find_packages, setup

PACKAGES = ("accel", "envs", "policies", "runners")

rooms = find_packages(include=[name for top in PACKAGES for name in (top, f"{top}.*")])
setup(packages=["skipstep", "skipstep.conf", *(f"skipstep.{room}" for room in rooms)])
