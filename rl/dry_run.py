"""What a run would do: settings, data, a prompt, steps, memory and the command. No weights."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from mtrl_judge.judge_tasks.sources import load_rows

from . import memory
from .dataset import build_dataset, labeled
from .preflight import accepted_licenses
from .recipes import as_shell, launch_command
from .settings import Settings


class Schedule(NamedTuple):
    """Steps of a run; a prompt is one row of the dataset."""

    steps: int
    epochs: float
    prompts_a_step: float
    answers_a_step: int
    prompts_drawn: int
    """Prompts whose completions are drawn at once; 0 for SFT."""


class _TaskRows(NamedTuple):
    task: str
    rows: int
    in_training: int
    validation_items: int


class _Prompt(NamedTuple):
    text: str
    answer: str
    tokens: int | None
    """Tokens, those of pictures among them; None where no processor is on this machine."""


def dry_run(settings: Settings) -> str:
    """The report on a run that does not take place.

    Raises:
        JudgeError: the data are not to be had, or tasks and settings do not fit.
    """
    rows, first = _data(settings)
    plan = schedule(settings, sum(task.in_training for task in rows))
    prompt = _prompt(settings, first)
    sections = {
        "Settings": _settings_table(settings),
        "Data": _data_table(rows),
        "First prompt": f"{prompt.text}\n\n{prompt.answer}",
        "Schedule": _schedule_table(settings, plan, rows),
        "Memory of each device": _memory_table(settings, prompt.tokens),
        "Command": as_shell(launch_command(settings.method, settings.judge, settings.flags)),
    }
    return "\n\n".join(f"{title}\n{'=' * len(title)}\n{text}" for title, text in sections.items())


def schedule(settings: Settings, rows: int) -> Schedule:
    """Steps of training on a dataset of so many rows, as the trainers count them.

    GRPO leaves out what does not fill a generation batch (``RepeatSampler`` in
    trl/trainer/utils.py); the last step of an epoch may be short (``set_initial_training_values``
    in transformers/trainer.py).
    """
    trainer = settings.trainer
    batch = trainer.per_device_train_batch_size * settings.judge.processes
    answers = batch * trainer.gradient_accumulation_steps
    if settings.method == "sft":
        drawn, prompts = 0, float(answers)
        batches = rows // batch if trainer.dataloader_drop_last else math.ceil(rows / batch)
    else:
        drawn = batch * trainer.steps_per_generation // trainer.num_generations
        prompts = answers / trainer.num_generations
        batches = rows // drawn * trainer.steps_per_generation * trainer.num_iterations
    steps_an_epoch = max(1, math.ceil(batches / trainer.gradient_accumulation_steps))
    by_epochs = math.ceil(trainer.num_train_epochs * steps_an_epoch)
    steps = trainer.max_steps if trainer.max_steps > 0 else by_epochs
    return Schedule(steps, steps / steps_an_epoch, prompts, answers, drawn)


def _data(settings: Settings) -> tuple[list[_TaskRows], dict[str, Any]]:
    """Rows by task, and the first row of the dataset as the trainer gets it."""
    judge = settings.judge
    tasks, root = settings.tasks, settings.data_root
    loaded = [load_rows(task, "train", root) for task in tasks]
    data = {task.task: split.record for task, split in zip(tasks, loaded, strict=True)}
    accepted_licenses(tasks, data, judge.accept_license)
    dataset = build_dataset(
        tasks,
        style=settings.style,
        balance=judge.balance,
        answers=settings.method == "sft",
        neighbours=judge.consistency_weight > 0,
        seed=settings.trainer.seed,
        loaded=loaded,
    )
    chosen = Counter(dataset.with_format(None)["task"])
    rows = [
        _TaskRows(
            task.task,
            len(labeled(split.rows.dataset)),
            chosen[task.task],
            min(judge.validation_items, load_rows(task, "validation", root).rows.n_items),
        )
        for task, split in zip(tasks, loaded, strict=True)
    ]
    return rows, dataset[0]


def _prompt(settings: Settings, row: dict[str, Any]) -> _Prompt:
    answer = f"label: {row['label']}"
    if "completion" in row:
        answer += f"\nanswer to learn: {row['completion'][0]['content'][0]['text']}"
    name = settings.model.model_name_or_path
    if name is None or not Path(name).expanduser().is_dir():
        return _Prompt(_plain(row["prompt"]), answer, None)
    from mtrl_judge.models.checkpoint import load_processor

    processor = load_processor(name)
    text = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[row["images"]], return_tensors="pt")
    return _Prompt(text, answer, inputs["input_ids"].shape[-1])


def _plain(messages: list[dict[str, Any]]) -> str:
    """A conversation without a model's markup; pictures are numbered."""
    parts = [part for message in messages for part in message["content"]]
    pictures = iter(range(1, len(parts) + 1))
    texts = [
        f"[image {next(pictures)}]\n" if part["type"] == "image" else part["text"] for part in parts
    ]
    return "".join(texts)


def _settings_table(settings: Settings) -> str:
    shown: dict[str, Any] = {
        "method": settings.method,
        "recipe": settings.recipe or "none",
        "style": settings.style,
        "seed": settings.trainer.seed,
        **settings.given,
    }
    rows = [(k, ", ".join(map(str, v)) if isinstance(v, list) else v) for k, v in shown.items()]
    return _plain_table([(name, str(value)) for name, value in rows])


def _data_table(rows: list[_TaskRows]) -> str:
    in_all = sum(task.in_training for task in rows)
    headers = ["task", "rows", "in an epoch", "share", "validation items"]
    table = [
        [task.task, task.rows, task.in_training, f"{task.in_training / in_all:.1%}", task[3]]
        for task in rows
    ]
    total = ["all", sum(t.rows for t in rows), in_all, "100.0%", sum(t[3] for t in rows)]
    return tabulate([*table, total], headers=headers, stralign="right", colalign=["left"])


def _schedule_table(settings: Settings, plan: Schedule, rows: list[_TaskRows]) -> str:
    trainer, judge = settings.trainer, settings.judge
    table = [
        ("steps", f"{plan.steps:,}, {plan.epochs:.2f} epochs"),
        ("processes", f"{judge.processes}"),
    ]
    if settings.method == "grpo":
        drawn = plan.prompts_drawn * trainer.num_generations
        table += [
            ("a step", f"{plan.prompts_a_step:g} prompts, {plan.answers_a_step:,} completions"),
            ("drawn at once", f"{plan.prompts_drawn} prompts, {drawn:,} completions"),
        ]
    else:
        table.append(("a step", f"{plan.answers_a_step:,} rows"))
    items = sum(task.validation_items for task in rows)
    table.append(("validation", _validation_times(settings, plan.steps, items)))
    if judge.patience:
        table.append(("stops", f"after {judge.patience} validations without a better one"))
    return _plain_table(table)


def _validation_times(settings: Settings, steps: int, items: int) -> str:
    trainer = settings.trainer
    strategy = str(trainer.eval_strategy.value)
    if strategy != "steps":
        return "never" if strategy == "no" else f"every {strategy}, {items} items"
    every = trainer.eval_steps
    every = max(1, math.ceil(steps * every)) if every < 1 else int(every)
    times = math.ceil(steps / every)  # the last step is validated too
    before = "before the first, " if trainer.eval_on_start else ""
    times += trainer.eval_on_start
    return f"{before}every {every} steps and after the last: {times} times {items} items"


def _memory_table(settings: Settings, prompt_tokens: int | None) -> str:
    name = settings.model.model_name_or_path
    if name is None:
        return "no model is named: --model_name_or_path FOLDER|HUB_NAME"
    found = memory.architecture(name, settings.model.model_revision)
    if found is None:
        return f"unknown: {name} is no folder, and the hub gave no configuration of it"
    tokens = prompt_tokens or memory.ASSUMED_PROMPT_TOKENS
    estimate = memory.estimate(settings, found.config, tokens)
    counts = estimate.counts
    counted = (
        f"{counts.model:,} parameters, {counts.trained:,} of them trained"
        if not settings.model.use_peft
        else f"{counts.model:,} parameters, and {counts.trained:,} of adapters, which are trained"
    )
    assumed = "" if prompt_tokens else ", assumed: one picture of a megapixel and its question"
    table = tabulate([*estimate.parts, *estimate.peaks], headers=["", "GiB", ""], floatfmt=".2f")
    return f"{counted} ({found.source}); a prompt of {tokens} tokens{assumed}\n{table}"


def _plain_table(rows: list[tuple[str, str]]) -> str:
    return tabulate(rows, tablefmt="plain", disable_numparse=True)
