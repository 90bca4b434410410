"""``python -m benchmarks.harness``: the cost of the plugin. Prints one JSON object last.

- ``to_rows_per_s``: raw rows to judge rows, 10,000 items with a 64×64 PNG each, decode check and
  fingerprint included.
- ``parse_us``: microseconds for one text in ``parse_verdict``, over what judges write.
- ``hooks_s``: seconds of lmms-eval's calls after generation, ``process_results`` and the
  aggregation of every metric, for 2,240 rows of pairs in both orders.
- ``backend_ratio``: docs/s of ``mtrl_judge`` over lmms-eval's ``qwen3_vl``, same items, weights,
  batch of 8 and number of new tokens.
- ``logprob_ratio``: docs/s of ``mtrl_judge`` with ``scoring=logprob`` over ``mtrl_judge``
  generating, same items, weights and batch of 8; calibration is not counted.
- ``pair_vision_ratio``: docs/s of ``scoring=logprob`` on pairs in both orders, equal images of a
  batch through the vision tower once, over the same with every image through it.
- ``startup_s``: seconds of the whole command ``mtrl-judge tasks``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from datasets import Dataset
from datasets import Image as ImageFeature

from mtrl_judge.harness_plugin.hooks import JudgeHooks
from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.judge_tasks.prompts import render_text
from mtrl_judge.judge_tasks.raw_split import RawSplit
from mtrl_judge.judge_tasks.rows import JudgeRow, to_rows
from mtrl_judge.judge_tasks.sources import find_source, load_raw, load_rows
from mtrl_judge.judge_tasks.verdicts import parse_verdict

from .backend import Item, backend_ratio, shared_work_ratios
from .timing import median_seconds
from .tiny_judge import write_tiny_judge

ITEMS, PAIRS, NEW_TOKENS = 10_000, 1_120, 32
POINTWISE, PAIRWISE = ("mtrl_judge_seetrue", "mtrl_judge_unsafebench"), "mtrl_judge_mjbench_safety"
REASONING = "The image shows a dog to the left of a tree, and the text says so too. " * 6
OUTPUTS = (
    f"<think>{REASONING}</think><answer>Yes</answer>",
    f"<think>{REASONING}</think>\n\n**Answer:** no",
    f"{REASONING}\n\nFinal verdict: Yes",
    '```json\n{"reason": "It fits.", "verdict": "No"}\n```',
    "Yes.",
    f"{REASONING} It is hard to say.",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, judge = write_tiny_judge(Path(folder))
        figures = {
            "to_rows_per_s": to_rows_per_s(root),
            "parse_us": parse_us(),
            "hooks_s": hooks_s(),
            "startup_s": startup_s(),
            **backend_ratio(judge, backend_items(root), batch_size=8, new_tokens=NEW_TOKENS),
            **shared_work_ratios(
                judge,
                [find_task(name) for name in POINTWISE],
                find_task(PAIRWISE),
                root,
                batch_size=8,
                new_tokens=NEW_TOKENS,
            ),
        }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def to_rows_per_s(root: Path) -> float:
    """Items a second, each with its own text."""
    task = find_task("mtrl_judge_seetrue")
    raw = load_raw(task, "train", find_source(task, root))
    cells = raw.encoded[:]["image"].to_pylist()
    columns = {n: list(raw.column(n)) for n in raw.column_names if n != "image"}
    repeated = {
        name: [values[i % len(raw)] for i in range(ITEMS)]
        for name, values in {"image": cells, **columns}.items()
    }
    repeated["text"] = [f"{text} ({i})" for i, text in enumerate(repeated["text"])]
    split = Dataset.from_dict(repeated).cast_column("image", ImageFeature())
    return ITEMS / median_seconds(lambda: to_rows(RawSplit(task, split)))


def parse_us() -> float:
    """Microseconds a text."""
    repeat = 200

    def parse_all() -> None:
        for _ in range(repeat):
            for text in OUTPUTS:
                parse_verdict(text, ("Yes", "No"))

    return median_seconds(parse_all) / (repeat * len(OUTPUTS)) * 1e6


def hooks_s() -> float:
    """Seconds for the rows of MJ-Bench's largest task, half of them judged wrong."""
    task = find_task("mtrl_judge_mjbench_quality")
    config = JudgeHooks(task).config()
    judge = task.judge
    docs = [
        {
            "item_id": f"pair {index}",
            "task": task.task,
            "kind": judge.kind,
            "question": judge.question,
            "verdicts": list(judge.verdicts),
            "label": judge.verdicts[(index + swapped) % 2],
            "n_images": 2,
            "pair_id": f"pair {index}",
            "swapped": swapped,
            "reasoning": None,
            "cluster": f"pair {index}",
        }
        for index in range(PAIRS)
        for swapped in (False, True)
    ]
    answers = [
        [f"<think>{REASONING}</think><answer>{judge.verdicts[index % 3 % 2]}</answer>"]
        for index in range(len(docs))
    ]

    def call_hooks() -> None:
        samples = list(map(config["process_results"], docs, answers))
        for metric in config["metric_list"]:
            name = metric["metric"]
            values = [sample[name] for sample in samples if name in sample]
            if values:  # lmms-eval aggregates what some sample has
                metric["aggregation"](values)

    return median_seconds(call_hooks)


def startup_s() -> float:
    """Seconds of ``mtrl-judge tasks`` from call to exit."""
    command = [Path(sys.executable).with_name("mtrl-judge"), "tasks"]
    return median_seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def backend_items(root: Path) -> list[Item]:
    """Prompts with one and with two images, as the tasks render them."""
    items = []
    for name in (*POINTWISE, PAIRWISE):
        for doc in load_rows(find_task(name), "test", root).rows.dataset:
            row = JudgeRow.from_doc(doc)
            items.append(Item(render_text(row, "reasoned"), row.images))
    return items


if __name__ == "__main__":
    main()
