"""Results and leaderboards for the hub: complete, readable again, and silent about the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.commands import call
from support.results import judged_rows, sample, write_results
from support.upload_hub import COMMIT, TOKEN, upload_hub

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.hub import Upload
from mtrl_judge.leaderboard.board import Leaderboard, build_leaderboard
from mtrl_judge.leaderboard.publish import leaderboard_upload, results_upload
from mtrl_judge.leaderboard.reading import load_runs

SECRET = "planted-secret"
HOSTILE = "a | b <script>x</script> {{ 7 * 7 }}"


def runs_of(folder: Path) -> list[Path]:
    """Two judges of a machine, with paths and a key in their results."""
    files = []
    for name, skill in (("a", 0.9), ("b", 0.6)):
        model = f"/home/somebody/runs/{name}/judge"
        rows = judged_rows(40, skill, 0)
        text = f"see {model}/x.png, key {SECRET}, and </think> or 1/2/3 and and/or"
        rows[0] = sample(0, rows[0]["label"], None, text=text)
        about = {
            "red": {
                "location": f"{folder}/data/red",
                "card": {"license": HOSTILE, "url": "https://example.org", "citation": "Me"},
            }
        }
        config = {"model_args": f"pretrained={model},api_key={SECRET},max_pixels=64"}
        config |= {"wandb_args": {"api_key": "short"}, "score_key": "score"}
        files.append(
            write_results(folder / name, {"red": rows}, model=model, about=about, config=config)
        )
    return files


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    folder = tmp_path_factory.mktemp("logs")
    return build_leaderboard(load_runs(runs_of(folder)), resamples=200)


def written(upload: Upload, folder: Path) -> str:
    """All text of the files, which are written."""
    texts = []
    for path, content in upload.files.items():
        assert isinstance(content, bytes)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        texts.append(content.decode())
    return "\n".join(texts)


def test_published_results_are_the_same_without_secrets_and_paths(
    board: Leaderboard, tmp_path: Path
) -> None:
    upload = results_upload(board, "me/results")
    text = written(upload, tmp_path)
    for private in (SECRET, "somebody", str(board.runs[0].file.parent.parent)):
        assert private not in text
    (line, *_) = (tmp_path / "a_judge" / next(iter(tmp_path.glob("a_judge/*.jsonl")))).open()
    expected = "see x.png, key [redacted], and </think> or 1/2/3 and and/or"
    assert json.loads(line)["text"] == expected
    config = json.loads(next(tmp_path.glob("a_judge/*_results.json")).read_text())["config"]
    assert config == {
        "model_args": "pretrained=a/judge,api_key=[redacted],max_pixels=64",
        "wandb_args": {"api_key": "[redacted]"},
        "score_key": "score",
    }
    again = build_leaderboard(load_runs([tmp_path]), resamples=200)
    assert sorted(run.name for run in again.runs) == ["a/judge", "b/judge"]
    for run in board.runs:
        rates = [each.tasks[0].scores[run.name] for each in (board, again)]
        assert rates[0]["macro_f1"].value == rates[1]["macro_f1"].value
    _, front, card = upload.files["README.md"].decode().split("---\n", 2)  # type: ignore[union-attr]
    assert yaml.safe_load(front)["configs"] == [
        {"config_name": "red", "data_files": "*/*_samples_red.jsonl"}
    ]
    assert "a/judge" in card
    assert r"a \| b &lt;script&gt;x&lt;/script&gt; \{\{ 7 \* 7 \}\}" in card


def test_a_published_leaderboard_is_a_page_and_a_file(board: Leaderboard, tmp_path: Path) -> None:
    upload = leaderboard_upload(board, "me/board")
    text = written(upload, tmp_path)
    for private in (SECRET, "somebody", str(board.runs[0].file.parent.parent)):
        assert private not in text
    assert "see x.png" not in text  # no texts of items
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["sdk"], front["app_file"], front["title"]) == ("static", "index.html", "board")
    assert (tmp_path / "index.html").read_text().startswith("<!DOCTYPE html>")
    (column,) = build_leaderboard(load_runs([tmp_path / "leaderboard.json"])).tasks
    assert column.n == {"a/judge": 40, "b/judge": 40}
    with pytest.raises(JudgeError, match="a leaderboard file has no samples"):
        results_upload(build_leaderboard(load_runs([tmp_path / "leaderboard.json"])), "me/x")


def test_the_commands_show_what_they_would_upload_or_upload_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = runs_of(tmp_path)
    shown = call("push", "results", *files, "--to", "me/x", "--dry-run")
    assert "to: dataset me/x, private\nnothing was uploaded" in shown.stdout, shown.output
    with upload_hub(monkeypatch) as hub:
        done = call("push", "leaderboard", *files, "--to", "me/b", "--repo-type", "dataset")
    assert done.stdout.endswith(f"{COMMIT}\n"), done.output
    (dataset,) = hub.created
    assert (dataset["type"], dataset["visibility"]) == ("dataset", "private")
    assert hub.files.keys() == {"README.md", "index.html", "leaderboard.json", "leaderboard.csv"}
    assert TOKEN not in done.output
