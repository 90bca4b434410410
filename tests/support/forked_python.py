"""``python`` that asks for a fork of a process with all imports; see support/warm_python.py.

It runs in place of every ``python`` of a test, so it starts without ``site`` and imports little.
"""

import contextlib
import json
import os
import signal
import socket

FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def main(address: str, program: str, python: str, modules: list[str], *words: str) -> None:
    """Be a fork of the process at an address, or else ``python``, which these words are for.

    There is a fork for ``-m`` and one of the modules in the environment of that process.

    Args:
        program: what runs this, which programs that the fork starts run, too.
    """
    if words[:1] == ("-m",) and words[1] in modules:
        forked(address, program, words)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and `exec` keeps that
    os.execv(python, [python, *words])


def forked(address: str, program: str, words: tuple[str, ...]) -> None:
    """Run as a fork, and end as it does; return if there can be none."""
    signals = [signal.Signals[name] for name in FORWARDED]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until there is a fork to send them to
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        umask = os.umask(0)
        os.umask(umask)
        descriptors = []
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with contextlib.suppress(OSError):  # the one that lists them is closed
                descriptors += [int(name)] if os.get_inheritable(int(name)) else []
        request = {
            "words": words,
            "environment": dict(os.environ),
            "folder": os.getcwd(),  # noqa: PTH109
            "umask": umask,
            "descriptors": descriptors,
            "python": program,
        }
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
        answer = connection.recv(64)
        if answer == b"differs":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            return
        child = int(answer)

        def forward(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

        for number in signals:
            signal.signal(number, forward)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        code = int(connection.recv(64))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
