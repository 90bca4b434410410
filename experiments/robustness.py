"""``mtrl-judge robustness``: is a score about the judge, or about the format of the question?

The tasks are judged unchanged and then under one perturbation at a time, each in a run of lmms-eval
of its own, and the verdicts of each perturbed run are compared with the unchanged ones row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import is_free, write_json
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.verbosity import report
from mtrl_judge.harness_plugin.evaluation_split import SPLIT_VARIABLE, check_split
from mtrl_judge.harness_plugin.perturbations import (
    PARAPHRASES,
    PERTURBATION_VARIABLE,
    applies,
    check_perturbations,
    expand_paraphrases,
)
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, data_root
from mtrl_judge.leaderboard.compare import (
    PERTURBATION_SEED,
    PerturbationEffect,
    adjust_p_values,
    compare_perturbation,
)
from mtrl_judge.leaderboard.compatibility import differences, other_differences
from mtrl_judge.leaderboard.failures import require_few_failures, with_too_many_failures
from mtrl_judge.leaderboard.reading import complete_run, load_run, results_files
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.metrics.bootstrap import RESAMPLES, Estimate

from .launch import remove_results, run_lmms_eval
from .pipeline import keep_settings

SCHEMA_VERSION = 1
UNCHANGED = "unchanged"
SETTINGS_FILE, RESULTS_FILE = "settings.json", "robustness.json"
# Of the metadata of a task, what results.json repeats.
_METADATA = (
    "split",
    "source",
    "location",
    "revision",
    "fingerprint",
    "rows",
    "style",
    "scoring",
    "parser",
    "versions",
)


class Robustness(NamedTuple):
    """The effects of all perturbations on all tasks."""

    effects: Sequence[PerturbationEffect]
    not_applicable: Mapping[str, Sequence[str]]
    """For each perturbation the tasks that lack what it changes, if any."""
    file: Path


def run_robustness(
    model: str,
    tasks: str,
    perturbations: Sequence[str],
    out: Path,
    *,
    paraphrases: int = PARAPHRASES,
    split: str | None = None,
    style: str | None = None,
    flags: Sequence[str] = (),
) -> Robustness:
    """Judge unchanged, judge under each perturbation, and write ``robustness.json``.

    Complete runs with the same settings are reused.

    Args:
        tasks: names or patterns, comma-separated.
        perturbations: names in :data:`mtrl_judge.harness_plugin.perturbations.PERTURBATIONS`; all
            of them if empty.
        out: a folder for this command only; each run gets a folder in it.
        paraphrases: how many of a task's paraphrases to use, at most.
        split: ``validation`` to choose an instruction by; by default the tasks' own.
        flags: further flags of lmms-eval.

    Raises:
        CommandError: lmms-eval fails.
        JudgeError: an argument is invalid, another process writes into the folder, or a run judged
            other rows than the unchanged one.
    """
    names = check_perturbations(perturbations)
    root = data_root()
    settings = {
        "model": model,
        "tasks": tasks,
        "split": None if split is None else check_split(split, "--split"),
        "style": style,
        "flags": list(flags),
        DATA_ROOT_VARIABLE: None if root is None else str(root.resolve()),
    }
    with locked_folder(out):
        return _run(names, paraphrases, tasks, out, settings)


def _run(
    names: Sequence[str], paraphrases: int, tasks: str, out: Path, settings: Mapping[str, Any]
) -> Robustness:
    _claim(out, settings)
    unchanged = _known_run(out / UNCHANGED)
    report(f"{UNCHANGED}: {'done' if unchanged else tasks}")
    unchanged = unchanged or _evaluate(UNCHANGED, tasks, out, settings)
    if not unchanged.tasks:
        raise JudgeError(f"--tasks: found no judge task in {tasks}; see `mtrl-judge tasks`")
    plan = _plan(names, paraphrases, unchanged)
    not_applicable = {
        name: [task for task in unchanged.tasks if task not in chosen]
        for name, chosen in plan.items()
        if len(chosen) < len(unchanged.tasks)
    }
    for name, others in not_applicable.items():
        report(f"{name}: does not apply to {', '.join(others)}")
    plan = {name: chosen for name, chosen in plan.items() if chosen}
    runs = {}
    for number, (name, chosen) in enumerate(plan.items(), 1):
        report(f"[{number}/{len(plan)}] {name}: ", end="")
        runs[name] = _perturbed_run(name, chosen, unchanged, out, settings)
    effects = adjust_p_values(
        [
            compare_perturbation(name, task_result, run.tasks[task])
            for task, task_result in unchanged.tasks.items()
            for name, run in runs.items()
            if task in plan[name]
        ]
    )
    result = Robustness(effects, not_applicable, out / RESULTS_FILE)
    _write(result, settings, {UNCHANGED: unchanged, **runs})
    return result


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Refuse a folder with other files or with results of other settings; keep the settings."""
    file = out / SETTINGS_FILE
    if not file.exists() and not is_free(out):
        raise JudgeError(f"--output-path: {out} contains other files; choose another folder")
    if not results_files(out):
        file.unlink(missing_ok=True)  # nothing has been judged with these settings yet
    keep_settings(file, settings, "--output-path")


def _perturbed_run(
    name: str, tasks: Sequence[str], unchanged: Run, out: Path, settings: Mapping[str, Any]
) -> Run:
    """The run under a perturbation on the rows of the unchanged run: the complete one, or a new."""
    run = _known_run(out / name, tasks)
    if run and _first_difference(run, unchanged, tasks):
        run = None
    report("done" if run else ", ".join(tasks))
    run = run or _evaluate(name, ",".join(tasks), out, settings)
    if difference := _first_difference(run, unchanged, tasks):
        raise JudgeError(
            f"{run.file}: differs from {unchanged.file} in {difference}; did the data or a "
            f"version change? To judge everything again, remove {out}"
        )
    return run


def _known_run(folder: Path, tasks: Sequence[str] = ()) -> Run | None:
    """The complete run in a folder, unless it has to be repeated as too many requests failed."""
    run = complete_run(folder, tasks, samples=True)
    return None if run is None or with_too_many_failures(run) else run


def _evaluate(name: str, tasks: str, out: Path, settings: Mapping[str, Any]) -> Run:
    """Run lmms-eval under a perturbation."""
    remove_results(out / name)  # of an interrupted run
    run_lmms_eval(
        settings["model"],
        tasks,
        output_path=out / name,
        style=settings["style"],
        flags=settings["flags"],
        environment={
            PERTURBATION_VARIABLE: "" if name == UNCHANGED else name,
            SPLIT_VARIABLE: settings["split"] or "",
        },
        log=out / f"{name}.log",
        name=name,
        resume=True,
    )
    run = load_run(results_files(out / name)[-1])
    require_few_failures([run])
    return run


def _plan(names: Sequence[str], paraphrases: int, unchanged: Run) -> dict[str, list[str]]:
    """For each perturbed run the tasks that have what it changes."""
    metadata = {task: result.metadata for task, result in unchanged.tasks.items()}
    most = max(int(meta["paraphrases"]) for meta in metadata.values())
    return {
        name: [
            task
            for task, meta in metadata.items()
            if applies(
                name,
                kind=meta["kind"],
                paraphrases=meta["paraphrases"],
                demonstrations=meta.get("demonstrations", 0),
            )
        ]
        for name in expand_paraphrases(names, min(paraphrases, max(1, most)))
    }


def _first_difference(run: Run, unchanged: Run, tasks: Sequence[str]) -> str | None:
    """What two runs differ in, other than the perturbation."""
    runs = [
        unchanged._replace(name=UNCHANGED).with_tasks(tasks),
        run._replace(name="perturbed").with_tasks(tasks),
    ]
    found = [*differences(runs), *other_differences(runs)]
    return next((str(each) for each in found if each.name != "perturbation"), None)


def _write(result: Robustness, settings: Mapping[str, Any], runs: Mapping[str, Run]) -> None:
    unchanged = runs[UNCHANGED]
    content = {
        "schema_version": SCHEMA_VERSION,
        "model_name": unchanged.model,
        "settings": settings,
        "tasks": {
            task: {key: task_result.metadata.get(key) for key in _METADATA}
            for task, task_result in unchanged.tasks.items()
        },
        "results": {
            name: str(run.file.relative_to(result.file.parent)) for name, run in runs.items()
        },
        "seed": PERTURBATION_SEED,
        "resamples": RESAMPLES,
        "not_applicable": result.not_applicable,
        "effects": [
            {
                name: asdict(value) if isinstance(value, Estimate) else value
                for name, value in effect._asdict().items()
            }
            for effect in result.effects
        ],
    }
    write_json(result.file, content)
