"""Validation: the same judging as in evaluation, of rows that the seed chooses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import f1_score, roc_auc_score
from support.training import (
    GRPO,
    TASKS,
    guessing_judge,
    log_of,
    random_judge,
    run,
    small_world,
    values,
    write_world,
)
from transformers import AutoModelForImageTextToText

from mtrl_judge.judge_tasks.facts import FACTS_FILE
from mtrl_judge.judge_tasks.loading import load_judge_task
from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.judge_tasks.scoring import score
from mtrl_judge.judge_tasks.sources import load_rows
from mtrl_judge.metrics.records import Record
from mtrl_judge.rl.callbacks import StopOnSignal
from mtrl_judge.rl.kept_best import KeptBest
from mtrl_judge.rl.settings import Settings, build_settings
from mtrl_judge.rl.train import build_trainer
from mtrl_judge.rl.validation import Answer, Validation, share_of
from mtrl_judge.rl.validation_items import choose_items

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
    figures = validation.figures(validation.run(trainer))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in trainer.model.named_modules()} == modes
    assert validation.figures(validation.run(trainer)) == figures

    model = AutoModelForImageTextToText.from_pretrained(judge).eval()
    processor = trainer.processing_class
    by_hand = {}
    for name, rows in zip(names, validation.rows, strict=True):
        answers, p_yes = [], []
        yes_no = [processor.tokenizer(verdict)["input_ids"][0] for verdict in ("Yes", "No")]
        for doc in rows:
            row = JudgeRow.from_doc(doc)
            text = processor.apply_chat_template(
                render_messages(row, "direct"), tokenize=False, add_generation_prompt=True
            )
            inputs = processor(text=[text], images=list(row.images), return_tensors="pt")
            output = model.generate(**inputs, do_sample=False, max_new_tokens=4)[0]
            with torch.no_grad():
                logits = model(**inputs).logits[0, -1, yes_no]
            p_yes.append(float(logits.softmax(dim=0)[0]))
            said = processor.tokenizer.decode(output[inputs["input_ids"].shape[1] :])
            said = said.replace("<|im_end|>", "")
            answers.append((row.label, score(row, said).verdict.value))
        labels, verdicts = zip(*answers, strict=True)
        assert None not in verdicts
        by_hand[name] = f1_score(labels, verdicts, average="macro")
        assert figures[f"{name}/macro_f1"] == pytest.approx(by_hand[name])
        assert figures[f"{name}/null_rate"] == 0
        assert figures[f"{name}/share_Yes"] == verdicts.count("Yes") / len(verdicts)
        assert figures[f"{name}/share_No"] == verdicts.count("No") / len(verdicts)
        area = roc_auc_score([label == "Yes" for label in labels], p_yes)
        assert figures[f"{name}/roc_auc"] == pytest.approx(area)
        assert f"{name}/facts_rate" not in figures  # nothing says what its items show
    assert figures["macro_f1"] == pytest.approx(fmean(by_hand.values()))
    assert 0 < by_hand["guess"] < 1


def test_facts_are_looked_for_in_reasoning(tmp_path: Path) -> None:
    """The random judge never reasons, so none is stated; the direct style asks for no reasoning."""
    world = write_world(tmp_path / "world")
    loaded = load_rows(load_judge_task(world / "red.yaml"), "validation", world / "data")
    items = loaded.rows.dataset.with_format(None)["item_id"][:]
    lines = (json.dumps({"id": item, "facts": ["a color"]}) + "\n" for item in items)
    (world / "data" / "red" / FACTS_FILE).write_text("".join(lines))
    for style in ("reasoned", "direct"):
        given = values(world, tmp_path / "out", random_judge(tmp_path), style=style)
        settings = build_settings("grpo", {**GRPO, **given})
        loaded_tasks = [load_rows(task, "train", settings.data_root) for task in settings.tasks]
        trainer = build_trainer(settings, loaded_tasks, StopOnSignal())
        figures = trainer.validation.figures(trainer.validation.run(trainer))
        assert figures.get("red/facts_rate") == (0.0 if style == "reasoned" else None)
        assert "warm/facts_rate" not in figures
        assert trainer.validation.label_shares().keys() == {"red", "warm"}


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


def test_each_label_has_its_share_of_the_chosen_items() -> None:
    """Of pairs too, which are one item, with the label of their first order."""
    labels = ["Yes"] * 70 + ["No"] * 20 + ["Tie"] * 10
    about = {"kind": "pairwise", "verdicts": ["Yes", "No", "Tie"]}
    rows = [
        {"item_id": f"item{n}", "label": label, "swapped": swapped, **about}
        for n, label in enumerate(labels)
        for swapped in (False, True)
    ]
    for row in rows[:40:2]:  # some pairs come in the other order
        row["swapped"] = True
    for row in rows[1:40:2]:
        row["swapped"] = False
    dataset = Dataset.from_list(rows)
    for seed in range(5):
        for items in (10, 20, 37, 100):
            chosen = choose_items(dataset, items, seed)
            assert len(set(chosen["item_id"])) == items
            assert Counter(Counter(chosen["item_id"]).values()) == {2: items}
            counts = Counter(chosen["label"])
            for label, share in (("Yes", 0.7), ("No", 0.2), ("Tie", 0.1)):
                assert abs(counts[label] / 2 - share * items) <= 1


# The best checkpoint


def judged(right: int, start: int = 0, of: int = 40) -> list[list[Record]]:
    """A validation of one task, of which so many answers in a row are right."""
    labels = ["Yes", "No"] * (of // 2)
    wrong = {"Yes": "No", "No": "Yes"}
    return [
        [
            Record(label, label if (n - start) % of < right else wrong[label], well_formed=True)
            for n, label in enumerate(labels)
        ]
    ]


def test_noise_is_that_of_a_paired_difference(base: Path) -> None:
    """Where Macro-F1 is nearly accuracy: of a share of rows that changed for the better."""
    (task,) = settings_of(base, "red").tasks
    best, names = KeptBest([task]), [[str(n) for n in range(400)]]
    assert best.noise(judged(200, of=400), names) is None
    best.keep(judged(200, of=400))
    best.restore(json.loads(json.dumps(best.state())))
    error = np.sqrt(0.25 * 0.75 / 400)
    assert best.noise(judged(300, of=400), names) == pytest.approx(1.645 * error, rel=0.15)
    # As many for the better as for the worse, a hundred each.
    error = np.sqrt(0.5 / 400)
    other = judged(200, start=100, of=400)
    assert best.noise(other, names) == pytest.approx(1.645 * error, rel=0.15)


def test_a_best_is_replaced_by_more_than_noise_and_patience_goes_by_scores(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 24 of 40 by one more each time, others than before; the sixth is right nearly always."""
    validations = [judged(24), *(judged(right, start=12) for right in (25, 26, 27, 28, 39, 38))]
    validations += [judged(37), judged(37), judged(36)]
    answers = iter(validations)
    monkeypatch.setattr(
        Validation, "run", lambda *_: [[Answer(r, None, None) for r in next(answers)[0]]]
    )
    monkeypatch.setattr(Validation, "clusters", [[str(n) for n in range(40)]])
    fields = {"max_steps": 10, "save_steps": 1, "patience": 3, "save_total_limit": 2}
    folder = run("sft", values(small_world(base), tmp_path, random_judge(base), "red", **fields))
    state = json.loads((folder.parent / "checkpoint-9" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 6  # and 2 to 5 were no better than 1, within noise
    assert state["global_step"] == 9  # after three that were no better than 6, and not at step 4
    lines = [line for line in log_of(folder.parent) if "eval_macro_f1" in line]
    assert "eval_noise" not in lines[0]
    gains = [line["eval_macro_f1"] - lines[0]["eval_macro_f1"] for line in lines[1:6]]
    assert min(gains) > 0
    noise = [line["eval_noise"] for line in lines[1:6]]
    exceeds = [gain > limit for gain, limit in zip(gains, noise, strict=True)]
    assert exceeds == [False, False, False, False, True]


@pytest.mark.parametrize("processes", [2, 3, 5, 16])
def test_processes_answer_every_row_and_equally_many(base: Path, processes: int) -> None:
    n_rows = sum(map(len, validation_of(base, *TASKS, validation_items=2).rows))
    shares = [share_of(n_rows, processes, process) for process in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert {row for share in shares for row in share} == set(range(n_rows))
