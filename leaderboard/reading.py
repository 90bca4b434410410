"""lmms-eval's result files: the one reader of aggregated results and of the samples beside them.

Files of any backend will do, also of runs made elsewhere: a judge task's metadata and samples hold
everything that the leaderboard computes from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from sys import intern
from typing import Any

from mtrl_judge.common.errors import DataError, JudgeError
from mtrl_judge.common.files import read_json, read_json_lines
from mtrl_judge.judge_tasks.facts import fact_counts
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.metrics.bootstrap import Estimate
from mtrl_judge.metrics.calibration import known_probabilities
from mtrl_judge.metrics.human import HumanRating, judge_score
from mtrl_judge.metrics.records import Record

from .file import check_metadata, read_entries
from .model_args import arguments_of, without_secrets
from .runs import Run, Sample, TaskResult
from .sampled import read_sampled

RESULTS_SUFFIX = "_results.json"
COMMAND_SUFFIX = "_command.json"


def command_file(results: Path) -> Path:
    """Where `mtrl-judge eval` keeps the command that these results came from."""
    return results.with_name(results.name.removesuffix(RESULTS_SUFFIX) + COMMAND_SUFFIX)


def replaced_files(files: Iterable[Path]) -> set[Path]:
    """The results files in whose place others of these stand: their failed requests were repeated.

    Raises:
        DataError: the record of a command cannot be read.
    """
    replaced = set()
    for file in files:
        name = read_json(command_file(file), missing_ok=True).get("replaces")
        if isinstance(name, str):
            replaced.add((file.parent / name).resolve())
    return replaced


def results_files(folder: Path) -> list[Path]:
    """The aggregated results that lmms-eval wrote under a folder, the newest last."""
    files = folder.glob(f"**/*{RESULTS_SUFFIX}")
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)


def load_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs in results files, leaderboard files and folders, each file once, the oldest first.

    Names are as short as possible; runs of one model are distinguished by date. In a folder, a run
    whose failed requests were repeated is left out; the results of the repetition are complete.

    Raises:
        JudgeError: a path does not exist, a folder has no results, a file is incomplete, or there
            is no run with a judge task.
    """
    files = dict.fromkeys(file for path in paths for file in _result_files_at(path))
    runs = [
        run
        for file in files
        for run in ([load_run(file)] if file.name.endswith(RESULTS_SUFFIX) else read_entries(file))
        if run.tasks
    ]
    if not runs:
        listed = ", ".join(map(str, files)) or "no files"
        raise JudgeError(f"{listed}: no judge task; no config has metadata.judge")
    runs.sort(key=lambda run: run.date)
    short = short_names([run.model for run in runs])
    of_model = Counter(run.model for run in runs)
    names = [
        f"{short[run.model]} ({run.date})" if of_model[run.model] > 1 else short[run.model]
        for run in runs
    ]
    return [
        run._replace(name=f"{name} #{names[:i].count(name) + 1}" if name in names[:i] else name)
        for i, (name, run) in enumerate(zip(names, runs, strict=True))
    ]


def short_names(models: Iterable[str]) -> dict[str, str]:
    """The last components of each name or path, as many as distinguish it from the others.

    >>> short_names(["/home/me/runs/a/judge", "/home/me/runs/b/judge", "Qwen/Qwen3-VL-8B-Instruct"])
    {'/home/me/runs/a/judge': 'a/judge', '/home/me/runs/b/judge': 'b/judge', \
'Qwen/Qwen3-VL-8B-Instruct': 'Qwen3-VL-8B-Instruct'}
    """
    parts = {model: [part for part in model.split("/") if part] or [model] for model in models}
    short = {}
    for model, components in parts.items():
        count = 1
        while count < len(components) and any(
            other != model and parts[other][-count:] == components[-count:] for other in parts
        ):
            count += 1
        short[model] = "/".join(components[-count:])
    return short


def _result_files_at(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".json":
            raise JudgeError(
                f"{path}: not a results file; expected a *{RESULTS_SUFFIX} of lmms-eval, "
                "a leaderboard file (.json) or a folder"
            )
        return [path]
    if not path.is_dir():
        raise JudgeError(f"{path}: no such file or folder")
    files = results_files(path)
    if not files:
        raise JudgeError(f"{path}: no lmms-eval results (*{RESULTS_SUFFIX}) in it")
    replaced = replaced_files(files)
    return [file for file in files if file.resolve() not in replaced]


def complete_run(folder: Path, tasks: Iterable[str] = (), *, samples: bool = False) -> Run | None:
    """The newest run under a folder that has these tasks and all samples of its tasks, if any.

    lmms-eval writes the samples after the results, so an interrupted run can lack some of them.

    Args:
        samples: as for :func:`load_run`.
    """
    for file in reversed(results_files(folder)):
        try:
            run = load_run(file, samples=samples)
        except JudgeError:
            continue
        if all(task in run.tasks for task in tasks):
            return run
    return None


def load_run(file: Path, *, samples: bool = True) -> Run:
    """One results file with its judge tasks, of which there may be none.

    Args:
        samples: read the samples too. Without them, only their number is checked, and the tasks
            have only the rates that lmms-eval aggregated.

    Raises:
        JudgeError: a file is missing, incomplete, or not written by lmms-eval.
    """
    results = read_json(file, advice="is the file truncated?")
    tasks = {}
    try:
        for task, config in results["configs"].items():
            # Tasks of lmms-eval's own can have a list as metadata.
            metadata = config.get("metadata")
            if not isinstance(metadata, dict) or "judge" not in metadata:
                continue
            n_rows = int(results["n-samples"][task]["effective"])
            reported = results.get("results", {}).get(task, {})
            rates = {
                # lmms-eval appends the filter to a metric's name; judge tasks have none.
                name.removesuffix(",none"): Estimate(None if math.isnan(value) else value)
                for name, value in reported.items()
                if isinstance(value, int | float)
            }
            judge = {**_recorded_by_lmms_eval(results, config), **metadata["judge"]}
            tasks[task] = TaskResult(task, judge, rates=rates, n_rows=n_rows)
        date, model = str(results["date"]), str(results.get("model_name") or file.parent.name)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        version = results.get("lmms_eval_version", "unknown")
        raise JudgeError(
            f"{file}: not results as lmms-eval 0.7 writes them (its version: {version}): "
            f"{type(error).__name__} {error}"
        ) from None
    tasks = {name: _with_samples(file, result, read=samples) for name, result in tasks.items()}
    return Run(model, model, file, date, str(results.get("model_source") or ""), tasks)


def _recorded_by_lmms_eval(results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What lmms-eval itself knows of how a task was judged; a judge task's metadata have more."""
    version = config["metadata"].get("version")
    model_args = arguments_of(results.get("config", {}).get("model_args"))
    known = {
        "version": None if version is None else str(version),
        "model_args": without_secrets(model_args),
        "model_revision": model_args.get("revision"),
        "generation": config.get("generation_kwargs"),
        "demonstrations": config.get("num_fewshot"),
        "system_prompt": results.get("system_instruction"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _with_samples(results: Path, result: TaskResult, *, read: bool) -> TaskResult:
    name = f"{results.name.removesuffix(RESULTS_SUFFIX)}_samples_{result.task}.jsonl"
    file = results.with_name(name)
    if not file.is_file():
        raise JudgeError(f"{file}: no samples of {result.task}; run lmms-eval with --log_samples")
    kind = result.metadata.get("kind")
    if str(kind) not in KINDS or not {"role", "verdicts"} <= result.metadata.keys():
        raise JudgeError(
            f"{results}: configs.{result.task}.metadata.judge has the kind {kind!r}; expected one "
            f"of {', '.join(KINDS)}, a role and verdicts"
        )
    check_metadata(results, result)
    if read:
        samples = [_sample(where, row, result) for where, row in read_json_lines(file)]
        n_rows = len(samples)
    else:
        with file.open("rb") as lines:
            n_rows = sum(line.endswith(b"\n") for line in lines)
    if n_rows != result.n_rows:
        raise JudgeError(f"{file}: {n_rows} of {result.n_rows} samples; is the file truncated?")
    if not read:
        return result
    # One order for all runs, so that they can be compared sample by sample.
    samples.sort(key=lambda sample: (sample.item_id, sample.record.swapped))
    # A run on several processes that pads its shards can write a row twice; it would count twice.
    for before, after in pairwise(samples):
        if before.item_id == after.item_id and before.record.swapped == after.record.swapped:
            raise DataError(f"{file}: item {after.item_id!r} is listed twice; evaluate again")
    records = [sample.record for sample in samples]
    return replace(
        result,
        samples=samples,
        n=sum(record.label is not None and not record.failed for record in records),
        n_failed=sum(record.failed for record in records),
        n_refused=sum(record.state == "refused" for record in records),
    )


def _sample(where: str, row: Mapping[str, Any], result: TaskResult) -> Sample:
    for field in ("item_id", "label", "verdict", "well_formed", "pair_id", "order", "text"):
        if field not in row:
            raise DataError(f"{where} has no {field!r}; it is not a sample of a judge task")
    verdicts = result.verdicts
    known = {"label": result.kind.has_label, "verdict": result.kind.has_verdict}
    for field, is_known in known.items():
        if row[field] is not None and not is_known(row[field], verdicts):
            raise DataError(f"{where}: {field} is {row[field]!r}; expected one of {verdicts}")
        verdicts = result.kind.verdicts_about(row["label"] or row["verdict"], result.verdicts)
    # All but the answers is the same in many rows and runs; each text of these is kept once.
    row = {
        name: intern(value) if isinstance(value, str) and name != "text" else value
        for name, value in row.items()
    }
    text, verdict, well_formed = row["text"], row["verdict"], bool(row["well_formed"])
    requests = _repeats(row) or [text]
    failures = [failure for failure in map(request_failure, requests) if failure is not None]
    failure, votes = request_failure(text), []
    if len(requests) > 1 and result.parser == PARSER_VERSION:  # which read the recorded verdict
        answers = [answer for answer in requests if not _failed(answer)]
        votes = [result.kind.read(answer, verdicts) for answer in answers]
        if votes and _failed(text):  # lmms-eval has scored the first request
            text, failure = answers[0], request_failure(answers[0])
            verdict, well_formed, _ = votes[0]
    record = Record(
        label=row["label"],
        # Results of others, and of older versions, may have read one in an error message.
        verdict=None if failure else verdict,
        well_formed=well_formed and failure is None,
        pair_id=row["pair_id"],
        swapped=row["order"] == "BA",
        group=None if row.get("group") is None else str(row["group"]),
        joint=None if row.get("joint") is None else str(row["joint"]),
        failure=failure and failure.kind,
        facts=fact_counts(row.get("facts"), where),
        probabilities=known_probabilities(row.get("probabilities"), result.verdicts),
    )
    sampled = read_sampled(where, row, result)
    sample = Sample(
        str(row["item_id"]),
        record,
        str(row.get("cluster") or row["pair_id"] or row["item_id"]),
        text=str(text or ""),
        input=str(row.get("input") or ""),
        probabilities=row.get("probabilities") or None,
        calibrated=row.get("calibrated") is True,
        votes=[vote.verdict for vote in sampled] or [vote.value for vote in votes],
        candidates=_candidates(row),
        sampled=sampled,
        failures=failures,
    )
    if row.get("human") is None:
        return sample
    try:
        human = HumanRating(**row["human"])
        score = judge_score(record.verdict, result.verdicts, sample.probabilities, sample.votes)
        numbers = [float(number) for number in (human.rating, human.rank, score) if number]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite")
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: human is {row['human']!r} and probabilities are {sample.probabilities!r}; "
            f"expected {{rating, group, rank}} and a number for each verdict ({error})"
        ) from None
    return sample._replace(human=human, score=score)


def _failed(text: str) -> bool:
    failure = request_failure(text)
    return failure is not None and failure.kind == "failed"


def _candidates(row: Mapping[str, Any]) -> tuple[str, str] | None:
    match row.get("candidates"):
        case [str(first), str(second)]:
            return first, second
    return None


def _repeats(row: Mapping[str, Any]) -> Sequence[str]:
    """The answers of all repeats: lmms-eval keeps them in `resps`, and scores the first."""
    answers = row.get("resps")
    while isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], list):
        answers = answers[0]
    if not isinstance(answers, list) or len(answers) < 2:
        return []
    return [answer for answer in answers if isinstance(answer, str)]
