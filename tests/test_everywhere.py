"""The same files and output whatever the environment: hash seed, locale, time zone, width of the
terminal, home folder and names of folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import python_module
from support.images import image_cells
from support.results import judged_pairs, judged_rows, write_results
from support.tasks import write_split, write_two_tasks, write_yaml
from support.training import GRPO, log_of, small_world, values

FIELDS: dict[str, Any] = {
    **GRPO,
    "max_steps": 2,
    "user_rewards": {"support.training:alternating": 1.0},  # so that every group trains
}
NAME = "ü 日本 '"
RESULTS = ["results/jüdge", "results/İstanbul '"]
DRAWS = ["--resamples", "100"]
COMMANDS = [
    ["tasks", "--cards"],
    ["validate", "mine.yaml", "nöwhere.yaml", "--rows", "5", "--data-root", "dätä"],
    ["preview", "mine.yaml", "--data-root", "dätä", "--out", "prevïew"],
    ["score", "rows.jsonl", "--task", "mine.yaml", "--out", "scöres.jsonl"],
    ["score", "rows.jsonl", "--task", "mine.yaml", "--explain"],
    ["data", "status", "mine.yaml", "--data-root", "dätä"],
    ["data", "leaks", "mine.yaml", "--data-root", "dätä"],
    ["new", "mtrl_judge_new", "--out", "nëw.yaml"],
    *(["leaderboard", *RESULTS, *DRAWS, "--format", f, "--full"] for f in ("md", "csv", "latex")),
    ["leaderboard", *RESULTS, *DRAWS, "--format", "html", "--out", "bôard.html"],
    ["leaderboard", "add", "bôard.json", *RESULTS, *DRAWS],
    ["leaderboard", "bôard.json", "--format", "json"],
    ["baseline", "save", RESULTS[0], "--out", "baselïne.json"],
    ["gate", RESULTS[1], "--baseline", "baselïne.json", "--junit", "gâte.xml"],
]
# One process for all commands; each writes what it prints to files.
RUN = """
import json, os, sys
from pathlib import Path
from mtrl_judge.cli.main import main
from mtrl_judge.common.utf8 import use_utf8
from mtrl_judge.demo.corpus import SMALL, write_sample

def run(words):
    sys.argv = ["mtrl-judge", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)

use_utf8()
codes = []
commands = json.loads(Path("commands.json").read_text(encoding="utf-8"))
for number, words in enumerate(commands):
    for stream in (1, 2):
        file = os.open(f"{number}.{stream}", os.O_CREAT | os.O_WRONLY)
        os.dup2(file, stream)
    codes.append(run(words))
write_sample(Path("sample"), sizes=SMALL)
Path("codes.json").write_text(json.dumps(codes))
"""
TURKISH = "Turkish, without a home"
ENVIRONMENTS: dict[str, dict[str, str | None]] = {
    "usual": {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "TZ": "UTC"},
    # In UTF-8 mode, which is Python's default in the C locale, this would be harmless.
    "ASCII": {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "PYTHONHASHSEED": "1",
        "TZ": "Pacific/Kiritimati",
        "COLUMNS": "20",
        "HOME": None,
    },
    TURKISH: {
        "LC_ALL": "tr_TR.ISO-8859-9",
        "PYTHONHASHSEED": "2",
        "TZ": "America/Adak",
        "COLUMNS": "300",
        "HOME": "/dev/null/home",
    },
}


def environment(name: str, folder: Path) -> dict[str, str]:
    """The variables of an environment; what has to be written goes to ``folder``."""
    caches = {variable: str(folder / "cache") for variable in ("HF_HOME", "MPLCONFIGDIR")}
    changes: dict[str, str | None] = {
        **caches,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),
        **ENVIRONMENTS[name],
    }
    if name == TURKISH:
        made = folder / "tr_TR.ISO-8859-9"
        if not made.exists():
            words = ["localedef", "-i", "tr_TR", "-f", "ISO-8859-9", str(made)]
            if not shutil.which("localedef") or subprocess.run(words, check=False).returncode:
                pytest.skip("the Turkish locale cannot be made here")
        changes["LOCPATH"] = str(folder)
    left = {key: value for key, value in os.environ.items() if key not in ("LANG", "LC_CTYPE")}
    return {key: value for key, value in {**left, **changes}.items() if value is not None}


def run(words: Sequence[str], name: str, place: Path, folder: Path) -> None:
    done = subprocess.run(
        words, cwd=folder, env=environment(name, place), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-3000:]


def steady(log: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a training's log without times."""
    times = ("time", "step_time", "train_runtime")
    return {
        key: value
        for key, value in log.items()
        if key not in times and not key.endswith("per_second")
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Files by their path, without the place of the folder."""
    here = str(folder).encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(here, b"HERE")
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the environments share, and where the usual one runs."""
    place = tmp_path_factory.mktemp("everywhere")
    folder = place / "usual"
    for model, skill in zip(RESULTS, (0.8, 0.6), strict=True):
        tasks = {"täsk": judged_rows(40, skill, 1), "b_ood": judged_pairs(20, skill, 2)}
        write_results(folder / model, tasks, model=model)
    words = {"question": "'Is it {{ text }}, ı or İ?'", "verdicts": '["Evet", "Hayır"]'}
    write_yaml(folder, "mine", label='{column: label, map: {1: Evet, 0: "Hayır"}}', **words)
    for split, start in (("train", 0), ("test", 3)):
        columns = {"image": image_cells(6, start), "text": list("abcdeü"), "label": [1, 0] * 3}
        write_split(folder / "dätä", "mine", split, columns)
    answers = ["<think>a</think><answer>Hayır</answer>", "EVET", "HAYIR", "hayir", "日本", "İ"]
    rows = [{"item_id": text, "label": "Evet", "text": text} for text in answers]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "commands.json").write_text(json.dumps(COMMANDS), encoding="utf-8")
    shutil.copytree(folder, place / "inputs")
    # Says so if it takes more than five seconds, which is once, and in the first environment.
    run([sys.executable, "-c", "import matplotlib.font_manager"], "usual", place, folder)
    run([sys.executable, "-c", RUN], "usual", place, folder)
    return place


def test_the_usual_environment_gives_results(place: Path) -> None:
    made = contents(place / "usual")
    codes = json.loads(made["codes.json"])
    failed = {
        " ".join(words[:2]): code for words, code in zip(COMMANDS, codes, strict=True) if code
    }
    # One file does not exist; the splits share images; the second judge is worse.
    assert failed == {"validate mine.yaml": 2, "data leaks": 1, f"gate {RESULTS[1]}": 1}
    assert not [name for name, content in made.items() if b"Traceback" in content]
    assert "ı or İ" in made["2.1"].decode()
    assert "日本" in made["scöres.jsonl"].decode()


@pytest.mark.parametrize("name", list(ENVIRONMENTS)[1:])
def test_commands_give_the_same_bytes_in_every_environment(
    place: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / NAME
    shutil.copytree(place / "inputs", folder)
    run([sys.executable, "-c", RUN], name, place, folder)
    expected, found = contents(place / "usual"), contents(folder)
    assert found.keys() == expected.keys()
    assert [path for path in expected if found[path] != expected[path]] == []


EVALUATE = ["eval", "--tasks", "their_points,their_pairs", "--include_path", "tasks ü '"]
EVALUATE += ["--data-root", "tasks ü '/data", "--output-path", "évaluation"]
EVALUATE += ["--model_args", "pretrained=trained/judge", "--gen_kwargs", "max_new_tokens=6"]


@pytest.mark.slow
def test_a_judge_learns_and_answers_the_same_in_another_environment(
    place: Path, tmp_path: Path, random_judge: Path, base: Path
) -> None:
    world = small_world(base)

    def learn_and_answer(name: str, folder: Path) -> dict[str, Any]:
        (folder / "tasks ü '").mkdir(parents=True)
        write_two_tasks(folder / "tasks ü '")
        shutil.copytree(random_judge, folder / "jüdge")
        shutil.copytree(world, folder / "wörld")
        fields = values(Path("wörld"), Path("trained"), Path("jüdge"), "red", **FIELDS)
        (folder / "récipe.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
        mtrl_judge = python_module("mtrl_judge")
        run([*mtrl_judge, "train", "grpo", "--recipe", "récipe.yaml"], name, place, folder)
        run([*mtrl_judge, *EVALUATE], name, place, folder)
        made = contents(folder)
        samples = {path.split("_samples_")[1]: made[path] for path in made if "_samples_" in path}
        return {
            "weights": made["trained/judge/model.safetensors"],
            "log": [steady(log) for log in log_of(folder / "trained")],
            "samples": samples,
        }

    with ThreadPoolExecutor() as pool:
        folders = (tmp_path / "usual", tmp_path / NAME)
        usual, other = pool.map(learn_and_answer, ("usual", "ASCII"), folders)
    assert len(usual["samples"]) == 2
    assert usual["log"][0]["grad_norm"] > 0
    assert [key for key in usual if usual[key] != other[key]] == []
