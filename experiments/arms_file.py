"""Arms files: which judges an experiment compares, and which claims it tests.

An arm is the base model, the judges of a training, or the judges of another arm evaluated in
another way. An arms file is data: its arms differ in any fields of their recipes, and every fault
of a file is reported at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.plain_yaml import read_yaml
from mtrl_judge.common.printable import printable_line
from mtrl_judge.harness_plugin.perturbations import PERTURBATIONS
from mtrl_judge.judge_tasks.demonstrations import parse_demonstrations
from mtrl_judge.judge_tasks.spec import Role, Style
from mtrl_judge.leaderboard.compare import METRICS
from mtrl_judge.models.calibration import Method as Calibration
from mtrl_judge.models.votes import Vote, sampling
from mtrl_judge.rl.arguments import METHODS, Method
from mtrl_judge.rl.fields import validate
from mtrl_judge.rl.recipes import find_shipped

SHIPPED_ARMS = Path(__file__).parent / "arms"
HEADLINE = "headline"
"""Stands for the headline metric of the tasks' kinds."""
REPEATS = "repeats"
"""The agreement of two sampled answers to each row."""
MAX_NAME = 60
# What the experiment itself decides; one base model and one data folder serve all arms.
_OWN_FIELDS = (
    "data_root",
    "dry_run",
    "model_name_or_path",
    "output_dir",
    "resume",
    "seed",
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Evaluation(_Part):
    """How an arm's judges are asked; by default as they were trained."""

    style: Style | None = None
    scoring: Literal["generation", "logprob"] = "generation"
    calibration: Calibration | None = None
    demonstrations: Mapping[str, Any] | None = None
    """What their prompts show, as in ``judge.demonstrations``."""
    samples: Annotated[int, Field(ge=1)] = 1
    vote: Vote | None = None

    @property
    def model_args(self) -> str:
        """The arguments of the backend, without what has a flag or a variable."""
        given = self.model_dump(exclude_defaults=True, exclude={"style", "demonstrations"})
        return ",".join(f"{name}={value}" for name, value in given.items())


class Arm(_Part):
    """One way to obtain and ask judges."""

    name: str
    method: Method | None = None
    """None for the base model, and for the judges of another arm."""
    one_per_task: bool = False
    """Whether there is one judge for each task, which is evaluated on that task only."""
    fields: Mapping[str, Any] = {}
    """Fields of the recipe that differ."""
    judge: str | None = None
    """The arm whose judges it evaluates."""
    composed: bool = False
    """Whether the adapters of its judges, one for each task, are evaluated as one judge (Arrow)."""
    evaluation: Evaluation = Evaluation()

    @property
    def key(self) -> str:
        """Its name in paths and flags."""
        return arm_key(self.name)


class Claim(_Part):
    """A statement about the difference of two arms."""

    text: str
    arms: Annotated[tuple[str, str], Field(strict=False)]
    """The difference is the first minus the second."""
    tasks: Role
    rate: str = HEADLINE
    expect: Literal["higher", "lower", "same"]
    """Of the first arm."""
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For ``same``: the largest difference that still counts as none."""


class ArmsFile(_Part):
    """What an arms file says."""

    path: Path
    note: str | None = None
    """What readers of the tables should know."""
    fields: Mapping[str, Any] = {}
    """Fields of all trainings that differ from the recipes'."""
    arms: tuple[Arm, ...]
    reference: str
    """The arm that all others are compared with."""
    consistency: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Perturbations, and ``repeats``: after each, the share of rows that keep their verdict."""
    claims: Annotated[tuple[Claim, ...], Field(strict=False)] = ()

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def trained(self, arm: Arm) -> Arm:
        """The arm that trains the judges of an arm, or stands for the base model."""
        return arm if arm.judge is None else self.arm(arm.judge)


def arm_key(name: str) -> str:
    """
    >>> arm_key("SFT-Unified, log-probability"), arm_key("α = 0.5")
    ('sft-unified-log-probability', 'α-0-5')
    """
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def shipped_arms() -> list[Path]:
    """The arms files that come with the package."""
    return sorted(SHIPPED_ARMS.glob("*.yaml"))


def read_arms(name: str) -> ArmsFile:
    """A shipped arms file by its name, or any by its path.

    Raises:
        JudgeError: there is no such file, or with all its faults.
    """
    path = find_shipped("--arms", name, shipped_arms())
    raw, problems = read_yaml(path)
    faults = list(map(str, problems))
    if isinstance(raw, dict):
        listed = list(_listed(raw.get("arms"), faults))
        names = [str(arm["name"]) for arm in listed]
        faults += _clashes(names)
        faults += _recipe_faults(raw.get("fields"), listed)
        values = {"reference": names[0] if names else "", **raw}
        try:
            read = ArmsFile.model_validate({**values, "arms": tuple(listed), "path": path})
        except ValidationError as error:
            faults += [_fault(each, names) for each in error.errors(include_url=False)]
        else:
            faults += _conflicts(read)
    elif not faults:
        faults = ["expected arms by name, under the key `arms`"]
    if faults:
        raise JudgeError("\n".join(f"{path}: {printable_line(fault)}" for fault in faults))
    return read


def _listed(arms: Any, faults: list[str]) -> Iterator[dict[str, Any]]:
    """The arms of the mapping as they are written, with their names; what is no arm is a fault."""
    if not isinstance(arms, dict) or not arms:
        faults.append(f"arms: is {arms!r}; expected arms by name")
        return
    for name, values in arms.items():
        if values is not None and not isinstance(values, dict):
            faults.append(f"arms.{name}: is {values!r}; expected the fields of an arm")
        elif not isinstance(name, str):
            faults.append(f"arms.{name}: is not text; expected a name, quoted")
        else:
            if values and "name" in values:
                faults.append(f"arms.{name}.name: unknown key; the name stands before the colon")
            yield {**(values or {}), "name": name}


def _clashes(names: Sequence[str]) -> Iterator[str]:
    of_key = Counter(map(arm_key, names))
    for name in names:
        key = arm_key(name)
        if not key or len(name) > MAX_NAME:
            yield f"arms.{name}: expected a name with letters, of at most {MAX_NAME} characters"
        elif of_key[key] > 1:
            same = ", ".join(repr(n) for n in names if arm_key(n) == key and n != name)
            yield f"arms.{name}: has the folder {key!r}, as {same} has; rename one"


def _recipe_faults(shared: Any, arms: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with the fields of recipes, those of all trainings and those of each arm."""
    methods = [m for m in METHODS if any(arm.get("method") == m for arm in arms)]
    places = [("fields", method, shared) for method in methods]
    places += [
        (f"arms.{a['name']}.fields", a["method"], a.get("fields"))
        for a in arms
        if a.get("method") in METHODS
    ]
    for where, method, fields in places:
        if isinstance(fields, dict):
            for name in fields:
                if name in _OWN_FIELDS:
                    yield f"{where}.{name}: is set by the experiment for all arms; leave it out"
            _, faults = validate(method, fields)
            yield from (f"{where}.{name}: {fault}" for name, fault in faults.items())


def _fault(error: Any, names: Sequence[str]) -> str:
    """One of pydantic's errors in the words of the person who wrote the file."""
    location = list(error["loc"])
    model: type[BaseModel] = ArmsFile
    match location:
        case ["arms", int(), "evaluation", _, *_]:
            model = Evaluation
        case ["arms", int(), _, *_]:
            model = Arm
        case ["claims", int(), _, *_]:
            model = Claim
    if location[0] == "arms" and len(location) > 1:
        location[1] = names[location[1]]
    field = ".".join(map(str, location))
    known = [name for name in model.model_fields if name not in ("name", "path")]
    match error["type"]:
        case "extra_forbidden":
            return f"{field}: unknown key; {did_you_mean(location[-1], known)}"
        case "missing":
            return f"{field}: is missing"
    expected = error["msg"].removeprefix("Input should be ")
    return f"{field}: is {error['input']!r}; expected {expected}"


def _conflicts(file: ArmsFile) -> Iterator[str]:
    """What is wrong between the fields of a file."""
    names = [arm.name for arm in file.arms]
    for arm in file.arms:
        yield from (f"arms.{arm.name}.{fault}" for fault in _arm_conflicts(arm, file))
    if file.reference not in names:
        yield f"reference: no arm {file.reference!r}; {did_you_mean(file.reference, names)}"
    for name in file.consistency:
        if name not in (REPEATS, *PERTURBATIONS):
            yield f"consistency: no {name!r}; {did_you_mean(name, (REPEATS, *PERTURBATIONS))}"
    for number, claim in enumerate(file.claims):
        yield from (f"claims.{number}.{fault}" for fault in _claim_conflicts(claim, file))


def _arm_conflicts(arm: Arm, file: ArmsFile) -> Iterator[str]:
    names = [other.name for other in file.arms]
    if arm.method is None:
        why = f"the judges are those of {arm.judge!r}" if arm.judge else "the base model"
        for name in ("fields", "one_per_task"):
            if getattr(arm, name):
                yield f"{name}: nothing is trained here, as there is no method ({why})"
    if arm.judge is not None:
        if arm.method is not None:
            yield f"judge: has a method of its own ({arm.method}); leave out one of the two"
        if arm.judge not in names:
            yield f"judge: no arm {arm.judge!r}; {did_you_mean(arm.judge, names)}"
        elif file.arm(arm.judge).method is None:
            yield f"judge: {arm.judge!r} trains no judges; name an arm with a method"
    if arm.composed and not (arm.judge in names and file.arm(arm.judge).one_per_task):
        yield "composed: needs the judges of an arm with one_per_task: true, named by judge"
    if arm.evaluation.calibration is not None and arm.evaluation.scoring != "logprob":
        yield "evaluation.calibration: needs scoring: logprob"
    asked = arm.evaluation
    try:
        parse_demonstrations(asked.demonstrations, "evaluation.demonstrations")
    except JudgeError as error:
        yield str(error)
    try:
        sampling(asked.samples, asked.vote, None, 0, asked.scoring)
    except JudgeError as error:
        yield f"evaluation.{error}"


def _on_one_task(arm: Arm, file: ArmsFile) -> bool:
    """Whether each of its judges is evaluated on its own task only."""
    return file.trained(arm).one_per_task and not arm.composed


def _claim_conflicts(claim: Claim, file: ArmsFile) -> Iterator[str]:
    names = [arm.name for arm in file.arms]
    for name in claim.arms:
        if name not in names:
            yield f"arms: no arm {name!r}; {did_you_mean(name, names)}"
        elif claim.tasks == "ood" and _on_one_task(file.arm(name), file):
            yield f"tasks: ood, but the judges of {name!r} are evaluated on their own task only"
    known = (HEADLINE, *METRICS, *file.consistency)
    if claim.rate not in known:
        yield f"rate: no rate {claim.rate!r}; {did_you_mean(claim.rate, known)}"
    if (claim.expect == "same") != (claim.margin is not None):
        yield (
            "margin: is missing; two arms are the same within a margin that was chosen before"
            if claim.margin is None
            else f"margin: has no effect with expect: {claim.expect}; leave it out"
        )
