"""What a run would do: settings, data, a prompt, steps, what it needs, the command. No weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tabulate import tabulate

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import expanded
from mtrl_judge.judge_tasks.demonstration_checks import JUDGE
from mtrl_judge.judge_tasks.demonstrations import with_demonstrations
from mtrl_judge.judge_tasks.sources import load_rows

from . import memory, speed
from .dataset import labeled_rows, training_set
from .demonstrations import TrainingDemonstrations
from .mixed_prompts import mixed_prompts
from .preflight import accepted_licenses
from .recipes import as_shell, launch_command, vllm_server_command
from .settings import Settings
from .validation_items import validation_rows


class Schedule(NamedTuple):
    """Steps of a run; a prompt is one row of the dataset."""

    steps: int
    epochs: float
    prompts_per_step: float
    answers_per_step: int
    """Completions, or rows for SFT."""
    prompts_per_rollout: int
    """Prompts that completions are sampled for at a time; 0 for SFT."""


class _TaskRows(NamedTuple):
    """A line of the table of the data."""

    task: str
    rows: int
    per_epoch: int
    share: str
    validation_items: int
    validation_rows: int
    """A pair has two."""
    wordings: int
    """In which a row may be asked."""


class MissingDataError(JudgeError):
    """A dry run without its data; the message ends with what is missing."""


def dry_run(settings: Settings) -> str:
    """The report on a run, without running it.

    Raises:
        MissingDataError: the data cannot be loaded; with the rest of the report.
        JudgeError: tasks and settings do not fit.
    """
    try:
        rows, example = _data(settings)
    except DataError as error:
        known = {
            "Settings": _settings_table(settings),
            **_needs(settings, None, None),
            **_commands(settings),
            "Missing": f"rows, a prompt and the number of steps, for want of data:\n{error}",
        }
        raise MissingDataError(_report(known)) from None
    plan = schedule(settings, sum(task.per_epoch for task in rows))
    prompt, tokens = _prompt(settings, example)
    sections = {
        "Settings": _settings_table(settings),
        "Data": _data_table(rows, varies=settings.judge.balance == "worst_task"),
        "First prompt": prompt,
        "Schedule": _schedule_table(settings, plan, rows),
        **_needs(settings, tokens, plan.steps),
        **_commands(settings),
    }
    return _report(sections)


def _report(sections: Mapping[str, str]) -> str:
    return "\n\n".join(f"{title}\n{'=' * len(title)}\n{text}" for title, text in sections.items())


def _commands(settings: Settings) -> dict[str, str]:
    command = launch_command(settings.method, settings.judge, settings.flags)
    commands = {"Command": as_shell(command)}
    if getattr(settings.trainer, "use_vllm", False) and settings.trainer.vllm_mode == "server":
        commands["Command of the vLLM server"] = _server_command(settings)
    return commands


def _server_command(settings: Settings) -> str:
    """What starts a vLLM server for this run; options for its devices are to be added."""
    trainer, judge, model = settings.trainer, settings.judge, settings.model
    name = model.model_name_or_path or "MODEL"
    limits = {"shortest_edge": judge.min_pixels, "longest_edge": judge.max_pixels}
    options: dict[str, Any] | None = {"size": limits} if judge.max_pixels else None
    if expanded(name).is_dir():
        from mtrl_judge.models.checkpoint import load_processor
        from mtrl_judge.models.pixels import pixel_limits, with_pixel_limits

        processor = load_processor(name)
        if judge.min_pixels or judge.max_pixels:
            processor = with_pixel_limits(processor, judge.min_pixels, judge.max_pixels)
        options = pixel_limits(processor)
    dtype = "bfloat16" if trainer.bf16 else "float16" if trainer.fp16 else model.dtype or "auto"
    command = vllm_server_command(
        name,
        dtype=dtype,
        max_model_length=trainer.vllm_max_model_length,
        processor_options=options,
    )
    return as_shell(command)


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
        rollout, prompts = 0, float(answers)
        batches = rows // batch if trainer.dataloader_drop_last else math.ceil(rows / batch)
    else:
        rollout = batch * trainer.steps_per_generation // trainer.num_generations
        prompts = answers / trainer.num_generations
        batches = rows // rollout * trainer.steps_per_generation * trainer.num_iterations
    steps_per_epoch = max(1, math.ceil(batches / trainer.gradient_accumulation_steps))
    by_epochs = math.ceil(trainer.num_train_epochs * steps_per_epoch)
    steps = trainer.max_steps if trainer.max_steps > 0 else by_epochs
    return Schedule(steps, steps / steps_per_epoch, prompts, answers, rollout)


def _data(settings: Settings) -> tuple[list[_TaskRows], dict[str, Any]]:
    """Rows by task, and the first row of the dataset as the trainer gets it."""
    tasks, root = settings.tasks, settings.data_root
    loaded = [load_rows(task, "train", root) for task in tasks]
    data = {task.task: split.record for task, split in zip(tasks, loaded, strict=True)}
    accepted_licenses(tasks, data, settings.judge.accept_license)
    prompts = mixed_prompts(settings)
    demonstrations = TrainingDemonstrations(_without_vision(settings), None, None)
    loaded = [demonstrations.attach(split) for split in loaded]
    dataset = training_set(settings, loaded, prompts=prompts)
    counts = Counter(dataset.with_format(None)["task"])
    validation = [validation_rows(task, settings, demonstrations) for task in tasks]
    of_tasks = [
        _TaskRows(
            task.task,
            len(labeled_rows(task, "train", split.rows.dataset)),
            counts[task.task],
            f"{counts[task.task] / len(dataset):.1%}",
            len(set(rows.with_format(None)["item_id"][:])),
            len(rows),
            1 if prompts is None else len(task.questions),
        )
        for task, split, rows in zip(tasks, loaded, validation, strict=True)
    ]
    return of_tasks, dataset[0]


def _without_vision(settings: Settings) -> Settings:
    """The settings with as many demonstrations, at random where they need the judge's weights."""
    tasks = []
    for task in settings.tasks:
        spec = task.judge.demonstrations
        if spec is not None and spec.encoder == JUDGE:
            task = with_demonstrations(task, spec.model_copy(update={"by": (), "encoder": None}))
        tasks.append(task)
    return replace(settings, tasks=tuple(tasks))


def _prompt(settings: Settings, row: dict[str, Any]) -> tuple[str, int | None]:
    """The first prompt with its answer, and its tokens where the model is a local folder."""
    answer = f"label: {row['label']}"
    if "completion" in row:
        answer += f"\nanswer to learn: {row['completion'][0]['content'][0]['text']}"
    name = settings.model.model_name_or_path
    if name is None or not expanded(name).is_dir():
        parts = [part for message in row["prompt"] for part in message["content"]]
        texts = ["[image]\n" if part["type"] == "image" else part["text"] for part in parts]
        return f"{''.join(texts)}\n\n{answer}", None
    from mtrl_judge.models.checkpoint import load_processor

    processor = load_processor(name)
    text = processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[row["images"]], return_tensors="pt")
    return f"{text}\n\n{answer}", inputs["input_ids"].shape[-1]


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


def _data_table(rows: Sequence[_TaskRows], *, varies: bool) -> str:
    headers = ["task", "rows", "per epoch", "share", "validation items", "wordings"]
    lines = [
        (
            row.task,
            row.rows,
            "varies" if varies else row.per_epoch,
            "varies" if varies else row.share,
            row.validation_items,
            row.wordings,
        )
        for row in rows
    ]
    all_rows, per_epoch = sum(row.rows for row in rows), sum(row.per_epoch for row in rows)
    items = sum(row.validation_items for row in rows)
    total = ("all", all_rows, per_epoch, "100.0%", items, "")
    return tabulate([*lines, total], headers=headers, stralign="right", colalign=["left"])


def _schedule_table(settings: Settings, plan: Schedule, tasks: Sequence[_TaskRows]) -> str:
    judge, answers = settings.judge, plan.answers_per_step
    table = [
        ("steps", f"{plan.steps:,}, {plan.epochs:.2f} epochs"),
        ("processes", str(judge.processes)),
    ]
    if settings.method == "grpo":
        rollout = plan.prompts_per_rollout * settings.trainer.num_generations
        table += [
            ("step", f"{plan.prompts_per_step:g} prompts, {answers:,} completions"),
            ("rollout batch", f"{plan.prompts_per_rollout} prompts, {rollout:,} completions"),
        ]
    else:
        table.append(("step", f"{answers:,} rows"))
    items = sum(task.validation_items for task in tasks)
    times = _validation_times(settings, plan.steps, items)
    table.append(("validation", times))
    if times != "never" and not getattr(settings.trainer, "use_vllm", False):
        answers = sum(task.validation_rows for task in tasks)
        table.append(("one validation", _validation_length(settings, answers)))
    if judge.patience:
        table.append(("stops", f"after {judge.patience} validations without improvement"))
    return _plain_table(table)


def _validation_times(settings: Settings, steps: int, items: int) -> str:
    trainer = settings.trainer
    strategy = str(trainer.eval_strategy.value)
    if strategy != "steps":
        return "never" if strategy == "no" else f"every {strategy}, {items} items"
    every = trainer.eval_steps
    every = max(1, math.ceil(steps * every)) if every < 1 else int(every)
    times = math.ceil(steps / every)  # there is one after the last step too
    before = "before the first, " if trainer.eval_on_start else ""
    times += trainer.eval_on_start
    return f"{before}every {every} steps and after the last: {times} times {items} items"


def _validation_length(settings: Settings, answers: int) -> str:
    """How long transformers takes at most to generate the answers of a validation."""
    judge, batch = settings.judge, settings.trainer.per_device_eval_batch_size
    batches, tokens = (
        math.ceil(math.ceil(answers / judge.processes) / batch),
        settings.answer_tokens,
    )
    counted = f"at most {batches} batches of {batch} answers x {tokens:,} tokens"
    name = settings.model.model_name_or_path
    architecture = name and memory.architecture(name, settings.model.model_revision)
    if not architecture:
        return counted
    layers = architecture[0].get_text_config().num_hidden_layers
    ms = speed.VALIDATION_MS_PER_LAYER
    minutes = math.ceil(batches * tokens * layers * ms / 60_000)
    return (
        f"{counted}, roughly {minutes} min ({ms:g} ms a token and layer, as Qwen3-VL-4B takes on "
        f"an H100, x {layers} layers); less with use_vllm"
    )


def _needs(settings: Settings, prompt_tokens: int | None, steps: int | None) -> dict[str, str]:
    """What the run takes of each device: memory, and time where that kind of device was measured.

    Args:
        prompt_tokens, steps: None if they are not known.
    """
    title = "Memory of each device"
    name = settings.model.model_name_or_path
    if name is None:
        return {title: "no model is named: --model_name_or_path FOLDER|HUB_NAME"}
    architecture = memory.architecture(name, settings.model.model_revision)
    if architecture is None:
        return {title: f"unknown: {name} is not a folder, and the hub has no configuration of it"}
    config, source = architecture
    tokens = prompt_tokens or memory.ASSUMED_PROMPT_TOKENS
    estimate = memory.estimate(settings, config, tokens)
    model, trained = estimate.counts.model, estimate.counts.trained
    what = "of adapters, which are trained" if settings.model.use_peft else "of them trained"
    assumed = "" if prompt_tokens else ", assumed: one image of a megapixel and its question"
    table = tabulate([*estimate.parts, *estimate.peaks], headers=["", "GiB", ""], floatfmt=".2f")
    sections = {
        title: f"{model:,} parameters, {trained:,} {what} ({source}); a prompt of {tokens} "
        f"tokens{assumed}\n{table}"
    }
    if settings.method == "grpo" and not settings.trainer.use_cpu:
        found = speed.estimate(settings, config, model, tokens)
        sections[f"Time on an {speed.DEVICE}"] = _time_table(found, steps)
    return sections


def _time_table(found: speed.Estimate, steps: int | None) -> str:
    """Rough, and an upper bound: completions are as long as they may be."""
    table = [
        (name, "–" if seconds is None else f"at most {speed.duration(seconds)}", why)
        for name, seconds, why in (
            ("update of a step", found.update_s, found.update),
            ("generation of a step", found.generation_s, found.generation),
        )
    ]
    measured = [
        what
        for what, seconds in (("update", found.update_s), ("generation", found.generation_s))
        if seconds is not None
    ]
    if steps is not None and measured:
        total = speed.duration(steps * found.total_s)
        what = f"{' and '.join(measured)} only, without validation and communication"
        table.append((f"{steps:,} steps", f"at most {total}", what))
    note = "Roughly, from the figures in docs/performance.md."
    return f"{tabulate(table, tablefmt='plain', disable_numparse=True)}\n{note}"


def _plain_table(rows: Sequence[tuple[str, str]]) -> str:
    return tabulate(rows, tablefmt="plain", disable_numparse=True)
