"""The command judges unchanged and perturbed rows, compares them, and can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import call
from support.tasks import write_two_tasks
from typer.testing import Result

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.experiments.robustness import RESULTS_FILE, SETTINGS_FILE, run_robustness
from mtrl_judge.harness_plugin.perturbations import PERTURBATIONS, check_perturbations
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE


def test_an_unsuitable_folder_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(JudgeError, match=r"--output-path: .* contains other files"):
        run_robustness("mtrl_judge", "x", ["swap"], tmp_path)
    with pytest.raises(JudgeError, match="unknown perturbation 'swp'; did you mean 'swap'"):
        run_robustness("mtrl_judge", "x", ["swp"], tmp_path)
    with pytest.raises(JudgeError, match=r"--split: no split 'vali' to evaluate"):
        run_robustness("mtrl_judge", "x", [], tmp_path, split="vali")
    assert check_perturbations([]) == [*PERTURBATIONS]
    (tmp_path / SETTINGS_FILE).write_text('{"model": "dummy"}')
    (tmp_path / "unchanged").mkdir()
    (tmp_path / "unchanged" / "1_results.json").write_text("{}")
    with pytest.raises(JudgeError, match='model: was "dummy", is "mtrl_judge"'):
        run_robustness("mtrl_judge", "x", ["swap"], tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [SETTINGS_FILE, "thesis.txt", "unchanged"]


def samples(folder: Path, task: str) -> Path:
    (file,) = folder.glob(f"**/*_samples_{task}.jsonl")
    return file


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_the_command_judges_compares_and_resumes(
    tmp_path: Path, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_two_tasks(tmp_path)
    out = tmp_path / "out"

    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: str) -> Result:
        return call(
            *("robustness", "--output-path", out, "--model_args", f"pretrained={random_judge}"),
            *("--tasks", "their_*", "--include_path", tmp_path, "--batch_size", "4"),
            *("--gen_kwargs", "max_new_tokens=6", *arguments),
        )

    names = "paraphrase,rerun"
    done = run("--perturbations", names)
    assert done.exit_code == 0, done.exception
    assert "paraphrase_1: does not apply to their_points" in done.stdout
    assert "p (Holm)" in done.stdout
    found = json.loads((out / RESULTS_FILE).read_text())
    assert found["schema_version"] == 1
    assert set(found["tasks"]) == {"their_pairs", "their_points"}
    assert found["not_applicable"] == {"paraphrase_1": ["their_points"]}
    effects = {(effect["task"], effect["perturbation"]): effect for effect in found["effects"]}
    assert len(effects) == 3
    for (task, name), effect in effects.items():
        counts = {"their_pairs": (5, 4), "their_points": (6, 5)}[task]
        assert (effect["rows"], effect["n"]) == counts
        changed = effect["changed"]
        assert 0 <= changed["low"] <= changed["value"] <= changed["high"] <= 1
        results = json.loads((out / found["results"][name]).read_text())
        assert results["configs"][task]["metadata"]["judge"]["perturbation"] == name
        assert effect["p_value"] <= effect["p_value_holm"] <= 1
    # Two runs at temperature 0 with the same seed.
    for task in found["tasks"]:
        first, again = (samples(out / name, task) for name in ("unchanged", "rerun"))
        assert first.read_bytes() == again.read_bytes()
        assert effects[task, "rerun"]["changed"]["value"] == 0.0
    assert "Which is more thing" in samples(out / "paraphrase_1", "their_pairs").read_text()

    written = {file: file.stat().st_mtime_ns for file in out.glob("*/**/*.json*")}
    refused = run("--perturbations", f"length,{names}", "--limit", "2")
    assert "flags: was" in str(refused.exception)
    resumed = run("--perturbations", names)
    assert resumed.exit_code == 0, resumed.exception
    assert resumed.stdout.count(": done\n") == 3
    assert written == {file: file.stat().st_mtime_ns for file in out.glob("*/**/*.json*")}
    assert json.loads((out / RESULTS_FILE).read_text()) == found
