"""Evaluate and train multimodal LLM judges.

The packages under this name are the folders of the repository: :mod:`mtrl_judge.judge_tasks`,
:mod:`mtrl_judge.leaderboard`, :mod:`mtrl_judge.rl` and so on. ``docs/api.md`` lists the public
names with an example for each.
"""

__version__ = "0.1.0"
