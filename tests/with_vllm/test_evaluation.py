"""Real vLLM judges as transformers does: in our backend, in lmms-eval's own, and over a server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.commands import lmms_eval

from mtrl_judge.common.markup import JUDGE_TAGS
from mtrl_judge.demo.corpus import sample_tasks
from mtrl_judge.harness_plugin.prompt_style import STYLE_VARIABLE

pytest.importorskip("vllm", reason="vLLM is not installed; see `make test-vllm`")
pytestmark = pytest.mark.slow

SHIPPED = [task.task for task in sample_tasks()]
# Orders have no probabilities; ratings by probability are numbers that differ in the last digit.
COUNTED = [task.task for task in sample_tasks() if task.kind.counted]
LIMIT, MAX_NEW_TOKENS = 6, 64
PIXELS = 48 * 48  # fewer than the judge's own 64 × 64
ON_VLLM = "dtype=float32,enforce_eager=True,max_model_len=2048"
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # others may use the cores as well
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OPENAI_API_KEY": "none",
}
Run = dict[str, Any]  # lmms-eval's results, with the samples of each task


@pytest.fixture(scope="module")
def evaluate(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Run the stock command on every shipped task; equal calls run once."""

    @cache
    def evaluate(model: str, model_args: str, style: str = "") -> Run:
        out = tmp_path_factory.mktemp("run")
        tasks = COUNTED if "scoring=logprob" in model_args else SHIPPED
        done = lmms_eval(
            sample,
            *("--model", model, "--model_args", model_args, "--tasks", ",".join(tasks)),
            *("--limit", LIMIT, "--batch_size", 16, "--output_path", out, "--log_samples"),
            *("--gen_kwargs", f"max_new_tokens={MAX_NEW_TOKENS}"),
            **{**VARIABLES, STYLE_VARIABLE: style},
        )
        files = list(out.glob("**/*_results.json"))
        assert files, (done.stdout + done.stderr)[-4000:]
        results: Run = json.loads(files[0].read_text())
        date = files[0].name.removesuffix("_results.json")
        results["samples"] = {
            task: [
                json.loads(line)
                for line in files[0].with_name(f"{date}_samples_{task}.jsonl").open()
            ]
            for task in tasks
        }
        results["log"] = done.stdout + done.stderr
        return results

    return evaluate


@pytest.fixture(scope="module")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's server, which runs the judge with a limit on pixels."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = {"size": {"shortest_edge": PIXELS, "longest_edge": PIXELS}}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny]
    command += ["--served-model-name=judge", "--host=127.0.0.1", f"--port={port}"]
    command += ["--dtype=float32", "--enforce-eager", "--max-model-len=2048"]
    command += ["--mm-processor-kwargs", json.dumps(limits)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, **VARIABLES},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it starts processes of its own, which end with it
        )
    try:
        deadline = time.monotonic() + 400
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def texts(run: Run) -> dict[str, list[str]]:
    return {task: [row["text"] for row in rows] for task, rows in run["samples"].items()}


def recorded(run: Run, *names: str) -> tuple[object, ...]:
    """What all tasks of a run record under the names."""
    (values,) = {
        tuple(run["configs"][task]["metadata"]["judge"][name] for name in names)
        for task in run["samples"]
    }
    return values


def assert_that_much_is_judged(run: Run) -> None:
    """Equal answers say little unless they are many, differ and state verdicts."""
    rows = [row for task in SHIPPED for row in run["samples"][task]]
    assert len(rows) == LIMIT * len(SHIPPED)
    assert len({row["text"] for row in rows}) > len(rows) / 4
    assert sum(row["well_formed"] for row in rows) > len(rows) / 4


def test_our_backend_on_vllm_gives_the_answers_of_transformers(
    evaluate: Callable[..., Run], tiny: Path, tmp_path: Path
) -> None:
    """Also where the tokenizer marks tags as special, and with a limit on pixels."""
    from transformers import AutoTokenizer

    special = tmp_path / "special"
    shutil.copytree(tiny, special)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"additional_special_tokens": list(JUDGE_TAGS)})
    tokenizer.save_pretrained(special)
    model_args = f"pretrained={special},min_pixels={PIXELS},max_pixels={PIXELS}"
    expected = evaluate("mtrl_judge", model_args)
    found = evaluate("mtrl_judge", f"{model_args},engine=vllm,{ON_VLLM}")
    assert_that_much_is_judged(expected)
    assert texts(found) == texts(expected)
    facts = ("style", "style_source", "engine", "min_pixels", "max_pixels")
    assert recorded(found, *facts) == ("reasoned", "checkpoint", "vllm", PIXELS, PIXELS)
    metadata = found["configs"][SHIPPED[0]]["metadata"]["judge"]
    assert metadata["versions"]["vllm"]


@pytest.mark.parametrize("style", ["direct", "reasoned"])
def test_our_backend_on_vllm_gives_the_probabilities_of_transformers(
    evaluate: Callable[..., Run], tiny: Path, style: str
) -> None:
    model_args = f"pretrained={tiny},scoring=logprob"
    expected = evaluate("mtrl_judge", model_args, style)
    found = evaluate("mtrl_judge", f"{model_args},engine=vllm,{ON_VLLM}", style)
    spread = set()
    for task in COUNTED:
        for ours, theirs in zip(found["samples"][task], expected["samples"][task], strict=True):
            assert ours["verdict"] == theirs["verdict"]
            assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-4)
            assert ours["verdict_mass"] == pytest.approx(theirs["verdict_mass"], abs=1e-4)
            assert ours["temperature"] == pytest.approx(theirs["temperature"], rel=1e-3)
            spread.add(round(ours["verdict_mass"], 3))
    assert len(spread) > LIMIT, "different prompts have different probabilities"
    assert recorded(found, "style", "scoring", "engine") == (style, "logprob", "vllm")


def test_vllm_of_lmms_eval_gives_the_answers_of_our_backend(
    evaluate: Callable[..., Run], tiny: Path
) -> None:
    expected = evaluate("mtrl_judge", f"pretrained={tiny}")
    model_args = f"model={tiny},max_new_tokens={MAX_NEW_TOKENS},{ON_VLLM}"
    found = evaluate("vllm", model_args)
    assert_that_much_is_judged(expected)
    assert texts(found) == texts(expected)
    assert recorded(found, "style_source", "engine", "max_pixels") == ("task", None, "unknown")
    assert found["log"].count("this backend does not read the style") == 1


def test_a_server_gives_the_answers_of_our_backend(
    evaluate: Callable[..., Run], tiny: Path, server: str
) -> None:
    """With the limits on pixels that the documentation has it started with."""
    limits = f"min_pixels={PIXELS},max_pixels={PIXELS}"
    expected = evaluate("mtrl_judge", f"pretrained={tiny},{limits}")
    client = "api_key=none,timeout=120,num_concurrent=8"
    found = evaluate("openai", f"model=judge,base_url={server},{client}")
    assert_that_much_is_judged(expected)
    assert texts(found) == texts(expected)
    assert recorded(found, "style_source", "engine", "max_pixels") == ("task", None, "unknown")


@pytest.mark.parametrize("style", ["direct", "reasoned"])
def test_a_server_gives_the_probabilities_of_our_backend(
    evaluate: Callable[..., Run], tiny: Path, server: str, style: str
) -> None:
    """From its `top_logprobs`; a verdict that it does not name has an upper bound."""
    limits = f"min_pixels={PIXELS},max_pixels={PIXELS}"
    expected = evaluate("mtrl_judge", f"pretrained={tiny},{limits},scoring=logprob", style)
    model_args = f"pretrained=judge,engine=openai,base_url={server},scoring=logprob"
    found = evaluate("mtrl_judge", model_args, style)
    known = 0
    for task in COUNTED:
        for ours, theirs in zip(found["samples"][task], expected["samples"][task], strict=True):
            bounds = ours["upper_bounds"]
            if any(bounds.values()):
                continue
            known += 1
            assert ours["verdict"] == theirs["verdict"]
            assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-3)
            assert ours["verdict_mass"] == pytest.approx(theirs["verdict_mass"], abs=1e-3)
    assert known > LIMIT * len(COUNTED) / 2
    assert recorded(found, "style", "scoring", "engine") == (style, "logprob", "openai")
