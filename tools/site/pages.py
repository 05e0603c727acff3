"""Pages of the site that are made from the project: settings, the library, the decisions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("task", "cache", "quant", "sampler", "warm", "engine", "runner", "logger")


def settings_page() -> str:
    """Every setting of conf/ with its default and the comment that explains it."""
    return "\n".join(_settings())


def _settings() -> Iterator[str]:
    from runners.launch.yaml_comments import about

    yield "# Settings\n"
    yield (
        "What can be said on the command line, as conf/ has it: "
        "`python run.py task=lift n_episodes=100`. A choice of a group brings its own settings.\n"
    )
    yield "## Of every run\n"
    yield from _table(ROOT / "conf/config.yaml", "")
    for group in GROUPS:
        yield f"\n## {group}\n"
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            yield f"\n### {group}={path.stem}\n"
            if said := about(path):
                yield f"{said}\n"
            yield from _table(path, group)


def _table(path: Path, prefix: str) -> Iterator[str]:
    from runners.launch.yaml_comments import settings_in

    rows = [s for s in settings_in(path, prefix) if not s.key.endswith(".name")]
    if not rows:
        return
    yield "| setting | default | what it does |"
    yield "|---|---|---|"
    for setting in rows:
        value = f"`{setting.value}`" if setting.value else ""
        yield f"| `{setting.key}` | {value} | {_escaped(setting.comment)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def library_page() -> str:
    """The public names of the packages, with what their docstrings say."""
    return "\n".join(_library())


def _library() -> Iterator[str]:
    import accel
    import envs
    import policies

    yield "# Library\n"
    yield "In a checkout `skipstep.accel`, `skipstep.policies` and `skipstep.envs` are the same"
    yield "modules as `accel`, `policies` and `envs`.\n"
    for package in (accel, policies, envs):
        yield f"\n## {package.__name__}\n"
        yield f"{inspect.getdoc(package)}\n"
        for name in sorted(getattr(package, "__all__", ()), key=str.lower):
            thing = getattr(package, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            yield f"\n### {package.__name__}.{name}\n"
            yield f"```python\n{_head(name, thing)}\n```\n"
            yield f"```text\n{inspect.getdoc(thing) or ''}\n```"


def _head(name: str, thing: object) -> str:
    try:
        signature = str(inspect.signature(thing))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        signature = ""
    kind = "class" if inspect.isclass(thing) else "def"
    return f"{kind} {name}{signature}".replace("'", "")


def decisions_page() -> str:
    """The decisions, by number."""
    lines = ["# Decisions", "", "What was decided, why, and what follows.", ""]
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        title = path.read_text().partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}](decisions/{path.name})")
    return "\n".join(lines)


def front_page() -> str:
    """The README, whose links are from docs/ then."""
    return (ROOT / "README.md").read_text()


MADE = {
    "settings.md": settings_page,
    "library.md": library_page,
    "decisions.md": decisions_page,
    "index.md": front_page,
}
