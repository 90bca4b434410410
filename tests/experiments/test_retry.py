"""Failed requests of an evaluation are repeated with its own command, and nothing else is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.commands import call
from support.results import sample, write_results
from support.servers import chat_server
from support.tasks import POINTWISE_TASK, write_two_tasks

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.experiments.evaluation_record import (
    EvaluationRecord,
    read_record,
    with_given_secrets,
    write_record,
)
from mtrl_judge.experiments.launch import FailedRequestsError, remove_results, retry_failed
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.leaderboard.reading import load_runs, results_files

TEXTS = "abcdef"
RECORD = EvaluationRecord(
    model="openai",
    tasks="t",
    flags=[
        *("--limit", "2", "--model_args=model=m,api_key=planted-secret,timeout=3"),
        *("--wandb_args", "project=p,token=planted-secret"),
    ],
    secrets=[],
    variables={},
    working_directory="/",
    session="1",
    answers="../answers",
    replaces=None,
)


def test_a_record_has_no_secrets_and_they_are_given_again(tmp_path: Path) -> None:
    results = tmp_path / "1_results.json"
    write_record(results, RECORD)
    assert "planted-secret" not in (tmp_path / "1_command.json").read_text()
    record = read_record(results)
    assert record.secrets == ["api_key"]
    for given in (["--model_args", "api_key=new"], ["--model_args=api_key=new"]):
        flags = with_given_secrets(record, given)
        model_args = ["--model_args", "model=m,timeout=3,api_key=new"]
        assert flags == ["--limit", "2", *model_args, "--wandb_args", "project=p"]
    with pytest.raises(JudgeError, match=r"api_key not recorded.*; give --model_args api_key=…"):
        with_given_secrets(record, [])
    for given in (["--limit", "3"], ["--model_args", "api_key=new,timeout=9"]):
        with pytest.raises(JudgeError, match="a run is repeated with its own options only"):
            with_given_secrets(record, given)


def test_a_run_that_cannot_be_repeated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="no lmms-eval results"):
        retry_failed(tmp_path)
    first = write_results(tmp_path, {"t": [sample(0, "Yes", "Yes")]})
    with pytest.raises(JudgeError, match=r"no .*_command.json; expected a run of"):
        retry_failed(tmp_path)
    write_record(first, RECORD._replace(flags=[]))
    with pytest.raises(JudgeError, match=r"there is no folder .*answers"):
        retry_failed(first)
    write_results(tmp_path / "other", {"t": [sample(0, "Yes", "Yes")]})
    with pytest.raises(JudgeError, match="has several results; name one of"):
        retry_failed(tmp_path)
    refused = call("eval", "--retry-failed", tmp_path, "--tasks", "t").exception
    assert str(refused) == "--tasks: a run is repeated with its own options"


def test_a_run_that_another_replaces_is_left_out_of_its_folder(tmp_path: Path) -> None:
    rows = {"t": [sample(0, "Yes", "Yes")]}
    first, second = (write_results(tmp_path / name, rows) for name in ("a", "b"))
    assert [run.file for run in load_runs([tmp_path])] == [first, second]
    write_record(second, RECORD._replace(replaces=f"../a/{first.name}"))
    assert [run.file for run in load_runs([tmp_path])] == [second]
    assert [run.file for run in load_runs([first])] == [first]


def test_results_are_removed_without_the_answers(tmp_path: Path) -> None:
    for name in ("answers/1.jsonl", "model/1_results.json", "log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_results(tmp_path)
    remove_results(tmp_path / "missing")
    assert [path.name for path in tmp_path.rglob("*")] == ["answers", "1.jsonl"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_only_failed_requests_are_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(write_two_tasks(tmp_path)))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    verdicts = {f"Is it {text}?": f"<think>{text}</think><answer>Yes</answer>" for text in TEXTS}
    with chat_server(verdicts) as (server, model_args):
        server.answers |= {"Is it b?": 403, "Is it e?": 401}
        failed = call(
            *("eval", "--model", "openai", "--model_args", model_args, "--tasks", POINTWISE_TASK),
            *("--include_path", ".", "--output-path", "out"),
        ).exception
        assert isinstance(failed, FailedRequestsError)
        assert failed.exit_code == 1
        assert str(failed).startswith("2 requests failed:\n       1  Error code: 401")
        assert Counter(server.asked) == dict.fromkeys(verdicts, 1)
        (first,) = results_files(out)
        server.answers |= verdicts
        server.asked.clear()
        # Elsewhere, and without the variable that the run was started with.
        monkeypatch.delenv(DATA_ROOT_VARIABLE)
        monkeypatch.chdir("/")
        secret = ("--model_args", "api_key=planted-secret")
        done = call("eval", "--retry-failed", out, *secret)
        assert done.exit_code == 0, done.exception
        assert sorted(server.asked) == ["Is it b?", "Is it e?"]
        (run,) = load_runs([out])
        assert run.file != first
        (samples,) = run.file.parent.glob(f"{run.file.name[:15]}_samples_*.jsonl")
        verdicts_found = [json.loads(line)["verdict"] for line in samples.read_text().splitlines()]
        assert verdicts_found == ["Yes"] * 6
        again = call("eval", "--retry-failed", out, *secret)
        assert again.stdout == f"{out}: no failed requests\n"
        assert len(server.asked) == 2
    texts = [path.read_text() for path in out.rglob("*") if path.is_file()]
    assert not [text for text in texts if "planted-secret" in text]
