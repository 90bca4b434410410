"""What the card of the base model says about its license and languages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtrl_judge.common.hub import CARD
from mtrl_judge.judge_tasks.hub import hub_fault

_FIELDS = ("license", "license_name", "license_link", "language")
_MAX_LENGTH = 300  # characters of a value


def base_card(name: str, revision: str | None = None) -> dict[str, Any]:
    """The license and languages of a model, as far as its card states them; nothing is guessed.

    Args:
        name: a checkpoint folder, or a hub id. The hub's card is taken from the cache if the hub
            cannot be reached.
        revision: of the hub id.

    Returns:
        ``local``: whether it is a folder; and of ``license``, ``license_name``, ``license_link``
        and ``language`` those that are stated.
    """
    local = Path(name).is_dir()
    return {"local": local, **_stated(name, revision, local=local)}


def _stated(name: str, revision: str | None, *, local: bool) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download, metadata_load

    try:
        if local:
            file = Path(name) / CARD
        else:
            hub_fault()  # if there is one, only the cache is asked
            file = Path(hf_hub_download(name, CARD, revision=revision))
        stated = metadata_load(file)
    except Exception:  # noqa: BLE001  no card, no network, no YAML: it states nothing
        return {}
    return {} if not isinstance(stated, Mapping) else _checked(stated)


def _checked(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have the types of the hub: a model's card may contain anything."""
    known = {}
    for field in _FIELDS:
        value = stated.get(field)
        values = value if isinstance(value, list) else [value]
        texts = [text for text in values if isinstance(text, str) and 0 < len(text) <= _MAX_LENGTH]
        if texts:
            known[field] = texts if field == "language" else texts[0]
    return known if "license" in known else {k: v for k, v in known.items() if k == "language"}
