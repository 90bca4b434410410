"""What a command that receives a signal ends with, wherever the signal arrives."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from mtrl_judge.common.exits import exits_with_message
from mtrl_judge.common.signals import signals_wait, sigterm_as_exit

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def interrupted_import(number: signal.Signals) -> None:
    """As of an extension module that uses numpy: `import_array` raises ImportError at any error."""
    try:
        signal.raise_signal(number)
    except (KeyboardInterrupt, SystemExit):
        raise ImportError("numpy.core.multiarray failed to import") from None


@SIGNALS
def test_what_a_library_makes_of_a_signal_is_no_failure(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped, exits_with_message(), sigterm_as_exit():
        interrupted_import(number)
    assert stopped.value.code == 128 + number
    assert capsys.readouterr() == ("", "")


@SIGNALS
def test_work_that_was_finished_all_the_same_is_done(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as stopped, exits_with_message(), sigterm_as_exit():
        finish_after(number)
    assert stopped.value.code == 0


def finish_after(number: signal.Signals) -> None:
    with suppress(ImportError):
        interrupted_import(number)
    sys.exit(0)


def test_a_failure_without_a_signal_keeps_its_traceback() -> None:
    with exits_with_message(), suppress(ImportError):
        interrupted_import(signal.SIGINT)
    with pytest.raises(ImportError), exits_with_message():
        raise ImportError("a bug")


@SIGNALS
def test_a_signal_can_wait(number: signal.Signals) -> None:
    reached = []
    with suppress(KeyboardInterrupt, SystemExit), sigterm_as_exit(), signals_wait() as deliver:
        signal.raise_signal(number)
        reached.append("the end of what may not be interrupted")
        deliver()
        reached.append("what comes after it")
    assert reached == ["the end of what may not be interrupted"]


def test_processes_that_are_started_meanwhile_end_at_a_signal() -> None:
    with signals_wait():
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process.send_signal(signal.SIGINT)
    assert process.wait() == -signal.SIGINT
