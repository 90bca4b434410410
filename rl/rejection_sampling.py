"""Rejection sampling: SFT on the base model's own correct answers, alone or before GRPO.

RFT (Yuan et al., arXiv 2308.01825): sample answers, keep the correct ones, train on them. The model
learns form, and learns it from nothing that it would not have said itself.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import json_text, read_json_lines, whole_file
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.judge_tasks.facts import check_facts
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import Score, score
from mtrl_judge.judge_tasks.sources import LoadedSplit
from mtrl_judge.judge_tasks.spec import ANSWERS_FILE, JudgeTask, Style
from mtrl_judge.judge_tasks.verdicts import read_reasoning

if TYPE_CHECKING:
    from mtrl_judge.models.transformers_judge import TransformersJudge

    from .settings import Settings

logger = logging.getLogger(__name__)


class SampledText(NamedTuple):
    """An answer that the base model gave."""

    text: str
    probabilities: tuple[float, ...] | None = None
    """Of the row's verdicts after its own reasoning; with ``rft_verified`` only."""


class RowKey(NamedTuple):
    """Names a row among those of all tasks."""

    task: str
    item_id: str
    swapped: bool


def sample_answers(settings: Settings, loaded: Sequence[LoadedSplit], folder: Path) -> Path:
    """Sample answers with the base model and write those that are kept; the file.

    An existing file is complete and is used as it is. Each process answers its share of the rows.

    Args:
        loaded: the training split of each task.
        folder: of the run.

    Raises:
        JudgeError: no answer is kept.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from mtrl_judge.models.transformers_judge import TransformersJudge

    from .demonstrations import TrainingDemonstrations
    from .model import load
    from .validation import share_of

    file, process = folder / ANSWERS_FILE, PartialState()
    if file.is_file():
        return file
    model, processor = load(settings)
    demonstrations = TrainingDemonstrations(settings, model, processor)
    loaded = [demonstrations.attach(split) for split in loaded]
    rows = [row for split in loaded for row in chosen_rows(settings, split)]
    share = share_of(len(rows), process.num_processes, process.process_index)
    judge = TransformersJudge(model.to(process.device).eval(), processor)
    texts = dict(zip(share, _texts(settings, judge, [rows[n] for n in share]), strict=True))
    del model, judge, demonstrations
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    texts = dict(gather_object(list(texts.items())))
    if process.is_main_process:
        _write(file, settings.style, [(rows[n], texts[n]) for n in sorted(texts)])
    process.wait_for_everyone()
    return file


def chosen_rows(settings: Settings, split: LoadedSplit) -> list[JudgeRow]:
    """Up to ``rft_items`` labeled rows of a task, chosen by the seed."""
    rows = split.rows.dataset
    about = rows.with_format(None)
    labeled = [n for n, label in enumerate(about["label"][:]) if label is not None]
    ids, seed = about["item_id"][:], settings.trainer.seed
    labeled.sort(key=lambda n: stable_hash("rft", seed, ids[n], about["swapped"][n]))
    return [JudgeRow.from_doc(rows[n]) for n in labeled[: settings.judge.rft_items]]


def _texts(
    settings: Settings, judge: TransformersJudge, rows: Sequence[JudgeRow]
) -> list[list[SampledText]]:
    """``rft_samples`` answers to each row, sampled as GRPO does, or as the model's own
    probabilities are where the run is SFT alone.

    They follow from the seed and the prompt, whatever the number of processes.
    """
    import torch

    trainer, samples = settings.trainer, settings.judge.rft_samples
    prompts = (
        judge.prompt(render_messages(row, settings.style), row.prompt_images) for row in rows
    )
    # Batches of answers, of which a prompt has several.
    batch_size = max(1, trainer.per_device_eval_batch_size // samples)
    texts: dict[int, list[str]] = {}
    with torch.no_grad():
        for batch in judge.batches(prompts, batch_size):
            answers = judge.sample(
                batch,
                samples,
                trainer.seed,
                do_sample=True,
                num_beams=1,
                temperature=getattr(trainer, "temperature", 1.0),
                top_p=getattr(trainer, "top_p", 1.0),
                top_k=getattr(trainer, "top_k", 0),
                max_new_tokens=settings.answer_tokens,
            )
            for index, answers_K in zip(batch.indices, answers, strict=True):
                texts[index] = [answer.text for answer in answers_K]
    found = [[SampledText(text) for text in texts[n]] for n in range(len(rows))]
    if not settings.judge.rft_verified:
        return found
    return with_probabilities(
        judge, rows, found, settings.style, trainer.per_device_eval_batch_size
    )


def with_probabilities(
    judge: TransformersJudge,
    rows: Sequence[JudgeRow],
    sampled: Sequence[Sequence[SampledText]],
    style: Style,
    batch_size: int,
) -> list[list[SampledText]]:
    """The answers with what their own reasoning makes of the verdicts."""
    asked = [(row, one.text) for row, texts in zip(rows, sampled, strict=True) for one in texts]
    probabilities = judge.verdict_probabilities(
        [row for row, _ in asked], [text for _, text in asked], style, batch_size=batch_size
    )
    known = iter(
        SampledText(text, of_text) for (_, text), of_text in zip(asked, probabilities, strict=True)
    )
    return [[next(known) for _ in texts] for texts in sampled]


def verified_answers(
    answered: Sequence[tuple[JudgeRow, Sequence[SampledText]]],
) -> list[list[str]]:
    """The answers to each row whose own reasoning speaks for their verdict; all without
    probabilities.

    It does where it makes the verdict more probable than any other, each relative to its mean over
    all answers to the task. A base model that prefers one verdict whatever it has written would
    otherwise keep hardly any answer with another (contextual calibration, Zhao et al., arXiv
    2102.09690).
    """
    of_task: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row, texts in answered:
        of_task[row.task] += [one.probabilities for one in texts if one.probabilities is not None]
    means = {task: np.mean(known, axis=0) for task, known in of_task.items() if known}

    def is_carried(row: JudgeRow, one: SampledText) -> bool:
        if one.probabilities is None:
            return True
        kind = KINDS[row.kind]
        verdict = kind.read(one.text, row.verdicts).value
        if verdict is None:
            return False
        relative_V = np.array(one.probabilities) / means[row.task]
        own = row.verdicts.index(kind.label_class(verdict, row.verdicts))
        return bool(relative_V[own] == relative_V.max())

    return [[one.text for one in texts if is_carried(row, one)] for row, texts in answered]


def require_verifiable(tasks: Iterable[JudgeTask], style: Style) -> None:
    """
    Raises:
        JudgeError: answers to a task cannot be verified by the probabilities of their verdicts.
    """
    if style == "direct":
        raise JudgeError(
            "rft_verified: verifies a verdict by the reasoning before it, but the style is direct; "
            "leave it out, or choose another style"
        )
    for task in tasks:
        verdicts = task.judge.verdicts
        if not all(task.kind.has_verdict(verdict, verdicts) for verdict in verdicts):
            raise JudgeError(
                f"rft_verified: the verdicts of {task.task} ({task.kind.name}) are too many to "
                "have the probability of each; leave the task or the field out"
            )


def kept_answers(row: JudgeRow, texts: Iterable[str], style: Style) -> list[str]:
    """The different answers that are correct, in the required form, and true to the facts.

    Where the item has facts, an answer must contradict none and state at least one, and only those
    that state the most are kept.
    """
    rated: dict[str, float | None] = {}
    for text in texts:
        scored = score(row, text)
        if not _is_correct(row, scored) or (style != "direct" and not scored.format):
            continue
        check = check_facts(read_reasoning(text), row.facts)
        if not check.contradicted and check.rate != 0:
            rated[text] = check.rate
    best = max((rate for rate in rated.values() if rate is not None), default=None)
    return [text for text, rate in rated.items() if rate == best]


def _is_correct(row: JudgeRow, scored: Score) -> bool:
    """As correct as can be: a label may lie between the verdicts."""
    if row.label is None or scored.correct is None:
        return False
    return scored.correct >= KINDS[row.kind].attainable(row.label, row.verdicts)


def _write(
    file: Path, style: Style, answered: Sequence[tuple[JudgeRow, Sequence[SampledText]]]
) -> None:
    sampled: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    lines: list[dict[str, Any]] = []
    for (row, texts), carried in zip(answered, verified_answers(answered), strict=True):
        answers = kept_answers(row, carried, style)
        sampled[row.task] += len(texts)
        kept[row.task] += len(answers)
        key = RowKey(row.task, row.item_id, row.swapped)._asdict()
        lines += [{**key, "text": text} for text in answers]
    counts = ", ".join(f"{task} {kept[task]} of {sampled[task]}" for task in sampled)
    if not lines:
        raise JudgeError(
            f"rft: no sampled answer is correct and in the required form ({counts}); learn from "
            "the labels instead, or from more rft_samples"
        )
    logger.info(f"rft: answers kept: {counts}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part, part.open("w", encoding="utf-8") as out:
        out.writelines(json_text(line, indent=None) + "\n" for line in lines)


def read_answers(files: Iterable[Path]) -> dict[RowKey, list[str]]:
    """The answers to each row in files of them, for SFT.

    Raises:
        JudgeError: a file cannot be read, or a line is malformed.
    """
    answers: defaultdict[RowKey, list[str]] = defaultdict(list)
    types = {"task": str, "item_id": str, "swapped": bool, "text": str}
    for where, line in chain.from_iterable(map(read_json_lines, files)):
        if {name: type(value) for name, value in line.items()} != types:
            raise JudgeError(f"{where}: expected task, item_id, swapped (true or false) and text")
        answers[RowKey(line["task"], line["item_id"], line["swapped"])].append(line["text"])
    return answers
