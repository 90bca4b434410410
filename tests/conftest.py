"""What several test files share: data for every shipped task and a tiny random judge."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support import shared
from support.images import image_cells
from support.tasks import write_example_data, write_split
from support.warm_python import warm_python

from mtrl_judge.judge_tasks.loading import load_shipped_tasks

# The same examples in every run, and no test that a busy machine can fail.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

# What a script runs in its background ignores SIGINT, and so does everything that this starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with many slow tests first, so that the workers end together."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Commands set variables for the processes that they start; no other test sees them."""
    before = dict(os.environ)
    yield
    for name in [name for name in os.environ if name.startswith("MTRL_JUDGE_")]:
        del os.environ[name]
    os.environ.update({name: before[name] for name in before if name.startswith("MTRL_JUDGE_")})


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test items for each shipped task (three pairs), in the dataset's own columns."""
    root = tmp_path_factory.mktemp("data")
    for dimension in ("nat", "tech", "rat"):
        task = f"mtrl_judge_agin_{dimension}"
        for split, n in (("train", 9), ("test", 6)):
            names = [f"{split}_{i}.png" for i in range(n)]
            images = image_cells(n, 0 if split == "test" else 20)
            scores = [float(i % 5) for i in range(n)]
            columns = {"filename": names, "image": images, f"MOS_{dimension}": scores}
            write_split(root, task, split, columns)
    texts = [f"a thing of kind {i}" for i in range(6)]
    write_split(
        root,
        "mtrl_judge_seetrue",
        "test",
        {
            "image": image_cells(6),
            "text": texts,
            "label": [1, 0, 1, 1, 0, None],
            "dataset_source": ["drawbench", "editbench", None] * 2,
        },
    )
    write_split(
        root,
        "mtrl_judge_imagereward",
        "test",
        {
            "image": image_cells(6),
            "prompt_id": ["0", "0", "0", "1", "1", "1"],
            "prompt": texts,
            "rank": [3, 1, 2, 2, 1, 3],
            "overall_rating": [1, 7, 5, 4, 5, 2],
        },
    )
    write_split(
        root,
        "mtrl_judge_unsafebench",
        "test",
        {
            "image": image_cells(6),
            "safety_label": ["Safe", "Unsafe"] * 3,
            "source": ["Lexica"] * 3 + ["Laion5B"] * 3,
        },
    )
    for subset in ("alignment", "safety", "quality"):
        columns = {
            "caption": texts[:3],
            "image0": image_cells(3),
            "image1": image_cells(3, 10),
            "label": [0, 0, 1],
        }
        write_split(root, f"mtrl_judge_mjbench_{subset}", "test", columns)
    for task in load_shipped_tasks():
        if not (root / task.task).is_dir():
            write_example_data(root, task)
    return root


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what all workers share; see support/shared.py."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def random_judge(base: Path) -> Path:
    """A Qwen3-VL of random weights: real code, meaningless answers."""
    return shared.random_judge(base)


@pytest.fixture(scope="session")
def sample_root(base: Path) -> Path:
    """The sample corpus in its small size."""
    return shared.sample_corpus(base)


@pytest.fixture(scope="session")
def warm_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ``python`` whose evaluations and trainings need no imports; see support/warm_python.py."""
    with warm_python(tmp_path_factory.mktemp("warm")) as program:
        yield program


@pytest.fixture(scope="module")
def warm(warm_programs: Path) -> Iterator[None]:
    """lmms-eval, trainings and launchers of a module's tests are forks, for tests of what they do.

    Tests of how programs start, and of kills and signals, need real processes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm_programs))
        yield


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged during the test, with its level."""
    from loguru import logger

    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{level}: {message}")
    yield lines
    logger.remove(sink)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only lose by a second thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
