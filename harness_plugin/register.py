"""The entry point through which the stock lmms-eval finds the judge tasks and the judge backend.

With a version of lmms-eval, or of a package below it, that is not supported, nothing of it is
touched. So the versions are checked before anything is imported that needs them.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.exits import exit_of_host
from mtrl_judge.common.host_versions import EVALUATION, check_versions


def register() -> list[Any]:
    """Make lmms-eval find the judge tasks; called once by its model registry.

    With a host that is not supported, a command line that names a judge task or the backend ends
    with exit code 2. Any other goes on without us.

    Returns:
        The ``ModelManifest`` of the ``mtrl_judge`` backend, or nothing.
    """
    try:
        check_versions(EVALUATION)
    except JudgeError as error:
        message = f"mtrl-judge: its tasks and its backend are not available\n{error}"
        if any(_names_us(word) for word in sys.argv[1:]):
            raise exit_of_host(message) from None
        print(message, file=sys.stderr)
        return []
    from .wrappers import wrap_lmms_eval

    return [wrap_lmms_eval()]


def _names_us(word: str) -> bool:
    """Whether a word of lmms-eval's command line is or lists a name with our prefix."""
    return any(name.startswith("mtrl_") for name in re.split("[,=]", word))
