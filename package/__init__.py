"""Evaluate and train multimodal LLM judges.

The packages under this name are the folders of the repository: :mod:`mtrl_judge.judge_tasks`,
:mod:`mtrl_judge.leaderboard`, :mod:`mtrl_judge.rl` and so on. ``docs/api.md`` lists the public
names with an example for each.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_judge.models.transformers_judge import TransformersJudge as Judge  # noqa: F401

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``Judge`` when it is first used: it brings torch, which takes seconds."""
    if name == "Judge":
        from mtrl_judge.common.host_versions import check_versions

        check_versions(("transformers", "pydantic"))
        from mtrl_judge.models.transformers_judge import TransformersJudge

        return TransformersJudge
    raise AttributeError(f"module 'mtrl_judge' has no attribute {name!r}")
