"""What lmms-eval wrote about judges, read back: results and the samples beside them.

Any backend's files will do, also those of a run made elsewhere: a judge task's own metadata and
sample rows hold all that is computed from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.judge_tasks.errors import DataError, JudgeError
from mtrl_judge.judge_tasks.files import json_lines
from mtrl_judge.judge_tasks.metrics import Record

from .evaluate import RESULTS_SUFFIX, results_files


class Judged(NamedTuple):
    """One task of one run; rows are in the order of the samples."""

    task: str
    about: Mapping[str, Any]
    """What the results say of it: role, verdicts, paired, style, source, fingerprint, …"""
    item_ids: Sequence[str]
    records: Sequence[Record]
    texts: Sequence[str]
    probabilities: Sequence[Mapping[str, float]] | None
    """Of each verdict, where the run was scored by them."""


class Run(NamedTuple):
    """One evaluation of one model."""

    name: str
    file: Path
    date: str
    tasks: Mapping[str, Judged]


def load_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in results files and under folders, each file once, the oldest first.

    Runs of one model are told apart by their dates.

    Raises:
        JudgeError: a path is not there, there are no results under it, or a file is not whole; or
            no run has a judge task.
    """
    files = dict.fromkeys(file for path in paths for file in _results_of(path))
    runs = [run for run in map(load_run, files) if run.tasks]
    if not runs:
        named = ", ".join(map(str, files)) or "nothing"
        raise JudgeError(f"{named}: no judge task in it; its configs have no metadata.judge")
    runs.sort(key=lambda run: run.date)
    often = Counter(run.name for run in runs)
    return [
        run._replace(name=f"{run.name} ({run.date})") if often[run.name] > 1 else run
        for run in runs
    ]


def _results_of(path: Path) -> list[Path]:
    if path.is_file():
        if not path.name.endswith(RESULTS_SUFFIX):
            raise JudgeError(f"{path}: is no results file; would be right: a *{RESULTS_SUFFIX}")
        return [path]
    if not path.is_dir():
        raise JudgeError(f"{path}: no such file or folder")
    files = results_files(path)
    if not files:
        raise JudgeError(f"{path}: no lmms-eval results (*{RESULTS_SUFFIX}) in it")
    return files


def load_run(file: Path) -> Run:
    """One results file with the samples of its judge tasks; no tasks where it has none.

    Raises:
        JudgeError: a file is missing, cut off, or not lmms-eval's.
    """
    results = _json(file)
    try:
        configs, counts = results["configs"], results["n-samples"]
        about = {
            task: config["metadata"]["judge"]
            for task, config in configs.items()
            if isinstance(config.get("metadata"), dict) and "judge" in config["metadata"]
        }
        date = str(results["date"])
        name = str(results.get("model_name") or file.parent.name)
        rows = {task: int(counts[task]["effective"]) for task in about}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        version = results.get("lmms_eval_version", "not named")
        raise JudgeError(
            f"{file}: not the results that lmms-eval 0.7 writes (its version: {version}): "
            f"{type(error).__name__} {error}"
        ) from None
    return Run(
        name, file, date, {task: _judged(file, task, about[task], rows[task]) for task in about}
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise JudgeError(f"{file}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise JudgeError(f"{file}: is no JSON ({error}); is it cut?") from None
    if not isinstance(found, dict):
        raise JudgeError(f"{file}: holds a {type(found).__name__}; would be right: lmms-eval's")
    return found


def _judged(results: Path, task: str, about: Mapping[str, Any], rows: int) -> Judged:
    file = results.with_name(f"{results.name.removesuffix(RESULTS_SUFFIX)}_samples_{task}.jsonl")
    if not file.is_file():
        raise JudgeError(f"{file}: no samples of {task}; run lmms-eval with --log_samples")
    samples = [_Sample(where, row, about) for where, row in json_lines(file)]
    if len(samples) != rows:
        raise JudgeError(f"{file}: {len(samples)} of {rows} samples; is it cut?")
    given = [sample.probabilities for sample in samples]
    return Judged(
        task,
        about,
        [sample.item_id for sample in samples],
        [sample.record for sample in samples],
        [sample.text for sample in samples],
        [each for each in given if each is not None] if all(given) else None,
    )


class _Sample:
    """One line of a file of samples.

    Raises:
        DataError: it lacks what a judge task writes.
    """

    def __init__(self, where: str, row: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        needed = ("item_id", "label", "verdict", "well_formed", "pair_id", "order", "text")
        missing = [name for name in needed if name not in row]
        if missing:
            raise DataError(f"{where} has no {missing[0]!r}; it is no sample of a judge task")
        for name in ("label", "verdict"):
            if row[name] is not None and row[name] not in about["verdicts"]:
                raise DataError(f"{where}: {name} {row[name]!r} is none of {about['verdicts']}")
        self.item_id, self.text = str(row["item_id"]), str(row["text"])
        self.record = Record(
            label=row["label"],
            verdict=row["verdict"],
            well_formed=bool(row["well_formed"]),
            pair_id=row["pair_id"],
            swapped=row["order"] == "BA",
        )
        self.probabilities: Mapping[str, float] | None = row.get("probabilities") or None
