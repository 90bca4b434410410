"""Model and dataset cards: Markdown with the YAML front matter that the hub reads.

Text from data, YAMLs and users is escaped, so that it can be neither Markdown nor a template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from huggingface_hub import CardData


def render_card(
    template: Path,
    card_data: CardData,
    filters: Mapping[str, Callable[..., str]] = {},
    **values: Any,
) -> str:
    """The text of a card (README.md) from one of our templates.

    Does what ``RepoCard.from_template`` of huggingface_hub does, with the filters ``inline`` and
    ``link`` for text that is not ours; that one takes no filters.

    Args:
        template: a Jinja file that places the front matter as ``{{ card_data }}``.
        card_data: `ModelCardData` or `DatasetCardData` of huggingface_hub.
        filters: others that the template uses.
        values: the template's other variables.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"inline": inline, "link": link, **filters}
    return environment.get_template(template.name).render(card_data=card_data.to_yaml(), **values)


def as_yaml(value: Mapping[str, Any]) -> str:
    """A mapping as a YAML block, keys in order."""
    text: str = yaml.safe_dump(value, sort_keys=True, allow_unicode=True, width=100)
    return text


def inline(value: object) -> str:
    r"""Text on one line of Markdown that renders as it is, also in a table cell.

    >>> inline("a | b\n<b>*c*</b>")
    'a \\| b &lt;b&gt;\\*c\\*&lt;/b&gt;'
    """
    text = " ".join(str(value).split())
    text = re.sub(r"([\\`*_{}\[\]|~$#])", r"\\\1", text)
    return text.replace("<", "&lt;").replace(">", "&gt;")


def link(value: object) -> str:
    """A web address as a link, anything else as :func:`inline` text."""
    text = str(value).strip()
    return f"<{text}>" if re.fullmatch(r"https?://[^\s<>|]+", text) else inline(text)
