"""``mtrl-judge data …``: get data to judge and inspect it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .command_line import App
from .facts import facts
from .leaks import leaks
from .options import AllowLocalFiles, AsJson, DataRoot, Force, Seed, TaskNames, echo, use_data_root
from .prepare import prepare

app = App(help="Get data to judge and inspect it.", no_args_is_help=True)
app.command()(prepare)
app.command()(leaks)
app.command()(facts)


@app.command()
def sample(
    data_root: Annotated[
        Path, typer.Option(help="The folder to write.", envvar="MTRL_JUDGE_DATA")
    ] = Path("mtrl-data"),
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write a small synthetic corpus for tasks of each kind, drawn from emoji images."""
    from mtrl_judge.demo.corpus import write_sample
    from mtrl_judge.judge_tasks.loading import shipped_paths

    record = write_sample(data_root, seed=seed, force=force)
    echo(f"sample data for {len(record['tasks'])} of the {len(shipped_paths())} shipped tasks")
    echo(f"to use it: export MTRL_JUDGE_DATA={data_root.resolve()}")


@app.command()
def status(
    tasks: TaskNames = None,
    as_json: AsJson = False,
    data_root: DataRoot = None,
    allow_local_files: AllowLocalFiles = False,
) -> None:
    """Show each task's data: source, license, size, rows by split and class, fingerprints."""
    from mtrl_judge.common.files import json_text
    from mtrl_judge.data.status import data_status
    from mtrl_judge.judge_tasks.loading import find_tasks

    use_data_root(data_root)
    statuses = data_status(find_tasks(tasks or []))
    echo(json_text(statuses) if as_json else _status_tables(statuses))


def _status_tables(statuses: Sequence[Mapping[str, Any]]) -> str:
    """A table of tasks, one of their splits, and the problems."""
    from tabulate import tabulate

    tasks = [
        {
            "task": status["task"],
            "role": status["role"],
            "source": status["source"] or "none",
            "revision": status["revision"][:7] if status["revision"] else "–",
            "license": status["license"],
            "terms": "to accept" if status["gated"] else "none",
            "training": status["training"],
            "size": "–" if status["bytes"] is None else f"{status['bytes'] / 1e6:,.1f} MB",
        }
        for status in statuses
    ]
    splits = [
        {
            "task": status["task"],
            "split": split,
            "items": f"{record['items']:,}" if record else "–",
            "expected": f"{status['expected'][split]:,}" if split in status["expected"] else "–",
            "labels of rows": _label_counts(record) if record else "–",
            "fingerprint": record["fingerprint"] if record else "–",
        }
        for status in statuses
        for split in dict.fromkeys([*status["splits"], *status["expected"]])
        for record in [status["splits"].get(split)]
    ]
    parts = [
        tabulate(tasks, headers="keys", maxcolwidths=36),
        tabulate(splits, headers="keys"),
        "\n".join(f"{s['task']}: {problem}" for s in statuses for problem in s["problems"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _label_counts(record: Mapping[str, Any]) -> str:
    counts = [f"{name} {n:,}" for name, n in record["labels"].items()]
    if record["unlabeled"]:
        counts.append(f"none {record['unlabeled']:,}")
    excluded = len(record["undecodable"]) + len(record["known_bad"])
    further = {
        "excluded": excluded,
        "duplicates": record["duplicates"],
        "contradictory": record["contradictory"],
        "identical pairs": len(record["identical_pairs"]),
    }
    notes = [f"{count:,} {what}" for what, count in further.items() if count]
    return "; ".join([", ".join(counts), *notes])
