"""``mtrl-judge new``: a YAML to start from."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import whole_file
from mtrl_judge.judge_tasks.loading import load_judge_task

KINDS = ("pointwise", "pairwise")


def write_new_task(task: str, *, kind: str, dataset: str, out: Path | None, force: bool) -> Path:
    """Write a commented YAML for a new task and check it.

    Raises:
        JudgeError: no such kind, a name lmms-eval cannot use, or the file is there.
    """
    if kind not in KINDS:
        raise JudgeError(f"--kind: no kind {kind!r}; {did_you_mean(kind, KINDS)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", task):
        raise JudgeError(f"{task!r}: a task's name has letters, digits, '_', '-' and '.' only")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quoted"] = lambda text: yaml.safe_dump(
        text, default_style='"', width=10_000
    ).strip()
    template = environment.get_template("new_task.yaml.jinja")
    path = out or Path(f"{task}.yaml")
    with whole_file(path, force) as part:
        part.write_text(template.render(task=task, kind=kind, dataset=dataset), encoding="utf-8")
        load_judge_task(part)
    return path
