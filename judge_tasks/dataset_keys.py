"""Where a YAML may say that its rows come from: a dataset on the hub, and nothing else.

``datasets`` takes much more: the name of one of its own readers, folders, URLs, archives in
archives. With those, a stranger's YAML could read any file of this machine, and a judge and the
provider behind it would be shown what is in it. A dataset on the hub cannot: ``datasets`` refuses
data files in its README that are not its own. Users may allow YAMLs to name files of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.booleans import boolean
from mtrl_judge.common.errors import DataError, Problem, did_you_mean
from mtrl_judge.common.files import expanded

from .hub import full_commit
from .limited_reading import read_limited
from .parquet_limits import check_growth

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

LOCAL_FILES_VARIABLE = "MTRL_JUDGE_ALLOW_LOCAL_FILES"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/\w[\w.-]*", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)
_KEYS = ("revision", "data_files", "token")
# What else ``load_dataset`` takes, and why a YAML may not set it.
_REFUSED = {
    "cache_dir": "a YAML does not choose where files are written",
    "trust_remote_code": "a YAML runs no code",
}
# Readers of ``datasets`` that read tables and images; ``cache`` is what it read before.
_READERS = ("arrow", "cache", "csv", "imagefolder", "json", "parquet", "webdataset")
_ALLOWING = (
    "write owner/name, put parquet files into <data root>/<task>/, or allow YAMLs to name your own "
    f"parquet files: --allow-local-files, or {LOCAL_FILES_VARIABLE}=1 under lmms-eval"
)


def local_files_allowed() -> bool:
    """Whether the user allows YAMLs to name parquet files outside the data root.

    Raises:
        JudgeError: the variable's value is neither yes nor no.
    """
    return boolean(LOCAL_FILES_VARIABLE, os.environ.get(LOCAL_FILES_VARIABLE) or False)


def dataset_problems(path: object, name: object, kwargs: object) -> Iterator[Problem]:
    """What is wrong with ``dataset_path``, ``dataset_name`` and ``dataset_kwargs``.

    Values of the wrong type are left to pydantic.
    """
    local = local_files_allowed()
    if isinstance(path, str):
        yield from _path_problems(path, local)
    if isinstance(name, str) and re.search(r"[/\\]|^\.", name):
        wrong = f"{name!r} is a path"
        yield Problem("dataset_name", wrong, "name one of the dataset's configurations")
    for key, value in kwargs.items() if isinstance(kwargs, Mapping) else ():
        field = f"dataset_kwargs.{key}"
        if key == "revision":
            if not isinstance(value, str) or not _REVISION.fullmatch(value) or ".." in value:
                wrong = f"is {value!r}"
                yield Problem(field, wrong, "a commit, branch or tag of the dataset, in quotes")
        elif key == "data_files":
            yield from _file_problems(field, value, local)
        elif key == "token":
            if not isinstance(value, bool):  # the message does not repeat it
                wrong = "is not true; a token in a YAML is read by all who get the file"
                yield Problem(field, wrong, "write token: true, and log in (`hf auth login`)")
        else:
            wrong = f"is not allowed: {_REFUSED.get(str(key), 'a judge task does not need it')}"
            yield Problem(field, wrong, did_you_mean(key, _KEYS))


def read_dataset(
    path: str, name: str | None, kwargs: Mapping[str, Any], split: str | None
) -> Dataset:
    """One split of a dataset on the hub, or of the user's own files where they are allowed.

    Raises:
        DataError: the keys are not allowed, or the dataset reads other files than its own.
        Exception: whatever ``datasets`` raises.
    """
    problems = list(dataset_problems(path, name, kwargs))
    if problems:
        raise DataError("\n".join(map(str, problems)))
    from datasets import load_dataset_builder

    # Otherwise a folder of this name in the current folder would be read in place of the hub's.
    on_hub = not is_local(path)
    if on_hub and "revision" in kwargs:
        kwargs = {**kwargs, "revision": full_commit(path, kwargs["revision"])}
    place = f"hf://datasets/{path}" if on_hub else str(expanded(path))
    builder = load_dataset_builder(place, name, **kwargs)
    reader = type(builder).__module__.split(".")[-1]
    if reader not in (_READERS if on_hub else ("parquet",)):
        expected = ", ".join(_READERS) if on_hub else "parquet files"
        raise DataError(f"{path}: would be read as {reader}; expected {expected}")
    return read_builder(builder, split)


def read_builder(builder: DatasetBuilder, split: str | None) -> Dataset:
    """What a builder of ``datasets`` reads, or read before into its cache.

    Raises:
        DataError: a file becomes huge when it is read, see :func:`check_growth` and
            :func:`read_limited`.
        Exception: whatever ``datasets`` raises.
    """
    if type(builder).__module__.endswith(".parquet"):
        # Called with the files on the disk, before they are read; not for what is in the cache.
        stock = builder._split_generators

        def checked_splits(*args: Any) -> Any:
            splits = stock(*args)
            for file in chain.from_iterable(split.gen_kwargs["files"] for split in splits):
                check_growth(Path(file))
            return splits

        builder._split_generators = checked_splits
    else:
        read_limited(builder)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def is_local(path: str) -> bool:
    """Whether a ``dataset_path`` names the user's own files, which are allowed."""
    return local_files_allowed() and (path == "parquet" or expanded(path).is_dir())


def is_hub_name(name: str) -> bool:
    """Whether it is a name as those on the hub, owner/name."""
    return _HUB_NAME.fullmatch(name) is not None


def _path_problems(path: str, local: bool) -> Iterator[Problem]:
    if _HUB_NAME.fullmatch(path) or (local and is_local(path)):
        return
    if local:
        right = "a dataset on the hub, owner/name, or a folder with parquet files"
        yield Problem("dataset_path", f"{path!r} is neither a name on the hub nor a folder", right)
    elif re.fullmatch(r"[\w.-]+", path) and not path.startswith("."):
        wrong = (
            f"{path!r} has no owner; such a name may be one of the readers of `datasets`, which "
            "open any file"
        )
        yield Problem("dataset_path", wrong, _ALLOWING)
    else:
        wrong = f"{path!r} is a path or an address, not a dataset on the hub"
        yield Problem("dataset_path", wrong, _ALLOWING)


def _file_problems(field: str, value: object, local: bool) -> Iterator[Problem]:
    for file in _all_strings(value):
        parts = file.split("/")
        relative = not file.startswith(("/", "~")) and ".." not in parts
        if "://" in file or "::" in file or "\\" in file or not (file and (relative or local)):
            wrong = f"{file!r} is not a file of the dataset"
            yield Problem(field, wrong, "a path from the top of the dataset, without ..")
    if not _is_file_list(value):
        right = "a file, a list of files, or a mapping from splits to files"
        yield Problem(field, "is not a name of files", right)


def _is_file_list(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(
            isinstance(files, str) or _is_list_of_texts(files) for files in value.values()
        )
    return isinstance(value, str) or _is_list_of_texts(value)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(file, str) for file in value)


def _all_strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _all_strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _all_strings(item)
