"""The command line: quick to start, clear in its errors, never writing over anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.commands import call, fails, held_elsewhere
from support.images import image_cell
from support.results import judged_rows, write_results
from support.shared import sample_corpus
from support.tasks import write_split, write_yaml

import mtrl_judge
from mtrl_judge.demo import pretrain
from mtrl_judge.judge_tasks.kinds import KINDS
from mtrl_judge.judge_tasks.loading import load_judge_task, load_shipped_tasks
from mtrl_judge.judge_tasks.verdicts import PARSER_VERSION
from mtrl_judge.models.checkpoint import load_processor


def test_the_version_is_printed() -> None:
    assert call("--version").stdout == f"mtrl-judge {mtrl_judge.__version__}\n"


def test_help_shows_the_default_of_an_option() -> None:
    assert " [default: 0; x>=0]" in call("leaderboard", "show", "--help").stdout


def test_tasks_lists_every_shipped_task_with_its_card() -> None:
    rows = json.loads(call("tasks", "--json").stdout)
    assert [row["task"] for row in rows] == [task.task for task in load_shipped_tasks()]
    keys = {"task", "kind", "role", "dimension", "verdicts", "dataset", "splits", "card"}
    assert all(row.keys() == keys and row["card"]["license"] for row in rows)
    assert "mtrl_judge_unsafebench" in call("tasks").stdout


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["tasks"],
        ["validate", "mtrl_judge_seetrue"],
        ["train", "--help"],
        ["experiment", "--help"],
    ],
)
def test_commands_that_start_quickly_import_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['mtrl-judge', *sys.argv[1:]]\n"
        "from mtrl_judge.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lmms_eval', 'trl', 'datasets', 'transformers', 'pandas', 'scipy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_validate_reports_all_faults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = write_yaml(tmp_path, "valid")
    assert call("validate", valid, "mtrl_judge_agin_nat").exit_code == 0
    faulty = write_yaml(tmp_path, "faulty", kind="pontwise", label="{column: label}")
    error = fails(capsys, monkeypatch, "validate", valid, faulty, tmp_path / "none.yaml")
    assert "judge.kind: is 'pontwise'; did you mean 'pointwise'?" in error
    assert "none.yaml: file: does not exist" in error
    assert "2 of 3 invalid" in error


def test_validate_takes_real_rows_through(tmp_path: Path, data_root: Path) -> None:
    ok = call("validate", "mtrl_judge_agin_nat", "--rows", 3, "--data-root", data_root)
    assert ok.exit_code == 0, ok.output


def test_preview_prints_prompts_and_writes_images_once(
    tmp_path: Path,
    data_root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("preview", "mtrl_judge_mjbench_safety", "--n", 2)
    arguments += ("--data-root", data_root, "--out", tmp_path / "p")
    shown = call(*arguments)
    assert shown.exit_code == 0, shown.output
    assert "Which image is safer" in shown.stdout
    assert "(swapped) · label 2" in shown.stdout
    assert len(list((tmp_path / "p").glob("*.png"))) == 4
    assert "already exists" in fails(capsys, monkeypatch, *arguments)


def test_a_preview_shows_what_a_model_sees_as_text_and_as_a_page(
    tmp_path: Path, data_root: Path, random_judge: Path
) -> None:
    arguments = ("preview", "mtrl_judge_mjbench_safety", "--n", 1, "--data-root", data_root)
    arguments += ("--model", random_judge, "--system-prompt", "Be <b>fair</b>.")
    shown = call(*arguments, "--out", tmp_path / "p")
    assert shown.exit_code == 0, shown.output
    processor = load_processor(str(random_judge))
    text, figures = shown.stdout.partition("template:\n")[2].split("image 1: ")
    assert text.startswith("<|im_start|>system\nBe <b>fair</b>.<|im_end|>")
    assert text.rstrip().endswith("<|im_start|>assistant")
    images = [Image.open(file) for file in sorted((tmp_path / "p").glob("*.png"))]
    inputs = processor(text=[text.rstrip("\n") + "\n"], images=[images], return_tensors="pt")
    ids = inputs["input_ids"][0]
    of_images = int((ids == processor.image_token_id).sum())
    assert f"tokens: {len(ids):,}, {of_images:,} of them of images" in figures
    patches = inputs["image_grid_thw"][0].tolist()
    height, width = (n * processor.image_processor.patch_size for n in patches[1:])
    assert f"seen as {width}×{height}" in figures

    page = call(*arguments, "--html", "--out", tmp_path / "p", "--force")
    assert page.exit_code == 0, page.output
    (file,) = (tmp_path / "p").iterdir()
    html = file.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert html.count('<img src="data:image/png;base64,') == 2
    assert "Be &lt;b&gt;fair&lt;/b&gt;." in html
    assert "<script" not in html


def test_score_reads_plain_rows_and_writes_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"item_id": "a", "label": "Yes", "text": "<think>x</think><answer>Yes</answer>"},
        {"item_id": "b", "label": "No", "text": "Final verdict: Yes"},
        {"item_id": "c", "label": "No", "text": "hard to say"},
        {"item_id": "d", "label": None, "text": "No"},
    ]
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = call("score", "--task", "mtrl_judge_seetrue", file, "--out", out)
    metrics = json.loads(result.stdout)
    assert metrics["parser"] == PARSER_VERSION
    assert metrics["n"] == 3
    assert metrics["n_unlabeled"] == 1
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["null_rate"] == pytest.approx(1 / 3)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["verdict"] for row in written] == ["Yes", "Yes", None, "No"]
    assert [row["score"] for row in written] == [1.0, 0.0, 0.0, None]
    again = ("score", "--task", "mtrl_judge_seetrue", file, "--out", out)
    assert "already exists" in fails(capsys, monkeypatch, *again)


def test_score_explains_how_texts_were_read(tmp_path: Path) -> None:
    texts = [*["Yes."] * 12, *["The answer is Yes. The answer is No."] * 5]
    texts += ["hard \x1b[31mto\u202e say\n" + "and long " * 1000 + "until here", ""]
    file = tmp_path / "in.jsonl"
    rows = [{"item_id": n, "label": "No", "text": text} for n, text in enumerate(texts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = call("score", "--task", "mtrl_judge_seetrue", file, "--explain").stdout
    assert "7 of 19 texts (36.8%) have no verdict" in shown
    assert "12 of 19 texts (63.2%) have a verdict" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    several = next(n for n, line in enumerate(lines) if line.startswith("several verdicts 5 12"))
    assert lines[several].endswith("No, Yes The answer is Yes. The answer is No.")
    assert lines[several + 1].startswith("13 ")
    assert lines[several + 2].startswith("14 ")
    assert not any(line.startswith("15 ") for line in lines)  # three examples are enough
    (long,) = (line for line in lines if "hard to\ufffd say and long" in line)
    assert long.endswith("until here")
    assert len(max(shown.splitlines(), key=len)) < 200
    assert all(character.isprintable() for character in shown.replace("\n", ""))


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"item_id": 1, "label": "Yes"', "line 2: not valid JSON"),
        ("[1]", "line 2: found list"),
        ('{"item_id": 1, "label": "Yes"}', "line 2: no field 'text'; found: item_id, label"),
        ('{"item_id": 1, "label": "yes", "text": ""}', "did you mean 'Yes'?"),
    ],
)
def test_score_names_the_bad_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    part: str,
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"item_id": 0, "label": "No", "text": "No"}\n' + line + "\n")
    assert part in fails(capsys, monkeypatch, "score", "--task", "mtrl_judge_seetrue", file)


@pytest.mark.parametrize("kind", [*KINDS])
def test_new_writes_a_yaml_that_validates(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    out = tmp_path / "mine.yaml"
    arguments = ("new", "mine", "--kind", kind, "--dataset", "o/n", "--out", out)
    assert call(*arguments).exit_code == 0
    assert load_judge_task(out).dataset_path == "o/n"
    assert call("validate", out).exit_code == 0
    assert "already exists" in fails(capsys, monkeypatch, *arguments)
    assert "did you mean" in fails(capsys, monkeypatch, "new", "x", "--kind", "pairwize")


def test_status_reports_rows_terms_and_problems(tmp_path: Path, data_root: Path) -> None:
    arguments = ("data", "status", "*_agin_nat", "*_seetrue", "*_unsafebench")
    found = json.loads(call(*arguments, "--data-root", data_root, "--json").stdout)
    agin, seetrue, _ = found
    assert (agin["source"], agin["expected"]["train"]) == ("folder", 4839)
    assert {name: split["items"] for name, split in agin["splits"].items()} == {
        "train": 8,
        "validation": 1,
        "test": 6,
    }
    assert agin["bytes"] > 0
    assert (agin["training"], agin["problems"]) == ("yes", [])
    assert seetrue["training"] == "only with --accept-license seetrue"
    assert seetrue["splits"]["test"]["labels"] == {"Yes": 3, "No": 2}
    assert "no validation split" in seetrue["problems"][0]
    table = call(*arguments, "--data-root", data_root).stdout
    for part in ("to accept", "CC-BY-4.0", "Yes 3, No 2", agin["splits"]["test"]["fingerprint"]):
        assert part in table
    nothing = call("data", "status", "*_agin_nat", "--data-root", tmp_path, "--json").stdout
    (missing,) = json.loads(nothing)
    assert missing["source"] is None
    assert "the dataset is not on the hub" in missing["problems"][0]


def test_cards_are_shown() -> None:
    cards = " ".join(call("tasks", "--cards").stdout.split())
    assert "against training: its card calls it a test set that should not" in cards
    assert "items: train 6,194, validation 2,584, test 2,720" in cards


def test_a_push_that_is_not_sent_shows_card_and_files(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, data_root: Path
) -> None:
    arguments = ("push", "data", "mtrl_judge_agin_nat", "--data-root", data_root)
    shown = call(*arguments, "--to", "me/agin", "--dry-run").stdout
    front = yaml.safe_load(shown.split("---")[1])
    files = front["configs"][0]["data_files"]
    assert [each["split"] for each in files] == ["train", "test"]
    assert "all rights reserved; ask the authors" in shown
    assert "| train | 8 | 8 | Yes" in shown
    assert "| filename | string |" in shown
    assert "No evaluated item shares an image" in shown
    assert "dataset_path: me/agin" in shown
    assert "data/train.parquet" in shown
    assert "to: dataset me/agin, private\nnothing was uploaded" in shown
    public = fails(capsys, monkeypatch, *arguments, "--to", "me/agin", "--public")
    assert "--accept-license agin_nat" in public
    assert "owner/name" in fails(capsys, monkeypatch, *arguments, "--to", "agin")


def test_a_wrong_style_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean 'direct'?" in fails(capsys, monkeypatch, "eval", "--style", "dirct")


def test_train_lists_recipes_and_passes_its_arguments_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in ([], ["--help"]):
        shown = call("train", *words).stdout
        assert "train grpo|sft --recipe NAME|FILE" in shown
        assert "tiny_cpu" in shown
    handed: list[list[str]] = []
    monkeypatch.setattr("mtrl_judge.rl.train.main", handed.append)
    words = ["grpo", "--recipe", "tiny_cpu", "--tasks", "mtrl_judge_unsafebench", "--alpha=0.2"]
    assert call("train", *words).exit_code == 0
    assert call("train", "sft", "--help").exit_code == 0
    assert handed == [words, ["sft", "--help"]]


def test_a_mistake_in_train_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean 'grpo'" in fails(capsys, monkeypatch, "train", "grppo")


def test_experiment_lists_its_steps(tmp_path: Path) -> None:
    arguments = ["experiment", "--recipe", "tiny_cpu", "--out", tmp_path / "e", "--dry-run"]
    shown = call(*arguments, "--seeds", "4,7", "--only", "mt-rl-judge,off-the-shelf")
    assert shown.exit_code == 0, shown.output
    assert "[7/7] MT-RL-Judge, corpus 0, seed 7: evaluation: to do" in shown.stdout
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--seeds", "x"], "found 'x'; expected a number, such as 3 for 0, 1 and 2"),
        (["--seeds", "0"], "found '0'; expected"),
        (["--seeds", "1,1"], "found '1,1'; expected"),
        (["--only", "rl-singel"], "did you mean 'rl-single'?"),
    ],
)
def test_experiment_names_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    part: str,
) -> None:
    assert part in fails(capsys, monkeypatch, "experiment", "--recipe", "tiny_cpu", *arguments)


def test_a_missing_column_stops_a_preview(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = write_yaml(tmp_path, "mine")
    columns = {"image": [image_cell("red")], "txt": ["a"], "label": [1]}
    write_split(tmp_path, "mine", "test", columns)
    error = fails(capsys, monkeypatch, "preview", yaml, "--data-root", tmp_path)
    assert "no column 'text' in the data; did you mean 'txt'?" in error


@pytest.mark.parametrize(
    "words",
    [
        ["data", "sample", "--data-root"],
        ["eval", "--output-path"],
        ["robustness", "--perturbations", "swap", "--output-path"],
        ["demo", "--out"],
        ["experiment", "--recipe", "tiny_cpu", "--out"],
    ],
    ids=lambda words: " ".join(words[:-1]),
)
def test_a_folder_that_another_process_writes_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    folder = tmp_path / "seed-0" if words[0] == "demo" else tmp_path
    with held_elsewhere(folder) as other:
        message = fails(capsys, monkeypatch, *words, tmp_path)
    assert f"{folder}: in use by process {other.pid} on " in message


UNWRITABLE = [
    ["new", "mine", "--out", "{there}.yaml"],
    ["preview", "mtrl_judge_agin_nat", "--data-root", "{data}", "--out", "{there}"],
    ["score", "{rows}", "--task", "mtrl_judge_seetrue", "--out", "{there}"],
    ["data", "sample", "--data-root", "{there}"],
    ["data", "prepare", "mtrl_judge_agin_nat", "--from", "{data}", "--data-root", "{there}"],
    ["leaderboard", "{results}", "--out", "{there}"],
    ["leaderboard", "{results}", "--plots", "{there}"],
    ["leaderboard", "add", "{there}", "{results}"],
    ["leaderboard", "merge", "{board}", "--out", "{there}"],
    ["baseline", "save", "{results}", "--out", "{there}"],
    ["gate", "{results}", "--baseline", "{results}", "--summary", "{there}"],
    ["eval", "--output-path", "{there}"],
    ["robustness", "--perturbations", "swap", "--output-path", "{there}"],
    ["experiment", "--recipe", "tiny_cpu", "--out", "{there}"],
    ["demo", "--out", "{there}"],
    ["tiny", "--data-root", "{data}", "--out", "{there}"],
]


@pytest.mark.parametrize("words", UNWRITABLE, ids=lambda words: " ".join(words[:2]))
def test_a_place_that_cannot_be_written_is_one_message(
    tmp_path: Path,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    """A path in a file: not even root can write there, as it can into a read-only folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrain, "build_tokenizer", lambda _: pytest.fail("checked too late"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"item_id": "a", "label": "Yes", "text": "Yes"}\n', encoding="utf-8")
    results = write_results(tmp_path / "results", {"mtrl_judge_a": judged_rows(20, 0.8, 0)})
    board = tmp_path / "board.json"
    assert call("leaderboard", "add", board, results, "--resamples", 100).exit_code == 0
    places = {"there": rows / "x", "data": sample_corpus(base), "rows": rows, "results": results}
    before = set(tmp_path.rglob("*"))
    capsys.readouterr()  # of writing the sample
    message = fails(capsys, monkeypatch, *(word.format(**places, board=board) for word in words))
    assert str(rows) in message
    assert "\n" not in message.strip()  # there may be the end of progress bars before it
    assert before == set(tmp_path.rglob("*"))


def test_a_closed_output_ends_quietly_and_a_full_one_with_a_message() -> None:
    command = [sys.executable, "-m", "mtrl_judge", "tasks", "--json"]
    with Path("/dev/full").open("w") as output:
        full = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (full.returncode, full.stderr) == (2, b"No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    for words in (command, [*command[:3], "--help"]):
        closed = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
        assert (closed.returncode, closed.stderr) == (141, b"")
    os.close(writer)
