"""``python -m benchmarks.engines``: the two engines of our backend. Prints one JSON object last.

Needs an environment with vLLM. Both judge the test rows of all shipped tasks of the sample corpus,
in one process, alternately, from image files to texts or log-probabilities, in float32 on a CPU and
in bfloat16 on a GPU. vLLM's caches are emptied before each run, and its start is not counted.

- ``generation_docs_per_s``, ``logprob_docs_per_s``: of each engine, medians.
- ``generation_ratio``, ``logprob_ratio``: docs/s on vLLM over transformers.
- ``same_text``: share of rows with the same text from both.
- ``difference``: the largest difference between log-probabilities of a verdict.
- ``start_s``: seconds until vLLM is ready.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mtrl_judge.judge_tasks.loading import load_shipped_tasks
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.models.base_judge import WINDOW, BaseJudge, Prompt
from mtrl_judge.models.checkpoint import end_tokens, load_model, load_processor
from mtrl_judge.models.transformers_judge import TransformersJudge
from mtrl_judge.models.vllm_judge import VLLMJudge

from .timing import alternate, median_ratio
from .tiny_judge import write_tiny_judge

BATCH_SIZE, MAX_NEW_TOKENS, MAX_MODEL_LEN = 16, 96, 2048


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, help="default: a briefly pretrained tiny model")
    parser.add_argument("--data_root", type=Path, help="default: a small sample corpus")
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, checkpoint = given.data_root, given.checkpoint
        if root is None or checkpoint is None:
            root, checkpoint = write_tiny_judge(Path(folder))
        print(json.dumps(compare(checkpoint, root, given.runs)))


def compare(checkpoint: Path, root: Path, runs: int) -> dict[str, Any]:
    """The figures of the module's docstring."""
    datasets = [
        (task, load_rows(task, task.evaluation_split, root).rows.dataset)
        for task in load_shipped_tasks()
    ]
    folder = str(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    started = time.perf_counter()
    options: dict[str, Any] = {"max_model_len": MAX_MODEL_LEN}
    on_vllm = VLLMJudge(
        folder, load_processor(folder), dtype=dtype, eos_token_id=end_tokens(folder), **options
    )
    start_s = time.perf_counter() - started
    model = load_model(folder, dtype=dtype, device_map={"": device})
    judges: dict[str, tuple[BaseJudge, int]] = {
        "transformers": (TransformersJudge(model, load_processor(folder)), BATCH_SIZE),
        "vllm": (on_vllm, WINDOW),
    }
    texts: dict[str, list[str]] = {}
    logps: dict[str, list[float]] = {}

    def rows() -> Iterator[tuple[Sequence[str], JudgeRow]]:
        for task, dataset in datasets:
            for doc in dataset:
                yield task.judge.verdicts, JudgeRow.from_doc(doc)

    def prompts(judge: BaseJudge, style: Any, wanted: Sequence[str] | None) -> Iterator[Prompt]:
        for verdicts, row in rows():
            if wanted is None or verdicts == wanted:
                yield judge.prompt(render_messages(row, style), row.images)

    def forget() -> None:
        on_vllm.llm.reset_prefix_cache()
        on_vllm.llm.reset_mm_cache()
        on_vllm.llm.llm_engine.reset_encoder_cache()

    def generate(engine: str) -> None:
        judge, size = judges[engine]
        forget()
        found: dict[int, str] = {}
        for batch in judge.batches(prompts(judge, "reasoned", None), size):
            answers = judge.generate(
                batch, do_sample=False, num_beams=1, max_new_tokens=MAX_NEW_TOKENS
            )
            found |= zip(batch.indices, (answer.text for answer in answers), strict=True)
        texts[engine] = [found[index] for index in range(len(found))]

    def score(engine: str) -> None:
        judge, size = judges[engine]
        forget()
        logps[engine] = []
        for wanted in dict.fromkeys(task.judge.verdicts for task, _ in datasets):
            found: dict[int, list[float]] = {}
            for batch in judge.batches(prompts(judge, "direct", wanted), size):
                with torch.inference_mode():
                    logps_B_V = judge.verdict_logps(batch, wanted).logps_B_V
                found |= zip(batch.indices, logps_B_V.tolist(), strict=True)
            logps[engine] += [logp for index in range(len(found)) for logp in found[index]]

    count = sum(len(dataset) for _, dataset in datasets)
    figures: dict[str, Any] = {"rows": count, "start_s": start_s}
    for name, function in (("generation", generate), ("logprob", score)):
        seconds = alternate({each: lambda e=each, f=function: f(e) for each in judges}, runs)
        figures[f"{name}_docs_per_s"] = {
            e: count / statistics.median(s) for e, s in seconds.items()
        }
        figures[f"{name}_ratio"] = median_ratio(seconds["transformers"], seconds["vllm"])
    pairs = list(zip(texts["transformers"], texts["vllm"], strict=True))
    figures["same_text"] = sum(a == b for a, b in pairs) / len(pairs)
    differences = zip(logps["transformers"], logps["vllm"], strict=True)
    figures["difference"] = max(abs(a - b) for a, b in differences)
    return figures


if __name__ == "__main__":
    main()
