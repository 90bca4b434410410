"""Answers of every backend are kept as they arrive, and given only to the same question."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.images import image_cells
from support.servers import chat_server
from support.tasks import POINTWISE_TASK, TASK_OF_PAIRS, write_split, write_two_tasks

from mtrl_judge.harness_plugin.answer_store import (
    REUSE_ALL,
    REUSE_VARIABLE,
    SESSION_VARIABLE,
    STORE_VARIABLE,
)
from mtrl_judge.harness_plugin.perturbations import PERTURBATION_VARIABLE
from mtrl_judge.harness_plugin.prompt_style import STYLE_VARIABLE, set_backend
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.models.transformers_judge import TransformersJudge

TASKS = [TASK_OF_PAIRS, POINTWISE_TASK]
TEXTS = "abcdef"  # of the six items of the pointwise task
VERDICTS = {f"Is it {text}?": f"<think>{text}</think><answer>Yes</answer>" for text in TEXTS}


class Evaluations:
    """lmms-eval in this process, on two small tasks, with a store of answers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.root = folder, write_two_tasks(folder)
        self.store = folder / "answers"
        self._monkeypatch, self._sessions = monkeypatch, 0
        monkeypatch.setenv(DATA_ROOT_VARIABLE, str(self.root))
        monkeypatch.setenv(STORE_VARIABLE, str(self.store))

    def run(
        self,
        model: str,
        model_args: str,
        tasks: list[str] = TASKS,
        *,
        reuse: str = REUSE_ALL,
        **keys: Any,
    ) -> dict[str, Any]:
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
        from lmms_eval.tasks import TaskManager

        self._sessions += 1
        self._monkeypatch.setenv(SESSION_VARIABLE, str(self._sessions))
        self._monkeypatch.setenv(REUSE_VARIABLE, reuse)
        manager = TaskManager(include_path=str(self.folder), include_defaults=False)
        keys = {"gen_kwargs": "max_new_tokens=6", "bootstrap_iters": 0, **keys}
        results: dict[str, Any] = simple_evaluate(
            model=model, model_args=model_args, tasks=tasks, task_manager=manager, **keys
        )
        return results["samples"]

    def asked(self) -> list[str]:
        """The items of the newest evaluation's requests; failed ones count."""
        (file,) = self.store.glob(f"{self._sessions}-*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        return [line["item_id"] for line in lines if "key" in line]


@pytest.fixture
def evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluations]:
    yield Evaluations(tmp_path, monkeypatch)
    set_backend(None)


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_where_it_was(
    evaluations: Evaluations, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**keys: Any) -> dict[str, Any]:
        return evaluations.run("mtrl_judge", f"pretrained={random_judge}", batch_size=2, **keys)

    whole = run(reuse="")
    assert len(evaluations.asked()) == 11
    shutil.rmtree(evaluations.store)
    stock, batches = TransformersJudge.generate, []

    def generate(self: TransformersJudge, batch: Any, **settings: Any) -> Any:
        if len(batches) == 3:
            raise KeyboardInterrupt
        batches.append(batch)
        return stock(self, batch, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(TransformersJudge, "generate", generate)
        with pytest.raises(KeyboardInterrupt):
            run()
    before = evaluations.asked()
    assert len(before) == sum(len(batch.indices) for batch in batches) < 11
    assert run() == whole
    assert sorted([*before, *evaluations.asked()]) == sorted(
        sample["item_id"] for samples in whole.values() for sample in samples
    )
    assert run() == whole  # nothing is left to ask
    assert evaluations.asked() == []
    assert run(reuse="") == whole
    assert len(evaluations.asked()) == 11


@pytest.mark.slow
def test_whatever_an_answer_depends_on_asks_again(
    evaluations: Evaluations, random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = evaluations.folder / "judge"
    shutil.copytree(random_judge, judge)
    default = f"pretrained={judge}"

    def asks(model_args: str = default, **keys: Any) -> int:
        evaluations.run("mtrl_judge", model_args, [POINTWISE_TASK], **{"limit": 2, **keys})
        return len(evaluations.asked())

    assert (asks(), asks(), asks(batch_size=2), asks(f"{default},batch_size=3")) == (2, 0, 0, 0)
    assert asks(limit=3) == 1
    assert asks(gen_kwargs="max_new_tokens=5") == 2
    assert asks(gen_kwargs="temperature=1,max_new_tokens=6") == 2
    assert asks(gen_kwargs="temperature=1,max_new_tokens=6") == 0
    assert asks(gen_kwargs="temperature=1,max_new_tokens=6", torch_random_seed=5) == 2
    # One answer to each item is there.
    assert asks(gen_kwargs="temperature=1,max_new_tokens=6", repeats=2) == 2
    votes = f"{default},max_new_tokens=6,samples=2"
    assert (asks(votes), asks(votes), asks(f"{votes},vote=mean")) == (2, 0, 2)
    assert asks(f"{votes},temperature=0.5") == asks(votes, torch_random_seed=5) == 2
    assert asks(f"{default},samples=1") == 2
    assert asks(f"{default},max_pixels=4096") == 2
    assert asks(f"{default},system_prompt=Judge.") == 2
    assert asks(f"{default},scoring=logprob") == 2
    for variable, value in ((STYLE_VARIABLE, "direct"), (PERTURBATION_VARIABLE, "blank_image")):
        monkeypatch.setenv(variable, value)
        assert asks() == 2
        monkeypatch.delenv(variable)
    assert asks() == 0
    # Trained again into the same folder: other weights in a file of the same name and size.
    (weights,) = judge.glob("*.safetensors")
    found = weights.stat()
    weights.write_bytes(weights.read_bytes())
    os.utime(weights, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    assert (asks(), asks()) == (2, 0)
    columns = {"image": image_cells(6, 7), "text": list(TEXTS), "label": [1, 0, 1, 1, 0, None]}
    write_split(evaluations.root, POINTWISE_TASK, "test", columns)
    (evaluations.folder / f"{POINTWISE_TASK}.yaml").touch()  # loaded again
    assert asks() == 2


def test_a_stock_backend_is_asked_only_for_what_failed(evaluations: Evaluations) -> None:
    with chat_server(VERDICTS) as (server, model_args):
        server.answers |= {"Is it b?": 403, "Is it e?": 401}

        def run(**keys: Any) -> list[dict[str, Any]]:
            server.asked.clear()
            return evaluations.run("openai", model_args, [POINTWISE_TASK], **keys)[POINTWISE_TASK]

        failed = run(repeats=2)
        assert Counter(server.asked) == dict.fromkeys(VERDICTS, 2)
        server.answers |= VERDICTS
        complete = run(repeats=2, reuse="1")  # the first session
        assert Counter(server.asked) == {"Is it b?": 2, "Is it e?": 2}
        assert [row["verdict"] for row in complete] == ["Yes"] * 6
        others = [0, 2, 3, 5]
        assert [complete[place] for place in others] == [failed[place] for place in others]
        assert complete[1]["token_counts"] == complete[0]["token_counts"]
        run(repeats=2)
        assert server.asked == []
        with pytest.raises(SystemExit, match="12 of 12 requests are not those of the earlier"):
            run(repeats=2, gen_kwargs="max_new_tokens=7", reuse="1")
        assert server.asked == []
    text = "".join(file.read_text() for file in evaluations.store.iterdir())
    assert "planted-secret" not in text


def test_a_repetition_names_what_has_changed(evaluations: Evaluations) -> None:
    with chat_server(VERDICTS | {"Is it b?": 403}) as (server, model_args):
        evaluations.run("openai", model_args, [POINTWISE_TASK])
        server.asked.clear()
        with pytest.raises(SystemExit, match=r"their_points: changed since then: --model_args"):
            evaluations.run("openai", f"{model_args},video_fps=1", [POINTWISE_TASK], reuse="1")
        columns = {"image": image_cells(6), "text": list(TEXTS), "label": [0] * 6}
        write_split(evaluations.root, POINTWISE_TASK, "test", columns)
        (evaluations.folder / f"{POINTWISE_TASK}.yaml").touch()
        with pytest.raises(SystemExit, match=r"their_points: changed since then: rows") as end:
            evaluations.run("openai", model_args, [POINTWISE_TASK], reuse="1")
        assert end.value.code == 2
        assert server.asked == []


def test_the_response_cache_takes_half_characters_and_no_failures(
    evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lmms-eval's --use_cache, with and without a store beside it."""
    for store in (str(evaluations.store), ""):
        monkeypatch.setenv(STORE_VARIABLE, store)
        cache = evaluations.folder / f"cache{bool(store)}"
        with chat_server(VERDICTS) as (server, model_args):
            server.answers |= {"Is it a?": "Yes \ud83d", "Is it b?": 403}

            def run(cache: Path = cache, model_args: str = model_args) -> list[dict[str, Any]]:
                keys = {"reuse": "", "use_cache": str(cache)}
                tasks = [POINTWISE_TASK]
                return evaluations.run("openai", model_args, tasks, **keys)[POINTWISE_TASK]

            assert run()[0]["text"] == "Yes �"
            assert len(server.asked) == 6
            server.answers |= {"Is it b?": "No"}
            server.asked.clear()
            assert [row["text"] for row in run()[:2]] == ["Yes �", "No"]
            assert server.asked == ["Is it b?"]
