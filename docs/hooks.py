"""Pages of the site that are files of the repository's root, with their links set right."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
NOTEBOOK = "notebooks/judge_a_judge.ipynb"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    NOTEBOOK: "notebook.md",
}


def on_files(files: Files, config: Any) -> Files:
    """Add them; called by MkDocs."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == NOTEBOOK:
            text = notebook_page(text)
        text = text.replace("](docs/", "](").replace(f"]({NOTEBOOK}", "](notebook.md")
        files.append(File.generated(config, page, content=text))
    return files


def notebook_page(text: str) -> str:
    """A notebook without outputs as Markdown."""
    pages = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"]).replace("](../docs/", "](")
        pages.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(pages)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links at the root's files to their pages; called by MkDocs."""
    for name, page in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Leave out the roles of docstrings, which are Sphinx's; called by MkDocs."""
    return re.sub(r":(?:class|data|func|meth|mod):(?=<code>)", "", html)
