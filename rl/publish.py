"""A trained judge as a repository of the hub: its files, and its card with the results passed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json
from mtrl_judge.common.hub import CARD, Upload
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.failures import MAX_FAILURES
from mtrl_judge.leaderboard.identity import IDENTITY, weights
from mtrl_judge.leaderboard.reading import load_runs

from .finished_run import JUDGE, LOG_FILE, RUN_FILE
from .model_card import model_card

# Pickles, which can run code where they are loaded; of transformers' they also name local paths.
_PICKLES = (".bin", ".pt", ".pth", ".pkl")


def judge_upload(
    folder: Path,
    repo: str,
    *,
    results: Sequence[Path] = (),
    max_failures: float = MAX_FAILURES,
    license_id: str | None = None,
) -> Upload:
    """The judge of a finished run, with the run's log.

    Args:
        folder: of the run.
        results: what evaluated the judge, for its card: result files, or folders with some.
        max_failures: as for :func:`.build_leaderboard`.
        license_id: the hub's identifier, instead of what the base model's card states.

    Raises:
        JudgeError: the folder has no finished run, or the results are of other weights.
    """
    judge = folder / JUDGE
    if not (folder / RUN_FILE).is_file():
        raise JudgeError(
            f"{folder}: no {RUN_FILE}; expected the output_dir of a `mtrl-judge train` run"
        )
    run = read_json(folder / RUN_FILE)
    if not run.get("finished") or not (judge / CHECKPOINT_CARD).is_file():
        raise JudgeError(f"{folder}: the run has not finished; continue it with --resume")
    for task, record in run["data"].items():
        if "about" not in record:
            raise JudgeError(
                f"{folder / RUN_FILE}: data.{task}.about: missing; an older version trained the "
                "judge, and did not record what its card needs"
            )
    board = known = None
    if results:
        runs = load_runs(results)
        board = build_leaderboard(runs, across=[*IDENTITY], max_failures=max_failures)
        known = _check_weights(board, judge)
    card = model_card(
        folder,
        run,
        name=repo.partition("/")[2],
        repo=repo,
        license_id=license_id,
        results=board,
        weights_known=known is not False,
    )
    files: dict[str, bytes | Path] = {CARD: card.encode()}
    for file in sorted(judge.rglob("*")):
        path = file.relative_to(judge)
        hidden = any(part.startswith(".") for part in path.parts)
        if file.is_file() and not hidden and file.suffix not in _PICKLES:
            files.setdefault(path.as_posix(), file)
    if (folder / LOG_FILE).is_file():
        files[f"training/{LOG_FILE}"] = folder / LOG_FILE
    return Upload(repo, "model", files, "Judge trained by mtrl-judge")


def _check_weights(board: Leaderboard, judge: Path) -> bool:
    """Whether all results record the weights that they are of.

    Raises:
        JudgeError: some are of other weights than the judge's.
    """
    from mtrl_judge.models.checkpoint import model_revision

    recorded = {(run.file, weights(result)) for run in board.runs for result in run.tasks.values()}
    ours = model_revision(str(judge)) if any(found for _, found in recorded) else None
    for file, found in sorted(recorded, key=str):
        if found is not None and found != ours:
            raise JudgeError(
                f"{file}: evaluates other weights ({found}) than those in {judge} ({ours}); leave "
                "it out of --results, or evaluate this judge"
            )
    return all(found for _, found in recorded)
