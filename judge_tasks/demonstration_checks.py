"""Checks of ``judge.demonstrations`` that concern more than one field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mtrl_judge.common.errors import Problem

from .fields import mapping, strings
from .spec import SPLIT_KEYS

SELF, TFIDF, JUDGE = "self", "tfidf", "judge"


def demonstration_problems(raw: Mapping[str, Any], judge: Mapping[str, Any]) -> Iterator[Problem]:
    """The faults of ``judge.demonstrations`` in a YAML, beside those of single fields."""
    given = mapping(judge.get("demonstrations"))
    if not given:
        return
    for problem in own_problems(given):
        yield problem._replace(field=f"judge.demonstrations.{problem.field}")
    source = given.get("from", SELF)
    splits = mapping(judge.get("splits"))
    trains = bool(raw.get(SPLIT_KEYS["train"]) or "train" in splits)
    if source in (SELF, raw.get("task")) and (judge.get("role") == "ood" or not trains):
        yield Problem(
            "judge.demonstrations.from",
            "its own items are never learned from",
            "name a task with role: train, whose training split the demonstrations come from",
        )
    if "image" in strings(given.get("by")) and not judge.get("images"):
        wrong = "compares images, and the task shows none"
        yield Problem("judge.demonstrations.by", wrong, "use by: [text]")


def own_problems(given: Mapping[str, Any]) -> Iterator[Problem]:
    """The faults between the fields, whatever the task is."""
    by, encoder = given.get("by"), given.get("encoder")
    compared = strings(by)
    if compared and encoder is None:
        right = "tfidf, judge, or a model of sentence-transformers"
        yield Problem("encoder", "is missing, and by says what to compare", right)
    elif encoder is not None and not compared:
        wrong = "compares nothing, as by is empty"
        yield Problem("encoder", wrong, "add by: [text], [image] or both, or leave it out")
    if encoder == TFIDF and "image" in compared:
        right = "judge, or a model of sentence-transformers that encodes images, or by: [text]"
        yield Problem("encoder", "tfidf compares texts alone", right)
