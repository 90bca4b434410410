"""``mtrl-judge probe``: is it the judge or the format?

The same tasks are judged as they are and then with one thing changed at a time, each by a run of
lmms-eval of its own, and every probe's verdicts are compared with the unchanged ones row by row.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.files import is_free, read_json, write_json
from mtrl_judge.harness_plugin.perturbations import (
    PERTURBATION_VARIABLE,
    applies,
    check_perturbations,
    expand_paraphrases,
)
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, data_root
from mtrl_judge.judge_tasks.spec import STYLES
from mtrl_judge.leaderboard.compare import (
    PERTURBATION_SEED,
    PerturbationEffect,
    adjust_p_values,
    compare_perturbation,
)
from mtrl_judge.leaderboard.reading import complete_run, load_run, results_files
from mtrl_judge.leaderboard.runs import Run
from mtrl_judge.metrics.bootstrap import RESAMPLES, Estimate

from .launch import run_lmms_eval

SCHEMA_VERSION = 1
UNCHANGED = "unchanged"
SETTINGS_FILE, PROBES_FILE = "probe_settings.json", "probes.json"
_LAST_LINES = 20


class HarnessError(JudgeError):
    """lmms-eval did not come to its end; `code` is the exit code it ended with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Probed(NamedTuple):
    """What a command found."""

    effects: Sequence[PerturbationEffect]
    left_out: Mapping[str, Sequence[str]]
    """For each probe the tasks that have not what it changes."""
    file: Path


def run_probes(
    model: str,
    tasks: str,
    probes: Sequence[str],
    out: Path,
    *,
    style: str | None = None,
    extra: Sequence[str] = (),
) -> Probed:
    """Judge, judge again under each probe, and write ``probes.json``.

    A run that is there, whole and of the same settings is not done again.

    Args:
        tasks: as lmms-eval takes them.
        probes: names in :data:`~.probes.PERTURBATIONS`.
        out: the folder of this command alone; each run has a folder in it.
        extra: further flags of lmms-eval.

    Raises:
        HarnessError: lmms-eval fails.
        JudgeError: a mistake in what is given, or a run's rows are not the unchanged ones.
    """
    names = check_perturbations(probes)
    if style is not None and style not in STYLES:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    settings = _settings(model, tasks, style, extra)
    _take(out, settings)
    harness = _Harness(model, out, style, extra)
    unchanged = harness.unchanged(tasks)
    plan = _plan(names, unchanged)
    left_out = {
        probe: others
        for probe, chosen in plan.items()
        if (others := [task for task in unchanged.tasks if task not in chosen])
    }
    for probe, others in left_out.items():
        print(f"{probe}: does not apply to {', '.join(others)}", flush=True)
    runs = harness.changed({probe: chosen for probe, chosen in plan.items() if chosen}, unchanged)
    effects = adjust_p_values(
        [
            compare_perturbation(probe, result, run.tasks[task])
            for task, result in unchanged.tasks.items()
            for probe, run in runs.items()
            if task in plan[probe]
        ]
    )
    file = out / PROBES_FILE
    _write(file, settings, {UNCHANGED: unchanged, **runs}, effects, left_out)
    return Probed(effects, left_out, file)


# The runs


class _Harness(NamedTuple):
    """What all runs of a command share."""

    model: str
    out: Path
    style: str | None
    extra: Sequence[str]

    def unchanged(self, tasks: str) -> Run:
        """The run that the others are compared with."""
        found = complete_run(self.out / UNCHANGED, samples=True)
        print(f"{UNCHANGED}: {'is there' if found else tasks}", flush=True)
        run = found or self._run(UNCHANGED, tasks)
        if not run.tasks:
            raise JudgeError(f"--tasks: no judge task in {tasks}; see `mtrl-judge tasks`")
        return run

    def changed(self, plan: Mapping[str, Sequence[str]], unchanged: Run) -> dict[str, Run]:
        """The run of each probe, of those tasks alone that have what it changes."""
        runs = {}
        for number, (probe, tasks) in enumerate(plan.items(), 1):
            found = complete_run(self.out / probe, samples=True)
            if found is not None and _differing(found, unchanged, tasks):
                found = None
            told = "is there" if found else f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
            print(f"[{number}/{len(plan)}] {probe}: {told}", flush=True)
            run = found or self._run(probe, ",".join(tasks))
            differing = _differing(run, unchanged, tasks)
            if differing:
                raise JudgeError(
                    f"{run.file}: judged otherwise than {unchanged.file} ({differing[0]}); has the "
                    f"data or a version changed since? To judge all again, remove {self.out}"
                )
            runs[probe] = run
        return runs

    def _run(self, name: str, tasks: str) -> Run:
        """Judge the tasks under a probe; what a broken run left is removed first."""
        folder, log = self.out / name, self.out / f"{name}.log"
        shutil.rmtree(folder, ignore_errors=True)
        code = run_lmms_eval(
            self.model,
            tasks,
            output_path=folder,
            style=self.style,
            extra=self.extra,
            environment={PERTURBATION_VARIABLE: "" if name == UNCHANGED else name},
            log=log,
        )
        if code:
            text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
            lines = [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
            told = f"{name}: lmms-eval ended with exit code {code}; the end of {log}:"
            raise HarnessError("\n".join([told, *lines]), code)
        return load_run(results_files(folder)[-1])


def _plan(probes: Sequence[str], unchanged: Run) -> dict[str, list[str]]:
    """For each probe the tasks that have what it changes."""
    paraphrases = {
        task: int(result.metadata["paraphrases"]) for task, result in unchanged.tasks.items()
    }
    return {
        probe: [
            task
            for task, result in unchanged.tasks.items()
            if applies(probe, kind=result.metadata["kind"], paraphrases=paraphrases[task])
        ]
        for probe in expand_paraphrases(probes, max(1, *paraphrases.values()))
    }


def _differing(run: Run, unchanged: Run, tasks: Sequence[str]) -> list[str]:
    """What results say otherwise of a task than the unchanged ones, but for the probe."""
    differing = []
    for task in tasks:
        ours = run.tasks[task].metadata if task in run.tasks else {}
        theirs = unchanged.tasks[task].metadata
        keys = sorted((ours.keys() | theirs.keys()) - {"perturbation"})
        differing += [f"{task}: {key}" for key in keys if ours.get(key) != theirs.get(key)]
    return differing


# The folder


def _settings(model: str, tasks: str, style: str | None, extra: Sequence[str]) -> dict[str, Any]:
    root = data_root()
    return {
        "model": model,
        "tasks": tasks,
        "style": style,
        "arguments": list(extra),
        DATA_ROOT_VARIABLE: None if root is None else str(root.resolve()),
    }


def _take(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder this command's, or go on with one of the same settings.

    Raises:
        JudgeError: it holds other things, or runs of other settings.
    """
    file = out / SETTINGS_FILE
    if not file.exists() and not is_free(out):
        raise JudgeError(f"--output-path: {out} holds other things; name another place")
    if results_files(out):
        kept = read_json(file, advice="choose another --output-path")
        for key, value in settings.items():
            if kept.get(key) != value:
                raise JudgeError(
                    f"--output-path: {out} holds probes of another command: {key} was "
                    f"{kept.get(key)!r} and is {value!r}; name another place"
                )
    write_json(file, settings)


_ABOUT = ("source", "location", "revision", "fingerprint", "rows", "style", "scoring", "versions")


def _write(
    file: Path,
    settings: Mapping[str, Any],
    runs: Mapping[str, Run],
    effects: Sequence[PerturbationEffect],
    left_out: Mapping[str, Sequence[str]],
) -> None:
    unchanged = runs[UNCHANGED]
    found = {
        "schema_version": SCHEMA_VERSION,
        "model_name": unchanged.model,
        "settings": settings,
        "tasks": {
            task: {key: result.metadata.get(key) for key in _ABOUT}
            for task, result in unchanged.tasks.items()
        },
        "results": {name: str(run.file.relative_to(file.parent)) for name, run in runs.items()},
        "seed": PERTURBATION_SEED,
        "resamples": RESAMPLES,
        "left_out": left_out,
        "probes": [
            {
                name: asdict(value) if isinstance(value, Estimate) else value
                for name, value in effect._asdict().items()
            }
            for effect in effects
        ],
    }
    write_json(file, found)
