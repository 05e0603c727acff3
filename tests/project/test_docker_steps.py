"""The Dockerfile's steps, as tools/docker_steps.py reads and executes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.places import PROJECT
from tools import docker_steps
from tools.docker_steps import STEPS, Build, StepError, execute, steps

TEXT = """# a comment
FROM debian:bookworm-slim
ARG WHERE="--index-url https://one.example"
WORKDIR /app
ENV PATH=/app/bin:/bin
# between
RUN first \\
    && second $WHERE
ENTRYPOINT ["python", "run.py"]
CMD ["--help"]
"""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str, str]]:
    """(words, folder, WHERE) of all that would be executed in the root, none of which is."""
    found: list[tuple[list[str], str, str]] = []

    def chroot(build: Build, command: list[str]) -> int:
        found.append((list(command), build.workdir, build.env["WHERE"]))
        return 3 if "second" in command[-1] and build.env["WHERE"] == "fails" else 0

    monkeypatch.setattr(Build, "chroot", chroot)
    monkeypatch.setitem(STEPS, "FROM", lambda build, name: None)
    return found


def test_steps_are_executed_in_their_folder_with_their_arguments(
    said: list[tuple[list[str], str, str]], tmp_path: Path
) -> None:
    assert execute(Build(tmp_path, {}), TEXT, ["doctor"]) == 0
    (run, *_), command = said
    assert run[:2] == ["/bin/sh", "-c"]
    assert run[2].split() == ["first", "&&", "second", "$WHERE"]
    index = "--index-url https://one.example"
    assert said[0][1:] == ("/app", index)
    assert command == (["python", "run.py", "doctor"], "/app", index)
    assert (tmp_path / "app").is_dir()
    said.clear()
    assert execute(Build(tmp_path, {"WHERE": "here"}), TEXT, []) == 0
    assert [where for *_, where in said] == ["here", "here"]
    assert said[-1][0] == ["python", "run.py", "--help"]


def test_a_step_that_fails_ends_the_build_by_name(
    said: list[tuple[list[str], str, str]], tmp_path: Path
) -> None:
    with pytest.raises(StepError, match="RUN ended with 3: first"):
        execute(Build(tmp_path, {"WHERE": "fails"}), TEXT, [])
    assert len(said) == 1


def test_what_is_not_understood_is_refused_before_the_first_step(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(StepError, match="not understood: HEALTHCHECK"):
        execute(Build(root, {}), f"{TEXT}HEALTHCHECK NONE\n", [])
    with pytest.raises(StepError, match="FROM must be debian:SUITE-slim, got alpine"):
        execute(Build(root, {}), "FROM alpine\n", [])
    assert not root.exists()


def test_the_copy_is_of_what_git_knows(tmp_path: Path) -> None:
    build = Build(tmp_path, {}, workdir="/skipstep")
    STEPS["COPY"](build, ". .")
    assert (tmp_path / "skipstep/run.py").read_bytes() == (PROJECT / "run.py").read_bytes()
    assert not (tmp_path / "skipstep/.venv").exists()


def test_our_dockerfile_has_only_steps_that_are_understood_and_installs_pinned_versions() -> None:
    ours = list(steps((PROJECT / "Dockerfile").read_text()))
    assert {name for name, _ in ours} <= STEPS.keys()
    assert docker_steps.BASE.fullmatch(dict(ours)["FROM"])
    (torch,) = [said for name, said in ours if name == "RUN" and "torch==" in said]
    pins = (PROJECT / "constraints.txt").read_text().splitlines()
    assert next(word for word in torch.split() if word.startswith("torch==")) in pins
