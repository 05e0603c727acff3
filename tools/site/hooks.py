"""What mkdocs is told besides mkdocs.yml: pages that are made, and files that lie beside docs/.

A link from a page to a file of the project outside of docs/ (a report, a setting's file, a module)
leads to a copy of it in the site, under files/.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools.site.pages import MADE  # noqa: E402

LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")
FOLDERS = {"docs/decisions": "decisions.md", "conf": "settings.md"}
COPIES = "files"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and what pages link to outside of docs/."""
    from mkdocs.structure.files import File

    for name, make in MADE.items():
        files.append(File.generated(config, name, content=make()))
    for path in sorted(linked()):
        files.append(File.generated(config, f"{COPIES}/{path}", content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they lead in the site."""
    return rewritten(markdown, page.file.src_uri)


def source_of(page: str) -> str:
    """Where a page's text lies in the project."""
    if page == "index.md":
        return "README.md"
    if page.startswith(f"{COPIES}/"):
        return page.removeprefix(f"{COPIES}/")
    return f"docs/{page}"


def place_of(path: str) -> str | None:
    """Where a file or folder of the project is in the site; None: nowhere."""
    for folder, page in FOLDERS.items():
        if path == folder or (path.startswith(f"{folder}/") and (ROOT / path).is_dir()):
            return page
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{COPIES}/{path}" if (ROOT / path).is_file() else None


def targets(text: str, source: str) -> set[str]:
    """Paths in the project that a text links to."""
    folder = posixpath.dirname(source)
    found = (posixpath.normpath(posixpath.join(folder, m[1])) for m in LINK.finditer(text))
    return {path for path in found if (ROOT / path).exists()}


def linked() -> set[str]:
    """Files outside of docs/ that some page links to, those that these link to among them."""
    waiting = [*ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
    found: set[str] = set()
    while waiting:
        page = waiting.pop()
        source = page.relative_to(ROOT).as_posix()
        for path in targets(page.read_text(), source):
            place = place_of(path) or ""
            if place.startswith(f"{COPIES}/") and path not in found:
                found.add(path)
                waiting += [ROOT / path] if path.endswith(".md") else []
    return found


def rewritten(text: str, page: str) -> str:
    """A page's text, each link relative to where the page is in the site."""
    folder = posixpath.dirname(source_of(page))

    def lead(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        place = place_of(path)
        if (page in MADE and page != "index.md") or place is None:
            return match[0]
        return posixpath.relpath(place, posixpath.dirname(page) or ".") + (match[2] or "")

    return LINK.sub(lead, text)
