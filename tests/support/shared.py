"""What several tests use, made once in a run of the tests even if several workers run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

from mtrl_judge.demo.corpus import SMALL, write_sample

from .tiny_models import tiny_qwen3_vl


def made_once(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Turn a function that makes a folder into one that returns it, made on the first call.

    The new function takes the folder in which all workers of a run keep such folders.
    """
    name = make.__name__

    @cache
    def made(base: Path) -> Path:
        done = base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                make(base / name)
                done.touch()
        return base / name

    return made


@made_once
def random_judge(folder: Path) -> None:
    """A Qwen3-VL of random weights: real code, meaningless answers."""
    tiny_qwen3_vl(folder)


@made_once
def sample_corpus(folder: Path) -> None:
    """The sample corpus in its small size."""
    write_sample(folder, sizes=SMALL)
