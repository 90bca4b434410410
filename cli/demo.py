"""``mtrl-judge demo``: the whole job on one machine, without hub or GPU."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from mtrl_judge.judge_tasks.errors import JudgeError
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE

from .evaluate import run_lmms_eval


def run_demo(out: Path, *, seed: int) -> None:
    """Sample, tiny judge, the stock lmms-eval, one table. What is done is not done again.

    Raises:
        JudgeError: a step fails.
    """
    from mtrl_judge.judge_tasks.sample import write_sample
    from mtrl_judge.rl.tiny import teach_tiny_judge

    data, judge, results = out / f"data-{seed}", out / f"tiny-judge-{seed}", out / "results"
    _step(f"1/4  a corpus of real pictures for every task: {data}")
    if not data.exists():
        write_sample(data, seed=seed)
    _step(f"2/4  a judge of about a million parameters, taught on its training split: {judge}")
    if not judge.exists():
        teach_tiny_judge(data, judge, seed=seed)
    os.environ[DATA_ROOT_VARIABLE] = str(data.resolve())
    model_args = f"pretrained={judge}"
    _step(
        f"3/4  {DATA_ROOT_VARIABLE}={data} lmms-eval --model mtrl_judge --model_args {model_args} "
        f"--tasks 'mtrl_judge_*' --batch_size 16 --output_path {results} --log_samples"
    )
    extra = ["--model_args", model_args, "--batch_size", "16", "--verbosity", "WARNING"]
    if run_lmms_eval("mtrl_judge", "mtrl_judge_*", output_path=results, extra=extra) != 0:
        raise JudgeError("lmms-eval did not finish; its messages stand above")
    _step("4/4  how good is it, in and out of distribution?")
    typer.echo(demo_table(results))


def demo_table(results: Path) -> str:
    """The newest run under a folder as a table, with what its columns mean."""
    from tabulate import tabulate

    from mtrl_judge.harness_plugin.leaderboard import newest_results, results_table

    table = results_table(newest_results(results))
    shown = table.rename(
        columns={
            "macro_f1": "Macro-F1",
            "constant_macro_f1": "constant judge",
            "null_rate": "null rate",
            "flip_rate": "flip rate",
        }
    )
    shown = shown.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
    shown = shown.replace("nan", "–")
    return (
        tabulate(shown.to_dict("list"), headers="keys", disable_numparse=True)
        + "\n\nconstant judge: the Macro-F1 of always answering the commoner verdict. null rate: "
        "answers without a verdict,\nwhich count as wrong. flip rate: pairs whose verdict names "
        "another picture when the two change places.\nSource 'sample' is a teaching corpus: never "
        "compare its scores with those of the real datasets."
    )


def _step(text: str) -> None:
    typer.secho(f"\n{text}", bold=True)
