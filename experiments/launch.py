"""Commands that run in a process of their own: trainings, and the stock lmms-eval."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mtrl_judge.common.errors import JudgeError, did_you_mean
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.secrets import Redactor
from mtrl_judge.common.verbosity import is_verbose
from mtrl_judge.harness_plugin.answer_store import (
    REUSE_ALL,
    REUSE_VARIABLE,
    SESSION_VARIABLE,
    STORE_VARIABLE,
    new_session,
)
from mtrl_judge.harness_plugin.evaluation_split import SPLIT_VARIABLE
from mtrl_judge.harness_plugin.host_flags import host_flags, refuse_missing_trackers
from mtrl_judge.harness_plugin.perturbations import PERTURBATION_VARIABLE
from mtrl_judge.harness_plugin.prompt_style import DEMONSTRATIONS_VARIABLE, STYLE_VARIABLE
from mtrl_judge.judge_tasks.request_failures import by_message, message_lines
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.judge_tasks.spec import STYLES
from mtrl_judge.leaderboard.reading import (
    RESULTS_SUFFIX,
    load_run,
    replaced_files,
    results_files,
)
from mtrl_judge.leaderboard.runs import Run

from .evaluation_checks import check_tasks
from .evaluation_progress import EvaluationProgress
from .evaluation_record import (
    EvaluationRecord,
    failed_requests,
    read_record,
    relative,
    with_given_secrets,
    write_record,
)
from .processes import run_to_end
from .redaction import redacted

ANSWERS = "answers"
LOG_PREFIX = "lmms-eval-"
_RECORDED = (
    DATA_ROOT_VARIABLE,
    STYLE_VARIABLE,
    DEMONSTRATIONS_VARIABLE,
    PERTURBATION_VARIABLE,
    SPLIT_VARIABLE,
)

_LOG_LINES = 20


class CommandError(JudgeError):
    """A command failed; the message ends with the last lines of its log."""

    def __init__(self, name: str, reason: str, exit_code: int, log: Path | None) -> None:
        self.exit_code = exit_code
        lines = [f"{name}: {reason}; see its output above"]
        if log is not None:
            text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
            last = [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]
            lines = [f"{name}: {reason}; the end of {log}:", *last]
        super().__init__("\n".join(lines))


class _Watched:
    """A file, and who reads what is written to it."""

    def __init__(self, file: BinaryIO, watch: Callable[[str], None]) -> None:
        self._file, self._watch = file, watch

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._watch(data.decode("utf-8", "replace"))

    def flush(self) -> None:
        self._file.flush()


def run_command(
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    log: Path | None = None,
    watch: Callable[[str], None] | None = None,
) -> None:
    """Run a command to its end.

    If this process is stopped, it stops the command and everything that this started, and waits for
    it: a training then writes a checkpoint.

    Args:
        environment: variables in addition to those of this process.
        folder: the working directory of the command; None is that of this process.
        log: file for everything that the command prints, which is also printed if the user asked
            for it (``--verbose``); None is the output of this process.
        watch: called with what it prints to the log, as it comes.

    Raises:
        CommandError: the exit code is not 0.
    """
    with ExitStack() as stack:
        redactor = Redactor(command)
        streams: dict[str, Any]
        if log is None:
            streams = {
                "stdout": stack.enter_context(redacted(sys.stdout.buffer, redactor)),
                "stderr": stack.enter_context(redacted(sys.stderr.buffer, redactor)),
            }
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            output: Any = stack.enter_context(log.open("wb"))
            if watch is None and is_verbose():
                watch = partial(print, end="", flush=True)
            if watch is not None:
                output = _Watched(output, watch)
            file = stack.enter_context(redacted(output, redactor))
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        # Python would keep what it prints to a pipe for long; the redactor expects UTF-8.
        variables = {"PYTHONUNBUFFERED": "1", **os.environ, "PYTHONIOENCODING": "utf-8"}
        variables |= environment or {}
        exit_code = run_to_end(command, environment=variables, folder=folder, **streams)
    if exit_code < 0:  # as `subprocess` has it; common/exits.py says how we report it
        reason = f"ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
        raise CommandError(name, reason, 128 - exit_code, log)
    if exit_code:
        raise CommandError(name, f"failed with exit code {exit_code}", exit_code, log)


def run_lmms_eval(
    model: str,
    tasks: str,
    *,
    output_path: Path,
    style: str | None = None,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    name: str = "lmms-eval",
    resume: bool = False,
    shown: EvaluationProgress | None = None,
) -> list[Run]:
    """Run lmms-eval with its samples logged and its answers kept in ``output_path``.

    Args:
        tasks: names or patterns, comma-separated.
        flags: further flags of lmms-eval.
        environment, log: as for :func:`run_command`.
        name: what error messages call this run.
        resume: use the answers that earlier runs have kept there.
        shown: how far it is; what lmms-eval prints then goes to a log in ``output_path``.

    Returns:
        What it wrote, with samples.

    Raises:
        JudgeError: the style, a task, a flag, a tracker or the data of a task does not exist, or a
            task's YAML has faults.
        CommandError: lmms-eval fails, or has not written all samples.
    """
    if style is not None and style not in STYLES:
        raise JudgeError(f"--style: no style {style!r}; {did_you_mean(style, STYLES)}")
    flags = host_flags(flags)
    refuse_missing_trackers(flags)
    variables = {**(environment or {}), **({STYLE_VARIABLE: style} if style else {})}
    present = {**os.environ, **variables}
    check_tasks(tasks, flags, present.get(DATA_ROOT_VARIABLE))
    record = EvaluationRecord(
        model=model,
        tasks=tasks,
        flags=flags,
        secrets=[],
        variables={name: present[name] for name in _RECORDED if present.get(name)},
        working_directory=str(Path.cwd()),
        session=new_session(),
        answers="",
        replaces=None,
    )
    variables |= {REUSE_VARIABLE: REUSE_ALL if resume else ""}
    return _evaluate(record, output_path, variables, log=log, name=name, shown=shown)


def retry_failed(
    run: Path, flags: Sequence[str] = (), *, shown: EvaluationProgress | None = None
) -> Run | None:
    """Repeat the failed requests of an evaluation, and write complete results that replace its own.

    Args:
        run: a results file of an evaluation, or a folder with one.
        flags: `--model_args` with the secrets that the evaluation was given.
        shown: as for :func:`run_lmms_eval`.

    Returns:
        The new results; None if no request of the run had failed.

    Raises:
        JudgeError: it is not a run of :func:`run_lmms_eval`, or something that its answers depend
            on has changed.
        CommandError: as for :func:`run_lmms_eval`.
    """
    results = _one_results_file(run)
    record = read_record(results)
    flags = with_given_secrets(record, host_flags(flags))
    answers = (results.parent / record.answers).resolve()
    if not answers.is_dir():
        raise JudgeError(
            f"--retry-failed: there is no folder {answers}, which {run} kept answers in"
        )
    if not Path(record.working_directory).is_dir():
        raise JudgeError(
            f"--retry-failed: there is no folder {record.working_directory}, in which {run} was "
            "evaluated; relative paths in its options start there"
        )
    if not failed_requests(results):
        return None
    variables = {**dict.fromkeys(_RECORDED, ""), **record.variables, REUSE_VARIABLE: record.session}
    again = record._replace(flags=flags, session=new_session())
    with locked_folder(answers.parent):
        return _evaluate(again, answers.parent, variables, replaces=results, shown=shown)[-1]


def remove_results(folder: Path) -> None:
    """Remove what an unfinished evaluation has written, except for the answers that it kept."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != ANSWERS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _one_results_file(run: Path) -> Path:
    files = [run] if run.is_file() else results_files(run)
    replaced = replaced_files(files)
    files = [file for file in files if file.resolve() not in replaced]
    if not files:
        raise JudgeError(f"--retry-failed: {run}: no lmms-eval results (*{RESULTS_SUFFIX}) there")
    if len(files) > 1:
        raise JudgeError(
            f"--retry-failed: {run} has several results; name one of {', '.join(map(str, files))}"
        )
    return files[0]


def _evaluate(
    record: EvaluationRecord,
    output_path: Path,
    variables: Mapping[str, str],
    *,
    replaces: Path | None = None,
    log: Path | None = None,
    name: str = "lmms-eval",
    shown: EvaluationProgress | None = None,
) -> list[Run]:
    command = [sys.executable, "-m", "lmms_eval", "--model", record.model, "--tasks", record.tasks]
    command += ["--output_path", str(output_path), "--log_samples", *record.flags]
    answers = output_path.resolve() / ANSWERS
    variables = {**variables, STORE_VARIABLE: str(answers), SESSION_VARIABLE: record.session}
    before = set(results_files(output_path))
    folder = Path(record.working_directory)
    with ExitStack() as stack:
        if shown is not None:
            log = output_path / f"{LOG_PREFIX}{record.session}.log"
            stack.enter_context(shown.of(log))
        watch = None if shown is None else shown.read
        run_command(name, command, environment=variables, folder=folder, log=log, watch=watch)
    if not output_path.is_dir():
        raise JudgeError(
            f"{output_path}: vanished while lmms-eval wrote into it; run the command again"
        )
    # lmms-eval 0.7.3 exits with 0 after an error in an evaluation (lmms_eval/__main__.py).
    written = [file for file in results_files(output_path) if file not in before]
    if not written:
        raise CommandError(name, "wrote no results", 1, log)
    for file in written:
        replaced = None if replaces is None else relative(replaces, file)
        write_record(file, record._replace(answers=relative(answers, file), replaces=replaced))
    # It does so, too, after an error while it writes the samples (`save_results_samples` in
    # lmms_eval/loggers/evaluation_tracker.py).
    try:
        return [load_run(file) for file in written]
    except JudgeError as error:
        raise CommandError(name, f"incomplete results: {error}", 1, log) from None


class FailedRequestsError(JudgeError):
    """An evaluation ended, but some requests failed."""

    exit_code = 1


def require_answers(runs: Sequence[Run]) -> None:
    """Print how many requests were refused, by message, and stop if any failed.

    Raises:
        FailedRequestsError: with the messages, the most frequent first.
    """
    failures = [
        failure
        for run in runs
        for result in run.tasks.values()
        for sample in result.samples
        for failure in sample.failures
    ]
    if refused := by_message(failures, "refused"):
        title = f"{sum(refused.values()):,} requests were refused by a content filter:"
        print("\n".join([title, *message_lines(refused)]), flush=True)
    if failed := by_message(failures, "failed"):
        title = f"{sum(failed.values()):,} requests failed:"
        advice = "No rate counts their rows; repeat them with"
        after = [f"{advice} mtrl-judge eval --retry-failed {run.file}" for run in runs]
        raise FailedRequestsError("\n".join([title, *message_lines(failed), *after]))
