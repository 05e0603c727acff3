"""The steps of the Dockerfile in a fresh Debian root, where no Docker daemon is at hand.

    python -m tools.docker_steps /var/tmp/root -- doctor

needs root and debootstrap. It makes the base image by debootstrap, executes RUN by chroot with what
ARG, ENV and WORKDIR say, copies the files that git knows for COPY, and at last gives what follows
`--` to ENTRYPOINT. `--build-arg NAME=VALUE` is as of Docker. `--copy FROM:TO` brings files in
before the first step, such as wheels or certificates that a network needs. Only what
our Dockerfile uses is understood; anything else is an error. No layers, no isolation but the root.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BASE = re.compile(r"debian:(\w+)-slim")
OF_HOST = ("/etc/resolv.conf", "/etc/hosts")  # Docker gives these to a build too
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENTER = """
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" || exit 1
exec chroot "$0" /bin/sh -c 'cd "$0" && exec "$@"' "$@"
"""


class StepError(Exception):
    """A step that is not understood, or that failed."""


@dataclass
class Build:
    """Where a build stands.

    Attributes:
        root: the folder that becomes the image's /.
        given: values of ARG from the command line.
        env: what a step sees; a build's ARGs, then ENVs.
        workdir: the current one, in the root.
        entrypoint: and cmd, as lists of words.
    """

    root: Path
    given: dict[str, str]
    copied: Sequence[tuple[str, str]] = ()
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/root"})
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """A path of the image, as one of this machine."""
        return self.root / os.path.normpath(os.path.join(self.workdir, path)).lstrip("/")

    def chroot(self, command: Sequence[str]) -> int:
        """Execute words in the root, with /proc and /dev for as long; their exit code."""
        enter = ["unshare", "--mount", "/bin/sh", "-c", ENTER, str(self.root), self.workdir]
        return subprocess.run([*enter, *command], env=self.env).returncode


def steps(text: str) -> Iterator[tuple[str, str]]:
    """(instruction, what follows it) of a Dockerfile, continued lines as one."""
    whole = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\\n", "", whole).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            yield name.upper(), rest.strip()


def _from(build: Build, said: str) -> None:
    if not (found := BASE.fullmatch(said)):
        raise StepError(f"FROM must be debian:SUITE-slim, got {said}")
    if build.root.exists() and any(build.root.iterdir()):
        raise StepError(f"{build.root} is not empty")
    made = ["debootstrap", "--variant=minbase", found[1], str(build.root)]
    if code := subprocess.run(made, stdout=subprocess.DEVNULL).returncode:
        raise StepError(f"debootstrap ended with {code}")
    for name in OF_HOST:
        shutil.copyfile(name, build.root / name.lstrip("/"))
    for source, target in build.copied:
        place = build.root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, place)


def _arg(build: Build, said: str) -> None:
    name, _, value = said.partition("=")
    build.env[name] = build.given.get(name, value.strip('"'))


def _env(build: Build, said: str) -> None:
    name, _, value = said.partition("=")
    build.env[name] = value.strip('"')


def _workdir(build: Build, said: str) -> None:
    build.inside(said).mkdir(parents=True, exist_ok=True)
    build.workdir = said


def _copy(build: Build, said: str) -> None:
    if said != ". .":
        raise StepError(f"COPY must be of . to ., got {said}")
    known = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(known, cwd=PROJECT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (PROJECT / name).is_file():
            build.inside(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, build.inside(name))


def _run(build: Build, said: str) -> None:
    if code := build.chroot(["/bin/sh", "-c", said]):
        raise StepError(f"RUN ended with {code}: {said}")


def _entrypoint(build: Build, said: str) -> None:
    build.entrypoint = json.loads(said)


def _cmd(build: Build, said: str) -> None:
    build.cmd = json.loads(said)


STEPS: dict[str, Callable[[Build, str], None]] = {
    "FROM": _from,
    "ARG": _arg,
    "ENV": _env,
    "WORKDIR": _workdir,
    "COPY": _copy,
    "RUN": _run,
    "ENTRYPOINT": _entrypoint,
    "CMD": _cmd,
}


def execute(build: Build, text: str, words: Sequence[str]) -> int:
    """All steps, and then the image's command; its exit code.

    Raises:
        StepError: a step that is not understood, or that failed.
    """
    planned = list(steps(text))
    if unknown := {name for name, _ in planned} - STEPS.keys():
        raise StepError(f"not understood: {', '.join(sorted(unknown))}")
    for i, (name, said) in enumerate(planned, 1):
        print(f"step {i}/{len(planned)}: {name} {said}", flush=True)
        start = time.monotonic()
        STEPS[name](build, said)
        print(f"step {i}/{len(planned)}: {time.monotonic() - start:.0f} s", flush=True)
    command = [*build.entrypoint, *(words or build.cmd)]
    print(f"command: {' '.join(command)}", flush=True)
    return build.chroot(command)


def main(argv: Sequence[str]) -> int:
    """Build, and run the image's command."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="an empty folder, or one to make")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--copy", action="append", default=[], metavar="FROM:TO")
    said = parser.parse_args(argv[:end])
    given = dict(word.split("=", 1) for word in said.build_arg)
    copied = [(word.partition(":")[0], word.partition(":")[2]) for word in said.copy]
    build = Build(said.root.resolve(), given, copied)
    try:
        return execute(build, (PROJECT / "Dockerfile").read_text(), argv[end + 1 :])
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
