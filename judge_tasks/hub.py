"""Can the hub be reached? One attempt, in place of the many that its libraries would make."""

from __future__ import annotations

import logging
import re
import sys
from functools import cache

from mtrl_judge.common.errors import first_line

_logger = logging.getLogger(__name__)


@cache
def hub_fault() -> str | None:
    """Why this process cannot reach the hub, or None if it can; asked before the first use.

    If it cannot, the libraries go offline for the rest of this process, and use what is in their
    caches. Otherwise each of their requests is tried six times, with pauses of 23 seconds in all
    (`http_backoff` in huggingface_hub/utils/_http.py of 2.4), and loading takes several requests.
    ``HF_HUB_ETAG_TIMEOUT`` limits how long the attempt waits.
    """
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # noqa: BLE001  httpx's or httpx2's, by the version of the hub
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:  # otherwise it reads the constant when it is imported
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
        fault = f"{constants.ENDPOINT}: {first_line(error)}"
        _logger.warning("the hub cannot be reached (%s); only what is cached is used", fault)
        return fault
    return None


def full_commit(repo: str, revision: str | None) -> str | None:
    """The commit of a dataset that a shortened hash means; any other revision unchanged.

    The hub does not resolve shortened hashes itself (huggingface_hub's download guide).
    """
    from huggingface_hub import HfApi, constants

    shortened = revision is not None and re.fullmatch("[0-9a-f]{7,39}", revision)
    if revision is None or not shortened or constants.is_offline_mode():
        return revision
    commits = (commit.commit_id for commit in HfApi().list_repo_commits(repo, repo_type="dataset"))
    return next((commit for commit in commits if commit.startswith(revision)), revision)
