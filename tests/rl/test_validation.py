"""Validation: the same judging as in evaluation, of rows that the seed chooses."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import f1_score
from support.training import GRPO, TASKS, guessing_judge, random_judge, small_world, values
from transformers import AutoModelForImageTextToText

from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.settings import Settings, build_settings
from mtrl_judge.rl.train import build_trainer
from mtrl_judge.rl.validation import Validation, share_of

pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(base: Path, *tasks: str, judge: Path | None = None, **fields: Any) -> Settings:
    world = small_world(base)
    given = values(world, base / "unused", judge or random_judge(base), *tasks, **fields)
    return build_settings("grpo", {**GRPO, **given})


def validation_of(base: Path, *tasks: str, **fields: Any) -> Validation:
    validation = Validation.load(settings_of(base, *tasks, **fields))
    assert validation is not None
    return validation


def test_validation_is_judging_the_same_rows_by_hand(base: Path) -> None:
    judge = guessing_judge(base)
    names = ("red", "guess")
    settings = settings_of(base, *names, judge=judge, validation_items=24)
    loaded = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
    trainer = build_trainer(settings, loaded, StopOnSignal())
    trainer.model.train()
    trainer.model.model.visual.eval()  # as a part in another mode than the whole
    modes = {name: module.training for name, module in trainer.model.named_modules()}
    state = torch.get_rng_state()
    validation = trainer.validation
    figures = validation.run(trainer)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in trainer.model.named_modules()} == modes
    assert validation.run(trainer) == figures

    model = AutoModelForImageTextToText.from_pretrained(judge).eval()
    processor = trainer.processing_class
    by_hand = {}
    for name, rows in zip(names, validation.rows, strict=True):
        answers = []
        for doc in rows:
            row = JudgeRow.from_doc(doc)
            text = processor.apply_chat_template(
                render_messages(row, "direct"), tokenize=False, add_generation_prompt=True
            )
            inputs = processor(text=[text], images=list(row.images), return_tensors="pt")
            output = model.generate(**inputs, do_sample=False, max_new_tokens=4)[0]
            said = processor.tokenizer.decode(output[inputs["input_ids"].shape[1] :])
            said = said.replace("<|im_end|>", "")
            answers.append((row.label, score(row, said).verdict.value))
        labels, verdicts = zip(*answers, strict=True)
        assert None not in verdicts
        by_hand[name] = f1_score(labels, verdicts, average="macro")
        assert figures[f"{name}/macro_f1"] == pytest.approx(by_hand[name])
        assert figures[f"{name}/null_rate"] == 0
    assert figures["macro_f1"] == pytest.approx(fmean(by_hand.values()))
    assert 0 < by_hand["guess"] < 1


def test_the_chosen_rows_do_not_depend_on_the_order(base: Path, tmp_path: Path) -> None:
    train = pq.read_table(small_world(base) / "data" / "guess" / "train.parquet")
    (tmp_path / "guess").mkdir()
    reverse = range(len(train) - 1, -1, -1)
    pq.write_table(train.take(list(reverse)), tmp_path / "guess" / "train.parquet")

    def chosen(items: int, **fields: Any) -> set[str]:
        (rows,) = validation_of(base, "guess", validation_items=items, **fields).rows
        return set(rows.with_format(None)["item_id"][:])

    assert len(chosen(7)) == 7 < len(chosen(100))
    assert chosen(7) == chosen(7, data_root=str(tmp_path)) != chosen(7, seed=1)
    assert chosen(7) < chosen(9)


@pytest.mark.parametrize("processes", [2, 3, 5, 16])
def test_processes_answer_every_row_and_equally_many(base: Path, processes: int) -> None:
    n_rows = sum(map(len, validation_of(base, *TASKS, validation_items=2).rows))
    shares = [share_of(n_rows, processes, process) for process in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert {row for share in shares for row in share} == set(range(n_rows))
