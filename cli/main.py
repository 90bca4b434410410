"""``mtrl-judge``: the command line.

Commands only parse arguments, call and print. Each imports what it needs when it runs, so that help
and checks of local files start quickly.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtrl_judge import __version__
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exits_with_message
from mtrl_judge.common.host_versions import EVALUATION, check_versions
from mtrl_judge.common.locks import locked_folder
from mtrl_judge.common.utf8 import use_utf8
from mtrl_judge.common.verbosity import verbosity

from .command_line import App, Commands, spelled_alike
from .data import app as data
from .gate import app as baseline
from .gate import gate
from .leaderboard import app as leaderboard
from .options import (
    EVALUATED_SPLITS,
    KINDS,
    PERTURBATIONS,
    SPLITS,
    STYLES,
    AllowLocalFiles,
    AsJson,
    DataRoot,
    Force,
    OneTask,
    Quiet,
    Seed,
    Verbose,
    choice,
    comma_separated,
    echo,
    use_data_root,
)
from .push import app as push
from .recipes import recipes
from .report import report
from .serve import serve
from .track import track

if TYPE_CHECKING:
    from mtrl_judge.judge_tasks.rescore import Rescored


app = App(
    name="mtrl-judge",
    cls=Commands,
    context_settings={"token_normalize_func": spelled_alike},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Options that a command does not have itself are passed on.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

ALL_TASKS = "mtrl_judge_*"
Backend = Annotated[str, typer.Option(help="A backend of lmms-eval.")]
Tasks = Annotated[
    list[str] | None,
    typer.Option(help=f"Names or patterns (default: {ALL_TASKS}).", metavar="TASK…"),
]
Style = Annotated[
    str | None,
    choice(STYLES, "How to answer; overrides the style of the YAML and the checkpoint."),
]


def main() -> None:
    """Run the command line; see :mod:`mtrl_judge.common.exits` for what exit codes mean."""
    use_utf8()
    with exits_with_message():
        check_versions(EVALUATION)
        app()


def print_version(requested: bool) -> None:
    if requested:
        echo(f"mtrl-judge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Evaluate and train multimodal judges. Each judge task is one YAML; see `mtrl-judge tasks`."""


@app.command()
def tasks(
    as_json: AsJson = False,
    cards: Annotated[
        bool, typer.Option("--cards", help="Print license, terms and known problems of each.")
    ] = False,
) -> None:
    """List the shipped judge tasks."""
    from . import tasks as listing

    echo(listing.as_json() if as_json else listing.as_cards() if cards else listing.as_table())


@app.command()
def new(
    task: Annotated[str, typer.Argument(help="The new task's name, such as mtrl_judge_mine.")],
    kind: Annotated[str, choice(KINDS, "See docs/kinds.md.")] = "pointwise",
    dataset: Annotated[str, typer.Option(help="The dataset's name on the hub.")] = "",
    out: Annotated[Path | None, typer.Option(help="The file (default: <task>.yaml).")] = None,
    force: Force = False,
) -> None:
    """Write a commented YAML for a new task; it is valid as it is."""
    from mtrl_judge.judge_tasks.new_task import write_new_task

    path = out or Path(f"{task}.yaml")
    write_new_task(task, kind, path, dataset=dataset, force=force)
    echo(f"{path}: written; edit it, then run: mtrl-judge validate {path}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a judge task's YAML, for editors."""
    from mtrl_judge.judge_tasks.json_schema import schema_text

    echo(schema_text())


@app.command()
def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="YAMLs, or task names.")],
    rows: Annotated[int, typer.Option(help="Also check N rows of each split of the data.")] = 0,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
) -> None:
    """Check YAMLs of judge tasks: all faults, and that the gold answer of each verdict scores 1."""
    from mtrl_judge.judge_tasks.loading import find_task
    from mtrl_judge.judge_tasks.validate import remarks, repeated_rows
    from mtrl_judge.judge_tasks.validate import validate as faults_of

    use_data_root(data_root)
    invalid = 0
    for name in paths:
        try:
            faults = faults_of(find_task(name).path, rows)
        except JudgeError as error:
            faults = str(error).splitlines()
        invalid += bool(faults)
        echo("\n".join(faults) if faults else f"{name}: valid", err=bool(faults))
        if not faults:
            path = find_task(name).path
            for line in remarks(path) + (repeated_rows(path) if rows else []):
                echo(line)
    if invalid:
        raise JudgeError(f"{invalid} of {len(paths)} invalid")


@app.command()
def preview(
    task: OneTask,
    n: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    split: Annotated[str | None, choice(SPLITS, "Whose rows (default: the evaluated one).")] = None,
    style: Style = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the images, or the page (default: preview-<task>)."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint folder or a hub id: also show its chat template, sizes of images "
            "as it sees them, and tokens. Weights are not loaded."
        ),
    ] = None,
    system_prompt: Annotated[
        str | None, typer.Option(help="With --model: as in the evaluation's model arguments.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write one page with the images, instead.")
    ] = False,
    force: Force = False,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
) -> None:
    """Show rows as a judge sees them: prompt and label, with the images as PNG files."""
    from mtrl_judge.judge_tasks.loading import find_task
    from mtrl_judge.judge_tasks.preview import write_preview

    use_data_root(data_root)
    judge_task = find_task(task)
    view = None
    if model is not None:
        from mtrl_judge.models.chat_view import ChatView

        view = ChatView(model, system_prompt)
        style = style or view.style
    elif system_prompt is not None:
        raise JudgeError("--system-prompt: is shown with a chat template; add --model")
    folder = out or Path(f"preview-{judge_task.task}")
    shown = write_preview(
        *(judge_task, folder),
        n=n,
        split=split,
        style=style,
        view=view,
        html=html,
        force=force,
    )
    echo(f"{shown}: written" if html else shown)


@app.command()
def score(
    file: Annotated[
        Path,
        typer.Argument(help="JSONL of {item_id, label, text}, or an lmms-eval samples file."),
    ],
    task: Annotated[str, typer.Option(help="A task's name, or the path of a YAML.")],
    allow_local_files: AllowLocalFiles = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the verdict and score of each item as JSONL.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Print why texts have no verdict, and how the others were read, with examples, "
            "instead of the metrics.",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Score saved outputs again; prints the metrics as one JSON object."""
    from mtrl_judge.common.files import json_text
    from mtrl_judge.judge_tasks.rescore import rescore

    rescored = rescore(task, file, out=out, force=force)
    echo(readings_text(rescored) if explain else json_text(rescored.metrics))


def readings_text(rescored: Rescored) -> str:
    """How the texts were read: a table of those without a verdict, and one of the others."""
    from tabulate import tabulate

    n = sum(reading.n for reading in rescored.readings)
    parts = []
    for has_verdict, title, reason, found in (
        (False, "have no verdict", "cause", "found"),
        (True, "have a verdict", "form", "verdict"),
    ):
        readings = [r for r in rescored.readings if r.has_verdict is has_verdict]
        count = sum(reading.n for reading in readings)
        parts.append(f"{count:,} of {n:,} texts ({count / max(n, 1):.1%}) {title}")
        lines = [
            [*(("", "") if index else (reading.reason, f"{reading.n:,}")), *example]
            for reading in readings
            for index, example in enumerate(reading.examples)
        ]
        if lines:
            headers = [reason, "texts", "item", found, "examples, shortened"]
            parts.append(tabulate(lines, headers=headers, disable_numparse=True))
    version = rescored.metrics["parser"]
    return "\n\n".join([*parts, f"Read by version {version} of the parser."])


@app.command("eval", context_settings=PASS_ON)
def evaluate(
    context: typer.Context,
    model: Backend = "mtrl_judge",
    tasks: Tasks = None,
    style: Style = None,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
    output_path: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("logs"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Use the answers that stopped runs have kept in the folder."),
    ] = False,
    retry: Annotated[
        Path | None,
        typer.Option(
            "--retry-failed",
            metavar="RUN",
            help="Repeat the failed requests of a run (its folder or results file), with its own "
            "options; the new results replace it.",
        ),
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a judge by lmms-eval, and show its scores with 95 % intervals.

    Other options are passed to lmms-eval. What it prints goes to a log in the folder.
    """
    from mtrl_judge.experiments.evaluation_progress import EvaluationProgress
    from mtrl_judge.experiments.launch import require_answers, retry_failed, run_lmms_eval

    from .evaluation_end import evaluation_end

    shown = EvaluationProgress()
    with verbosity(quiet=quiet, verbose=verbose):
        if retry is not None:
            refuse_other_options(context, ("retry", "verbose", "quiet"))
            repeated = retry_failed(retry, context.args, shown=shown)
            if repeated is None:
                echo(f"{retry}: no failed requests")
            runs, folder = [] if repeated is None else [repeated], retry
        else:
            use_data_root(data_root)
            folder = output_path
            try:
                with locked_folder(output_path):
                    runs = run_lmms_eval(
                        model,
                        ",".join(comma_separated(tasks) or [ALL_TASKS]),
                        output_path=output_path,
                        style=style,
                        flags=context.args,
                        resume=resume,
                        shown=shown,
                    )
            except (KeyboardInterrupt, SystemExit):
                echo("stopped; run the same command with --resume to go on", err=True)
                raise
    if runs and shown.log is not None:
        echo(evaluation_end(runs, folder, shown.log))
    require_answers(runs)


def refuse_other_options(context: typer.Context, allowed: Sequence[str]) -> None:
    """Refuse options of a command that are given beside one that excludes them."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in allowed:
            raise JudgeError(f"{parameter.opts[0]}: a run is repeated with its own options")


@app.command(context_settings=PASS_ON)
def robustness(
    context: typer.Context,
    model: Backend = "mtrl_judge",
    tasks: Tasks = None,
    perturbations: Annotated[
        list[str] | None,
        choice(PERTURBATIONS, "One or more; see docs/robustness.md (default: all)."),
    ] = None,
    paraphrases: Annotated[
        int,
        typer.Option(min=1, help="Of each task at most so many; shipped tasks list up to nine."),
    ] = 2,
    split: Annotated[
        str | None,
        choice(
            EVALUATED_SPLITS, "validation is for choosing an instruction (default: the tasks' own)."
        ),
    ] = None,
    style: Style = None,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
    output_path: Annotated[
        Path,
        typer.Option(help="Folder for this command only; can be resumed."),
    ] = Path("robustness"),
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Judge the same rows again under perturbations, and test what they change.

    Other options are passed to lmms-eval. Finished runs are reused.
    """
    from mtrl_judge.experiments.robustness import run_robustness
    from mtrl_judge.leaderboard.tables import plain_text
    from mtrl_judge.leaderboard.view import robustness_table

    use_data_root(data_root)
    with verbosity(quiet=quiet, verbose=verbose):
        result = run_robustness(
            model,
            ",".join(comma_separated(tasks) or [ALL_TASKS]),
            comma_separated(perturbations),
            output_path,
            paraphrases=paraphrases,
            split=split,
            style=style,
            flags=context.args,
        )
    if result.effects:
        table = robustness_table(result.effects)
        echo(f"\n{plain_text(table)}\n")
    echo(f"results: {result.file}")


# The training answers `train grpo --help` itself.
@app.command(context_settings={**PASS_ON, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train a judge on many tasks: `train grpo|sft --recipe NAME|FILE [--field value …]`.

    Flags override the fields of the recipe. `train grpo --help` lists all fields, `--dry_run` shows
    what would be trained and how, `--launch` starts the processes that the recipe asks for,
    `--resume` continues an interrupted run.
    """
    from mtrl_judge.rl.arguments import METHODS

    if context.args[:1] not in ([], ["--help"], ["-h"]):
        from mtrl_judge.rl.early_checks import refuse_early

        if context.args[0] in METHODS and not {"--help", "-h"} & {*context.args}:
            flags = [word for word in context.args[1:] if word not in ("-q", "-v")]
            refuse_early(context.args[0], flags)
        from mtrl_judge.rl.train import main as train_main

        train_main(context.args)
        return
    from mtrl_judge.rl.recipes import shipped_recipes

    echo(f"{context.get_help()}\n")
    for method in METHODS:
        names = ", ".join(path.stem for path in shipped_recipes(method))
        echo(f"Shipped recipes for {method}: {names}")


@app.command()
def experiment(
    recipe: Annotated[
        str, typer.Option(help="A recipe that grpo and sft share, or the file …/grpo/NAME.yaml.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for everything; an existing experiment is resumed.")
    ] = Path("experiment"),
    arms: Annotated[
        str,
        typer.Option(
            help="What to compare: paper, controls, ablations, wordings, mixlora, demonstrations, "
            "samples, or a file; see docs/experiments.md."
        ),
    ] = "paper",
    seeds: Annotated[
        str,
        typer.Option(
            help="Of trainings: how many, from 0; or which ones, comma-separated (only seed 3: 3,)."
        ),
    ] = "1",
    corpora: Annotated[
        str | None,
        typer.Option(
            help="For tiny_cpu: sample corpora, each with its own base model; as --seeds "
            "(default: corpus 0)."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The base model (default: the recipe's; tiny_cpu pretrains one)."),
    ] = None,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
    eval_args: Annotated[
        str, typer.Option("--eval-args", help="Further options of lmms-eval, in quotes.")
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM", help="Run these arms only, such as mt-rl-judge."),
    ] = None,
    accept_license: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Train on it although its card forbids it: seetrue."),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train although evaluation has the same items.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the steps and which of them are done.")
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compare judges that are trained or asked in different ways, and test claims about them.

    Without --arms it is the paper's comparison: base model, SFT and GRPO, on single tasks and on
    all together. Each judge is trained and then evaluated by lmms-eval, in and out of distribution.
    Finished steps are skipped, and an interrupted training is resumed.
    """
    from mtrl_judge.experiments.experiment import plan, run_experiment, set_up
    from mtrl_judge.experiments.pipeline import list_steps

    made = set_up(
        recipe,
        out,
        arms=arms,
        seeds=read_seeds("--seeds", seeds),
        corpora=None if corpora is None else read_seeds("--corpora", corpora),
        model=model,
        data_root=data_root,
        eval_args=read_words("--eval-args", eval_args),
        only=only or (),
        accept_license=comma_separated(accept_license),
        allow_leaks=allow_leaks,
    )
    if dry_run:
        echo(list_steps(plan(made).steps))
        return
    with verbosity(quiet=quiet, verbose=verbose):
        comparison = run_experiment(made)
    if comparison is not None:
        echo(f"\n{comparison}\n\nresults: {out / 'results.md'}, results.json, results.csv")


def read_words(option: str, text: str) -> list[str]:
    """The words of a command line in an option's value.

    Raises:
        JudgeError: a quote is not closed, or lmms-eval has no such option.
    """
    from mtrl_judge.harness_plugin.host_flags import host_flags

    try:
        return host_flags(shlex.split(text))
    except ValueError as error:
        raise JudgeError(
            f"{option}: found {text!r} ({error}); expected options of lmms-eval as in a shell, "
            "such as '--limit 8 --verbosity DEBUG'"
        ) from None


def read_seeds(option: str, text: str) -> list[int]:
    """A number of seeds from 0 up, or the seeds themselves, comma-separated.

    >>> [read_seeds("--seeds", text) for text in ("3", "3,", "0,7")]
    [[0, 1, 2], [3], [0, 7]]

    Raises:
        JudgeError: it is neither, there is no seed, or one occurs twice.
    """
    words = comma_separated([text])
    if words and all(word.isdecimal() for word in words):
        seeds = list(map(int, words)) if "," in text else list(range(int(text)))
        if seeds and len(set(seeds)) == len(seeds):
            return seeds
    raise JudgeError(
        f"{option}: found {text!r}; expected a number, such as 3 for 0, 1 and 2, or different "
        "seeds, such as 0,4,7"
    )


@app.command()
def tiny(
    out: Annotated[Path, typer.Option(help="The checkpoint folder to write.")] = Path("tiny-base"),
    *,
    data_root: Annotated[
        Path, typer.Option(help="Folder with the sample corpus.", envvar="MTRL_JUDGE_DATA")
    ],
    base: Annotated[
        Path | None,
        typer.Option(help="A tiny model to teach ratings, orders and answers in text, instead."),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Pretrain a model with a million parameters to describe the images of the sample corpus.

    It takes four minutes on two CPU cores. The model cannot judge yet: see `mtrl-judge train`.
    """
    from mtrl_judge.demo.further import teach_further_kinds
    from mtrl_judge.demo.pretrain import pretrain_tiny_model

    if base is None:
        pretrain_tiny_model(data_root, out, seed=seed, force=force)
    else:
        teach_further_kinds(base, data_root, out, seed=seed, force=force)
    echo(f"to train it: mtrl-judge train grpo --recipe tiny_cpu --model_name_or_path {out}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, judges and results.")] = Path(
        "demo-run"
    ),
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """The whole workflow on this machine: sample corpus, tiny model, GRPO, lmms-eval."""
    from mtrl_judge.experiments.demo import run_demo
    from mtrl_judge.leaderboard.tables import plain_text

    with verbosity(quiet=quiet, verbose=verbose):
        made = run_demo(out, seed=seed)
    echo(f"\n{plain_text(made.table)}")
    echo(f"\n{plain_text(made.further)}")
    echo(f"\nlearning curve: {made.learning_curve}")
    echo(f"judge:          {made.judge}")
    echo(f"next:           mtrl-judge leaderboard {shlex.join(map(str, made.compared))}")


app.add_typer(data, name="data")
app.add_typer(leaderboard, name="leaderboard")
app.command()(report)
app.command()(gate)
app.command()(recipes)
app.command()(serve)
app.command()(track)
app.add_typer(push, name="push")
app.add_typer(baseline, name="baseline")


if __name__ == "__main__":
    main()
