"""`engine=openai` inside lmms-eval: what `engine=transformers` gives, through a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.chat_server import Server, chat_server

from mtrl_judge.harness_plugin.answer_keys import ModelIdentity
from mtrl_judge.harness_plugin.model import MtrlJudge
from mtrl_judge.harness_plugin.prompt_style import STYLE_VARIABLE, set_backend
from mtrl_judge.judge_tasks.request_failures import request_failure
from mtrl_judge.judge_tasks.sources import DATA_ROOT_VARIABLE
from mtrl_judge.models import engines
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.transformers_judge import TransformersJudge

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

KEY = "sk-0123456789abcdef"
TASKS = ["mtrl_judge_seetrue", "mtrl_judge_mjbench_safety"]


def favoring(folder: str, **options: Any) -> Any:
    """The random model, but verdicts are among its most probable tokens."""
    model, tokenizer = load_model(folder, **options), load_processor(folder).tokenizer
    more_K = torch.zeros(model.get_output_embeddings().weight.shape[0])
    more_K[tokenizer("YesNo12")["input_ids"]] = 8.0
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: out + more_K)
    return model


@pytest.fixture
def evaluate(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., dict[str, Any]]]:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(data_root))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(engines, "load_model", favoring)
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2  # noqa: F401  registers the judge tasks
    from lmms_eval.tasks import TaskManager

    def evaluate(model_args: str, style: str, **keys: Any) -> dict[str, Any]:
        monkeypatch.setenv(STYLE_VARIABLE, style)
        results: dict[str, Any] = simple_evaluate(
            model="mtrl_judge",
            model_args=model_args,
            tasks=TASKS,
            task_manager=TaskManager(include_defaults=False),
            gen_kwargs="max_new_tokens=8",
            bootstrap_iters=0,
            batch_size=4,
            **keys,
        )
        return results

    yield evaluate
    set_backend(None)


@pytest.mark.parametrize(
    ("scoring", "style"),
    [("logprob", "direct"), ("logprob", "reasoned"), ("generation", "reasoned")],
)
def test_a_server_gives_what_transformers_gives(
    evaluate: Any, random_judge: Path, scoring: str, style: str
) -> None:
    expected = evaluate(f"pretrained={random_judge},scoring={scoring}", style)
    judge = TransformersJudge(favoring(str(random_judge)), load_processor(str(random_judge)))
    with chat_server(Server(judge)) as url:
        args = f"pretrained=judge,engine=openai,base_url={url},scoring={scoring}"
        found = evaluate(args, style)
    texts = set()
    for task in TASKS:
        record = found["configs"][task]["metadata"]["judge"]
        facts = [record[name] for name in ("engine", "scoring", "style", "min_pixels")]
        assert facts == ["openai", scoring, style, "unknown"]
        for ours, theirs in zip(found["samples"][task], expected["samples"][task], strict=True):
            assert ours["verdict"] == theirs["verdict"]
            if scoring == "generation":
                assert ours["text"] == theirs["text"]
            else:
                assert ours["text"].partition("\n")[2] == theirs["text"].partition("\n")[2]
                assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-3)
                assert ours["verdict_mass"] == pytest.approx(theirs["verdict_mass"], rel=2e-3)
                assert not any(ours["upper_bounds"].values())
            texts.add(ours["text"])
    assert len(texts) > 2, "prompts differ"
    assert KEY not in json.dumps(found, default=str)


def test_failures_and_unknown_verdicts_are_no_verdicts(evaluate: Any, random_judge: Path) -> None:
    """A judge that names no verdict among its first tokens has none; nothing is guessed."""
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))
    head = judge.model.get_output_embeddings()
    less_K = torch.zeros(head.weight.shape[0])
    less_K[judge.tokenizer("YesNo12YeNuoY")["input_ids"]] = -20.0
    head.register_forward_hook(lambda _, __, out: out + less_K)
    server = Server(judge)
    with chat_server(server) as url:
        args = f"pretrained=judge,engine=openai,base_url={url},scoring=logprob"
        found = evaluate(args, "direct")
        server.failure = (400, "no such image")
        failed = evaluate(args, "direct")
    for task in TASKS:
        for row in found["samples"][task]:
            assert row["verdict"] is None
            assert all(row["upper_bounds"].values())
            assert set(row["probabilities"].values()) == {0.5}
        for row in failed["samples"][task]:
            failure = request_failure(row["text"])
            assert failure is not None
            assert "no such image" in failure.message
            assert row["verdict"] is None


def test_answers_are_kept_by_the_server_that_gave_them(
    random_judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the client reads its address from the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))
    arguments = {"pretrained": "judge", "engine": "openai"}
    identities = []
    with chat_server(Server(judge)) as url, chat_server(Server(judge)) as other:
        for address in (url, url, other):
            monkeypatch.setenv("OPENAI_BASE_URL", address)
            model = MtrlJudge.create_from_arg_string("pretrained=judge,engine=openai")
            identities.append(ModelIdentity(model, "mtrl_judge", arguments).parts)
    set_backend(None)
    assert identities[0] == identities[1] != identities[2]


def test_wrong_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for args, message in (
        ("engine=openai,dtype=bfloat16", "dtype: not with engine=openai"),
        ("engine=openai,trust_remote_code=True", "trust_remote_code: not with engine=openai"),
        ("engine=openai,max_model_len=9", "max_model_len: only with engine=vllm"),
        ("base_url=http://127.0.0.1:1/v1", "base_url: only with engine=openai"),
        ("engine=openai,api_key=x", "unknown key 'api_key'"),
    ):
        with pytest.raises(SystemExit, match=message):
            MtrlJudge.create_from_arg_string(f"pretrained=judge,{args}")
