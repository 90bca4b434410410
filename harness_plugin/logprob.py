"""``scoring=logprob``: items judged by the probability of each verdict.

The backend answers with a text, as every backend does, so that lmms-eval's cache and the one parser
read it: a line of JSON with the probabilities, in the order of the task's verdicts, and the
verdict::

    {"probabilities": [0.83, 0.17], "verdict_mass": 0.99, "temperature": 1.4, "calibrated": true}
    <answer>Yes</answer>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.common.markup import ANSWER_TAGS, neutralize
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import LoadedSplit, find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask
from mtrl_judge.judge_tasks.verdicts import parse_verdict

if TYPE_CHECKING:
    from datasets import Dataset

    from mtrl_judge.models.judge import Batch, Judge
    from mtrl_judge.models.temperature import Floats

CALIBRATION_ITEMS = 256  # one number is fitted to them


class Judgement(NamedTuple):
    """What a judge's probabilities say of one item."""

    probabilities: tuple[float, ...]
    """Of each verdict among the verdicts, calibrated; they add up to 1."""
    verdict_mass: float
    """Of all verdicts together among all that the model could write."""
    temperature: float
    calibrated: bool
    """Whether the temperature was fitted; else it is 1."""


class Calibration(NamedTuple):
    """A temperature and the number of labeled rows that it was fitted to."""

    temperature: float = 1.0
    rows: int = 0


def write(verdict: str, judgement: Judgement) -> str:
    """The backend's answer."""
    safe = neutralize(verdict, ANSWER_TAGS)
    return f"{json.dumps(judgement._asdict())}\n<answer>{safe}</answer>"


def read(text: str, verdicts: Sequence[str]) -> dict[str, Any]:
    """What a sample says of an answer of :func:`write`; nothing where the text is none."""
    try:
        found = Judgement(**json.loads(text.partition("\n")[0]))
        probabilities = dict(zip(verdicts, found.probabilities, strict=True))
    except (TypeError, ValueError, RecursionError):
        return {}
    return {**found._asdict(), "probabilities": probabilities}


def load_calibration(task: JudgeTask, root: Path | None) -> LoadedSplit | None:
    """The validation rows to calibrate on; None where there are none but those that are judged.

    Raises:
        DataError: there are, but they are not what the YAML says.
    """
    source = find_source(task, root)
    made = task.judge.splits.get("validation")
    there = "validation" in source.splits or (made is not None and made.source in source.splits)
    if not there or task.evaluation_split == "validation":
        return None
    if len(load_raw(task, "validation", source)) == 0:  # a small share of few rows
        return None
    return load_rows(task, "validation", root)


def calibration_rows(rows: Dataset) -> Dataset:
    """Its labeled rows, of at most CALIBRATION_ITEMS items, which a hash of the item chooses."""
    columns = rows.with_format(None)
    ids, labels = columns["item_id"][:], columns["label"][:]
    labeled = {item for item, label in zip(ids, labels, strict=True) if label is not None}
    ranked = sorted(labeled, key=lambda item: stable_hash("calibration", item))
    kept = set(ranked[:CALIBRATION_ITEMS])
    return rows.select(
        [
            n
            for n, (item, label) in enumerate(zip(ids, labels, strict=True))
            if item in kept and label is not None
        ]
    )


class LogprobScorer:
    """Judges the items of one task.

    Args:
        rows: labeled rows to calibrate on; None leaves the temperature at 1.
        asked: the verdicts that the judged prompts ask for, which a probe may have renamed.
        batch_size: prompts of the calibration computed together.

    Raises:
        JudgeError: no text says one of the task's verdicts alone.
    """

    def __init__(
        self,
        judge: Judge,
        task: JudgeTask,
        rows: Dataset | None,
        *,
        asked: Sequence[str],
        batch_size: int,
    ) -> None:
        self._judge, self._task, self._rows = judge, task, rows
        self._asked, self._batch_size = asked, batch_size
        even = Judgement((1 / len(asked),) * len(asked), 1.0, 1.0, False)
        for verdict in asked:
            if parse_verdict(write(verdict, even), asked).value != verdict:
                raise JudgeError(
                    f"{task.path}: judge.verdicts: {verdict!r} cannot be read back from an answer; "
                    "write it without tags"
                )

    def answer(self, batch: Batch) -> list[str]:
        """What is answered to each of B prompts; the first call calibrates."""
        from mtrl_judge.models.temperature import probabilities

        calibration = self.calibration
        logps_B_V = self._logps(batch, self._asked)
        probabilities_B_V = probabilities(logps_B_V, calibration.temperature)
        # The end of an answer counted or not, verdicts exclude one another.
        mass_B = np.exp(logps_B_V).sum(axis=1)
        best_B = logps_B_V.argmax(axis=1)
        return [
            write(
                self._asked[best],
                Judgement(tuple(own), mass, calibration.temperature, calibration.rows > 0),
            )
            for best, own, mass in zip(
                best_B, probabilities_B_V.tolist(), mass_B.tolist(), strict=True
            )
        ]

    @cached_property
    def calibration(self) -> Calibration:
        """Fitted to the validation rows by the same forward passes that judge.

        No probe changes these rows: a judge keeps its temperature, and one thing is changed.
        """
        from loguru import logger

        from mtrl_judge.models.temperature import fit_temperature

        if self._rows is None or len(self._rows) == 0:
            logger.warning(
                f"{self._task.task}: no labeled validation rows, so its probabilities are not "
                "calibrated"
            )
            return Calibration()
        verdicts = self._task.judge.verdicts
        labels = [verdicts.index(label) for label in self._rows.with_format(None)["label"]]
        prompts = (
            self._judge.prompt(render_messages(row, "direct"), row.images)
            for row in map(JudgeRow.from_doc, self._rows)
        )
        logps_N_V = np.empty((len(labels), len(verdicts)))
        for batch in self._judge.batches(prompts, self._batch_size):
            logps_N_V[list(batch.indices)] = self._logps(batch, verdicts)
        fitted = Calibration(fit_temperature(logps_N_V, labels), len(labels))
        logger.info(
            f"{self._task.task}: temperature {fitted.temperature:.3f}, fitted to {fitted.rows} "
            "validation rows"
        )
        return fitted

    def _logps(self, batch: Batch, verdicts: Sequence[str]) -> Floats:
        logps_B_V: Floats = self._judge.verdict_logps(batch, verdicts).double().cpu().numpy()
        return logps_B_V
