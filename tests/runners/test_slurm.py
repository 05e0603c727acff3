"""Two jobs of a real Slurm on this machine, one cancelled; run with `pytest -m slow` and this file.

Needs root, Slurm and munge (Debian: slurm-wlm, munge), and `pip install "skipstep[slurm]"`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.helpers.places import FIXTURES, PROJECT
from tests.runners.test_killed_sweep import episodes

FIXTURE = FIXTURES / "lift_lowdim_transformer/latest.ckpt"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo")
LOST = [name for name in PROGRAMS if not shutil.which(name)]
SWEEP = (
    "-m",
    "task=lift",
    f"task.checkpoint={FIXTURE}",
    "task.max_steps=40",
    "cache=none,uniform",
    "n_episodes=8",
    "n_envs=1",
    "threads=1",
    "videos=0",
    "latency.repeats=0",
    "logger=none",
)
SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.partition=p",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=null",
    "hydra.launcher.timeout_min=10",
)
CONF = """ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={worker_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(LOST), reason=f"no Slurm here: {', '.join(LOST)} not found"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of Slurm are started as root"),
    pytest.mark.skipif(find_spec("submitit") is None, reason='no "skipstep[slurm]" installed'),
]


def wait_until(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A cluster of this machine alone, with all its files in a folder; its environment."""
    folder, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    ports = {"port": free_port(), "worker_port": free_port()}
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, **ports))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = {"key-file": key, "socket": folder / "munge.socket"}
    munge |= {"pid-file": folder / "munge.pid", "seed-file": folder / "seed"}
    daemons = [
        ["munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in munge.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    with ExitStack() as stack:
        for command in daemons:
            log = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            if command[0] == "munged":
                wait_until(munge["socket"].exists, "munged")

        def idle() -> bool:
            words = ["sinfo", "-h", "-o", "%T"]
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            return done.stdout.strip() == "idle"

        wait_until(idle, "an idle node", 60)
        yield environment


def sweep(folder: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, str(PROJECT / "run.py"), *SWEEP, *words],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=said,
            stderr=said,
        )


def test_a_cancelled_job_is_completed_by_the_same_command(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    process = sweep(folder, *SLURM, **slurm)

    def squeue(form: str) -> list[str]:
        words = ["squeue", "-h", "-o", form]
        done = subprocess.run(words, env=slurm, capture_output=True, text=True, check=True)
        return sorted(done.stdout.split())

    def first_job() -> list[tuple[str, int]]:
        return [key for key in episodes(folder) if key[0].startswith("lift_none_")]

    wait_until(lambda: len(first_job()) >= 2, "two episodes of one job", 300)
    jobs = squeue("%F_%K")
    print("squeue:", squeue("%F_%K:%T"))
    assert len(jobs) == 2, "both run at once"
    subprocess.run(["scancel", jobs[0]], env=slurm, check=True)
    assert process.wait(timeout=300) == 1
    said = (folder / "said").read_text()
    assert "1 of 2 jobs finished; the same command runs the others again" in said
    cut = episodes(folder)
    assert 2 <= len(cut) < 16

    assert sweep(folder, *SLURM, **slurm).wait(timeout=300) == 0
    assert "2 of 2 jobs finished" in (folder / "said").read_text()
    assert sweep(tmp_path / "here").wait(timeout=300) == 0
    whole = episodes(folder)
    assert whole == episodes(tmp_path / "here")
    assert cut.items() <= whole.items()
    wait_until(lambda: not squeue("%F"), "an empty queue", 60)
    alive = [p.pid for p in psutil.process_iter() if str(folder) in " ".join(_words(p))]
    assert not alive
    print((folder / "said").read_text())


def _words(process: psutil.Process) -> list[str]:
    try:
        return [str(word) for word in process.cmdline()]
    except psutil.Error:
        return []
