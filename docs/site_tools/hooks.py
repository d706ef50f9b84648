"""MkDocs hooks: the pages at the root of the repository become pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\n)*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, with links as the site has them.

    A link of any other page to a file that is no page is an error of the build.
    """
    for source, target in PAGES.items():
        text = _LINK.sub(_link_on_site, (ROOT / source).read_text())
        files.append(File.generated(config, target, content=text))
    return files


def _link_on_site(link: re.Match[str]) -> str:
    image, text, path, anchor = link[1], link[2], link[3], link[4] or ""
    if "://" in path:
        return link[0]
    if path in PAGES:
        path = PAGES[path]
    elif path == "docs/decisions/":
        path = "decisions/README.md"
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    else:  # a file of the repository that is no page
        return text
    return f"{image}[{text}]({path}{anchor})"
