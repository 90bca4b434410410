"""Ratings through the stock lmms-eval, to results, leaderboard, report and gate."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from support.commands import call, lmms_eval
from support.images import image_cell
from support.servers import Handler, serving
from support.tasks import write_split, write_yaml

from mtrl_judge.leaderboard.reading import load_run, results_files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]
ROWS = 40
SHADES = [6 * n + 5 for n in range(ROWS)]


class Oracle(Handler):
    """Rates how bright an image is."""

    def answer(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = request["messages"]
        (image,) = [part for part in message["content"] if part["type"] == "image_url"]
        data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
        shade = Image.open(io.BytesIO(data)).convert("L").getpixel((0, 0))
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": self.text(int(shade))}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "oracle"}
        self.send(json.dumps({**reply, "choices": [choice], "usage": usage}).encode())

    def text(self, shade: int) -> str:
        return f"<think>Gray.</think><answer>{label(shade)}</answer>"


class Guessing(Oracle):
    """Answers in other forms, without regard to the image, and not always."""

    def text(self, shade: int) -> str:
        rating = 1 + 7 * shade % 10
        return "Hard to say." if rating == 6 else f"It is gray.\nRating: [[{rating}/10]]"


def label(shade: int) -> float:
    return round(1 + 9 * shade / 255, 2)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A task in `world`, its data in `world/data`."""
    write_yaml(
        tmp_path,
        "bright",
        kind="score",
        question="'How bright is {{ text }}?'",
        label="{column: brightness}",
        scale="{min: 1, max: 10}",
        verdicts="null",
    )
    columns = {
        "image": [image_cell(f"#{shade:02x}{shade:02x}{shade:02x}", (32, 32)) for shade in SHADES],
        "text": [f"image {n}" for n in range(ROWS)],
        "brightness": [label(shade) for shade in SHADES],
    }
    write_split(tmp_path / "data", "bright", "test", columns)
    return tmp_path


def judged_by(judge: type[Oracle], world: Path) -> Path:
    """The results of a judge on a server, by lmms-eval's own client."""
    out = world / judge.__name__
    with serving(judge) as address:
        done = lmms_eval(
            world / "data",
            *("--model", "openai", "--tasks", "bright", "--include_path", world),
            *("--model_args", f"model={judge.__name__},base_url={address}/v1,api_key=none"),
            *("--output_path", out, "--log_samples"),
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_ratings_make_a_leaderboard_and_a_gate(world: Path) -> None:
    right, guessing = (judged_by(judge, world) for judge in (Oracle, Guessing))
    results = {path: load_run(results_files(path)[0]).tasks["bright"] for path in (right, guessing)}
    reported = results[right].rates
    assert reported["spearman"].value == pytest.approx(1)
    assert reported["pearson"].value == pytest.approx(1)
    assert reported["mae"].value == reported["null_rate"].value == 0
    assert reported["median_mae"].value == pytest.approx(2.1, abs=0.2)
    rows = [(float(s.record.label), s.record.verdict) for s in results[guessing].samples]
    ratings = [5.5 if verdict is None else float(verdict) for _, verdict in rows]
    labels = [value for value, _ in rows]
    expected = stats.spearmanr(labels, ratings).statistic
    reported = results[guessing].rates
    assert reported["spearman"].value == pytest.approx(expected)
    nulls = sum(verdict is None for _, verdict in rows)
    assert nulls > 0
    assert reported["null_rate"].value == pytest.approx(nulls / ROWS)

    for form in ("csv", "html"):
        written = ("--out", world / f"board.{form}", "--format", form, "--resamples", 500)
        shown = call("leaderboard", "show", right, guessing, *written, "--full")
        assert shown.exit_code == 0, shown.exception
    with (world / "board.csv").open(newline="") as file:
        board = {(row["judge"], row["rate"]): row for row in csv.DictReader(file)}
    row = board["Guessing", "spearman"]
    assert float(row["value"]) == pytest.approx(expected, abs=1e-3)
    assert float(row["low"]) < expected < float(row["high"])
    assert board["Guessing", "null_rate"]["low"]
    page = (world / "board.html").read_text()
    assert "Metrics of score tasks" in page

    saved = call("baseline", "save", right, "--out", world / "baseline.json")
    assert saved.exit_code == 0, saved.exception

    def gate(*given: object) -> int:
        return call("gate", *given, "--baseline", world / "baseline.json").exit_code

    assert gate(right, "--metric", "mae", "--min", "bright=0.5") == 0
    assert gate(guessing, "--metric", "mae", "--min", "bright=0.5") == 1
    assert gate(guessing, "--min", "bright=0.5") == 1


def test_a_rating_by_probability_is_the_expected_one(world: Path, random_judge: Path) -> None:
    done = lmms_eval(
        world / "data",
        *("--model", "mtrl_judge", "--model_args", f"pretrained={random_judge},scoring=logprob"),
        *("--tasks", "bright", "--include_path", world, "--batch_size", "8"),
        *("--output_path", world / "logs", "--log_samples"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (world / "logs").glob("**/*_samples_bright.jsonl")
    samples: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(samples) == ROWS
    for sample in samples:
        levels = [float(level) for level in sample["probabilities"]]
        assert levels == list(range(1, 11))
        expected = np.dot(levels, list(sample["probabilities"].values()))
        assert float(sample["verdict"]) == pytest.approx(expected, rel=1e-5)
        off = abs(float(sample["verdict"]) - float(sample["label"]))
        assert sample["correct"] == pytest.approx(1 - off / 9)
    result = load_run(results_files(world / "logs")[0]).tasks["bright"]
    ratings = [[float(s.record.label), float(s.record.verdict)] for s in result.samples]
    assert result.rates["spearman"].value == pytest.approx(stats.spearmanr(ratings).statistic)
