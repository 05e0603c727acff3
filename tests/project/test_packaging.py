"""The wheel: what is in it, and that it runs from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from accel import CACHES
from tests.helpers.places import PROJECT
from tests.helpers.study_folder import copy_starter


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"  # built from a copy: setuptools leaves build/ behind
    tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(tracked, cwd=PROJECT, capture_output=True, check=True).stdout.split(
        b"\0"
    )
    for name in (Path(n.decode()) for n in names if n and not n.startswith(b"checkpoints/")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((PROJECT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*pip, "-w", str(folder), str(tree)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_our_package_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"skipstep"}
    assert "skipstep/py.typed" in names
    packages = ("accel", "conf", "envs", "policies", "runners")
    kinds = ("*.py", "*.yaml", "*.[ch]")
    sources = [p for top in packages for s in kinds for p in (PROJECT / top).rglob(s)]
    missing = {f"skipstep/{p.relative_to(PROJECT)}" for p in sources} - set(names)
    assert not missing, "a folder of modules needs an __init__.py, or setup.py does not find it"
    own = {f"skipstep/{p.name}" for p in (PROJECT / "skipstep").glob("*.py")}
    assert own <= set(names)


class Installed:
    """`skipstep` of a wheel that was unpacked beside an empty folder, without this checkout."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.site, self.folder = folder / "site", folder / "empty"
        self.folder.mkdir()
        zipfile.ZipFile(wheel).extractall(self.site)

    def __call__(self, *argv: str) -> subprocess.CompletedProcess[str]:
        code = (
            f"import sys; sys.path.insert(0, {str(self.site)!r}); sys.argv[0] = 'skipstep'\n"
            "from skipstep.run import main\n"
            "main()"
        )
        own = {"HOME": str(self.folder.parent), "WANDB_API_KEY": ""}
        return subprocess.run(
            [sys.executable, "-I", "-c", code, *argv],
            cwd=self.folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Installed:
    return Installed(wheel, tmp_path)


def test_the_commands_work_in_an_empty_folder(installed: Installed) -> None:
    doctor = installed("doctor")
    assert "run in a clone of it, or give task.checkpoint=PATH" in doctor.stdout, doctor.stderr
    timed = installed("bench", "--quick", "--rounds", "1")
    assert timed.returncode == 0, timed.stderr
    assert "times as fast" in timed.stdout
    helped = installed("serve", "--help")
    assert helped.returncode == 0, helped.stderr
    assert "port" in helped.stdout
    assert "window_ms" in helped.stdout
    bare = installed("serve")
    assert bare.returncode == 2, bare.stdout
    assert "task.checkpoint" in bare.stderr
    assert "Traceback" not in bare.stderr
    for command in ("report", "sync", "show"):
        said = installed(command, "nowhere")
        assert said.returncode == 2
        assert "nowhere" in said.stderr
        assert "Traceback" not in said.stderr


def test_a_study_is_reported_and_sent_by_the_installed_command(installed: Installed) -> None:
    study = copy_starter(installed.folder / "multirun/mine")
    reported = installed("report", "multirun/mine")
    assert reported.returncode == 0, reported.stderr
    page = (study / "report/report.html").read_text()
    assert "<html" in page
    assert "uniform" in page
    sent = installed("sync", "multirun/mine")
    assert sent.returncode == 2
    assert "key" in sent.stderr
    assert "Traceback" not in sent.stderr


def test_the_installed_package_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from skipstep.accel import CACHES\n"
        "import accel, skipstep.runners.store.folder, runners.store\n"
        "assert CACHES is accel.CACHES and skipstep.runners.store is runners.store\n"
        "from skipstep.policies import load_policy\n"
        "from skipstep.run import main\n"
        "sys.argv = ['skipstep', *{argv!r}]\n"
        "main()"
    )

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        source = code.replace("{argv!r}", repr(list(argv)))
        return subprocess.run(
            [sys.executable, "-I", "-c", source], cwd=tmp_path, capture_output=True, text=True
        )

    wrong = run("cache=hashab")
    assert wrong.returncode == 2
    names = ", ".join(sorted(CACHES))
    assert wrong.stderr.strip().endswith(
        f"cache must be one of {names}, got 'hashab'; did you mean hash_ab?"
    )
    assert "skipstep cache=hash_ab task=kitchen" in run("--help").stdout
    report = [sys.executable, "-m", "skipstep.runners.report", "nowhere"]
    said = subprocess.run(
        report,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2, said.stderr
    assert "nowhere" in said.stderr
    shown = run("cache=uniform", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "spacing: quadratic" in shown.stdout
