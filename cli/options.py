"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mtrl_judge.common.printable import printable
from mtrl_judge.common.secrets import redact

# The values that these fields may have; a test compares them with the classes that define them,
# which take long to import.
STYLES = ("reasoned", "direct", "confidence")
KINDS = ("pointwise", "pairwise", "ranking", "score")
SPLITS = ("train", "validation", "test")
EVALUATED_SPLITS = ("validation", "test")
PERTURBATIONS = (
    "swap", "blank_image", "shuffled_image", "paraphrase", "rerun", "length", "verdict_names",
    "demonstration_order",
)  # fmt: skip
METRICS = (
    "macro_f1", "accuracy", "cohen_kappa", "matthews", "null_rate", "macro_f1_answered",
    "accuracy_answered", "well_formed_rate", "accuracy_without_ties", "accuracy_decided",
    "accuracy_side", "accuracy_ties_half", "both_orders_correct", "flip_rate", "first_slot_rate",
    "macro_f1_group_mean", "accuracy_group_mean", "accuracy_answered_group_mean",
    "joint_accuracy", "spearman_human", "pearson_human", "kendall_human", "pairwise_human",
    "auc_human", "auc_human_group_mean", "kendall", "pairwise_accuracy", "top1_accuracy", "ndcg",
    "edit_distance", "position_bias", "spearman", "pearson", "mae", "tie_calibrated_accuracy",
    "weighted_kappa", "spearman_answered",
)  # fmt: skip


# Longer lists stand in the description, where help wraps lines.
_LONGEST_METAVAR = 60


def choice(values: Sequence[str], description: str, *, others: Sequence[str] = ()) -> Any:
    """An option whose help lists its values, which a shell can complete.

    What takes the value checks it, and suggests the nearest one.

    Args:
        others: words for values that cannot be listed, such as ``TASK``.
    """

    def completed(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    metavar = f"[{'|'.join([*values, *others])}]"
    if len(metavar) > _LONGEST_METAVAR:
        metavar, description = "NAME", f"{description} One of: {', '.join(values)}."
    return typer.Option(help=description, metavar=metavar, autocompletion=completed)


Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OneTask = Annotated[str, typer.Argument(help="A task's name, or the path of a YAML.")]
TaskNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TASK…]", help="Names, patterns or YAMLs (default: all shipped)."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder with <task>/test.parquet (default: MTRL_JUDGE_DATA, or the hub)."),
]


def _allow_local_files(allowed: bool) -> bool:
    """Allow them in this process and in those that it starts."""
    from mtrl_judge.judge_tasks.dataset_keys import LOCAL_FILES_VARIABLE

    if allowed:
        os.environ[LOCAL_FILES_VARIABLE] = "1"
    return allowed


AllowLocalFiles = Annotated[
    bool,
    typer.Option(
        "--allow-local-files",
        callback=_allow_local_files,
        help="Let YAMLs name parquet files outside the data root.",
    ),
]


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print what the programs that it runs print, too.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only, no progress.")]


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text, some of which comes from data, models or the environment."""
    typer.echo(printable(redact(text)), err=err, nl=nl)


def use_data_root(root: Path | None) -> None:
    """Make ``--data-root`` the MTRL_JUDGE_DATA of this process and of those that it starts.

    Raises:
        DataError: there is no such folder.
    """
    from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE, data_root

    if root is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(root.resolve())
        data_root()


def comma_separated(values: Iterable[str] | None) -> list[str]:
    """The names in option values, each of which may list several.

    >>> comma_separated(["a, b", "c"]), comma_separated(None)
    (['a', 'b', 'c'], [])
    """
    words = [word.strip() for value in values or () for word in value.split(",")]
    return [word for word in words if word]
