"""The tokens that stand for pixels in a prompt."""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"(image|video)_token_(id|index)")


def placeholder_ids(config: Any) -> list[int]:
    """The tokens that a model replaces by features of images and videos, whatever they are called.

    In a completion they have no features, so no model can read it back.

    Args:
        config: of a transformers model.
    """
    named = config.to_dict()
    ids = {named[name] for name in named if _NAME.fullmatch(name)}
    return sorted(token for token in ids if token is not None)
