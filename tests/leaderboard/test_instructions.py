"""`leaderboard --instructions`: judges across wordings of a question, with intervals."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import call
from support.results import judged_rows, sample, write_results

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.leaderboard.instructions import MEAN, compare_instructions
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.leaderboard.runs import Run

QUESTION = "question"
WORDINGS = ("paraphrase_1", "paraphrase_2", "paraphrase_3")
SKILLS = {
    "trained/judge": {QUESTION: 0.8, "paraphrase_1": 0.8, "paraphrase_2": 0.8, "paraphrase_3": 0.8},
    "base/judge": {QUESTION: 0.5, "paraphrase_1": 0.9, "paraphrase_2": 0.6, "paraphrase_3": 0.7},
}
TASKS = ("the_task", "another_task")


def write_condition(
    folder: Path,
    judge: str,
    condition: str,
    skill: float,
    *,
    split: str = "test",
    tasks: Sequence[str] = TASKS,
    **about: Any,
) -> Path:
    """The results of one run of a robustness command."""
    rows = {
        task: judged_rows(
            200, skill, 0 if skill == 0.8 else len(condition + task) + (split != "test")
        )
        for task in tasks
    }
    changed = None if condition == QUESTION else condition
    known = {"perturbation": changed, "split": split, **about}
    known["fingerprint"] = f"of {split}"
    return write_results(
        folder / judge.replace("/", " ") / split / condition,
        rows,
        model=judge,
        about=dict.fromkeys(tasks, known),
    )


def write_all(folder: Path, judges: Mapping[str, Mapping[str, float]] = SKILLS) -> list[Run]:
    for judge, skills in judges.items():
        for condition, skill in skills.items():
            write_condition(folder, judge, condition, skill)
        write_condition(folder, judge, "rerun", skills[QUESTION])
    return load_runs([folder])


def test_measures_are_those_of_the_scores_in_points(tmp_path: Path) -> None:
    runs = write_all(tmp_path)
    compared = compare_instructions(runs, resamples=500)
    reported = {
        (run.model, result.metadata["perturbation"] or QUESTION): 100
        * float(result.kind.summarize(result.records, result.verdicts, False)["macro_f1"] or 0)
        for run in runs
        for task, result in run.tasks.items()
        if task == "the_task"
    }
    names = (QUESTION, *WORDINGS)
    points_J_I = np.array([[reported[judge, name] for name in names] for judge in SKILLS])
    rows = {row.judge: row for row in compared.judges if row.task == "the_task"}
    for index, judge in enumerate(SKILLS):
        row = rows[judge]
        assert row.stability.value == pytest.approx(points_J_I[index].std())
        assert (row.true_stability.value or 0) <= points_J_I[index].std()
        expected = 100 * (points_J_I[index] / points_J_I.mean(axis=0) - 1).mean()
        assert row.gain.value == pytest.approx(expected)
        assert row.best == names[int(points_J_I[index].argmax())]
        assert row.score.value == pytest.approx(points_J_I[index].max())
        for score in (row.gain, row.true_stability, row.score):
            known = score.estimate
            assert None not in (known.low, known.value, known.high)
            assert (known.low or 0) <= (known.value or 0) <= (known.high or 0)
        # Two scores of one question: their variance is half the square of their difference, of
        # which four instructions show three quarters.
        again = reported[judge, "rerun"] - reported[judge, QUESTION]
        assert row.floor.value == pytest.approx(abs(again) * (0.75 / 2) ** 0.5)
        assert row.chosen_on == "the scored items"
    assert any("optimistic" in note for note in compared.notes)
    (gain,) = [
        each.gain.value
        for each in compared.instructions
        if each.task == "the_task" and each.instruction == "paraphrase_1"
    ]
    expected = 100 * (points_J_I[:, 1] / points_J_I.mean(axis=1) - 1).mean()
    assert gain == pytest.approx(expected)
    for judge in SKILLS:
        shares = [by_judge[judge].value or 0.0 for by_judge in compared.top.values()]
        assert sum(shares) == pytest.approx(100)


def test_a_judge_that_does_not_depend_on_wording_is_significantly_more_stable(
    tmp_path: Path,
) -> None:
    compared = compare_instructions(write_all(tmp_path), resamples=500)
    assert {each.task for each in compared.differences} == {*TASKS, MEAN}
    for each in compared.differences:
        difference = each.difference.estimate
        ends = [end for end in (difference.low, difference.high) if end is not None]
        assert len(ends) == 2
        assert min(ends) > 0 if each.first == "base/judge" else max(ends) < 0


def test_chance_alone_makes_no_judge_unstable(tmp_path: Path) -> None:
    """Equally good under each instruction, but on other items: stability is above 0, not beyond
    chance."""
    for place, condition in enumerate((QUESTION, *WORDINGS)):
        rows = {"the_task": judged_rows(200, 0.8, place)}
        about = {"the_task": {"perturbation": None if condition == QUESTION else condition}}
        write_results(tmp_path / condition, rows, about=about)
    (row,) = compare_instructions(load_runs([tmp_path]), resamples=500).judges
    assert (row.stability.value or 0) > 0.5
    assert row.true_stability.estimate.low == 0
    assert row.gain.value is None  # there is no other judge


def test_the_instruction_is_chosen_on_validation_data_and_scored_on_test(tmp_path: Path) -> None:
    write_all(tmp_path)
    for condition, skill in {QUESTION: 0.55, "paraphrase_1": 0.6, "paraphrase_2": 0.95}.items():
        write_condition(tmp_path, "base/judge", condition, skill, split="validation")
    compared = compare_instructions(load_runs([tmp_path]), resamples=200)
    base = next(
        row for row in compared.judges if (row.task, row.judge) == ("the_task", "base/judge")
    )
    assert (base.best, base.chosen_on) == ("paraphrase_2", "validation")
    on_test = compare_instructions(
        [run for run in load_runs([tmp_path]) if "validation" not in str(run.file)], resamples=200
    )
    best = next(
        row for row in on_test.judges if (row.task, row.judge) == ("the_task", "base/judge")
    )
    assert best.best == "paraphrase_1"
    assert (base.score.value or 0) < (best.score.value or 0)
    assert base.stability.value == best.stability.value
    # A validation run is never compared with one of test data.
    folders = (tmp_path / "base judge" / split for split in ("validation", "test"))
    mixed = call("leaderboard", *(folder / QUESTION for folder in folders))
    assert "all tasks by fingerprint" in str(mixed.exception)
    alone = call("leaderboard", tmp_path / "base judge" / "validation" / QUESTION)
    assert "Judged on the validation split: another_task, the_task." in alone.stdout


def test_a_gain_over_next_to_nothing_is_undefined(tmp_path: Path) -> None:
    for judge in ("owner/a", "owner/b"):
        for condition in (QUESTION, "paraphrase_1"):
            write_condition(tmp_path, judge, condition, 0.0)
    rows = compare_instructions(load_runs([tmp_path]), resamples=200).judges
    assert all((row.score.value or 0) < 1 for row in rows)
    assert all(row.gain.value is None for row in rows)


def test_correlations_may_be_negative(tmp_path: Path) -> None:
    """Of a judge whose ratings run against the labels, beside one whose ratings follow them."""
    levels = [str(level) for level in range(1, 11)]
    for judge, sign in (("owner/good", 1), ("owner/bad", -1)):
        for place, condition in enumerate((QUESTION, *WORDINGS)):
            noise = np.random.default_rng(place).normal(0, 0.3, 40)
            values = [1 + 8 * number / 40 for number in range(40)]
            rated = [5.5 + sign * 0.5 * (v - 5.5 + n) for v, n in zip(values, noise, strict=True)]
            ratings = [
                sample(number, f"{value:g}", f"{rating:.2f}")
                for number, (value, rating) in enumerate(zip(values, rated, strict=True))
            ]
            about = {"perturbation": None if condition == QUESTION else condition}
            graded = {"kind": "score", "verdicts": levels, **about}
            write_results(
                tmp_path / judge.replace("/", " ") / condition,
                {"graded": ratings, "the_task": judged_rows(60, 0.6, place)},
                model=judge,
                about={"graded": graded, "the_task": about},
            )
    compared = compare_instructions(load_runs([tmp_path]), resamples=3000)
    rows = {(row.task, row.judge): row for row in compared.judges}
    good, bad = rows["graded", "good"], rows["graded", "bad"]
    assert good.metric == "spearman"
    assert (good.score.value or 0) > 90
    assert (bad.score.value or 0) < -90
    assert bad.stability.value == pytest.approx(good.stability.value)
    # The mean of the two judges is 0.
    assert good.gain.value is None
    gains = {(each.task, each.instruction): each.gain.value for each in compared.instructions}
    assert gains["graded", QUESTION] is None
    assert gains["the_task", QUESTION] is not None
    # Correlations have fewer draws than rates.
    assert all(
        hits.estimate.low is not None for of in compared.top.values() for hits in of.values()
    )


def test_runs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_condition(tmp_path, "owner/a", QUESTION, 0.7)
    with pytest.raises(JudgeError, match="no task was judged with several instructions"):
        compare_instructions(load_runs([tmp_path]))
    write_condition(tmp_path, "owner/a", "paraphrase_1", 0.7, paraphrase="Is it so?")
    write_condition(tmp_path / "again", "owner/a", "paraphrase_1", 0.7, paraphrase="Is it so?")
    with pytest.raises(JudgeError, match="give one run of each instruction"):
        compare_instructions(load_runs([tmp_path]))
    write_condition(tmp_path / "again", "owner/a", "paraphrase_1", 0.7, paraphrase="Or not?")
    with pytest.raises(JudgeError, match="perturbation"):
        compare_instructions(load_runs([tmp_path]))


def test_the_command_prints_tables_and_records(tmp_path: Path) -> None:
    write_all(tmp_path)
    write_condition(tmp_path, "base/judge", "swap", 0.5)
    flags = ("--instructions", "--resamples", "200")
    shown = call("leaderboard", tmp_path, *flags)
    assert shown.exit_code == 0, shown.exception
    for text in ("Judges across instructions", "noise floor", "Among the best 3", "left out: swap"):
        assert text in shown.stdout
    found = json.loads(call("leaderboard", tmp_path, *flags, "--format", "json").stdout)
    assert found["schema_version"] == 1
    measures = {record["measure"] for record in found["records"]}
    assert measures == {
        *("best_score", "model_gain", "model_stability", "noise_floor", "instruction_gain"),
        *("instruction_stability", "adaptability", "stability_difference"),
        *("model_stability_without_chance", "instruction_stability_without_chance"),
    }
    lines = csv.DictReader(
        io.StringIO(call("leaderboard", tmp_path, *flags, "--format", "csv").stdout)
    )
    assert len(list(lines)) == len(found["records"])
    refused = call("leaderboard", tmp_path, *flags, "--metric", "accuracy")
    assert "--instructions: takes no --metric" in str(refused.exception)
