"""The card (``README.md``) of a judge: what it is, its scores, and the data it learned from.

Everything in it is from the records of the run, and from the results that are passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.files import read_json, read_json_lines, write_text
from mtrl_judge.common.hub import CARD, TAG
from mtrl_judge.common.markdown import as_yaml, render_card
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.leaderboard.board import Column, Leaderboard
from mtrl_judge.leaderboard.formats import format_date, format_estimate, format_number, metric_name
from mtrl_judge.leaderboard.runs import Run, TaskResult
from mtrl_judge.metrics.bootstrap import LEVEL, Estimate

from .finished_run import JUDGE, LOG_FILE, RUN_FILE
from .free_fields import FREE_FIELDS
from .log_summary import FIGURES, summarize_log
from .speed import duration


class Measured(NamedTuple):
    """A score of the judge on one task."""

    task: str
    split: str | None
    metric: str
    estimate: Estimate
    rows: int | None
    """Labeled rows that the score counts."""
    failed: int
    """Rows whose request failed."""
    how: Mapping[str, str]
    """How it was asked and read: style, scoring, parser, …"""
    data: Mapping[str, Any]
    """source, revision and fingerprint of the rows."""
    dataset: str | None = None
    """The dataset's name on the hub, where the rows are from there."""
    dimension: str | None = None
    date: str = ""
    versions: Mapping[str, str] = {}


def write_model_card(folder: Path, finished: Mapping[str, Any]) -> None:
    """Write the card of a run's judge beside its weights.

    Args:
        folder: of the run.
        finished: what :func:`.run_record.finish_record` is about to record.

    Raises:
        DataError: a record of the run is missing or cannot be read.
    """
    run = {**read_json(folder / RUN_FILE), "finished": finished}
    write_text(folder / JUDGE / CARD, model_card(folder, run, name=JUDGE))


def model_card(
    folder: Path,
    run: Mapping[str, Any],
    *,
    name: str,
    repo: str | None = None,
    license_id: str | None = None,
    results: Leaderboard | None = None,
    weights_known: bool = True,
) -> str:
    """The card of a run's judge.

    Args:
        folder: of the run.
        run: the record of the finished run.
        name: of the judge.
        repo: on the hub, if it is going there.
        license_id: the hub's identifier, instead of what the base model's card states.
        results: evaluations of the judge.
        weights_known: whether all of them record its weights.

    Raises:
        DataError: a record of the run is missing or cannot be read.
    """
    start, finished = run["starts"][-1], run["finished"]
    card = read_json(folder / JUDGE / CHECKPOINT_CARD)
    file = folder / LOG_FILE
    lines = [line for _, line in read_json_lines(file)] if file.is_file() else []
    scores: Mapping[str, float] = finished["scores"]
    headline = next((name for name in scores if "/" not in name and name != "noise"), None)
    data, base = run["data"], start.get("base") or {}
    log = summarize_log(lines, [*data], headline, [each["time"] for each in run["starts"]])
    has = {figure for changes in log.changes.values() for figure in changes}
    validated = _validated(run, card["style"]) if scores else []
    evaluated = [] if results is None else _evaluated(results, data)
    licensed = (
        {"license": license_id} if license_id else {k: base[k] for k in _LICENSE if k in base}
    )
    return render_card(
        Path(__file__).with_name("model_card.md.jinja"),
        card_data=_front_matter(run, card, name, licensed, [*validated, *evaluated]),
        filters={"estimate": format_estimate, "number": format_number, "duration": duration},
        name=name,
        repo=repo,
        base=card["base"],
        base_is_local=_is_local(start),
        card=card,
        method=run["method"],
        parser=run.get("parser"),
        recipe=start["recipe"] and Path(start["recipe"]).stem,
        warm_up=(warm_up := start["settings"].get("warm_up")) and Path(str(warm_up)).stem,
        data=data,
        accepted=start.get("accepted_licenses") or {},
        leaks=start.get("leaks") or {},
        licensed=licensed,
        license_given=license_id is not None,
        validated=validated,
        mean=headline and (metric_name(headline), scores[headline]),
        null_rates={task: scores.get(f"{task}/null_rate") for task in data},
        evaluated=evaluated,
        evaluated_with=_different([each.versions for each in evaluated if each.versions]),
        weights_known=weights_known,
        finished=finished,
        log=log,
        figures=[figure for figure in FIGURES if figure in has],
        starts=len(run["starts"]),
        warnings=[warning for each in run["starts"] for warning in each.get("warnings", ())],
        settings=as_yaml(_shown(start["settings"], card["base"], data)),
        versions=start["versions"],
        device=start.get("device"),
    )


_LICENSE = ("license", "license_name", "license_link")


def _validated(run: Mapping[str, Any], style: str) -> list[Measured]:
    """The scores of the validation that chose the weights."""
    finished = run["finished"]
    how = {"style": style, "scoring": "generation", "parser": str(run.get("parser", 1))}
    measured = []
    for task, record in run["data"].items():
        about, known = record.get("about") or {}, (finished.get("validation") or {}).get(task, {})
        headline = about.get("headline", "macro_f1")
        value = finished["scores"].get(f"{task}/{headline}")
        measured.append(
            Measured(
                task,
                "validation",
                headline,
                Estimate(value, known.get("low"), known.get("high")),
                known.get("rows"),
                0,
                how,
                # The fingerprint is that of the training rows.
                {key: record.get(key) for key in ("source", "revision")},
                _hub_name(record),
                about.get("dimension"),
                versions=run["starts"][-1]["versions"],
            )
        )
    return measured


def _evaluated(board: Leaderboard, trained: Mapping[str, Any]) -> list[Measured]:
    return [
        _of_results(run, column, run.tasks[column.name], trained)
        for run in board.runs
        for column in board.tasks
        if column.name in run.tasks
    ]


def _of_results(
    run: Run, column: Column, result: TaskResult, trained: Mapping[str, Any]
) -> Measured:
    about, task = result.metadata, column.name
    fields = ("style", "scoring", "version", "perturbation", "demonstrations", "samples", "vote")
    how = {field: str(about[field]) for field in fields if about.get(field)}
    how |= {"parser": str(result.parser)}
    headline = result.kind.headline
    dataset = about.get("location")
    if about.get("source") != "hub":
        dataset = _hub_name(trained[task]) if task in trained else None
    return Measured(
        task,
        about.get("split"),
        headline,
        column.estimate(run.name, headline),
        result.n,
        result.n_failed,
        how,
        {key: about.get(key) for key in ("source", "revision", "fingerprint")},
        dataset,
        about.get("dimension"),
        format_date(run.date),
        about.get("versions") or {},
    )


def _different(versions: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return [each for index, each in enumerate(versions) if each not in versions[:index]]


def _hub_name(record: Mapping[str, Any]) -> str | None:
    """The dataset on the hub that rows are from: nothing else is the dataset of that name there."""
    if record["source"] not in ("hub", "prepared"):
        return None
    name: str | None = (record.get("about") or {}).get("dataset")
    return name


def _is_local(start: Mapping[str, Any]) -> bool:
    """Whether the base model was a folder, whose name means nothing elsewhere."""
    return bool((start.get("base") or {}).get("local", True))


def _shown(
    settings: Mapping[str, Any], base: str, tasks: Sequence[str] | Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that affect training, without paths of the machine that trained."""
    shown = {
        name: _without_folders(value) for name, value in settings.items() if name not in FREE_FIELDS
    }
    return shown | {"model_name_or_path": base, "tasks": [*tasks]}


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(value).name if is_path else value


def _front_matter(
    run: Mapping[str, Any],
    card: Mapping[str, Any],
    name: str,
    licensed: Mapping[str, str],
    measured: Sequence[Measured],
) -> Any:
    """The front matter, which the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    start = run["starts"][-1]
    unmerged = start["settings"].get("adapter") == "mixlora" and start["settings"].get("use_peft")
    datasets = dict.fromkeys(filter(None, map(_hub_name, run["data"].values())))
    fields: dict[str, Any] = dict(licensed) or {"license": "other", "license_name": "not-stated"}
    if not _is_local(start):
        fields |= {
            "base_model": card["base"],
            "base_model_relation": "adapter" if unmerged else "finetune",
        }
    if datasets:
        fields["datasets"] = [*datasets]
    results = [
        EvalResult(
            task_type="image-text-to-text",
            task_name=each.dimension,
            dataset_type=each.dataset or each.task,
            dataset_name=each.task,
            # Several tasks can be from one dataset; the hub tells results apart by this.
            dataset_config=each.task if each.dataset else None,
            dataset_split=each.split,
            dataset_revision=each.data.get("revision"),
            metric_type=each.metric,
            metric_name=metric_name(each.metric),
            metric_value=each.estimate.value,
            metric_args={
                "interval": _interval(each.estimate),
                "rows": each.rows,
                "failed": each.failed,
                **each.how,
            },
        )
        for each in measured
        if each.estimate.value is not None
    ]
    return ModelCardData(
        model_name=name,
        eval_results=results,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        language=(start.get("base") or {}).get("language"),
        tags=[TAG, "llm-as-a-judge", "trl", run["method"]],
        **fields,
    )


def _interval(estimate: Estimate) -> dict[str, float] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return {"level": LEVEL, "low": estimate.low, "high": estimate.high}
