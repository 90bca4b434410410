"""``mtrl_judge.Judge``: one call from an item to its judgment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias, get_args

import torch

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.data.demonstrations import Demonstrator, load_demonstrator
from mtrl_judge.judge_tasks.demonstrations import parse_demonstrations, with_demonstrations
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import Rows
from mtrl_judge.judge_tasks.sources import data_root
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.models.base_judge import Answer, Batch
from mtrl_judge.models.engines import ENGINES, OpenedJudge, engine_arguments, open_judge, positive
from mtrl_judge.models.generation import GENERATION, generation_settings
from mtrl_judge.models.logprob import (
    LogprobScorer,
    calibration_rows,
    check_calibration,
    check_scoring,
    load_calibration,
)
from mtrl_judge.models.style import check_style, chosen_style
from mtrl_judge.models.votes import Voter, check_vote, sampling

from .batcher import Batcher
from .judgment import Judgment, combined
from .single_items import QUESTION, ImageLike, Item, ShownRow, TaskItems, resolved

Calibration: TypeAlias = Literal["temperature", "bias", "none"]

# lmms-eval knows our backend by this name; it runs the engine transformers unless told otherwise.
_BACKENDS = {"mtrl_judge": "transformers", **{engine: engine for engine in ENGINES}}
_BATCH_SIZE = 8
_SEED = 1234  # of torch in lmms-eval (`--seed` in lmms_eval/__main__.py)
_BATCH_WAIT = 0.005  # seconds; a forward pass of a small model takes longer


class Judge:
    """A judge that is ready to be asked; :meth:`load` makes one.

    Prompts, the parser of answers and the calibration of probabilities are those of an evaluation
    (``mtrl-judge eval``), and so are the verdicts. A judge may be used from several threads: one
    batch is computed at a time.

    Args:
        opened: the model on its engine.
        style: reasoned, direct or confidence; None chooses as in an evaluation.
        scoring: generation or logprob.
        calibration: of ``scoring="logprob"``: temperature (the default), bias, or none for
            probabilities as the model gives them.
        max_new_tokens: overrides the tasks' own.
        demonstrations: solved items in the prompts of every task, as ``judge.demonstrations`` of a
            YAML; ``{"k": 0}`` is none, and None leaves each task its own.
        samples: answers to each item, which vote.
        vote: majority (the default), mean or verified; of several samples.
        temperature: of the samples; by default the tasks' own where they sample, else 1.
        seed: of the samples; the default is an evaluation's.
        root: the folder with the tasks' data, for the calibration; None is ``MTRL_JUDGE_DATA``, or
            the hub.

    Raises:
        JudgeError: an argument has no possible value.
    """

    def __init__(
        self,
        opened: OpenedJudge,
        *,
        style: str | None = None,
        scoring: str = "generation",
        calibration: str | None = None,
        max_new_tokens: int | None = None,
        demonstrations: Mapping[str, Any] | None = None,
        samples: int = 1,
        vote: str | None = None,
        temperature: float | None = None,
        seed: int = _SEED,
        root: Path | None = None,
    ) -> None:
        self.opened = opened
        self._style = None if style is None else check_style(style, "style")
        self._scoring = check_scoring(scoring)
        self._calibrates = calibration != "none"
        fitted = None if calibration == "none" else calibration
        if calibration not in (None, *get_args(Calibration)):
            known = get_args(Calibration)
            hint = did_you_mean(calibration, known)
            raise JudgeError(f"calibration: unknown calibration {calibration!r}; {hint}")
        self._calibration = check_calibration(fitted, self._scoring)
        self._max_new_tokens = max_new_tokens and positive("max_new_tokens", max_new_tokens)
        self._demonstrations = parse_demonstrations(demonstrations, "demonstrations")
        self._demonstrators: dict[Path, Demonstrator] = {}
        self._sampling = sampling(samples, vote, temperature, seed, self._scoring)
        self._root = root
        self._found: dict[str, JudgeTask] = {}
        self._readers: dict[Path, TaskItems] = {}
        self._scorers: dict[Path, LogprobScorer] = {}
        self._lock = Lock()
        self._batcher: Batcher | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        backend: str = "transformers",
        *,
        style: str | None = None,
        scoring: str = "generation",
        calibration: str | None = None,
        max_new_tokens: int | None = None,
        demonstrations: Mapping[str, Any] | None = None,
        samples: int = 1,
        vote: str | None = None,
        temperature: float | None = None,
        seed: int = _SEED,
        data_root: str | Path | None = None,
        batch_size: int | str = _BATCH_SIZE,
        **arguments: Any,
    ) -> Judge:
        """Load a model as a judge.

        Args:
            model: a checkpoint folder, a hub id, or with ``backend="openai"`` the model's name.
            backend: transformers (also as mtrl_judge, the name in lmms-eval), vllm or openai.
            batch_size: prompts answered together, or with ``backend="openai"`` requests at a time.
            arguments: the other ``--model_args`` of an evaluation, such as ``base_url``, ``dtype``,
                ``max_pixels`` or ``device``; see docs/evaluation.md.

        Raises:
            JudgeError: an argument is wrong, the checkpoint cannot be used, or the server does not
                answer.
        """
        if backend not in _BACKENDS:
            hint = did_you_mean(backend, _BACKENDS)
            raise JudgeError(f"backend: unknown backend {backend!r}; {hint}")
        checked = engine_arguments(
            str(model), engine=_BACKENDS[backend], batch_size=batch_size, **arguments
        )
        return cls(
            open_judge(checked),
            style=style,
            scoring=scoring,
            calibration=calibration,
            max_new_tokens=max_new_tokens,
            demonstrations=demonstrations,
            samples=samples,
            vote=vote,
            temperature=temperature,
            seed=seed,
            root=None if data_root is None else Path(data_root),
        )

    def score(
        self,
        task: str | JudgeTask,
        images: Sequence[ImageLike] = (),
        texts: Sequence[str] = (),
        context: Mapping[str, Any] | None = None,
        *,
        verdicts: Sequence[str] | None = None,
    ) -> Judgment:
        """Judge one item.

        Args:
            task: a shipped task's name, the path of a YAML, a task, or a free question.
            images: one for each column of ``judge.images``, in that order; of a free question any
                number, which stand before it.
            texts: one for each other column that the task's question reads, in the order in which
                it names them.
            context: columns by name, instead of images and texts or beside them; a row of the
                task's dataset will do.
            verdicts: of a free question, what to choose from.

        Raises:
            JudgeError: the task is unknown, the item is not what it expects, or an image cannot be
                shown. A request of ``backend="openai"`` that fails is a judgment with the state
                "failed".
        """
        return self.score_batch([Item(task, images, texts, context or {}, verdicts)])[0]

    def score_batch(self, items: Sequence[Item]) -> list[Judgment]:
        """Judge items of any tasks together, which is faster; in their order.

        Raises:
            JudgeError: as :meth:`score`, of the first item that cannot be judged; it is named.
        """
        judged: list[Judgment] = []
        for number, found in enumerate(self.judge(items)):
            if isinstance(found, JudgeError):
                raise JudgeError(f"item {number}: {found}") if len(items) > 1 else found
            judged.append(found)
        return judged

    async def ascore(
        self,
        task: str | JudgeTask,
        images: Sequence[ImageLike] = (),
        texts: Sequence[str] = (),
        context: Mapping[str, Any] | None = None,
        *,
        verdicts: Sequence[str] | None = None,
    ) -> Judgment:
        """As :meth:`score`; calls that wait at the same time are judged together."""
        item = Item(task, images, texts, context or {}, verdicts)
        if self._batcher is None or self._batcher.loop is not asyncio.get_running_loop():
            self._batcher = Batcher(self.judge, max_items=64, max_wait=_BATCH_WAIT)
        return await self._batcher.submit(item)

    def judge(self, items: Sequence[Item]) -> list[Judgment | JudgeError]:
        """As :meth:`score_batch`, with an error in place of an item that cannot be judged."""
        with self._lock:
            return self._judge(items)

    def prepare(self, task: JudgeTask) -> None:
        """Calibrate the probabilities of a task, which its first item would do otherwise.

        Raises:
            JudgeError: its validation data cannot be read.
        """
        if self._scoring == "logprob":
            with self._lock, torch.inference_mode():
                _ = self._scorer(self.reader(task).original).fitted

    def _judge(self, items: Sequence[Item]) -> list[Judgment | JudgeError]:
        results: dict[int, Judgment | JudgeError] = {}
        of_reader: dict[int, tuple[TaskItems, dict[int, Mapping[str, Any]]]] = {}
        for number, item in enumerate(items):
            try:
                task, item = resolved(item, self.find)
                reader = self.reader(task)
                _, columns = of_reader.setdefault(id(reader.original), (reader, {}))
                columns[number] = reader.columns(item)
            except JudgeError as error:
                results[number] = error
        for reader, columns in of_reader.values():
            found = dict(zip(columns, reader.rows([*columns.values()]), strict=True))
            shown = {n: rows for n, rows in found.items() if not isinstance(rows, JudgeError)}
            results |= {n: rows for n, rows in found.items() if isinstance(rows, JudgeError)}
            task = reader.original
            try:
                texts = self._answer(task, [one for rows in shown.values() for one in rows])
            except JudgeError as error:  # such as a prompt that is longer than the model's context
                results |= dict.fromkeys(shown, error)
                continue
            for number, rows in shown.items():
                own, texts = texts[: len(rows)], texts[len(rows) :]
                results[number] = combined(task, rows, own)
        return [results[number] for number in range(len(items))]

    def find(self, name_or_path: str) -> JudgeTask:
        """A task by its name or the path of its YAML, which is read once.

        Raises:
            JudgeTaskError: there is no such task or file, or a fault in it.
        """
        if name_or_path not in self._found:
            self._found[name_or_path] = find_task(name_or_path)
        return self._found[name_or_path]

    def reader(self, task: JudgeTask) -> TaskItems:
        """What reads the items of a task."""
        if task.task == QUESTION:  # there is no end to questions
            return TaskItems(task)
        task = with_demonstrations(task, self._demonstrations)
        known = self._readers.get(task.path)
        if known is None or known.original != task:
            self._scorers.pop(task.path, None)
            self._demonstrators.pop(task.path, None)
            shows = task.judge.demonstrations is not None
            demonstrate = partial(self._demonstrated, task) if shows else None
            known = self._readers[task.path] = TaskItems(task, demonstrate)
        return known

    def _demonstrated(self, task: JudgeTask, rows: Rows) -> Rows:
        """The rows of a task with their demonstrations."""
        if task.judge.demonstrations is None:
            return rows
        if task.path not in self._demonstrators:
            style, _ = chosen_style(task, self._style, self._scoring, self.opened.style)
            self._demonstrators[task.path] = load_demonstrator(
                task, style, root=self._root or data_root(), encode_image=self.opened.encode_image
            )
        return self._demonstrators[task.path].attach(rows)[0]

    def _answer(self, task: JudgeTask, shown: Sequence[ShownRow]) -> list[str]:
        """The judge's answers to rows of one task."""
        style, _ = chosen_style(task, self._style, self._scoring, self.opened.style)
        settings = self._settings(task)
        judge = self.opened.judge
        answer: Callable[[Batch], list[Answer]] = partial(judge.generate, **settings)
        if self._scoring == "logprob":
            answer = self._scorer(task).answer
        elif self._sampling is not None:
            check_vote(task, self._sampling.vote, style)
            rows = [row for row, _ in shown]
            voter = Voter(judge, self._sampling, rows, style=style, generation=settings)
            answer = voter.answer
        prompts = (judge.prompt(render_messages(row, style), row.prompt_images) for row, _ in shown)
        texts: dict[int, str] = {}
        for batch in judge.batches(
            prompts,
            self.opened.prompts_at_once,
            answer_tokens=settings["max_new_tokens"],
            answers=1 if self._sampling is None else self._sampling.samples,
        ):
            answers = self.opened.answers(batch, answer)
            texts |= zip(batch.indices, (each.text for each in answers), strict=True)
        return [texts[index] for index in range(len(shown))]

    def _settings(self, task: JudgeTask) -> dict[str, Any]:
        requested = {**GENERATION, **task.generation_kwargs}
        settings = generation_settings(requested, self._max_new_tokens)
        return settings if self._sampling is None else self._sampling.applied(settings)

    def _scorer(self, task: JudgeTask) -> LogprobScorer:
        if task.path in self._scorers:
            return self._scorers[task.path]
        is_question = task.task == QUESTION
        style, _ = chosen_style(task, self._style, self._scoring, self.opened.style)
        scorer = LogprobScorer(
            self.opened.judge,
            task,
            self._calibration_rows(task) if self._calibrates and not is_question else None,
            calibration=self._calibration,
            style=style,
            verdicts=task.judge.verdicts,
            batch_size=self.opened.prompts_at_once,
            generation=self._settings(task),
        )
        if not is_question:
            self._scorers[task.path] = scorer
        return scorer

    def _calibration_rows(self, task: JudgeTask) -> Any:
        try:
            loaded = load_calibration(task, self._root or data_root())
        except JudgeError as error:
            raise JudgeError(
                f"{error}\nThe probabilities of {task.task} are calibrated on its validation data; "
                'without it, give calibration="none"'
            ) from None
        if loaded is None:
            return None
        return calibration_rows(self._demonstrated(task, loaded.rows).dataset)
