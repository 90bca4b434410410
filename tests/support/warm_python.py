"""A Python that has imported what evaluations and trainings need, and forks for each of them.

The start of an evaluation takes fifteen seconds of CPU time, of imports and of the index of
lmms-eval's tasks. Tests of what programs do share one process that has both;
:mod:`support.forked_python` stands for ``python``.

A fork is what the program would be in a process of its own: with the arguments, environment,
working directory, umask and open files of the program that stands for it, in a session of its own.
It gets the signals of that program, ends with its exit code, and is killed if that one is. What
differs: forks have one seed of hashes, this process's limits of resources and the imports of each
other, which are not freed at their end. So the processes that accelerate starts, which have
variables of their own, are no forks: what goes wrong by different seeds has to go wrong there. Nor
are the commands of ``mtrl-judge``, most of which import neither torch nor lmms-eval.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

MODULES = ("accelerate.commands.launch", "lmms_eval", "mtrl_judge.rl.train")
IMPORTS = (
    "accelerate.commands.launch",
    "lmms_eval.__main__",
    "lmms_eval.models.chat.openai",
    "mtrl_judge.harness_plugin.model",
    "mtrl_judge.rl.train",
    "nltk",
    "peft",
    "pytablewriter",
    "torch.distributed.run",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "wandb",
)
# Programs read these when they need them, libraries others while they are imported.
READ_LATE = (
    "ACCELERATE_",
    "HF_TOKEN",
    "MTRL_JUDGE_",
    "PYTEST_",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "SIGNAL",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT",
    "WITNESS",
)
STREAMS = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}  # as the product starts programs
# A fork has only the thread that forks; pyarrow's allocator would start one.
NO_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
MOST = 1 << 20  # bytes of a request


@contextmanager
def warm_python(
    folder: Path, modules: Sequence[str] = MODULES, imports: Sequence[str] = IMPORTS
) -> Iterator[Path]:
    """The path of a ``python`` that runs modules, by ``-m``, as forks of one process.

    Args:
        folder: an empty one for its files.
        imports: what that process imports first.
    """
    address, program, interpreter = folder / "warm", folder / "python", folder / "interpreter"
    interpreter.symlink_to(sys.executable)  # its own path may have spaces
    given = (str(address), str(program), sys.executable, [*modules])
    # No shell: it would set PWD.
    program.write_text(
        f"#!{interpreter} -IS\nimport sys\nsys.path.append({str(Path(__file__).parent)!r})\n"
        f"from forked_python import main\nmain(*{given!r}, *sys.argv[1:])\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(address))
        listener.listen()
        environment = {**comparable(os.environ), "OMP_NUM_THREADS": "1", **STREAMS, **NO_THREAD}
        log = (folder / "warm.log").open("wb")
        with (
            log,
            subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *imports],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            ) as process,
        ):
            listener.close()
            yield program
            assert process.poll() is None, (folder / "warm.log").read_text()
            process.communicate()


def comparable(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a fork must have in common with the process that imported for it."""
    left = {name: v for name, v in environment.items() if not name.startswith(READ_LATE)}
    if left.get("PYTHONIOENCODING") == STREAMS["PYTHONIOENCODING"]:
        del left["PYTHONIOENCODING"]
    return left


class Fork(NamedTuple):
    process: int
    descriptor: int  # of the process
    connection: socket.socket


def serve(listener: socket.socket) -> socket.socket:
    """Fork for each connection; the connection, in the fork. Ends when standard input does."""
    forks: dict[int, Fork] = {}  # by both descriptors
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    poll.register(listener, select.POLLIN)
    while True:
        descriptor, _ = poll.poll()[0]  # one at a time: it may close descriptors of others
        if descriptor == 0:
            for fork in forks.values():
                signal.pidfd_send_signal(fork.descriptor, signal.SIGKILL)
            end(0)
        if descriptor == listener.fileno():
            connection, _ = listener.accept()
            process = os.fork()
            if not process:
                listener.close()
                for fork in {*forks.values()}:
                    os.close(fork.descriptor)
                    fork.connection.close()
                return connection
            fork = Fork(process, os.pidfd_open(process), connection)
            forks |= dict.fromkeys((fork.descriptor, connection.fileno()), fork)
            poll.register(fork.descriptor, select.POLLIN)
            poll.register(connection, select.POLLRDHUP)
            continue
        fork = forks.pop(descriptor)
        poll.unregister(descriptor)
        if descriptor != fork.descriptor:  # the program that it stands for is gone
            signal.pidfd_send_signal(fork.descriptor, signal.SIGKILL)
            fork.connection.close()
            continue
        code = os.waitstatus_to_exitcode(os.waitpid(fork.process, 0)[1])
        os.close(fork.descriptor)
        if forks.pop(fork.connection.fileno(), None):
            poll.unregister(fork.connection)
            with suppress(OSError):
                fork.connection.send(str(code).encode())
            fork.connection.close()


def run(
    connection: socket.socket, before: Mapping[str, str], imported: Mapping[str, str]
) -> NoReturn:
    """Become the program that a request is for.

    Args:
        before: the environment of the imports.
        imported: variables that imports have set.
    """
    data, received, _, _ = socket.recv_fds(connection, MOST, 253)
    if not data:  # killed before it could ask
        os._exit(0)
    request: dict[str, Any] = json.loads(data)
    environment: dict[str, str] = request["environment"]
    differing = {*comparable(environment).items()} ^ {*before.items()}
    if differing - {*imported.items()}:  # imports of the tests may have set the same
        connection.send(b"differs")
        os._exit(0)
    os.setsid()  # a signal to the group of the program reaches the fork once, through it
    free = max(request["descriptors"]) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, free) for descriptor in received]
    ours = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD, free)
    for descriptor in (*received, connection.detach()):
        os.close(descriptor)
    for descriptor, number in zip(moved, request["descriptors"], strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.write(ours, str(os.getpid()).encode())
    os.close(ours)
    os.umask(request["umask"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(environment | imported)
    open_streams(unbuffered=bool(environment.get("PYTHONUNBUFFERED")))
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [request["folder"], *paths]
    sys.executable = request["python"]
    sys.orig_argv = [sys.executable, *request["words"]]
    _, name, *sys.argv[1:] = request["words"]
    for loaded in (name, f"{name}.__main__"):
        if not hasattr(sys.modules.get(loaded), "__path__"):
            sys.modules.pop(loaded, None)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as Python does itself for `random`
    code = 0
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        code = ended.code or 0
    end(code)


def end(code: int) -> NoReturn:
    """End as Python does, but for freeing all that has been imported, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def remember_tasks() -> None:
    """Read the YAMLs of lmms-eval's own tasks, some three thousand, once for all forks."""
    from lmms_eval.tasks import TaskManager

    stock = TaskManager._get_task_and_group
    own = Path(str(sys.modules[TaskManager.__module__].__file__)).parent
    known: dict[str, Any] = {}

    def get_task_and_group(self: Any, folder: str) -> Any:
        if Path(folder) != own:
            return stock(self, folder)
        if folder not in known:
            known[folder] = stock(self, folder)
        return deepcopy(known[folder])

    TaskManager._get_task_and_group = get_task_and_group
    TaskManager()


def open_streams(unbuffered: bool) -> None:
    """New standard streams, as Python opens them."""
    for name, number, errors in (
        ("stdin", 0, "strict"),
        ("stdout", 1, "strict"),
        ("stderr", 2, "backslashreplace"),
    ):
        buffering = 0 if unbuffered and number else -1
        stream = io.TextIOWrapper(
            os.fdopen(number, "wb" if number else "rb", buffering=buffering, closefd=False),
            encoding="utf-8",
            errors=errors,
            line_buffering=number == 2 or os.isatty(number),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    del sys.path[0]  # the folder of this file
    listener = socket.socket(fileno=int(sys.argv[1]))
    before = dict(os.environ)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    if "lmms_eval" in sys.modules:
        remember_tasks()
    for name in NO_THREAD:
        del before[name], os.environ[name]
    imported = {name: value for name, value in os.environ.items() if before.get(name) != value}
    gc.collect()
    gc.freeze()  # or a collection in a fork would write to, and so copy, the memory of all objects
    threads = [*Path("/proc/self/task").iterdir()]
    assert len(threads) == 1, f"{len(threads)} threads at a fork"
    connection = serve(listener)
    run(connection, comparable(before), imported)


if __name__ == "__main__":
    main()
