"""What lmms-eval wrote about judges, read back: results and the samples beside them.

Any backend's files will do, also those of a run made elsewhere: a judge task's own metadata and
sample rows hold all that is computed from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import read_json, read_json_lines
from mtrl_judge.judge_tasks.verdicts import parse_verdict
from mtrl_judge.metrics.records import Record

from .file import read_entries
from .runs import Judged, Run


def load_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in results files, leaderboard files and under folders, each file once.

    The oldest comes first. Names are as short as they can be; runs of one model are told apart by
    their dates. Items without their rows' order are put in one order, so that runs can be compared.

    Raises:
        JudgeError: a path is not there, there are no results under it, or a file is not whole; or
            no run has a judge task.
    """
    files = dict.fromkeys(file for path in paths for file in _results_of(path))
    found = (run for file in files for run in _runs_in(file))
    runs = sorted((run for run in found if run.tasks), key=lambda run: run.date)
    if not runs:
        named = ", ".join(map(str, files)) or "nothing"
        raise JudgeError(f"{named}: no judge task in it; its configs have no metadata.judge")
    short = short_names([run.model for run in runs])
    names = [short[run.model] for run in runs]
    dated = [
        f"{name} ({run.date})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]
    return [
        run._replace(
            name=f"{name} #{dated[:place].count(name) + 1}" if name in dated[:place] else name
        )
        for place, (name, run) in enumerate(zip(dated, runs, strict=True))
    ]


def short_names(models: Iterable[str]) -> dict[str, str]:
    """The last parts of each name or path, as many as tell it from the others.

    >>> short_names(["/home/me/runs/a/judge", "/home/me/runs/b/judge", "Qwen/Qwen3-VL-8B-Instruct"])
    {'/home/me/runs/a/judge': 'a/judge', '/home/me/runs/b/judge': 'b/judge', \
'Qwen/Qwen3-VL-8B-Instruct': 'Qwen3-VL-8B-Instruct'}
    """
    parts = {model: [part for part in model.split("/") if part] or [model] for model in models}

    def last(model: str, count: int) -> str:
        return "/".join(parts[model][-count:])

    short = {}
    for model in parts:
        count = 1
        while count < len(parts[model]) and any(
            other != model and last(other, count) == last(model, count) for other in parts
        ):
            count += 1
        short[model] = last(model, count)
    return short


def _runs_in(file: Path) -> list[Run]:
    return [load_run(file)] if file.name.endswith(RESULTS_SUFFIX) else read_entries(file)


def _results_of(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".json":
            raise JudgeError(
                f"{path}: is no results file; would be right: a *{RESULTS_SUFFIX} of lmms-eval, "
                "a leaderboard file (.json) or a folder"
            )
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
    results = read_json(file, advice="is the file truncated?")
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
    judged = {task: _judged(file, task, about[task], rows[task]) for task in about}
    backend = str(results.get("model_source") or "")
    return Run(name, name, file, date, backend, judged)


def _judged(results: Path, task: str, about: Mapping[str, Any], rows: int) -> Judged:
    file = results.with_name(f"{results.name.removesuffix(RESULTS_SUFFIX)}_samples_{task}.jsonl")
    if not file.is_file():
        raise JudgeError(f"{file}: no samples of {task}; run lmms-eval with --log_samples")
    samples = [_Sample(where, row, about) for where, row in read_json_lines(file)]
    if len(samples) != rows:
        raise JudgeError(f"{file}: {len(samples)} of {rows} samples; is it cut?")
    samples.sort(key=lambda sample: (sample.item_id, sample.record.swapped))
    _refuse_twice(file, samples)
    probabilities = [sample.probabilities for sample in samples if sample.probabilities]
    votes = [sample.votes for sample in samples]
    return Judged(
        task,
        about,
        [sample.item_id for sample in samples],
        [sample.record for sample in samples],
        [sample.cluster for sample in samples],
        texts=[sample.text for sample in samples],
        probabilities=probabilities if samples and len(probabilities) == len(samples) else None,
        votes=votes if any(len(each) > 1 for each in votes) else None,
        n=sum(sample.record.label is not None for sample in samples),
        inputs=[sample.input for sample in samples],
    )


def _refuse_twice(file: Path, samples: Sequence[_Sample]) -> None:
    """Processes of a run that pad their shards can leave a row twice; a mean would count it so."""
    rows = Counter((sample.item_id, sample.record.swapped) for sample in samples)
    twice = [item for (item, _), count in rows.items() if count > 1]
    if twice:
        raise DataError(f"{file}: item {twice[0]!r} is there twice; evaluate again")


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
        self.input = str(row.get("input") or "")
        self.record = Record(
            label=row["label"],
            verdict=row["verdict"],
            well_formed=bool(row["well_formed"]),
            pair_id=row["pair_id"],
            swapped=row["order"] == "BA",
        )
        self.cluster = str(row.get("cluster") or row["pair_id"] or row["item_id"])
        self.probabilities: Mapping[str, float] | None = row.get("probabilities") or None
        self.votes = [parse_verdict(text, about["verdicts"]).value for text in _repeats(row)]


def _repeats(row: Mapping[str, Any]) -> list[str]:
    """What was answered in each repeat: lmms-eval keeps it as `resps`, and judges the first."""
    answers = row.get("resps")
    while isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], list):
        answers = answers[0]
    if not isinstance(answers, list) or len(answers) < 2:
        return []
    return [answer for answer in answers if isinstance(answer, str)]


RESULTS_SUFFIX = "_results.json"


def results_files(output_path: Path) -> list[Path]:
    """The aggregated results that lmms-eval has written under a folder, the newest last."""
    files = output_path.glob(f"**/*{RESULTS_SUFFIX}")
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def whole_results(output_path: Path, tasks: Iterable[str]) -> Path | None:
    """The newest results with all of the tasks and every sample of them; None where none are."""
    wanted = list(tasks)
    for file in reversed(results_files(output_path)):
        if _is_whole(file, wanted):
            return file
    return None


def _is_whole(file: Path, tasks: Sequence[str]) -> bool:
    """Whether nothing was cut off: lmms-eval writes the results first and the samples after."""
    date = file.name.removesuffix(RESULTS_SUFFIX)
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        for task in tasks:
            with file.with_name(f"{date}_samples_{task}.jsonl").open("rb") as samples:
                lines = sum(line.endswith(b"\n") for line in samples)
            if task not in run["results"] or lines != run["n-samples"][task]["effective"]:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


_SHOWN = ("macro_f1", "majority_macro_f1", "accuracy", "null_rate", "flip_rate")


def newest_results(folder: Path) -> Path:
    """The results file that lmms-eval wrote last under a folder.

    Raises:
        JudgeError: there is none.
    """
    files = results_files(folder)
    if not files:
        raise JudgeError(f"{folder}: no lmms-eval results (*{RESULTS_SUFFIX}) in it")
    return files[-1]


def results_table(results: Path) -> pd.DataFrame:
    """One line a judge task of one run, training tasks first.

    Columns: task, role, macro_f1, majority_macro_f1 (of always answering the commoner verdict),
    accuracy, null_rate, flip_rate, n (rows judged), source, fingerprint (of the rows).

    Raises:
        JudgeError: the file has no judge task.
    """
    run = json.loads(results.read_text(encoding="utf-8"))
    lines = []
    for task, config in run["configs"].items():
        judge = (config.get("metadata") or {}).get("judge")
        if judge is None:
            continue
        metrics = {key.removesuffix(",none"): value for key, value in run["results"][task].items()}
        lines.append(
            {
                "task": task,
                "role": judge["role"],
                **{name: metrics.get(name) for name in _SHOWN},
                "n": run["n-samples"][task]["effective"],
                "source": judge["source"],
                "fingerprint": judge["fingerprint"],
            }
        )
    if not lines:
        raise JudgeError(f"{results}: no judge task in it")
    table = pd.DataFrame(lines)
    return table.sort_values(["role", "task"], ascending=[False, True], ignore_index=True)
