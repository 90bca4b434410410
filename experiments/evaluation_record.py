"""What `mtrl-judge eval` was asked to do, kept beside its results, so that it can be repeated."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json, read_json_lines, write_json
from mtrl_judge.common.secrets import without_secrets
from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.leaderboard.reading import RESULTS_SUFFIX, command_file

SCHEMA_VERSION = 1
MODEL_ARGS = "--model_args"


class EvaluationRecord(NamedTuple):
    """One run of lmms-eval by `mtrl-judge`."""

    model: str
    tasks: str
    flags: Sequence[str]
    """Further flags of lmms-eval, without secrets."""
    secrets: Sequence[str]
    """The names of the secrets among the model arguments."""
    variables: Mapping[str, str]
    """Our environment variables."""
    working_directory: str
    """What relative paths start from."""
    session: str
    """Its name in the store of answers."""
    answers: str
    """The store, relative to the folder of the results."""
    replaces: str | None
    """The results, likewise, whose failed requests this run repeated."""


def write_record(results: Path, record: EvaluationRecord) -> None:
    """Write the record of a run beside its results."""
    words = _options_apart(record.flags)
    flags, _ = without_secrets(words)
    _, secrets = without_secrets([value for name, value in pairwise(words) if name == MODEL_ARGS])
    record = record._replace(flags=flags, secrets=secrets)
    write_json(command_file(results), {"schema_version": SCHEMA_VERSION, **record._asdict()})


def read_record(results: Path) -> EvaluationRecord:
    """The record of a run.

    Raises:
        JudgeError: there is none, or it is of another version.
    """
    file = command_file(results)
    if not file.is_file():
        raise JudgeError(
            f"--retry-failed: there is no {file}; expected a run of `mtrl-judge eval`. Of other "
            "runs neither the command nor the answers are known: evaluate again"
        )
    values = read_json(file)
    version = values.pop("schema_version", None)
    try:
        if version != SCHEMA_VERSION:
            raise TypeError(f"its schema_version is {version!r}, not {SCHEMA_VERSION}")
        return EvaluationRecord(**values)
    except TypeError as error:
        raise JudgeError(
            f"{file}: not a record of this version of mtrl-judge ({error}); evaluate again"
        ) from None


def with_given_secrets(record: EvaluationRecord, given: Sequence[str]) -> list[str]:
    """The flags of a recorded run, with its secrets.

    Args:
        given: flags of the command line: `--model_args` with all secrets that model arguments had.

    Raises:
        JudgeError: a secret is missing, or something else is given.
    """
    needed = record.secrets
    hint = f"; give {MODEL_ARGS} {','.join(f'{name}=…' for name in needed)}" if needed else ""
    words = _options_apart(given)
    secrets = ",".join(words[1::2])
    names = [pair.partition("=")[0] for pair in secrets.split(",") if pair]
    if set(words[::2]) - {MODEL_ARGS} or set(names) - set(needed):
        raise JudgeError(f"{words[0]}: a run is repeated with its own options only{hint}")
    if missing := [name for name in needed if name not in names]:
        raise JudgeError(
            f"--retry-failed: {', '.join(missing)} not recorded, because secrets never are{hint}"
        )
    flags = _options_apart(record.flags)
    if secrets:
        # lmms-eval uses the last of several --model_args.
        place = len(flags) - flags[::-1].index(MODEL_ARGS)
        flags[place] = ",".join(filter(None, [flags[place], secrets]))
    return flags


def _options_apart(words: Sequence[str]) -> list[str]:
    """Each ``--option=value`` as two words."""
    return [
        part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]


def relative(path: Path, results: Path) -> str:
    """A path as seen from the folder of the results, so that they can be moved together."""
    return Path(os.path.relpath(path.resolve(), results.resolve().parent)).as_posix()


def failed_requests(results: Path) -> int:
    """How many requests of a run failed, repeats counted singly."""
    prefix = results.name.removesuffix(RESULTS_SUFFIX)
    return sum(
        failure is not None and failure.kind == "failed"
        for file in results.parent.glob(f"{prefix}_samples_*.jsonl")
        for _, row in read_json_lines(file)
        for failure in map(request_failure, _texts(row.get("resps") or row.get("text")))
    )


def _texts(answers: Any) -> Iterator[object]:
    if isinstance(answers, list):
        for answer in answers:
            yield from _texts(answer)
    else:
        yield answers
