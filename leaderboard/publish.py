"""Results and leaderboards as repositories of the hub, without secrets and paths of machines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import json_text, parse_json
from mtrl_judge.common.hub import CARD, TAG, RepoType, Upload
from mtrl_judge.common.markdown import render_card
from mtrl_judge.common.secrets import REDACTED, Redactor, is_secret_name

from .board import Leaderboard
from .file import leaderboard_file
from .model_args import arguments_of
from .reading import RESULTS_SUFFIX, short_names
from .report import render_report
from .runs import Run
from .tables import csv_text, markdown
from .view import TIDY_FIELDS, View, build_view, data_table, model_table, tidy_records

_TEMPLATE = Path(__file__).with_name("results_card.md.jinja")
# An absolute path of at least two names, but no part of an address, a tag or a relative path.
_BEFORE, _NAME = r"(?<![\w.:/<~-])", r"[^\s/\\\"',;:<>|=]+"
_PATH = re.compile(rf"{_BEFORE}~?/(?:{_NAME}/)+(?:{_NAME})?")
_HOMES = ("/home", "/Users")
_ARGUMENTS = re.compile(r"\w+_args|gen_kwargs")  # of lmms-eval, as `name=value,…`


def results_upload(board: Leaderboard, repo: str) -> Upload:
    """Results files with their samples, a folder for each run, and a card with the scores.

    What models and datasets say stays as it is, except for secrets and paths of this machine and of
    the one that evaluated.

    Args:
        board: of results files; a leaderboard file has no samples.

    Raises:
        JudgeError: a run is from a leaderboard file, or a file cannot be read.
    """
    from huggingface_hub import DatasetCardData

    files: dict[str, bytes | Path] = {}
    folders = _folders(board.runs)
    for run, folder in folders.items():
        source = board.runs[run].file
        if not source.name.endswith(RESULTS_SUFFIX):
            raise JudgeError(
                f"{source}: a leaderboard file has no samples; expected results of lmms-eval "
                f"(*{RESULTS_SUFFIX}), or publish it with `mtrl-judge push leaderboard`"
            )
        public = _Public(source, board.runs)
        files[f"{folder}/{source.name}"] = public.results()
        for task in board.runs[run].tasks:
            name = f"{source.name.removesuffix(RESULTS_SUFFIX)}_samples_{task}.jsonl"
            files[f"{folder}/{name}"] = public.samples(source.with_name(name))
    public_board = board._replace(runs=_public_runs(board.runs))
    front = DatasetCardData(
        pretty_name=repo.partition("/")[2],
        tags=[TAG, "llm-as-a-judge", "evaluation-results"],
        configs=[
            {"config_name": task.name, "data_files": f"*/*_samples_{task.name}.jsonl"}
            for task in board.tasks
        ],
        **_other_license(),
    )
    card = _card(front, public_board, build_view(public_board, full=False), repo, "results")
    return Upload(repo, "dataset", {CARD: card, **files}, "Results of mtrl-judge")


def leaderboard_upload(board: Leaderboard, repo: str, repo_type: RepoType = "space") -> Upload:
    """The page of a leaderboard, its file and its scores as CSV.

    It has no items: their texts and images may not be published.

    Args:
        repo_type: a static Space shows the page; a dataset keeps it.
    """
    from huggingface_hub import DatasetCardData, SpaceCardData

    board = board._replace(runs=_public_runs(board.runs))
    view = build_view(board, full=True)
    title, tags = repo.partition("/")[2], [TAG, "llm-as-a-judge", "leaderboard"]
    front: Any
    if repo_type == "space":
        front = SpaceCardData(
            title=title, sdk="static", app_file="index.html", colorFrom="blue", colorTo="gray",
            pinned=False, tags=tags,
        )  # fmt: skip
    else:
        configs = [{"config_name": "scores", "data_files": "leaderboard.csv"}]
        front = DatasetCardData(pretty_name=title, tags=tags, configs=configs, **_other_license())
    file = leaderboard_file(board, view).model_dump_json(indent=2, exclude_defaults=True)
    files: dict[str, bytes | Path] = {
        CARD: _card(front, board, view, repo, "leaderboard"),
        "index.html": render_report(board, view, with_items=False).encode(),
        "leaderboard.json": f"{file}\n".encode(),
        "leaderboard.csv": csv_text(TIDY_FIELDS, tidy_records(board)).encode(),
    }
    return Upload(repo, repo_type, files, "Leaderboard of mtrl-judge")


def _other_license() -> dict[str, Any]:
    """Samples quote their datasets, and each has its own license."""
    return {"license": "other", "license_name": "see-below"}


def _card(front: Any, board: Leaderboard, view: View, repo: str, what: str) -> bytes:
    tables = (view.scores, view.unanswered, view.means, model_table(board.runs))
    results = {name: result for run in board.runs for name, result in run.tasks.items()}
    text = render_card(
        _TEMPLATE,
        front,
        what=what,
        repo=repo,
        name=repo.partition("/")[2],
        tables=markdown([*tables, data_table(board.runs)]),
        notes=board.notes,
        cards={name: result.metadata.get("card") or {} for name, result in results.items()},
    )
    return text.encode()


def _folders(runs: Sequence[Run]) -> dict[int, str]:
    """A folder for each run, by its number."""
    names = [re.sub(r"[^A-Za-z0-9.-]+", "_", run.name).strip("._") or "judge" for run in runs]
    return {
        number: f"{name}_{number}" if name in names[:number] else name
        for number, name in enumerate(names)
    }


def _public_runs(runs: Sequence[Run]) -> list[Run]:
    """The same runs without secrets, and without paths of the machines that evaluated."""
    short = short_names([run.model for run in runs])
    public = []
    for run in runs:
        texts = _Texts(Redactor(), short)
        tasks = {
            name: replace(
                result,
                metadata={
                    **result.metadata,
                    **{
                        key: texts.public(result.metadata[key], key)
                        for key in ("model_args", "location")
                        if key in result.metadata
                    },
                },
            )
            for name, result in run.tasks.items()
        }
        public.append(
            run._replace(model=texts.model(run.model), file=Path(run.file.name), tasks=tasks)
        )
    return public


class _Texts:
    """Replaces secrets and paths.

    Args:
        redactor: for the secrets.
        short: the names of models that are paths.
    """

    def __init__(self, redactor: Redactor, short: Mapping[str, str]) -> None:
        self._redactor, self._short = redactor, short

    def model(self, name: str) -> str:
        return self._short[name] if name.startswith(("/", "~", "./", "../")) else name

    def public(self, value: Any, key: str = "") -> Any:
        """A value of JSON; `key` is what it stands under."""
        if isinstance(value, Mapping):
            given = _ARGUMENTS.fullmatch(key)
            return {
                name: REDACTED if given and is_secret_name(name) else self.public(inner, name)
                for name, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.public(inner, key) for inner in value]
        if not isinstance(value, str):
            return value
        if _ARGUMENTS.fullmatch(key) and any(map(is_secret_name, arguments_of(value))):
            value = ",".join(
                f"{name}={REDACTED if is_secret_name(name) else text}"
                for name, text in arguments_of(value).items()
            )
        for path in sorted(self._short, key=len, reverse=True):
            value = value.replace(path, self.model(path))
        return _PATH.sub(_last_name, self._redactor(value))


class _Public:
    """The files of one run."""

    def __init__(self, file: Path, runs: Sequence[Run]) -> None:
        self._file, self._raw = file, parse_json(file.read_text(encoding="utf-8"))
        # A secret of no known form is known by its argument's name; messages may quote it.
        self._redactor = Redactor([*_arguments(self._raw)])
        self._texts = _Texts(self._redactor, short_names([run.model for run in runs]))
        folders = sorted(_machine_paths(self._raw), key=len, reverse=True)
        self._machines = re.compile(
            rf"{_BEFORE}(?:{'|'.join(map(re.escape, folders))})(?![\w-])(?:/{_NAME})*"
        )

    def results(self) -> bytes:
        return f"{json_text(self._texts.public(self._raw))}\n".encode()

    def samples(self, file: Path) -> bytes:
        """The lines of a samples file: of their texts nothing else is changed."""
        text = self._redactor(file.read_text(encoding="utf-8"))
        return self._machines.sub(_last_name, text).encode()


def _last_name(found: re.Match[str]) -> str:
    """Of a path; a home folder's is that of a person."""
    path = Path(found[0])
    return "~" if path == Path.home() or str(path.parent) in _HOMES else path.name


def _machine_paths(raw: Mapping[str, Any]) -> set[str]:
    """Folders of this machine, and of the one that wrote the results, that only it has."""
    here = {str(Path.home()), str(Path.cwd()), gettempdir()}
    there = {str(Path(path).parent) for text in _strings(raw) for path in _PATH.findall(text)}
    return {path for path in here | there if path.count("/") > 1 or path in here} - {"/", "."}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)


def _arguments(value: Any, key: str = "") -> Iterator[str]:
    """The arguments of lmms-eval in a JSON value, as `name=value`."""
    if _ARGUMENTS.fullmatch(key) and isinstance(value, str | Mapping):
        yield from (f"{name}={text}" for name, text in arguments_of(value).items())
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _arguments(inner, name)
