"""A kind of task is one file: dropped into the folder, everything else follows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.tasks import write_yaml

ROOT = Path(__file__).parents[2]
FOLDERS = ("common", "metrics", "judge_tasks", "models", "harness_plugin", "task_yamls")
GRADED = '''
from mtrl_judge.judge_tasks.kinds.base import Kind
from mtrl_judge.judge_tasks.kinds.pointwise import MapLabel


class Graded(Kind):
    """A rating that is partly right where it is close."""

    name = "graded"
    headline = "accuracy"
    label_rules = (MapLabel,)
    example = ""

    def correctness(self, verdict, label, verdicts):
        return 0.0 if verdict is None else 1 - abs(int(verdict) - int(label)) / 4

    def rates(self, verdicts, paired):
        return ("accuracy", "null_rate")


KIND = Graded()
'''
USE = """
import sys
from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.validate import validate

assert validate(sys.argv[1]) == []
task = find_task(sys.argv[1])
config = JudgeHooks(task).config()
row = dict(item_id="a", task=task.task, kind="graded", question="?", label="5", n_images=1)
row |= dict(verdicts=list("12345"), pair_id=None, swapped=False, reasoning=None, cluster="a")
sample = config["process_results"](row, ["<think>Good.</think><answer>4</answer>"])
metrics = {}
for metric in config["metric_list"]:
    if metric["metric"] in sample:
        metrics[metric["metric"]] = metric["aggregation"]([sample[metric["metric"]]])
print(sample["correct"], next(iter(metrics)), metrics["accuracy"], "macro_f1" in metrics)
"""


def test_a_new_kind_is_one_new_file(tmp_path: Path) -> None:
    package = tmp_path / "mtrl_judge"
    shutil.copytree(ROOT / "package", package)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, package / folder)
    (package / "judge_tasks" / "kinds" / "graded.py").write_text(GRADED, encoding="utf-8")
    label = '{column: label, map: {1: "1", 2: "2", 3: "3", 4: "4", 5: "5"}}'
    verdicts = '["1", "2", "3", "4", "5"]'
    yaml = write_yaml(tmp_path, kind="graded", label=label, verdicts=verdicts)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(yaml)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["0.75", "accuracy", "0.0", "False"], done.stderr
