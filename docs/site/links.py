"""For the site: the pages that stand beside `docs/` become pages of it, and links to other files of the repository work or go.

In the repository a page may link to a test or to the README. The site is made of `docs/` alone. MkDocs calls the functions
below (https://www.mkdocs.org/user-guide/configuration/#hooks).

.. no_pii: reads and writes documents.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# As the repository calls them -> as pages of the site. `docs/README.md` is an index for readers of the repository;
# navigation takes its place.
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "docs/README.md": "index.md",
    "docs/decisions": "decisions/0001-hide-scrub-prove.md",
}
_LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<path>[^)\s#:]*)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that stand beside `docs/`."""
    for name, page in BESIDE.items():
        if "/" not in name:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    del files
    uri = page.file.src_uri
    names = {target: name for name, target in reversed(BESIDE.items())}
    # Where this page stands in the repository.
    place = names.get(uri, f"docs/{uri}") if "/" not in uri else f"docs/{uri}"

    def turn(found: re.Match[str]) -> str:
        path, anchor = found["path"], found["anchor"] or ""
        if not path:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), path))
        if target in BESIDE:
            inside = BESIDE[target]
        elif target.startswith("docs/"):
            inside = target.removeprefix("docs/")
        else:
            return _link_source(found, target, config.repo_url)
        return f"{found['text']}({posixpath.relpath(inside, posixpath.dirname(uri) or '.')}{anchor})"

    return _LINK.sub(turn, markdown)


def _link_source(found: re.Match[str], target: str, repo_url: str | None) -> str:
    """A file of the repository: where that is public there is a link to it, else its name."""
    if repo_url:
        return f"{found['text']}({repo_url.rstrip('/')}/blob/main/{target}{found['anchor'] or ''})"
    text: Any = found["text"].removeprefix("[").removesuffix("]")
    return str(text)
