"""Cards of models and datasets: Markdown with the front matter that the hub reads.

What comes from data, YAMLs and users stands in them as text: none of it is markup or template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render_card(template: Path, **values: Any) -> str:
    """A card from a template of ours, which has the filters `inline` and `link`."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"inline": inline, "link": link}
    return environment.get_template(template.name).render(**values)


def as_yaml(value: Mapping[str, Any]) -> str:
    """Front matter, or a block of settings."""
    text: str = yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=100)
    return text


def inline(value: object) -> str:
    r"""Text as it reads, on one line of Markdown: none of it is markup, a table cell holds it.

    >>> inline("a | b\n<b>*c*</b>")
    'a \\| b &lt;b&gt;\\*c\\*&lt;/b&gt;'
    """
    text = " ".join(str(value).split())
    text = re.sub(r"([\\`*_{}\[\]|~$#])", r"\\\1", text)
    return text.replace("<", "&lt;").replace(">", "&gt;")


def link(value: object) -> str:
    """An address as a link, anything else as text."""
    text = str(value).strip()
    return f"<{text}>" if re.fullmatch(r"https?://[^\s<>|]+", text) else inline(text)
