"""``scoring=logprob``: judge items by the probability of each verdict.

In the direct style nothing is generated: the verdict comes right after the prompt. In the reasoned
style the judge first generates its reasoning, and the verdict comes after that and ``<answer>``.

The backend answers with a text, as every backend does, so that lmms-eval's cache and the one parser
of answers read it: a line of JSON with the probabilities, in the order of the task's verdicts,
followed by the reasoning, if any, and the verdict::

    {"probabilities": [0.83, 0.17], "verdict_mass": 0.99, "temperature": 1.4, "bias": [0.0, 0.0],
     "calibrated": true, "uncalibrated_reason": null, "upper_bounds": [false, false]}
    <answer>Yes</answer>

It is one line; it is broken here only for display. If all probabilities are upper bounds, nothing
is known of the verdict, and the answer has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.common.markup import (
    ANSWER_TAGS,
    CLOSED_ANSWER,
    CLOSED_THOUGHT,
    OPEN_ANSWER,
    OPEN_THOUGHT,
    neutralize,
    opened_answer,
)
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import LoadedSplit, find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, Style
from mtrl_judge.metrics.bootstrap import MIN_ROWS_OF_CLASS

from .calibration import Calibration, Floats, Method, bound_reached, fit_calibration

if TYPE_CHECKING:
    from datasets import Dataset

    from .base_judge import Answer, BaseJudge, Batch
    from .token_budget import TokenBudget

Scoring: TypeAlias = Literal["generation", "logprob"]

CALIBRATION_ITEMS = 256  # enough to fit so few parameters
MIN_CALIBRATION_ROWS = 50


def check_calibration(calibration: str | None, scoring: Scoring) -> Method:
    """A backend's ``calibration`` argument; None is the default.

    Raises:
        JudgeError: the calibration is unknown, or verdicts are generated.
    """
    known = get_args(Method)
    if calibration is not None and calibration not in known:
        raise JudgeError(
            f"calibration: unknown calibration {calibration!r}; {did_you_mean(calibration, known)}"
        )
    if calibration is not None and scoring != "logprob":
        raise JudgeError(f"calibration: only with scoring=logprob, but the scoring is {scoring}")
    return cast(Method, calibration or "temperature")


def check_scoring(scoring: str) -> Scoring:
    """A backend's ``scoring`` argument.

    Raises:
        JudgeError: the scoring is unknown.
    """
    known = get_args(Scoring)
    if scoring not in known:
        raise JudgeError(f"scoring: unknown scoring {scoring!r}; {did_you_mean(scoring, known)}")
    return cast(Scoring, scoring)


class VerdictProbabilities(NamedTuple):
    """A judge's probabilities for one item."""

    probabilities: tuple[float, ...]
    """Of each verdict, calibrated, among the verdicts; they add up to 1."""
    verdict_mass: float
    """Of all verdicts together, uncalibrated, among everything the model could generate."""
    temperature: float
    bias: tuple[float, ...]
    """Of each verdict, in nats; all 0 unless a bias was fitted."""
    calibrated: bool
    """Whether the calibration was fitted; otherwise the temperature is 1 and every bias 0."""
    uncalibrated_reason: str | None
    """Why it was not; None if it was."""
    upper_bounds: tuple[bool, ...]
    """Whether a verdict's probability before calibration is only known to be at most what was used:
    a server names few tokens."""

    @property
    def tied(self) -> bool:
        """Whether several verdicts are exactly the most probable; the first of them is taken."""
        return self.probabilities.count(max(self.probabilities)) > 1


class Fitted(NamedTuple):
    """How a task's probabilities are calibrated."""

    calibration: Calibration
    uncalibrated_reason: str | None
    """Why it changes nothing instead of being fitted; None if it was fitted."""


def format_answer(
    verdict: str | None, judgment: VerdictProbabilities, reasoning: str | None = None
) -> str:
    """The backend's answer: the probabilities, the reasoning and the verdict that follows from the
    probabilities (:meth:`.Kind.decided`), if any does."""
    # Unless neutralized, the parser would read a tag within a verdict or the reasoning.
    safe = neutralize(verdict or "", ANSWER_TAGS)
    thought = "" if reasoning is None else f"<think>{neutralize(reasoning, ANSWER_TAGS)}</think>"
    return f"{json.dumps(judgment._asdict())}\n{thought}<answer>{safe}</answer>"


def parse_answer(text: str, verdicts: Sequence[str]) -> dict[str, Any]:
    """The fields of a sample for an answer of :func:`format_answer`; empty for any other text.

    Args:
        verdicts: the task's verdicts, in the order of the probabilities.
    """
    try:
        judgment = VerdictProbabilities(**json.loads(text.partition("\n")[0]))
        by_verdict = {
            field: dict(zip(verdicts, getattr(judgment, field), strict=True))
            for field in ("probabilities", "bias", "upper_bounds")
        }
        return {**judgment._asdict(), **by_verdict, "tied": judgment.tied}
    except (AttributeError, TypeError, ValueError, RecursionError):
        return {}


def load_calibration(task: JudgeTask, root: Path | None) -> LoadedSplit | None:
    """The validation split to calibrate on; None if there is none besides the evaluated rows.

    Raises:
        DataError: the split exists but is not what the YAML describes.
    """
    source = find_source(task, root)
    cut = task.judge.splits.get("validation")
    exists = "validation" in source.splits or (cut is not None and cut.source in source.splits)
    if not exists or task.evaluation_split == "validation":
        return None
    if len(load_raw(task, "validation", source)) == 0:  # a small fraction of few rows
        return None
    return load_rows(task, "validation", root)


def calibration_rows(rows: Dataset) -> Dataset:
    """The labeled rows of at most CALIBRATION_ITEMS items, which a hash of the item id selects.

    A pair that is judged in both orders keeps both, so that a preference for a slot shows.
    """
    columns = rows.with_format(None)
    labeled = [
        (index, item)
        for index, (item, label) in enumerate(
            zip(columns["item_id"][:], columns["label"][:], strict=True)
        )
        if label is not None
    ]
    ranked = sorted(
        {item for _, item in labeled}, key=lambda item: stable_hash("calibration", item)
    )
    selected = set(ranked[:CALIBRATION_ITEMS])
    return rows.select([index for index, item in labeled if item in selected])


class Scored(NamedTuple):
    """The verdicts' log-probabilities after B prompts."""

    logps_B_V: Floats
    upper_bounds_B_V: NDArray[np.bool_]
    input_tokens_B: Sequence[int]
    reasoning_B: Sequence[Answer] | None
    """What was generated first, in the reasoned style."""
    failures_B: Sequence[str | None]
    """The text in place of an answer whose request failed; None for all others."""


class LogprobScorer:
    """Judges the items of one task.

    Args:
        rows: labeled rows to calibrate on; None leaves the probabilities as they are.
        calibration: what is fitted.
        style: of the prompts.
        verdicts: those that the judged prompts offer, which a perturbation may have renamed.
        batch_size: calibration prompts computed together, or the tokens that fit.
        generation: settings of `BaseJudge.generate` for the reasoning.

    Raises:
        JudgeError: a verdict cannot be read back from an answer, or the kind of task has verdicts
            that are not in `verdicts`.
    """

    def __init__(
        self,
        judge: BaseJudge,
        task: JudgeTask,
        rows: Dataset | None,
        *,
        calibration: Method,
        style: Style,
        verdicts: Sequence[str],
        batch_size: int | TokenBudget,
        generation: Mapping[str, Any],
    ) -> None:
        if not all(task.kind.has_verdict(verdict, verdicts) for verdict in verdicts):
            raise JudgeError(
                f"{task.path}: judge.kind: the verdicts of a {task.kind.name} task are too many to "
                "have the probability of each; expected scoring=generation, or --tasks without it"
            )
        self._judge, self._task, self._rows, self._method = judge, task, rows, calibration
        self._style, self._verdicts, self._batch_size = style, verdicts, batch_size
        self._generation = {**generation, "until": (OPEN_ANSWER,)}
        self._answers = self._ties = 0
        uncalibrated = Calibration.identity(len(verdicts))
        unbounded = (False,) * len(verdicts)
        uniform = VerdictProbabilities(
            (1 / len(verdicts),) * len(verdicts), 1.0, *uncalibrated, False, "", unbounded
        )
        for verdict in verdicts:
            if task.kind.read(format_answer(verdict, uniform), verdicts).value != verdict:
                raise JudgeError(
                    f"{task.path}: judge.verdicts: {verdict!r} cannot be read back from an answer; "
                    "expected a verdict without tags"
                )

    def answer(self, batch: Batch) -> list[Answer]:
        """The answers to B prompts; the first call calibrates."""
        from .base_judge import Answer

        calibration, reason = self.fitted
        scored = self._score(batch, self._verdicts)
        probabilities_B_V = calibration.probabilities(scored.logps_B_V).tolist()
        # Verdicts exclude each other even where no end token follows them (see verdict_tokens).
        mass_B = np.exp(scored.logps_B_V).sum(axis=1).tolist()
        answers = []
        for row, best in enumerate(calibration.verdicts(scored.logps_B_V)):
            failure = scored.failures_B[row]
            if failure is not None:
                answers.append(Answer(failure, 0, 0))
                continue
            reasoning, generated = None, 0
            if scored.reasoning_B is not None:
                thought = scored.reasoning_B[row]
                reasoning, generated = _without_tags(thought.text), thought.output_tokens
            judgment = VerdictProbabilities(
                tuple(probabilities_B_V[row]),
                mass_B[row],
                *calibration,
                reason is None,
                reason,
                tuple(scored.upper_bounds_B_V[row].tolist()),
            )
            known = not all(judgment.upper_bounds)
            self._answers += 1
            kind = self._task.kind
            self._ties += judgment.tied and known and kind.counted
            verdict = kind.decided(judgment.probabilities, best, self._verdicts) if known else None
            text = format_answer(verdict, judgment, reasoning)
            answers.append(Answer(text, scored.input_tokens_B[row], generated))
        return answers

    def report_ties(self) -> None:
        """Log how many of the answers so far are exact ties, if any."""
        from loguru import logger

        if self._ties:
            logger.warning(
                f"{self._task.task}: {self._ties} of {self._answers} answers are exact ties, "
                "decided for the verdict that comes first in judge.verdicts"
            )

    @cached_property
    def fitted(self) -> Fitted:
        """The calibration of all answers, fitted to the calibration rows if they determine one."""
        from loguru import logger

        fitted = self._fit()
        if fitted.uncalibrated_reason is not None:
            logger.warning(f"{self._task.task}: not calibrated: {fitted.uncalibrated_reason}")
        return fitted

    def _fit(self) -> Fitted:
        """Fit to the calibration rows, judged like all others.

        The calibration rows are never perturbed, so a perturbed run differs in one thing only.
        """
        from loguru import logger

        rows, verdicts = self._rows, self._task.judge.verdicts
        uncalibrated = Calibration.identity(len(verdicts))
        labels_N = [] if rows is None else rows.with_format(None)["label"][:]
        labels_N = [self._task.kind.label_class(label, verdicts) for label in labels_N]
        reason = self._too_few(labels_N)
        if rows is None or reason is not None:
            return Fitted(uncalibrated, reason)
        prompts = (
            self._judge.prompt(render_messages(row, self._style), row.prompt_images)
            for row in map(JudgeRow.from_doc, rows)
        )
        logps_N_V = np.empty((len(labels_N), len(verdicts)))
        failed: dict[int, str] = {}
        longest = self._generation.get("max_new_tokens", 0)
        for batch in self._judge.batches(prompts, self._batch_size, answer_tokens=longest):
            scored = self._score(batch, verdicts)
            logps_N_V[list(batch.indices)] = scored.logps_B_V
            answered = zip(batch.indices, scored.failures_B, strict=True)
            failed |= {index: failure for index, failure in answered if failure is not None}
        if failed:
            logger.warning(
                f"{self._task.task}: calibrated without {len(failed)} of {len(labels_N)} rows, "
                f"whose requests failed: {next(iter(failed.values()))}"
            )
            kept = [row for row in range(len(labels_N)) if row not in failed]
            logps_N_V, labels_N = logps_N_V[kept], [labels_N[row] for row in kept]
            reason = self._too_few(labels_N)
            if reason is not None:
                return Fitted(uncalibrated, reason)
        indices_N = [verdicts.index(label) for label in labels_N]
        fitted = fit_calibration(logps_N_V, indices_N, self._method)
        bound = bound_reached(logps_N_V, indices_N, fitted, self._method)
        if bound is not None:
            return Fitted(
                uncalibrated,
                f"{len(labels_N)} validation rows fit best at the temperature's bound, {bound:g}",
            )
        bias = ""
        if self._method == "bias":
            named = zip(verdicts, fitted.bias_V, strict=True)
            bias = f", bias {', '.join(f'{verdict} {value:+.3f}' for verdict, value in named)}"
        logger.info(
            f"{self._task.task}: temperature {fitted.temperature:.3f}{bias}, fitted to "
            f"{len(labels_N)} validation rows"
        )
        return Fitted(fitted, None)

    def _too_few(self, labels_N: Sequence[str]) -> str | None:
        """Why rows with these labels do not determine the calibration; None if they may."""
        if len(labels_N) < MIN_CALIBRATION_ROWS:
            expected = f"at least {MIN_CALIBRATION_ROWS} are needed"
            return f"{len(labels_N) or 'no'} labeled validation rows; {expected}"
        rarest = min(self._task.judge.verdicts, key=list(labels_N).count)
        found = list(labels_N).count(rarest)
        if self._method == "bias" and found < MIN_ROWS_OF_CLASS:
            expected = f"a bias needs at least {MIN_ROWS_OF_CLASS} of each verdict"
            return f"{found} validation rows are labeled {rarest!r}; {expected}"
        return None

    def _score(self, batch: Batch, verdicts: Sequence[str]) -> Scored:
        if self._style == "direct":
            return self._scored(batch, verdicts, None)
        reasoning_B = self._judge.generate(batch, **self._generation)
        failures_B = [
            answer.text if request_failure(answer.text) else None for answer in reasoning_B
        ]
        kept = [row for row, failure in enumerate(failures_B) if failure is None]
        logps_B_V = np.zeros((len(reasoning_B), len(verdicts)))
        upper_bounds_B_V = np.zeros(logps_B_V.shape, dtype=bool)
        if kept:
            begun = replace(
                batch,
                indices=[batch.indices[row] for row in kept],
                prompts=[batch.prompts[row] for row in kept],
            )
            begun = self._judge.continued(
                begun, [opened_answer(reasoning_B[row].text) for row in kept]
            )
            scored = self._scored(begun, verdicts, CLOSED_ANSWER)
            logps_B_V[kept], upper_bounds_B_V[kept] = scored.logps_B_V, scored.upper_bounds_B_V
            for row, failure in zip(kept, scored.failures_B, strict=True):
                failures_B[row] = failure
        tokens_B = [answer.input_tokens for answer in reasoning_B]
        return Scored(logps_B_V, upper_bounds_B_V, tokens_B, reasoning_B, failures_B)

    def _scored(self, batch: Batch, verdicts: Sequence[str], end: str | None) -> Scored:
        found = self._judge.verdict_logps(batch, verdicts, end)
        logps_B_V = found.logps_B_V.double().numpy()
        bounds_B_V = np.zeros(logps_B_V.shape, dtype=bool)
        if found.upper_bounds_B_V is not None:
            bounds_B_V = found.upper_bounds_B_V.numpy()
        failures_B = found.failures_B or [None] * len(logps_B_V)
        return Scored(logps_B_V, bounds_B_V, found.input_tokens_B, None, failures_B)


def _without_tags(reasoning: str) -> str:
    return reasoning.replace(OPEN_THOUGHT, "").replace(CLOSED_THOUGHT, "").strip()
