"""Every function that lmms-eval calls, bound to one judge task.

lmms-eval takes them from a task's configuration. What they do is ``to_rows``, ``render_messages``,
``score`` and ``Kind.summarize``, the same functions as in training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exit_of_host
from mtrl_judge.data.demonstrations import Demonstrator, load_demonstrator
from mtrl_judge.judge_tasks.demonstrations import (
    parse_demonstrations,
    source_task,
    with_demonstrations,
    with_k,
)
from mtrl_judge.judge_tasks.facts import check_facts
from mtrl_judge.judge_tasks.prompts import render_messages, render_text
from mtrl_judge.judge_tasks.raw_split import Repeats
from mtrl_judge.judge_tasks.request_failures import (
    RequestFailure,
    by_message,
    message_lines,
    request_failure,
)
from mtrl_judge.judge_tasks.rows import DEMONSTRATION_IDS, JudgeRow, Rows
from mtrl_judge.judge_tasks.sources import LoadedSplit, data_root, load_rows
from mtrl_judge.judge_tasks.spec import JudgeTask, SplitName
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION, read_confidence, read_reasoning
from mtrl_judge.metrics.calibration import known_probabilities, stated_calibration_error
from mtrl_judge.metrics.rates import higher_is_better
from mtrl_judge.metrics.records import FactCounts, FailureKind, Record
from mtrl_judge.models.generation import GENERATION
from mtrl_judge.models.logprob import calibration_rows, load_calibration, parse_answer
from mtrl_judge.models.votes import Voted, parse_votes

from .evaluation_split import evaluated_split
from .perturbations import (
    DEMONSTRATION_ORDER,
    PERTURBATION_VARIABLE,
    Perturbation,
    active_perturbation,
)
from .prompt_style import (
    DEMONSTRATIONS_VARIABLE,
    evaluation_calibration,
    evaluation_encoder,
    evaluation_engine,
    evaluation_record,
    evaluation_sampling,
    evaluation_scoring,
    evaluation_style,
    report_style,
)

if TYPE_CHECKING:
    from datasets import Dataset

STATED_ECE = "stated_ece"
SAMPLES_ORACLE = "samples_oracle"
"""How right the best of several samples of a row is, on average."""
_VERSIONS = ("mtrl-judge", "lmms-eval", "datasets", "transformers", "torch")


class Hook:
    """A callable as lmms-eval keeps it in a task's configuration.

    lmms-eval deep-copies the configuration and writes its functions' text into results and cache
    keys; a hook copies as itself and has the same text in every process.
    """

    def __init__(self, name: str, owner: JudgeHooks, call: Callable[..., Any]) -> None:
        self.owner = owner
        self._name, self._call = name, call

    def __call__(self, *values: Any) -> Any:
        return self._call(*values)

    def __repr__(self) -> str:
        return f"mtrl_judge.{self._name}[{self.owner.task.task}]"

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return self


class JudgeHooks:
    """One judge task in the form that lmms-eval expects."""

    def __init__(self, task: JudgeTask) -> None:
        self.task = self._given = task
        self._shots: int | None = None
        self._demonstrators: dict[str, Demonstrator] = {}
        self._shown: dict[str, JudgeRow] = {}
        self.metadata: dict[str, Any] = {**task.metadata, "judge": {}}
        # lmms-eval's name -> ours; a comma ends the name of a metric there. The headline metric
        # comes first: it carries the records that all the others are computed from.
        names = sorted(task.metrics, key=lambda name: name != task.kind.headline)
        self.metrics = {name.replace(",", ";"): name for name in names}
        self._summary: Mapping[str, float | int | None] = {}
        self._loaded: tuple[tuple[Path | None, SplitName], LoadedSplit] | None = None
        self.calibration_rows: Dataset | None = None
        self.perturbation = Perturbation(None, task)

    def config(self) -> dict[str, Any]:
        """The task as native lmms-eval configuration."""
        self._shots = None  # of a run before
        self.task = task = self._with_demonstrations()
        demonstrations = task.judge.demonstrations
        native: dict[str, Any] = {
            "task": task.task,
            "task_alias": task.task_alias,
            "dataset_path": task.dataset_path,
            "dataset_name": task.dataset_name,
            "test_split": evaluated_split(task),
            "output_type": "generate_until",
            "doc_to_messages": self._hook(self.doc_to_messages),
            "doc_to_visual": self._hook(self.doc_to_visual),
            "doc_to_text": self._hook(self.doc_to_text),
            "doc_to_target": self._hook(self.doc_to_target),
            "process_results": self._hook(self.process_results),
            "generation_kwargs": {**GENERATION, **task.generation_kwargs},
            # "none" keeps the reasoning for the scorer and takes precedence over --reasoning_tags.
            "reasoning_tags": "none",
            # None, and not 0: lmms-eval then applies --num_fewshot (see `show`).
            "num_fewshot": demonstrations.k if demonstrations else None,
            "repeats": task.repeats,
            "metric_list": [
                {
                    "metric": name,
                    "aggregation": self._aggregation(metric),
                    "higher_is_better": higher_is_better(metric),
                }
                for name, metric in self.metrics.items()
            ]
            # lmms-eval leaves these out of a run whose samples have no item of them.
            + [
                {
                    "metric": STATED_ECE,
                    "aggregation": Hook(STATED_ECE, self, _stated_ece),
                    "higher_is_better": False,
                },
                {
                    "metric": SAMPLES_ORACLE,
                    "aggregation": Hook(SAMPLES_ORACLE, self, _mean_of_labeled),
                    "higher_is_better": True,
                },
            ],
            "metadata": self.metadata,
        }
        if task.tag:
            native["tag"] = list(task.tag)
        return native

    def _hook(self, method: Callable[..., Any]) -> Hook:
        return Hook(method.__name__, self, method)

    def _aggregation(self, metric: str) -> Hook:
        """What lmms-eval calls with the items of a metric, in the order of ``process_results``.

        Only the headline metric's items are records (see :meth:`process_results`); the summary that
        they give has every metric.
        """
        headline = self.task.kind.headline

        def aggregate(items: Sequence[Sequence[Any] | None]) -> Any:
            if metric == headline:
                known = [_from_item(item) for item in items if item is not None]
                records = [record for record, _ in known]
                self._warn_of_failures([failure for _, failure in known])
                self._warn_of_form(records)
                self._summary = self.task.summarize(records)
            value = self._summary[metric]
            # A group's mean must survive a task without a value. lmms-eval takes it of all metrics
            # whose name contains that of the headline metric (lmms_eval/evaluator_utils.py).
            return float("nan") if value is None and headline in metric else value

        return Hook(metric, self, aggregate)

    def _warn_of_failures(self, failures: Sequence[RequestFailure | None]) -> None:
        """Say how many requests failed or were refused, and why."""
        from loguru import logger

        titles: Mapping[FailureKind, str] = {
            "failed": "failed; no rate counts their rows",
            "refused": "were refused by a content filter; they count as missing verdicts",
        }
        for kind, title in titles.items():
            if messages := by_message(failures, kind):
                count = f"{sum(messages.values()):,} of {len(failures):,} requests"
                lines = [f"{self.task.task}: {count} {title}:", *message_lines(messages)]
                logger.warning("\n".join(lines))

    def _warn_of_form(self, records: Sequence[Record]) -> None:
        """Warn if reasoning and verdict were asked for and no answer has that form."""
        from loguru import logger

        answers = [record for record in records if record.failure is None]
        reasoned = evaluation_style(self.task) != "direct"
        if not (reasoned and answers) or any(record.well_formed for record in answers):
            return
        causes = "The model may not follow the instruction, or max_new_tokens may cut answers off"
        if evaluation_engine() is None:
            causes += (
                ", or the engine may remove the tags: a vLLM server does with --reasoning-parser, "
                "and vLLM removes tags that a tokenizer marks as special unless "
                "skip_special_tokens is false, or requests may have failed: some backends return "
                "empty text then"
            )
        logger.warning(
            f"{self.task.task}: none of the {len(answers)} answers has the form "
            f"<think>…</think><answer>…</answer>. {causes}."
        )

    def prepare(self) -> LoadedSplit:
        """The rows to judge, loaded once for a data root and a split, and the perturbation of them.

        Raises:
            JudgeError: as :func:`~mtrl_judge.judge_tasks.sources.load_rows`,
                :func:`~.evaluation_split.evaluated_split` and
                :func:`~.perturbations.active_perturbation`.
        """
        self.task = self._with_demonstrations()
        source_task(self.task)
        root, split = data_root(), evaluated_split(self.task)
        if self._loaded is None or self._loaded[0] != (root, split):
            self._loaded = (root, split), load_rows(self.task, split, root)
        self.perturbation = active_perturbation(self.task, self._loaded[1].rows)
        return self._loaded[1]

    def _with_demonstrations(self) -> JudgeTask:
        """The task with the demonstrations of this run."""
        named = parse_demonstrations(
            os.environ.get(DEMONSTRATIONS_VARIABLE), DEMONSTRATIONS_VARIABLE
        )
        task = with_demonstrations(self._given, named)
        return task if self._shots is None else with_k(task, self._shots)

    def show(self, host_task: Any, k: int) -> None:
        """Show ``k`` demonstrations, as `--num_fewshot` says, in place of those of the YAML."""
        self._check_order(k)
        known = self.task.judge.demonstrations
        if k == (known.k if known else 0):
            return
        self._shots = k
        try:
            self.attach(host_task, again=True)
        except JudgeError as error:  # lmms-eval would print a traceback and exit 0
            raise exit_of_host(f"--num_fewshot: {error}") from None

    def _check_order(self, k: int) -> None:
        if self.perturbation.name == DEMONSTRATION_ORDER and k < 2:
            raise exit_of_host(
                f"{PERTURBATION_VARIABLE}: {DEMONSTRATION_ORDER}: {self.task.task} shows {k} "
                "demonstrations, which have no other order; give --num_fewshot 2 or more"
            )

    def _demonstrated(self, rows: Rows) -> tuple[Rows, dict[str, Any]]:
        """The rows with their demonstrations, and the record of these."""
        if self.task.judge.demonstrations is None:
            return rows, {}
        self._check_order(self.task.judge.demonstrations.k)
        style, root = evaluation_style(self.task), data_root()
        key = f"{root} {style} {self.task.judge.demonstrations.model_dump_json()}"
        if key not in self._demonstrators:
            encoder = evaluation_encoder()
            found = load_demonstrator(self.task, style, root=root, encode_image=encoder)
            self._demonstrators = {key: found}
            bare = map(JudgeRow.from_doc, found.dataset.with_format(None))
            self._shown = {row.item_id: row for row in bare}
        rows, record = self._demonstrators[key].attach(rows)
        return rows, {"demonstrated": record}

    def attach(self, host_task: Any, *, again: bool = False) -> None:
        """Give lmms-eval's task its rows, instead of its own download.

        Args:
            again: it has some already, which the model reads too (`lm.task_dict`).
        """
        from datasets import DatasetDict

        rows, record = self.prepare()
        try:
            rows, demonstrated = self._demonstrated(rows)
        except JudgeError as error:  # lmms-eval would print a traceback and exit 0
            raise exit_of_host(str(error)) from None
        judge, split = self.task.judge, evaluated_split(self.task)
        if not again:
            host_task.dataset, host_task.dataset_no_image = DatasetDict(), DatasetDict()
        host_task.dataset[split] = rows.dataset
        host_task.dataset_no_image[split] = rows.dataset.with_format(None)
        host_task.config.metadata["judge"] = {
            **record,
            **evaluation_record(self.task),
            **demonstrated,
            **self._calibration(),
            "kind": judge.kind,
            "role": judge.role,
            "dimension": judge.dimension,
            "verdicts": list(judge.verdicts),
            "swap": judge.swap,
            "paired": self.task.paired,
            "fixed_labels": self.task.fixed_labels(split),
            "paraphrases": len(judge.paraphrases),
            # In the metadata because that is part of lmms-eval's cache key.
            "perturbation": self.perturbation.name,
            **self.perturbation.record,
            "parser": PARSER_VERSION,
            "card": judge.card.model_dump(mode="json"),
            "versions": _versions(),
        }
        report_style(self.task)
        _report(self.task, record, rows.repeats)

    def _calibration(self) -> dict[str, Any]:
        """What probabilities were calibrated on, for verdicts by probability.

        It is part of lmms-eval's cache key, since answers depend on it.
        """
        if evaluation_scoring() != "logprob":
            return {}
        try:
            # Nothing is calibrated on the rows that are scored.
            on_validation = evaluated_split(self.task) == "validation"
            loaded = None if on_validation else load_calibration(self.task, data_root())
        except JudgeError as error:  # lmms-eval would print a traceback and exit 0
            raise exit_of_host(str(error)) from None
        if loaded is None:
            self.calibration_rows = None
            return {"calibration": None}
        rows, _ = self._demonstrated(loaded.rows)
        self.calibration_rows = calibration_rows(rows.dataset)
        names = ("split", "source", "location", "revision", "fingerprint")
        calibration = {name: loaded.record[name] for name in names}
        calibration["mode"] = evaluation_calibration()
        return {"calibration": {**calibration, "labeled_rows": len(self.calibration_rows)}}

    def asked(self, doc: Mapping[str, Any]) -> JudgeRow:
        """The row as the judge is asked it."""
        row = self.perturbation.apply(JudgeRow.from_doc(doc))
        if doc.get(DEMONSTRATION_IDS) and not row.demonstrations:
            # lmms-eval makes the prompt's text of rows without images.
            known = tuple(self._shown[item] for item in doc[DEMONSTRATION_IDS])
            row = replace(row, demonstrations=known)
        return replace(row, demonstrations=self.perturbation.shown(row.demonstrations))

    def doc_to_messages(self, doc: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Messages with the images in their positions, for chat models."""
        row = self.asked(doc)
        messages = render_messages(row, evaluation_style(self.task))
        images = iter(row.prompt_images)
        for message in messages:
            for part in message["content"]:
                if part["type"] == "image":
                    part["url"] = next(images)
        return messages

    def doc_to_visual(self, doc: Mapping[str, Any]) -> list[Any]:
        """The images in order, for simple models."""
        return self.asked(doc).prompt_images

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The prompt as text, for simple models and for every model's cache key."""
        return render_text(self.asked(doc), evaluation_style(self.task))

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        return doc["label"] or ""

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """One line of the samples file: what was judged and how, and the metrics' items.

        lmms-eval aggregates a metric only where every sample has an item of it. The headline
        metric's item is the sample's record; the others have none of their own, so that a record
        is stored once.
        """
        row, text = JudgeRow.from_doc(doc), results[0]
        voted = None if evaluation_sampling() is None else parse_votes(text)
        if voted is not None:
            text = voted.text
        failure = request_failure(text)
        scored = self.perturbation.score(row, text)
        record = Record(
            label=row.label,
            verdict=scored.verdict.value,
            well_formed=scored.verdict.well_formed,
            pair_id=row.pair_id,
            swapped=row.swapped,
            group=row.group,
            joint=row.joint,
            failure=failure and failure.kind,
        )
        probabilities: dict[str, Any] = {}
        if evaluation_scoring() == "logprob" and failure is None:
            probabilities = parse_answer(text, self.perturbation.original_verdicts)
        elif voted is not None:
            probabilities = self._votes(row, voted)
        record = record._replace(**self._seen(row, text, probabilities.get("probabilities")))
        return {
            "item_id": row.item_id,
            "pair_id": row.pair_id,
            "cluster": row.cluster,
            **self._reported_by(row),
            **({"demonstrations": shown} if (shown := doc.get(DEMONSTRATION_IDS)) else {}),
            "order": None if row.pair_id is None else "BA" if row.swapped else "AB",
            "label": row.label,
            "verdict": record.verdict,
            "state": record.state,
            "failure": failure and failure.message,
            "null": record.state in ("null", "refused"),
            "null_reason": scored.verdict.reason if record.state in ("null", "refused") else None,
            "well_formed": record.well_formed,
            "correct": None if record.failed else scored.correct,
            **self._stated(text, scored.correct, record.failed),
            **self._oracle(row, voted),
            **({"facts": record.facts._asdict()} if record.facts else {}),
            "text": text,
            **probabilities,
            **dict.fromkeys(self.metrics),
            self.task.kind.headline: _to_item(record, failure),
        }

    def _votes(self, row: JudgeRow, voted: Voted) -> dict[str, Any]:
        """The answers that voted, with the task's own verdicts."""
        fields = voted.fields(self.perturbation.original_verdicts)
        for sample in fields["samples"]:
            sample["verdict"] = self.perturbation.restore(sample["verdict"])
            if row.facts:
                facts = check_facts(read_reasoning(sample["text"]), row.facts)
                sample["facts"] = facts.counts._asdict()
        return fields

    def _oracle(self, row: JudgeRow, voted: Voted | None) -> dict[str, Any]:
        """The item of the best sample, where several were drawn; None of a row that failed."""
        if evaluation_sampling() is None:
            return {}
        answers = () if voted is None else voted.answers
        correct = [self.perturbation.score(row, answer.text).correct for answer in answers]
        return {SAMPLES_ORACLE: max((c for c in correct if c is not None), default=None)}

    def _stated(self, text: str, correct: float | None, failed: bool) -> dict[str, Any]:
        """The stated confidence, and the item of its calibration error, where it was asked for."""
        if evaluation_style(self.task) != "confidence":
            return {}
        confidence = read_confidence(text)
        return {"confidence": confidence, STATED_ECE: (confidence, None if failed else correct)}

    def _seen(
        self, row: JudgeRow, text: str, probabilities: Mapping[str, float] | None
    ) -> dict[str, Any]:
        """What tells how well the judge saw the row: fields of its record."""
        facts = None
        if row.facts and evaluation_style(self.task) != "direct":
            facts = check_facts(read_reasoning(text), row.facts).counts
        return {
            "facts": facts,
            "probabilities": known_probabilities(probabilities, row.verdicts),
        }

    def _reported_by(self, row: JudgeRow) -> dict[str, Any]:
        """The groups, candidates and ratings of a row, for tasks whose YAML names such columns."""
        fields: dict[str, Any] = {}
        if self.task.judge.groups is not None:
            fields["group"] = row.group
        if self.task.judge.joint_by is not None:
            fields["joint"] = row.joint
        if row.candidates:
            fields["candidates"] = list(row.candidates)
        if self.task.judge.human is not None:
            fields["human"] = row.human and row.human._asdict()
        return fields


def _stated_ece(items: Sequence[tuple[float | None, float | None]]) -> float | None:
    """Of the labeled samples that state a confidence."""
    known = [(q, correct) for q, correct in items if q is not None and correct is not None]
    return stated_calibration_error([q for q, _ in known], [correct for _, correct in known])


def _mean_of_labeled(items: Sequence[float | None]) -> float | None:
    known = [item for item in items if item is not None]
    return fmean(known) if known else None


def _to_item(record: Record, failure: RequestFailure | None) -> tuple[Any, ...]:
    """A record as the samples file holds it, without what most rows do not have."""
    if failure is not None:
        return (*record, failure.message)
    last = max(n for n, value in enumerate(record) if n < 3 or value)
    return tuple(record[: last + 1])


def _from_item(item: Sequence[Any]) -> tuple[Record, RequestFailure | None]:
    record = Record(*item[: len(Record._fields)])
    if record.facts is not None:  # a list, where it comes from another process
        record = record._replace(facts=FactCounts(*record.facts))
    return record, record.failure and RequestFailure(record.failure, item[-1])


def _versions() -> dict[str, str]:
    """Of what computes answers and scores."""
    versions = {name: version(name) for name in _VERSIONS}
    if evaluation_engine() == "vllm":
        import vllm  # its distribution has other names on other devices

        versions["vllm"] = vllm.__version__
    return versions


def hooks_behind(doc_to_messages: Callable[..., Any]) -> JudgeHooks | None:
    """The hooks of the task whose method lmms-eval gives to a model; None for other tasks."""
    host_task = getattr(doc_to_messages, "__self__", None)
    hook = getattr(getattr(host_task, "config", None), "process_results", None)
    return hook.owner if isinstance(hook, Hook) else None


def hooks_of_request(request: Any) -> JudgeHooks | None:
    """The hooks of the judge task that a request of lmms-eval belongs to; None for other tasks."""
    callables = filter(callable, request.args)
    return next(filter(None, map(hooks_behind, callables)), None)


def _report(task: JudgeTask, record: Mapping[str, Any], repeats: Repeats) -> None:
    from loguru import logger

    logger.info(
        f"{task.task}: {record['items']} items, {record['rows']} rows of the {record['split']} "
        f"split from {record['source']} ({record['location']}), fingerprint {record['fingerprint']}"
    )
    for item, why in record["known_bad"].items():
        logger.warning(f"{task.task}: item {item} left out by its YAML: {why}")
    for item, why in record["undecodable"].items():
        logger.warning(f"{task.task}: item {item} left out, its image cannot be shown: {why}")
    if record.get("groups", {}).get("without"):
        logger.warning(
            f"{task.task}: {record['groups']['without']} rows have no group: their column "
            f"{record['groups']['column']} is null. They count overall, and in no group"
        )
    if record["undecodable"]:
        logger.warning(f"{task.task}: {len(record['undecodable'])} items left out in total")
    if pairs := record["identical_pairs"]:
        logger.warning(
            f"{task.task}: {len(pairs)} pairs look the same in both orders but have opposite "
            f"labels: {', '.join(pairs[:10])}"
        )
    for line in repeats.lines():
        logger.warning(f"{task.task}: {line}")
