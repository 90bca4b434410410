"""What the sample's images show, as facts to look for in a judge's reasoning.

Facts have the words of the reasoning that training starts from (``Scene.text`` and the sentences of
:mod:`.corpus`). Naming things that are not there contradicts what is; see
:mod:`mtrl_judge.judge_tasks.facts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from mtrl_judge.judge_tasks.facts import mentioned

from .drawing import FAULTS, NUMBERS, RELATIONS, THINGS, Scene

FactCell: TypeAlias = dict[str, Any]
"""A fact as a line of a facts file holds it: ``fact`` and ``instead``."""

INTACT = "intact"
IN_PLACE = "everything is in its place"


def scene_facts(scene: Scene, described: Scene | None = None) -> list[FactCell]:
    """The things of a scene, and how they stand or how many they are.

    Args:
        described: what a text about the image says; a judge that compares the two names its things.

    >>> [cell["fact"] for cell in scene_facts(Scene("house", "elephant"))]
    ['house', 'elephant', 'house left of an elephant']
    >>> [cell["fact"] for cell in scene_facts(Scene("house", number=3))]
    ['houses', 'three houses']
    """
    if scene.second is None:
        alternatives = [_numbered(scene.first, number) for number in range(1, len(NUMBERS))]
        whole = _numbered(scene.first, scene.number)
        things = [whole.partition(" ")[2]]
    else:
        pairs = ((scene.first, scene.second), (scene.second, scene.first))
        alternatives = [
            Scene(*pair, relation).text.partition(" ")[2]
            for pair in pairs
            for relation in RELATIONS
        ]
        whole = scene.text.partition(" ")[2]
        things = [scene.first, scene.second]
    named = {*scene.names, *(described.names if described else ())}
    others = [name for name in THINGS if name not in named]
    absent = [word for name in others for word in (name, THINGS[name].plural)]
    return [
        *({"fact": thing, "instead": []} for thing in things),
        {"fact": whole, "instead": [*(a for a in alternatives if a != whole), *absent]},
    ]


def _numbered(name: str, number: int) -> str:
    return Scene(name, number=number).text


def fault_facts(fault: str | None) -> list[FactCell]:
    """The technical fault of an image, or that it has none."""
    shown = fault or INTACT
    return [{"fact": shown, "instead": [f for f in (*FAULTS, INTACT) if f != shown]}]


def sense_facts(scene: Scene, flipped: str | None, misplaced: Sequence[str]) -> list[FactCell]:
    """What is wrong with the content of an image, or that nothing is.

    Of two misplaced things the first is a fact, as in the reasoning.
    """
    upside_down = [f"{name} is upside down" for name in scene.names]
    elsewhere = [f"{name} is in the wrong place" for name in scene.names]
    true = [f"{flipped} is upside down"] if flipped else []
    true += [f"{name} is in the wrong place" for name in misplaced]
    true = true or [IN_PLACE]
    untrue = [p for p in (*upside_down, *elsewhere, IN_PLACE) if p not in true]
    return [{"fact": true[0], "instead": untrue}]


def facts_of_both(images: Iterable[Sequence[FactCell]]) -> list[FactCell]:
    """The facts of two images together; what one of them shows contradicts nothing."""
    listed: dict[str, list[str]] = {}
    for cell in (cell for facts in images for cell in facts):
        listed.setdefault(cell["fact"], []).extend(cell["instead"])
    shown = " . ".join(listed)
    untrue = {phrase for instead in listed.values() for phrase in instead}
    true = mentioned(shown, untrue, denied=True)
    return [
        {"fact": fact, "instead": list(dict.fromkeys(p for p in instead if p not in true))}
        for fact, instead in listed.items()
    ]
