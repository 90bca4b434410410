"""What a judge task is, from YAML to score. Imports no torch, lmms_eval or trl."""

if __name__ != "mtrl_judge.judge_tasks":
    raise ImportError("install the project (pip install -e .) and import mtrl_judge.judge_tasks")

from mtrl_judge.common.errors import DataError as DataError
from mtrl_judge.common.errors import JudgeError as JudgeError
from mtrl_judge.common.errors import JudgeTaskError as JudgeTaskError
from mtrl_judge.metrics.records import Record as Record

from .loading import find_task as find_task
from .loading import load_judge_task as load_judge_task
from .loading import load_shipped_tasks as load_shipped_tasks
from .prompts import render_messages as render_messages
from .raw_split import RawSplit as RawSplit
from .rows import JudgeRow as JudgeRow
from .rows import to_rows as to_rows
from .scoring import Score as Score
from .scoring import score as score
from .sources import load_rows as load_rows
from .spec import JudgeTask as JudgeTask
from .verdicts import Verdict as Verdict
from .verdicts import parse_verdict as parse_verdict
