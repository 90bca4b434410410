"""The caches of `datasets` and the hub: parquet files are converted there, too, before use."""

from __future__ import annotations

from pathlib import Path

from mtrl_judge.common.errors import DataError


def cache_fault(error: BaseException) -> DataError | None:
    """What to tell the user if an error of `datasets` is that it cannot write its cache.

    Such an error names a file in the cache, or a folder around it that could not be made.
    """
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    place = Path(error.filename)
    for cache in map(Path, (HF_DATASETS_CACHE, HF_HUB_CACHE)):
        if cache.is_relative_to(place) or place.is_relative_to(cache):
            return DataError(
                f"{place}: {error.strerror}; `datasets` has to write its cache, {cache}: set "
                "HF_HOME to a folder that can be written"
            )
    return None
