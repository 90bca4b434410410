"""Read a stranger's CSV, JSON, Arrow and image files in a process whose memory is limited.

`datasets` reads them as they are. A few kilobytes can take all memory: a compressed file of one
line, a header with as many columns as there are rows, an Arrow file that repeats one value. No
check of a file's size finds all of these, so the operating system limits what reading takes, on
Linux.
"""

from __future__ import annotations

import errno
import json
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtrl_judge.common.errors import DataError, first_line

from .parquet_limits import ALWAYS_ACCEPTED_BYTES, MAX_GROWTH

if TYPE_CHECKING:
    from datasets import DatasetBuilder

MAX_MEMORY = 4 * 2**30
"""Bytes that reading may take."""


def read_limited(builder: DatasetBuilder) -> None:
    """Read a dataset's files into the cache of ``datasets``, unless they are there.

    Raises:
        DataError: they take more than MAX_MEMORY; or a split becomes more than MAX_GROWTH times as
            large as the files, and more than ALWAYS_ACCEPTED_BYTES; or they cannot be read.
        Exception: whatever ``datasets`` raises as it downloads them.
    """
    from datasets import DownloadConfig, DownloadManager

    if (Path(builder.cache_dir) / "dataset_info.json").exists():
        return
    settings = DownloadConfig(token=builder.token, storage_options=builder.storage_options)
    downloads = DownloadManager(builder.dataset_name, download_config=settings)
    downloads.download(builder.config.data_files)
    size = max(ALWAYS_ACCEPTED_BYTES, MAX_GROWTH * downloads.downloaded_size)
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
        input=pickle.dumps((builder, size, MAX_MEMORY)),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        # Libraries that cannot handle a lack of memory abort.
        printed = done.stdout.splitlines()
        fault = json.loads(printed[-1]) if printed else _too_much_memory(MAX_MEMORY)
        raise DataError(f"{builder.repo_id}: cannot be read: {fault}")


def main() -> None:
    """Read the builder on standard input; the fault goes to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent prints the message
    builder, size, memory = pickle.load(sys.stdin.buffer)
    _set_limit("RLIMIT_DATA", _used_memory() + memory)
    _set_limit("RLIMIT_FSIZE", size)
    try:
        # In one file for each split, which the limit is for.
        builder.download_and_prepare(max_shard_size=10 * size)
    except Exception as error:  # noqa: BLE001  whatever the libraries raise
        print(json.dumps(_fault(error, size, memory)))
        sys.exit(1)


def _fault(error: BaseException, size: int, memory: int) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MemoryError):
        return _too_much_memory(memory)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return (
            f"a split becomes more than {size / 1e6:,.0f} MB; expected at most {MAX_GROWTH} times "
            f"the size of its files, or {ALWAYS_ACCEPTED_BYTES / 1e6:,.0f} MB"
        )
    return f"{type(error).__name__}: {first_line(error)}"


def _too_much_memory(limit: int) -> str:
    return (
        f"it takes more than {limit / 2**30:.0f} GiB of memory, or is damaged; if you trust "
        "it, write it as parquet files into <data root>/<task>/"
    )


def _used_memory() -> int:
    """Bytes of this process that RLIMIT_DATA counts."""
    status = Path("/proc/self/status")
    found = re.search(r"VmData:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def _set_limit(name: str, limit: int) -> None:
    import resource

    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard < 0 else min(limit, hard), hard))
