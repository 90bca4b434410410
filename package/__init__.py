"""Evaluate and train multimodal LLM judges.

The packages under this name are the folders of the repository: :mod:`mtrl_judge.judge_tasks`,
:mod:`mtrl_judge.leaderboard`, :mod:`mtrl_judge.rl` and so on. ``docs/api.md`` lists the public
names with an example for each.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_judge.serving.judge import Judge as Judge
    from mtrl_judge.serving.judgment import Judgment as Judgment
    from mtrl_judge.serving.single_items import Item as Item

__version__ = "0.1.0"


_PUBLIC = {"Judge": "judge", "Judgment": "judgment", "Item": "single_items"}


def __getattr__(name: str) -> Any:
    """Import ``Judge`` when it is first used: it brings torch, which takes seconds."""
    if name in _PUBLIC:
        from mtrl_judge.common.host_versions import check_versions

        check_versions(("transformers", "datasets", "pydantic"))
        return getattr(import_module(f"mtrl_judge.serving.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'mtrl_judge' has no attribute {name!r}")
