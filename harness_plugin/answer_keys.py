"""What an answer depends on, hashed: the key under which it is kept.

Images are not decoded for it: the fingerprint of a task's rows covers their bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtrl_judge.common.files import expanded
from mtrl_judge.common.hashing import digest
from mtrl_judge.models.checkpoint import hub_commit

from .answer_store import Question
from .hooks import hooks_of_request

# Arguments of backends that decide how requests are sent, not what is answered. A run may go on
# with a smaller batch, or with another key for the same server.
_TRANSPORT = {
    "adaptive_concurrency",
    "api_key",
    "batch_size",
    "max_batch_size",
    "max_retries",
    "num_concurrent",
    "num_cpus",
    "retry_backoff_s",
    "timeout",
}
# Of the record in a task's metadata. Its other fields say how answers are read, or are in the
# prompt.
_RECORDED = (
    "engine",
    "scoring",
    "min_pixels",
    "max_pixels",
    "system_prompt",
    "perturbation",
    "demonstrated",
    "samples",
    "vote",
    "seed",
)
# What evaluations and trainings write, perhaps into the checkpoint's own folder.
_NOT_THE_MODEL = (".jsonl", ".log", "_results.json", "_command.json")


class ModelIdentity:
    """What all answers of a loaded model depend on.

    Args:
        backend: its name in lmms-eval.
        arguments: `--model_args`, and the flags that lmms-eval adds to them.
    """

    def __init__(self, model: Any, backend: str, arguments: Mapping[str, Any]) -> None:
        given = {name: value for name, value in arguments.items() if name not in _TRANSPORT}
        client = getattr(model, "client", None)
        self.parts = {
            "backend": _hash(backend, type(model).__module__),
            "--model_args": _hash(given),
            "weights": _hash([(n, weights_identity(v, given)) for n, v in sorted(given.items())]),
            # Environment variables can name the server, too.
            "server": _hash(str(getattr(client, "base_url", ""))),
            "device": _hash(getattr(getattr(model, "device", None), "type", None)),
        }


def weights_identity(value: object, arguments: Mapping[str, Any]) -> object:
    """What tells the weights behind a model argument from others under the same name.

    For a local file or folder: names, sizes and times of its files. For a model of the hub: the
    commit that is in the cache. None for any other value.
    """
    if not isinstance(value, str) or not value:
        return None
    path = expanded(value)
    try:
        if path.exists():
            return [list(entry) for entry in _file_entries(path)]
    except OSError:  # too long for a path
        return None
    return hub_commit(value, arguments.get("revision"))


def _file_entries(path: Path) -> Iterator[tuple[str, int, int]]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        if file.is_file() and not file.name.endswith(_NOT_THE_MODEL):
            found = file.stat()
            yield file.relative_to(path).as_posix(), found.st_size, found.st_mtime_ns


class Questions:
    """The questions behind lmms-eval's requests, by task."""

    def __init__(self, identity: ModelIdentity) -> None:
        self._identity = identity
        self.depends_on: dict[str, dict[str, str]] = {}
        """For each task seen so far what its answers depend on, besides the single item."""
        self._base: dict[str, str] = {}
        self._rows: dict[str, tuple[Sequence[str], Sequence[str | None]]] = {}

    def of(self, model: Any, requests: Sequence[Any]) -> list[Question | None]:
        """The question of each request; None for requests of tasks that are not judge tasks."""
        seen: Counter[str] = Counter()
        questions: list[Question | None] = []
        for request in requests:
            prompt, *others, doc_id, task, split = request.args
            if hooks_of_request(request) is None:
                questions.append(None)
                continue
            if task not in self._rows:
                self._add(task, model, split, others)
            items, orders = self._rows[task]
            generation = next(value for value in others if isinstance(value, dict))
            item = (task, items[doc_id], orders[doc_id], prompt, generation, _seed(generation))
            once = _hash(self._base[task], item)
            repeat = seen[once]  # lmms-eval lists a request once for each of its repeats
            seen[once] += 1
            key = _hash(once, repeat)
            questions.append(Question(key, task, items[doc_id], orders[doc_id], repeat))
        return questions

    def _add(self, task: str, model: Any, split: str, arguments: Sequence[Any]) -> None:
        rows = model.task_dict[task][split].with_format(None)
        orders = [
            None if pair is None else "BA" if swapped else "AB"
            for pair, swapped in zip(rows["pair_id"][:], rows["swapped"][:], strict=True)
        ]
        self._rows[task] = (rows["item_id"][:], orders)
        host_task = next(value for value in arguments if callable(value)).__self__
        record = host_task.config.metadata["judge"]
        self.depends_on[task] = {
            **self._identity.parts,
            "rows": _hash(record["fingerprint"]),
            "settings": _hash({name: record.get(name) for name in _RECORDED}),
            "calibration": _hash(record.get("calibration")),
            "versions": _hash(record["versions"]),
        }
        self._base[task] = _hash(self.depends_on[task])


def _seed(generation: Mapping[str, Any]) -> int | None:
    """lmms-eval's --seed, where answers are sampled."""
    import torch

    sampled = generation.get("do_sample") or (generation.get("temperature") or 0) > 0
    return torch.initial_seed() if sampled else None


def _hash(*values: object) -> str:
    return digest(json.dumps(value, sort_keys=True, default=str).encode() for value in values)
