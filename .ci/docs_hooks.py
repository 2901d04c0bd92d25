"""Hooks of mkdocs: pages that lie outside docs/, and what links between the files of the repository are on the site."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "measurements.md": "benchmarks/RESULTS.md",
    "reproduced_small.md": "benchmarks/reproduced_small.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "index.md": "README.md",
}
ON_SITE = {place: page for page, place in OUTSIDE.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside."""
    for page, place in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, *, page: object, **_: object) -> str:
    """Point links at the pages of the site; what is not on it, as code and configs, is named only."""
    source = page.file.src_uri  # type: ignore[attr-defined]
    folder = posixpath.dirname(OUTSIDE.get(source, f"docs/{source}"))

    def target(match: re.Match[str]) -> str:
        mark, text, path, anchor = match["mark"], match["text"], match["path"], match["anchor"] or ""
        place = posixpath.normpath(posixpath.join(folder, path))
        if place in ON_SITE:
            return f"{mark}[{text}]({ON_SITE[place]}{anchor})"
        if place.startswith("docs/"):
            return f"{mark}[{text}]({place.removeprefix('docs/')}{anchor})"
        return f"`{place}`" if text == place else f"{text} (`{place}`)"

    link = r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?![a-z]+:)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)"
    return re.sub(link, target, markdown)
