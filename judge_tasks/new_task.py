"""A commented YAML to start a new task from."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import whole_file

from .json_schema import SCHEMA_FILE, schema_text
from .kinds import KINDS
from .loading import load_judge_task


def write_new_task(task: str, kind: str, path: Path, *, dataset: str = "", force: bool) -> None:
    """Write the YAML of a new task, and check that it is valid; beside it the schema for editors.

    Args:
        dataset: its name on the hub, if it is there.

    Raises:
        JudgeError: the kind does not exist, lmms-eval cannot use the name, or the file exists.
    """
    if kind not in KINDS:
        raise JudgeError(f"--kind: no kind {kind!r}; {did_you_mean(kind, KINDS)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", task):
        raise JudgeError(f"task name: found {task!r}; expected letters, digits, '_', '-' and '.'")
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
    with whole_file(path, force) as part:
        part.write_text(
            template.render(task=task, kind=KINDS[kind], dataset=dataset, schema=SCHEMA_FILE),
            encoding="utf-8",
        )
        load_judge_task(part)
    schema = path.with_name(SCHEMA_FILE)
    if not schema.exists():
        with whole_file(schema, force=True) as part:
            part.write_text(schema_text(), encoding="utf-8")
