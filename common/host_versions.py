"""The versions of the host packages that are supported, and what to do outside them.

Reads the metadata of installed packages and imports none of them. `pyproject.toml` has the same
bounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from packaging.version import Version

from .errors import JudgeError


class Supported(NamedTuple):
    """From ``lowest``, inclusive, to ``below``, exclusive."""

    lowest: str
    below: str


SUPPORTED = {
    "lmms-eval": Supported("0.7.3", "0.8"),
    "trl": Supported("1.16", "1.17"),
    "transformers": Supported("5.17", "6"),
    "datasets": Supported("5.2.0", "6"),
    "pydantic": Supported("2.8", "3"),
}

EVALUATION = ("lmms-eval", "transformers", "datasets", "pydantic")
TRAINING = ("trl", "transformers", "datasets", "pydantic")


def check_versions(names: Iterable[str]) -> None:
    """Stop where an installed package is outside its range.

    Raises:
        JudgeError: names every such package with its version, the range and the command.
    """
    faults = [fault for name in names if (fault := _fault(name))]
    if faults:
        raise JudgeError("\n".join(faults))


def _fault(name: str) -> str | None:
    lowest, below = SUPPORTED[name]
    wanted = f"pip install '{name}>={lowest},<{below}'"
    try:
        found = version(name)
    except PackageNotFoundError:
        return f"{name}: not installed; {wanted}"
    if Version(lowest) <= Version(found) < Version(below):
        return None
    return f"{name}: found {found}; supported from {lowest} up to, not including, {below}; {wanted}"
