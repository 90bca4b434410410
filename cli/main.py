"""``mtrl-judge``: the command line. Each command imports what it needs when it runs, so that help
and the checks of local files answer at once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mtrl_judge import __version__
from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import json_text
from mtrl_judge.rl.arguments import METHODS
from mtrl_judge.rl.recipes import shipped_recipes

from .data import app as data
from .gate import app as baseline
from .gate import gate
from .leaderboard import app as leaderboard
from .options import AsJson, DataRoot, Force, Seed, use_data_root

app = typer.Typer(
    name="mtrl-judge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")
app.add_typer(leaderboard, name="leaderboard")
app.command()(gate)
app.add_typer(baseline, name="baseline")

StyleOption = Annotated[
    str | None, typer.Option(help="reasoned or direct, over the YAML's and the checkpoint's.")
]


def main() -> None:
    """Run the command line.

    A user's mistake ends in one message and exit code 2, as the command line's own do; 1 is for
    what was done and did not come out well: a YAML unsound, a judge worse, a run failed.
    """
    try:
        app()
    except JudgeError as error:
        fail(str(error), 2)
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        sys.exit(130)


def print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"mtrl-judge {__version__}")
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


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one message and stop."""
    typer.echo(message, err=True)
    sys.exit(code)


@app.command()
def tasks(
    as_json: AsJson = False,
    cards: Annotated[
        bool, typer.Option("--cards", help="License, terms and known problems of each.")
    ] = False,
) -> None:
    """List the shipped judge tasks."""
    from . import tasks as listing

    if as_json:
        typer.echo(json_text(listing.as_objects()))
    else:
        typer.echo(listing.as_cards() if cards else listing.as_table())


@app.command()
def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="YAMLs, or task names.")],
    rows: Annotated[int, typer.Option(help="Also take N real rows of each split through.")] = 0,
    data_root: DataRoot = None,
) -> None:
    """Check judge YAMLs: every fault, and that a gold answer for each verdict scores 1.0."""
    from mtrl_judge.judge_tasks.loading import shipped_paths
    from mtrl_judge.judge_tasks.validate import validate as faults_of

    use_data_root(data_root)
    shipped = {path.stem: path for path in shipped_paths()}
    unsound = 0
    for name in paths:
        try:
            faults = faults_of(shipped.get(name, Path(name)), rows)
        except JudgeError as error:
            faults = str(error).splitlines()
        unsound += bool(faults)
        typer.echo("\n".join(faults) if faults else f"{name}: sound", err=bool(faults))
    if unsound:
        fail(f"{unsound} of {len(paths)} not sound")


@app.command()
def preview(
    task: Annotated[str, typer.Argument(help="A task's name, or the path of a YAML.")],
    n: Annotated[int, typer.Option(min=1, help="How many items.")] = 3,
    split: Annotated[
        str | None, typer.Option(help="train, validation or test (default: the judged one).")
    ] = None,
    style: StyleOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures (default: preview-<task>).")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Show items as a judge sees them: prompt, label, and the pictures as PNG files."""
    from .preview import preview as show

    use_data_root(data_root)
    show(task, n=n, split=split, style=style, out=out)


@app.command()
def score(
    file: Annotated[
        Path,
        typer.Argument(help="JSONL of {item_id, label, text}, or an lmms-eval samples file."),
    ],
    task: Annotated[str, typer.Option(help="A task's name, or the path of a YAML.")],
    out: Annotated[
        Path | None, typer.Option(help="Write each item's verdict and score as JSONL.")
    ] = None,
    force: Force = False,
) -> None:
    """Score saved outputs again; prints the metrics as one JSON object."""
    from mtrl_judge.judge_tasks.rescore import rescore

    typer.echo(json_text(rescore(task, file, out=out, force=force)))


@app.command("eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="An lmms-eval backend.")] = "mtrl_judge",
    tasks: Annotated[str, typer.Option(help="Names or patterns, with commas.")] = "mtrl_judge_*",
    style: StyleOption = None,
    data_root: DataRoot = None,
    output_path: Annotated[
        Path, typer.Option("--output-path", "--output_path", help="Where results go.")
    ] = Path("logs"),
) -> None:
    """Evaluate a judge: `lmms-eval` with samples logged. Further options go to lmms-eval.

    For example: mtrl-judge eval --model_args pretrained=Qwen/Qwen3-VL-8B-Instruct --batch_size 8
    """
    from mtrl_judge.experiments.launch import run_lmms_eval

    use_data_root(data_root)
    sys.exit(run_lmms_eval(model, tasks, output_path=output_path, style=style, extra=context.args))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def probe(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="An lmms-eval backend.")] = "mtrl_judge",
    tasks: Annotated[str, typer.Option(help="Names or patterns, with commas.")] = "mtrl_judge_*",
    probes: Annotated[
        str | None,
        typer.Option(
            help="With commas: swap, blank_image, shuffled_image, paraphrase, rerun, length, "
            "verdict_names (default: all)."
        ),
    ] = None,
    style: StyleOption = None,
    data_root: DataRoot = None,
    output_path: Annotated[
        Path,
        typer.Option(
            "--output-path", "--output_path", help="A folder for this alone; it is gone on with."
        ),
    ] = Path("probes"),
) -> None:
    """Is it the judge or the format? The same tasks with one thing changed, again and again.

    Further options go to lmms-eval. What is done is not done again. For example:
    mtrl-judge probe --probes swap,blank_image --model_args pretrained=Qwen/Qwen3-VL-8B-Instruct
    """
    from .probe import probe as run_probe

    use_data_root(data_root)
    run_probe(model, tasks, probes, output_path, style=style, extra=context.args)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],  # "train grpo --help" is for the training to answer
    }
)
def train(context: typer.Context) -> None:
    """Train a judge over many tasks: `train grpo|sft --recipe NAME|FILE [--key value …]`."""
    words = context.args
    if not words or words[0] in ("--help", "-h"):
        typer.echo(training_help())
        return
    from mtrl_judge.rl.train import main as train_main

    train_main(words)


@app.command()
def experiment(
    recipe: Annotated[
        str, typer.Option(help="A recipe that grpo and sft share, or the file …/grpo/NAME.yaml.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for everything; one that is there is gone on with.")
    ] = Path("experiment"),
    seeds: Annotated[
        str, typer.Option(help="How many, from 0 up; or which, with commas: 3,4 (one: 3,).")
    ] = "1",
    model: Annotated[
        str | None, typer.Option(help="The base model (default: the recipe's; tiny_cpu makes one).")
    ] = None,
    data_root: DataRoot = None,
    eval_args: Annotated[
        str, typer.Option("--eval-args", help="Further flags of lmms-eval, in quotes.")
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARM", help="off-the-shelf, sft-single, sft-unified, rl-single, mt-rl-judge."
        ),
    ] = None,
    accept_license: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Train on it although its card forbids it: seetrue."),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Train although evaluation has the same items.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the steps and what is done.")
    ] = False,
) -> None:
    """The paper's comparison: base model, SFT and GRPO, on single tasks and on all together.

    Each arm is trained and then judged by lmms-eval, in and out of distribution. What is done is
    not done again, and a training that was broken off goes on.
    """
    from mtrl_judge.experiments.paper import run_experiment

    run_experiment(
        recipe,
        out,
        seeds=read_seeds(seeds),
        model=model,
        data_root=data_root,
        eval_args=shlex.split(eval_args),
        only=_separate(only),
        accept_license=_separate(accept_license),
        allow_leaks=allow_leaks,
        dry_run=dry_run,
    )


@app.command()
def tiny(
    out: Annotated[Path, typer.Option(help="The checkpoint folder to write.")] = Path("tiny-base"),
    data_root: DataRoot = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Build a model of a million parameters and teach it to describe the sample's pictures.

    Four minutes on two CPU cores. It is nobody's judge yet: see `mtrl-judge train`.
    """
    from mtrl_judge.common.errors import DataError
    from mtrl_judge.demo.pretrain import teach_tiny_model
    from mtrl_judge.judge_tasks.sources import data_root as configured_root

    use_data_root(data_root)
    root = configured_root()
    if root is None:
        raise DataError("--data-root: the tiny model is taught on a folder; see data sample")
    teach_tiny_model(root, out, seed=seed, force=force)
    typer.echo(f"train it: mtrl-judge train grpo --recipe tiny_cpu --model_name_or_path {out}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for data, judges and results.")] = Path(
        "demo-run"
    ),
    seed: Seed = 0,
) -> None:
    """The whole job on this machine: sample, tiny model, GRPO, lmms-eval before and after."""
    from mtrl_judge.experiments.demo import run_demo

    run_demo(out, seed=seed)


@app.command()
def new(
    task: Annotated[str, typer.Argument(help="The new task's name, such as mtrl_judge_mine.")],
    kind: Annotated[str, typer.Option(help="pointwise or pairwise.")] = "pointwise",
    dataset: Annotated[str, typer.Option(help="The dataset's name on the hub.")] = "",
    out: Annotated[Path | None, typer.Option(help="The file (default: <task>.yaml).")] = None,
    force: Force = False,
) -> None:
    """Write a commented YAML for a new task; it validates as it is."""
    from .new import write_new_task

    path = write_new_task(task, kind=kind, dataset=dataset, out=out, force=force)
    typer.echo(f"{path}: written; edit it, then: mtrl-judge validate {path}")


def _separate(words: list[str] | None) -> list[str]:
    return [name for names in words or [] for name in names.split(",") if name]


if __name__ == "__main__":
    main()


def training_help() -> str:
    """How to train: the methods, the shipped recipes, where the fields are listed."""
    recipes = [
        f"  {method:4}  {', '.join(path.stem for path in shipped_recipes(method))}"
        for method in METHODS
    ]
    return "\n".join(
        [
            "Usage: mtrl-judge train grpo|sft --recipe NAME|FILE [--key value …]",
            "",
            "Train one judge over many tasks. A flag goes over the recipe's field of that name.",
            "",
            "Recipes that are shipped:",
            *recipes,
            "",
            "  mtrl-judge train grpo --help                   every field, as a flag",
            "  mtrl-judge train grpo --recipe NAME --dry_run  what would be trained, and how",
            "  mtrl-judge train … --resume                    go on with a run that was broken off",
        ]
    )


def read_seeds(text: str) -> list[int]:
    """A number of seeds from 0 up, or the seeds themselves, with commas.

    >>> read_seeds("3"), read_seeds("3,"), read_seeds("0,7")
    ([0, 1, 2], [3], [0, 7])

    Raises:
        JudgeError: it is neither.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    right = "would be right: 3 (for 0, 1, 2) or 0,4,7"
    if not words or not all(word.isdecimal() for word in words):
        raise JudgeError(f"--seeds: is {text!r}; {right}")
    seeds = list(map(int, words))
    if "," not in text:
        seeds = list(range(seeds[0]))
    if not seeds or len(set(seeds)) < len(seeds):
        raise JudgeError(f"--seeds: {text!r} gives no seed, or one twice; {right}")
    return seeds
