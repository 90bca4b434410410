"""Several candidates are put in order: which of four images is best, which is next?"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mtrl_judge.common.errors import Problem
from mtrl_judge.common.hashing import stable_hash
from mtrl_judge.metrics.bootstrap import RESAMPLES
from mtrl_judge.metrics.drawn import Drawn, JudgedRows
from mtrl_judge.metrics.ranking_summary import (
    RANKING_METRICS,
    drawn_rankings,
    summarize_rankings,
)
from mtrl_judge.metrics.rankings import (
    majority_order,
    order_by,
    read_order,
    score_order,
    write_order,
)
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.summary import summarize

from ..fields import Column, as_number, is_null, label_key, strings
from ..order_answers import MAX_CANDIDATES, parse_order
from ..verdicts import Verdict
from .base import AnswerLabel, Kind, LabelRule

if TYPE_CHECKING:
    from ..spec import JudgeSpec


class ScoresLabel(LabelRule):
    """The order of the scores or ranks of the candidates, with equal ones as ties, or the best one
    by its index, before all others."""

    keys = frozenset({"best"})
    reducible = False

    column: Column | tuple[Column, ...] = Field(
        description="the column with a list of numbers, one for each candidate, or as many "
        "columns, or with the index of the best one"
    )
    best: Literal["highest", "lowest", "index"] = Field(
        description="highest where the numbers are scores, lowest where they are ranks, index "
        "where the number is that of the best candidate, from 0"
    )

    def gather(self, values: tuple[Any, ...]) -> Any:
        """A list of the numbers; no label where the list, or any number, is null."""
        numbers = values[0] if isinstance(self.column, str) else list(values)
        lost = is_null(numbers) or (isinstance(numbers, list) and any(map(is_null, numbers)))
        return None if lost else numbers

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {}

    def covered(self, verdicts: Sequence[str]) -> str:
        if self.best == "index":
            return f"indices from 0 to {len(verdicts) - 1}, or {', '.join(verdicts)}"
        return f"lists of a number for each candidate, up to {len(verdicts)}"

    def verdict(self, value: object, verdicts: Sequence[str], threshold: float | None) -> str:
        if self.best == "index":
            named = {label_key(key): name for n, name in enumerate(verdicts) for key in (n, name)}
            best = named[label_key(value)]  # a KeyError is a LookupError
            return write_order([[best], [name for name in verdicts if name != best]])
        if not isinstance(value, list) or len(value) != len(verdicts):
            raise LookupError("not one number for each candidate")
        numbers = list(map(as_number, value))
        if not all(map(math.isfinite, numbers)):
            raise LookupError("not a list of numbers")
        values = dict(zip(verdicts, numbers, strict=True))
        return write_order(order_by(values, lowest_first=self.best == "lowest"))


class OrderLabel(LabelRule):
    """An order that the dataset has: a text such as ``CDAB`` or ``C>D>A=B``, or a list."""

    keys = frozenset({"order"})
    reducible = False

    column: Column = Field(
        description="the column with the order: a text such as CDAB, or a list of the candidates' "
        "letters, or of their numbers from 0 or from 1"
    )
    order: Literal["best_first", "worst_first"] = Field(description="best_first or worst_first")

    def table(self, verdicts: Sequence[str]) -> Mapping[str, str]:
        return {}

    def covered(self, verdicts: Sequence[str]) -> str:
        return f"orders of {', '.join(verdicts)}"

    def verdict(self, value: object, verdicts: Sequence[str], threshold: float | None) -> str:
        if isinstance(value, list):
            from_zero = 0 in value
            named = [
                str(name + 1) if from_zero and isinstance(name, int) else str(name)
                for name in value
            ]
            value = ", ".join(named)
        order = parse_order(value, verdicts).value if isinstance(value, str) else None
        if order is None:
            raise LookupError("no order of all candidates")
        return order if self.order == "best_first" else write_order(read_order(order)[::-1])


class Ranking(Kind):
    """Candidates are called A, B, C, … in the order in which they are shown.

    An item is shown in one of N cyclic orders or in all of them, so that always preferring a slot
    gains nothing. Labels and verdicts are orders of the slots.
    """

    name = "ranking"
    headline = "kendall"
    label_rules: ClassVar = (ScoresLabel, OrderLabel, AnswerLabel)
    drawn_metrics = RANKING_METRICS
    note = (
        "Rows without an order count as right about nothing. pairwise accuracy: of the pairs of "
        "candidates that the label does not tie, the share in the right order; ties count half. "
        "position bias: the share of first places that would have to go to other slots for all to "
        "have equally many; for it and the edit distance, less is better."
    )
    named = False
    example = """\
  images: [image0, image1, image2]
  candidates: [image0, image1, image2]   # what is put in order; called A, B and C as shown
  question: |
    Put three images that were generated from the same caption in order.
    A better image shows more accurately what the caption says.
    Caption: "{{ caption }}"
    Image A: <image>
    Image B: <image>
    Image C: <image>
    Which image is the best, which is the next, and which is the worst?
  # A list of scores (highest is best) or ranks (lowest is best), one for each candidate, or an
  # order such as CAB: {column: …, order: best_first}.
  label: {column: ranks, best: lowest}
  orders: cyclic                 # cyclic: as ABC, BCA and CAB; hashed: in one of these
  splits:
    validation: {from: train, fraction: 0.1, seed: 0}"""

    def problems(self, judge: Mapping[str, Any]) -> Iterator[Problem]:
        yield from super().problems(judge)
        candidates, verdicts = judge.get("candidates"), strings(judge.get("verdicts"))
        if candidates is None:
            yield Problem("judge.candidates", "is missing", "name what is put in order")
        if isinstance(candidates, list) and not 2 <= len(candidates) <= MAX_CANDIDATES:
            wrong = f"names {len(candidates)} candidates"
            yield Problem("judge.candidates", wrong, f"name 2 to {MAX_CANDIDATES}")
        if isinstance(candidates, str) and not verdicts:
            wrong = f"is missing, and {candidates!r} holds all candidates"
            yield Problem("judge.verdicts", wrong, 'name the most of them, such as ["A", "B", "C"]')
        letters = [*string.ascii_uppercase[: len(verdicts)]]
        if verdicts and verdicts != letters:
            right = f"write {letters}, one for each candidate, or leave it out"
            yield Problem("judge.verdicts", "is not the letters of the candidates", right)
        if isinstance(candidates, list) and verdicts and len(verdicts) != len(candidates):
            wrong = f"names {len(verdicts)} of {len(candidates)} candidates"
            yield Problem("judge.verdicts", wrong, "leave it out")
        if judge.get("orders") == "both":
            yield Problem("judge.orders", "is for pairs", "write cyclic or hashed")
        if judge.get("human") is not None:
            wrong = "rates single items, and here several are put in order"
            yield Problem("judge.human", wrong, "remove it or set kind: pointwise")

    def defaults(self, judge: Mapping[str, Any]) -> dict[str, Any]:
        candidates = judge.get("candidates")
        number = len(candidates) if isinstance(candidates, list) else 0
        return {"verdicts": [*string.ascii_uppercase[:number]], "orders": "cyclic"}

    # Rows

    def candidates(self, judge: JudgeSpec) -> tuple[tuple[str, ...], ...]:
        listed = judge.candidates or ()
        if isinstance(listed, str):
            return tuple((f"{listed}[{n}]",) for n in range(len(judge.verdicts)))
        return listed

    def verdicts_of(self, verdicts: Sequence[str], candidates: int) -> Sequence[str]:
        """As many as there are candidates: a task's verdicts name the most that an item has."""
        if not 2 <= candidates <= len(verdicts):
            raise LookupError(f"2 to {len(verdicts)}")
        return verdicts[:candidates]

    def verdicts_about(self, order: str | None, verdicts: Sequence[str]) -> Sequence[str]:
        try:
            return self.verdicts_of(verdicts, sum(map(len, read_order(order or ""))))
        except (LookupError, ValueError):
            return verdicts

    def orders(self, judge: JudgeSpec, item_id: str, candidates: int) -> tuple[int, ...]:
        """By how many places the candidates are rotated, for each row that an item becomes."""
        if judge.orders == "cyclic":
            return tuple(range(candidates))
        return (stable_hash("order", item_id) % candidates,)

    def presented(self, label: str | None, verdicts: Sequence[str], order: int) -> str | None:
        if label is None:
            return None
        shown = {name: verdicts[place - order] for place, name in enumerate(verdicts)}
        return write_order([shown[name] for name in place] for place in read_order(label))

    def has_label(self, text: str, verdicts: Sequence[str]) -> bool:
        return self.has_verdict(text, self.verdicts_about(text, verdicts))

    def has_verdict(self, text: str, verdicts: Sequence[str]) -> bool:
        try:
            order = read_order(text)
        except ValueError:
            return False
        names = sorted(name for place in order for name in place)
        return names == sorted(verdicts) and write_order(order) == text

    def label_class(self, label: str, verdicts: Sequence[str]) -> str:
        """The best candidate; of several, the one that is shown first."""
        return min(read_order(label)[0], key=list(verdicts).index)

    # Prompts

    def verdict_form(self, verdicts: Sequence[str]) -> str:
        *names, last = verdicts
        return (
            f"The verdict lists {', '.join(names)} and {last} from best to worst, with > between "
            "them, or = between two that are equally good."
        )

    def gold_labels(self, verdicts: Sequence[str]) -> Sequence[str]:
        one_order = ">".join(verdicts)
        rotated = [self.presented(one_order, verdicts, order) for order in range(len(verdicts))]
        return [*filter(None, rotated), "=".join(verdicts)]

    # Scoring

    def read(self, text: str, verdicts: Sequence[str]) -> Verdict:
        return parse_order(text, verdicts)

    def correctness(self, verdict: str | None, label: str, verdicts: Sequence[str]) -> float:
        """The pairwise accuracy of the order; where all are tied, whether the verdict says so."""
        if verdict is None:
            return 0.0
        accuracy = score_order(read_order(verdict), read_order(label)).pairwise_accuracy
        return float(verdict == label) if accuracy is None else accuracy

    def voted(
        self, votes: Sequence[str | None], weights: Sequence[float], verdicts: Sequence[str]
    ) -> str | None:
        """The order of the majority of each pair of candidates."""
        orders = {n: read_order(vote) for n, vote in enumerate(votes) if vote is not None}
        if not orders:
            return None
        return write_order(majority_order([*orders.values()], [weights[n] for n in orders]))

    # Metrics

    def summarize(
        self, records: Sequence[Record], verdicts: Sequence[str], paired: bool
    ) -> dict[str, float | int | None]:
        best = [
            record._replace(
                label=record.label and self.label_class(record.label, verdicts),
                verdict=record.verdict and self.label_class(record.verdict, verdicts),
            )
            for record in records
        ]
        rates = self.rates(verdicts, paired)
        counted = summarize(best, verdicts, rates)
        counts = ("n", "n_unlabeled", "n_failed", "n_refused")
        return {
            **{name: counted[name] for name in counts},
            **summarize_rankings(records, verdicts),
            **{name: counted[name] for name in rates},
        }

    def drawn(
        self, judges: Sequence[JudgedRows], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> list[dict[str, Drawn]]:
        return drawn_rankings(judges, resamples=resamples, seed=seed)


KIND = Ranking()
