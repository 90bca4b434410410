"""What a kind of judge task decides, and how labels are read from a column.

Everything that depends on a task's kind lives in that kind's own file of this folder: the checks of
its YAML, its label rules, the orders in which an item is shown, how an answer is read, when it is
correct, its metrics and the one that judges are ranked by.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mtrl_judge.common.errors import Problem
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.drawn import Drawn, JudgedRows
from mtrl_judge.metrics.rates import PAIR_RATES, RATES, STRENGTH_RATES, TIE_RATES
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.slots import slots_of
from mtrl_judge.metrics.summary import majority_macro_f1, summarize
from mtrl_judge.metrics.voting import weighted_majority

from ..fields import Column, Frozen, RawValue, label_key, lookup, mapping
from ..verdicts import Verdict, parse_verdict

if TYPE_CHECKING:
    from ..spec import JudgeSpec


class LabelRule(Frozen, ABC):
    """How the values of a column become verdicts."""

    keys: ClassVar[frozenset[str]] = frozenset()
    """The keys of the YAML by which this rule is recognized."""
    reducible: ClassVar[bool] = True
    """Whether it reads one value, which may be made of several."""

    column: Column | tuple[Column, ...] = Field(
        description="the column that holds the label, or with reduce several columns"
    )
    reduce: Literal["mean", "median", "majority", "min", "max"] | None = Field(
        None,
        description="mean, median, majority, min or max: how several columns, or a column of "
        "lists, become one value, such as the votes of annotators",
    )
    drop: tuple[RawValue, ...] | None = Field(
        None, description="values whose rows are left out, such as [unsure]"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns or paths that it reads."""
        return (self.column,) if isinstance(self.column, str) else self.column

    def gather(self, values: tuple[Any, ...]) -> Any:
        """One value of a row from those of its columns, where they are not reduced."""
        return values[0]

    @property
    def identity(self) -> str:
        """The rule as part of the rows' fingerprint; fields that are not used are not in it."""
        unused = {name for name in ("reduce", "drop") if getattr(self, name) is None}
        return self.model_dump_json(exclude=unused)

    @classmethod
    def problems(cls, label: Mapping[str, Any], verdicts: Sequence[str]) -> Iterator[Problem]:
        """Faults between the rule and the verdicts as they were written, before validation."""
        yield from ()

    @classmethod
    def written(cls) -> list[str]:
        """The keys that make a mapping this rule."""
        column = cls.model_fields["column"]
        return sorted({*cls.keys, *([] if column.exclude else ["column"])})

    @property
    def uses_train_median(self) -> bool:
        """Whether the rule needs the median of the column over the training split."""
        return False

    @abstractmethod
    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        """The verdict for each value, by :func:`~..fields.label_key`."""

    def covered(self, verdicts: Sequence[str]) -> str:
        """The values that the rule covers, for a message."""
        return ", ".join(self.table(verdicts)) or "numbers"

    def verdict(
        self, value: object, verdicts: Sequence[str], threshold: float | None
    ) -> str | None:
        """The verdict that a value of the column stands for; None for no label.

        Args:
            threshold: the median of the training split, where the rule asks for it.

        Raises:
            LookupError: the rule does not cover the value.
        """
        label = lookup(self.table(verdicts), value, None)
        if label is None:
            raise LookupError(label_key(value))
        return str(label)


class AnswerLabel(LabelRule):
    """The verdict of an answer in the data, read as those of judges (:meth:`Kind.label_from`)."""

    keys = frozenset({"answer"})
    reducible = False

    column: tuple[Column, ...] = Field(exclude=True, default=())
    answer: Column = Field(
        description="the column with an answer, whose verdict is the label, such as "
        "conversations[1].value"
    )

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.answer,)

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {}


class Kind(ABC):
    """One kind of judge task; :data:`~.KINDS` holds one instance of each."""

    name: ClassVar[str]
    """As ``judge.kind`` spells it; also the name of the file."""
    headline: ClassVar[str] = "macro_f1"
    """The metric by which judges are ranked and checkpoints are chosen."""
    label_rules: ClassVar[tuple[type[LabelRule], ...]]
    example: ClassVar[str]
    """Lines of a ``judge:`` block that depend on the kind, for ``mtrl-judge new``."""
    compares: ClassVar[bool] = False
    """Whether two candidates are compared, which can change places."""
    named: ClassVar[bool] = True
    """Whether verdicts are names, which could as well be others."""
    scaled: ClassVar[bool] = False
    """Whether verdicts are the levels of a scale."""
    drawn_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics that :meth:`drawn` computes from rows; empty for kinds whose metrics are rates of
    counts (:meth:`rates`)."""
    note: ClassVar[str] = ""
    """What readers of a table of these metrics should know."""

    @property
    def counted(self) -> bool:
        """Whether the metrics are rates of a table that counts labels by verdicts."""
        return not self.drawn_metrics

    @property
    def graded(self) -> bool:
        """Whether a verdict can be partly right."""
        return type(self).correctness is not Kind.correctness

    # The YAML

    def problems(self, judge: Mapping[str, Any]) -> Iterator[Problem]:
        """Faults between fields of a ``judge:`` block as it was written, before validation."""
        label = self.completed(judge).get("label")
        rule = label_rule(label)
        if isinstance(label, Mapping) and rule not in self.label_rules:
            known = " or ".join(f"{{{', '.join(each.written())}}}" for each in self.label_rules)
            yield Problem("judge.label", f"is not a label of a {self.name} task", f"write {known}")
        if judge.get("scale") is not None and not self.scaled:
            yield Problem("judge.scale", "is for ratings", "remove it or set kind: score")
        if judge.get("aspects") and not self.scaled:
            yield Problem("judge.aspects", "is for ratings", "remove it or set kind: score")
        if judge.get("joint_by") is not None and not self.counted:
            wrong = "is for rows that are either right or wrong"
            yield Problem("judge.joint_by", wrong, "remove it, or name the column in cluster_by")
        if judge.get("swap") and not self.compares:
            yield Problem("judge.swap", "is for pairs", "remove it or set kind: pairwise")

    def defaults(self, judge: Mapping[str, Any]) -> dict[str, Any]:
        """Values of fields that the YAML may leave out."""
        return {}

    def completed(self, judge: Mapping[str, Any]) -> dict[str, Any]:
        """The block with the defaults."""
        return {**self.defaults(judge), **judge}

    # Rows

    def candidates(self, judge: JudgeSpec) -> tuple[tuple[str, ...], ...]:
        """The columns or paths that belong to each candidate, in the dataset's order."""
        return ()

    def verdicts_of(self, verdicts: Sequence[str], candidates: int) -> Sequence[str]:
        """The verdicts of an item with a number of candidates.

        Args:
            verdicts: of the task.

        Raises:
            LookupError: items cannot have that many; says how many are expected.
        """
        return verdicts

    def verdicts_about(self, order: str | None, verdicts: Sequence[str]) -> Sequence[str]:
        """The verdicts of a row by its label, or else by its verdict, where items differ in them.

        Args:
            verdicts: of the task.
        """
        return verdicts

    def orders(self, judge: JudgeSpec, item_id: str, candidates: int) -> tuple[int, ...]:
        """By how many places the candidates are rotated, for each row that an item becomes.

        A pair that is rotated by one place is swapped.
        """
        return (0,)

    def swapped_label(self, label: str | None, verdicts: Sequence[str]) -> str | None:
        """The label of a row whose candidates are swapped."""
        return label

    def presented(self, label: str | None, verdicts: Sequence[str], order: int) -> str | None:
        """The label of a row whose candidates are rotated by `order` places."""
        return self.swapped_label(label, verdicts) if order else label

    def has_label(self, text: str, verdicts: Sequence[str]) -> bool:
        """Whether a text is a label of such a task."""
        return text in verdicts

    def has_verdict(self, text: str, verdicts: Sequence[str]) -> bool:
        """Whether a text is a verdict of such a task."""
        return text in verdicts

    def label_class(self, label: str, verdicts: Sequence[str]) -> str:
        """The one of `verdicts` that a label or a verdict comes closest to.

        It is what splits and validation items are stratified by, and what tables count.
        """
        return label

    # Prompts

    def verdict_form(self, verdicts: Sequence[str]) -> str:
        """The sentence of the instruction that says how the verdict is written."""
        return f"The verdict is exactly one of: {', '.join(verdicts)}."

    def gold(self, label: str, verdicts: Sequence[str]) -> str:
        """The verdict that a perfect judge writes, as the instruction asks for it."""
        return label

    def gold_labels(self, verdicts: Sequence[str]) -> Sequence[str]:
        """Labels whose gold answers show that verdicts can be told apart in text."""
        return verdicts

    # Scoring

    def read(self, text: str, verdicts: Sequence[str]) -> Verdict:
        """The verdict of a judge's output; see :func:`~..verdicts.parse_verdict`."""
        return parse_verdict(text, verdicts, ratings=False if self.compares else None)

    def label_from(self, answer: str, verdicts: Sequence[str]) -> str | None:
        """The label that another judge's answer gives; None without a verdict."""
        return self.read(answer, verdicts).value

    def correctness(self, verdict: str | None, label: str, verdicts: Sequence[str]) -> float:
        """How right a verdict is, from 0 to 1; no verdict is wrong."""
        return float(verdict == label)

    def decided(
        self, probabilities: Sequence[float], most_probable: int, verdicts: Sequence[str]
    ) -> str:
        """The verdict of a judge that gives a probability to each of `verdicts`.

        Args:
            most_probable: the index of that one; of several, the one that is taken.
        """
        return verdicts[most_probable]

    def voted(
        self, votes: Sequence[str | None], weights: Sequence[float], verdicts: Sequence[str]
    ) -> str | None:
        """The verdict of several answers to an item; None if all lack one.

        Args:
            votes: their verdicts; None is none, and counts for nothing.
            weights: how much each vote counts.
        """
        return weighted_majority(votes, weights)

    def attainable(self, label: str, verdicts: Sequence[str]) -> float:
        """The correctness of the gold answer: below 1 where a label lies between verdicts."""
        return 1.0

    # Metrics

    def rates(self, verdicts: Sequence[str], paired: bool) -> tuple[str, ...]:
        """The rates of :data:`~mtrl_judge.metrics.rates.RATES` that tasks of this kind have.

        Of kinds that are not :attr:`counted`, those that only depend on whether there is a verdict.

        Args:
            paired: whether every item was judged in both orders.
        """
        if not self.counted:
            return ("null_rate", "well_formed_rate")
        first, second = slots_of(verdicts)
        ties = self.compares and len(verdicts) > len(first) + len(second)
        degrees = self.compares and len(first) > 1
        others = {
            *(() if paired else PAIR_RATES),
            *(() if ties else TIE_RATES),
            *(() if degrees else STRENGTH_RATES),
        }
        return tuple(name for name in RATES if name not in others)

    def summarize(
        self, records: Sequence[Record], verdicts: Sequence[str], paired: bool
    ) -> dict[str, float | int | None]:
        """Every metric of one task as a flat table; see
        :func:`~mtrl_judge.metrics.summary.summarize`.

        A kind with :attr:`drawn_metrics` overrides it. Its table has the counts `n`, `n_unlabeled`,
        `n_failed` and `n_refused`, every metric of `drawn_metrics`, and :meth:`rates`.
        """
        return summarize(records, verdicts, self.rates(verdicts, paired))

    def drawn(
        self, judges: Sequence[JudgedRows], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> list[dict[str, Drawn]]:
        """Each of :attr:`drawn_metrics` that the rows of each judge allow, with draws.

        Judges and tasks with clusters in common share the weights of these
        (:func:`~mtrl_judge.metrics.drawn.shared_weights`), so that differences are paired.

        Args:
            judges: the rows of each, which may be of several tasks of this kind.
        """
        raise NotImplementedError(f"the kind {self.name} computes its metrics from counts")

    def baseline(
        self, metric: str, labels: Sequence[str | None], verdicts: Sequence[str]
    ) -> float | None:
        """A metric of the best judge that always gives the same verdict; None where undefined, or
        for metrics that are not compared with one."""
        return majority_macro_f1(labels, verdicts) if metric == "macro_f1" else None

    def metrics(self, verdicts: Sequence[str], paired: bool) -> list[str]:
        """The keys of :meth:`summarize`'s table that are not counts."""
        table = self.summarize([], verdicts, paired)
        return [name for name in table if name != "n" and not name.startswith("n_")]


def label_rule(value: object) -> type[LabelRule]:
    """The label rule that a mapping means, by the keys that only that rule has."""
    if isinstance(value, LabelRule):
        return type(value)
    from . import LABEL_RULES

    written = set(mapping(value))
    plain = next(rule for rule in LABEL_RULES if not rule.keys)
    return next((rule for rule in LABEL_RULES if rule.keys & written), plain)
