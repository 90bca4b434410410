"""Metrics of shipped tasks against the scores of the benchmarks, computed as these define them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import pytest
from sklearn.metrics import f1_score
from support.results import sample, write_results

from mtrl_judge.judge_tasks.loading import find_task
from mtrl_judge.leaderboard.board import build_leaderboard
from mtrl_judge.leaderboard.reading import load_runs
from mtrl_judge.metrics.records import Record
from mtrl_judge.metrics.slots import swapped

Table = Mapping[str, float | int | None]


def judged(name: str, n: int, groups: Sequence[str] = (), none: float = 0.1) -> list[Record]:
    """Both orders of n pairs with labels and verdicts by chance, some rows without a verdict."""
    draw, verdicts = Random(f"{name} {n}"), find_task(name).judge.verdicts
    rows = []
    for number in range(n):
        label = draw.choice(verdicts)
        group = groups[number % len(groups)] if groups else None
        for order in (False, True):
            given = None if draw.random() < none else draw.choice(verdicts)
            shown = swapped(label, verdicts) if order else label
            rows.append(Record(shown, given, True, f"p{number}", order, group))
    return rows


def summary(name: str, rows: Sequence[Record]) -> Table:
    return find_task(name).summarize(rows)


def share(hits: Sequence[bool | float]) -> float:
    return sum(hits) / len(hits)


def test_vl_rewardbench() -> None:
    """`distribution_dataset` in cal.py of github.com/vl-rewardbench/VL_RewardBench; a verdict that
    could not be read is neither agreement nor rejection."""
    rows = judged("mtrl_judge_vlrewardbench", 60, ("general", "hallucination", "reasoning"))
    agree: dict[str, int] = {}
    total: dict[str, int] = {}
    for row in rows:
        if row.verdict is not None:
            group = str(row.group)
            agree[group] = agree.get(group, 0) + (row.verdict == row.label)
            total[group] = total.get(group, 0) + 1
    table = summary("mtrl_judge_vlrewardbench", rows)
    overall = sum(agree.values()) / sum(total.values())
    macro = share([agree[group] / total[group] for group in total])
    assert table["accuracy_answered"] == pytest.approx(overall)
    assert table["accuracy_answered_group_mean"] == pytest.approx(macro) != overall


def test_multimodal_rewardbench(tmp_path: Path) -> None:
    """`compute_acc` in scripts/2_get_accuracy.py of github.com/facebookresearch/
    multimodal_rewardbench, for answers with a verdict: others are decided by a coin there."""
    name = "mtrl_judge_mmrewardbench"
    rows = judged(name, 60, ("safety", "reasoning", "knowledge"), none=0)
    assert summary(name, rows)["accuracy"] == pytest.approx(
        share([row.label == row.verdict for row in rows])
    )
    for group, accuracy in of_groups(tmp_path, name, rows, "accuracy").items():
        in_it = [row.label == row.verdict for row in rows if row.group == group]
        assert accuracy == pytest.approx(share(in_it))


def test_mmrb2() -> None:
    """`compute_task_accuracy` in evaluate/compute_scores/compute_accuracy.py of
    github.com/facebookresearch/MMRB2: the verdict of the reverse order is flipped and compared with
    what people chose; missing verdicts are left out."""
    rows = judged("mtrl_judge_mmrb2_edit", 50)
    correct = evaluated = 0
    for forward, reverse in zip(rows[::2], rows[1::2], strict=True):
        chosen = forward.label
        if forward.verdict:
            evaluated += 1
            correct += forward.verdict == chosen
        if reverse.verdict:
            evaluated += 1
            correct += {"A": "B", "B": "A"}[reverse.verdict] == chosen
    table = summary("mtrl_judge_mmrb2_edit", rows)
    assert table["accuracy_answered"] == pytest.approx(correct / evaluated)


@pytest.mark.parametrize("task", ["generation", "edition"])
def test_genai_bench(task: str) -> None:
    """`parse_response` in inference.py of github.com/TIGER-AI-Lab/GenAI-Bench: accuracy over the
    four votes, without a vote wrong. In the other order the two images change places, and neither
    kind of tie does."""
    rows = judged(f"mtrl_judge_genaibench_{task}", 60)
    votes = {"A": "leftvote", "B": "rightvote", "Both good": "tievote", "Both bad": "bothbad_vote"}
    mirrored = {"leftvote": "rightvote", "rightvote": "leftvote"}
    correct = []
    for row, straight in zip(rows, [row for row in rows[::2] for _ in (0, 1)], strict=True):
        human = votes[str(straight.label)]
        given = votes.get(str(row.verdict), "no vote")
        correct.append((mirrored.get(given, given) if row.swapped else given) == human)
    table = summary(f"mtrl_judge_genaibench_{task}", rows)
    assert table["accuracy"] == pytest.approx(share(correct))
    # UnifiedReward's test_qwen_genAI_bench_image.py skips both votes for neither.
    decided = [
        right
        for right, row in zip(correct, rows, strict=True)
        if row.label not in ("Both good", "Both bad")
    ]
    assert table["accuracy_without_ties"] == pytest.approx(share(decided))


def test_mllm_as_a_judge() -> None:
    """`calculate_accuracy_metrics` in scripts/calculate_metrics.ipynb of
    github.com/Dongping-Chen/MLLM-Judge; "C" is a tie."""
    rows = judged("mtrl_judge_mllmjudge_pair", 60, none=0)
    human = ["C" if row.label == "Tie" else row.label for row in rows]
    predicted = ["C" if row.verdict == "Tie" else row.verdict for row in rows]
    pairs = list(zip(human, predicted, strict=True))
    table = summary("mtrl_judge_mllmjudge_pair", rows)
    assert table["accuracy"] == pytest.approx(share([a == b for a, b in pairs]))
    without = [a == b for a, b in pairs if "C" not in (a, b)]
    assert table["accuracy_decided"] == pytest.approx(share(without))


def test_pick_a_pic() -> None:
    """`calc_score` in trainer/scripts/eval_preference_predictor.py of
    github.com/yuvalkirstain/PickScore."""
    rows = judged("mtrl_judge_pickapic", 60, none=0)
    scores = []
    for row in rows:
        if row.label == row.verdict:
            scores.append(1.0)
        elif "Tie" in (row.label, row.verdict):
            scores.append(0.5)
        else:
            scores.append(0.0)
    table = summary("mtrl_judge_pickapic", rows)
    assert table["accuracy_ties_half"] == pytest.approx(share(scores))


def test_sugarcrepe(tmp_path: Path) -> None:
    """`evaluate` in main_eval.py of github.com/RAIVNLab/sugar-crepe for each of the seven files, as
    the mean of both orders, as in gpt-4v-results/readme.md there."""
    name, subsets = "mtrl_judge_sugarcrepe", ("add_att", "replace_rel", "swap_obj")
    rows = []
    for row in judged(name, 90, subsets):
        # The caption is the first candidate of every pair.
        rows.append(row._replace(label="2" if row.swapped else "1"))
    positive_first = [row for row in rows if not row.swapped]
    negative_first = [row for row in rows if row.swapped]
    found = of_groups(tmp_path, name, rows, "accuracy")
    for subset in subsets:
        first, second = (
            share([row.verdict == said for row in order if row.group == subset])
            for order, said in ((positive_first, "1"), (negative_first, "2"))
        )
        assert found[subset] == pytest.approx((first + second) / 2)


def test_winoground() -> None:
    """Section 3 of arXiv 2204.03162: f, g and h of rows of two captions and two images, by a judge
    that scores captions and images, and therefore says the same in both orders."""
    draw = Random(0)
    rows, text_right, image_right = [], [], []
    for number in range(40):
        s = {(c, i): draw.random() + 0.35 * (c == i) for c in (0, 1) for i in (0, 1)}
        text_right.append(s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1])
        image_right.append(s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0])
        for given in (0, 1):
            said = {
                "text": 0 if s[0, given] > s[1, given] else 1,
                "image": 0 if s[given, 0] > s[given, 1] else 1,
            }
            for asked, first in said.items():
                for order in (False, True):
                    label, verdict = ("AB"[place ^ order] for place in (given, first))
                    pair = f"{number}/{asked}/{given}"
                    rows.append(Record(label, verdict, True, pair, order, asked, joint=f"{number}"))
    table = summary("mtrl_judge_winoground", rows)
    assert table["joint_accuracy_text"] == pytest.approx(share(text_right))
    assert table["joint_accuracy_image"] == pytest.approx(share(image_right))
    both = [text and image for text, image in zip(text_right, image_right, strict=True)]
    assert table["joint_accuracy"] == pytest.approx(share(both))
    assert 0 < share(both) < min(share(text_right), share(image_right))


def test_unsafebench_by_category(tmp_path: Path) -> None:
    """`describe_results` in assess_effectiveness.py of github.com/YitingQu/UnsafeBench: the F1 of
    Unsafe in each category, over both sources."""
    draw, name = Random(0), "mtrl_judge_unsafebench_category"
    rows = [
        Record(draw.choice(("Yes", "No")), draw.choice(("Yes", "No")), group=group)
        for group in ("Hate", "Violence", "Spam")
        for _ in range(40)
    ]
    found = of_groups(tmp_path, name, rows, "f1_Yes")
    assert found == {
        group: pytest.approx(
            f1_score(
                [row.label == "Yes" for row in rows if row.group == group],
                [row.verdict == "Yes" for row in rows if row.group == group],
            )
        )
        for group in ("Hate", "Spam", "Violence")
    }


def of_groups(
    tmp_path: Path, name: str, rows: Sequence[Record], rate: str
) -> dict[str, float | None]:
    """A rate in each group, as the leaderboard has it."""
    orders = {False: "AB", True: "BA"}
    samples = [
        sample(
            number,
            row.label,
            row.verdict,
            group=row.group,
            **({"pair_id": row.pair_id, "order": orders[row.swapped]} if row.pair_id else {}),
        )
        for number, row in enumerate(rows)
    ]
    write_results(tmp_path, {name: samples})
    (task,) = build_leaderboard(load_runs([tmp_path]), resamples=100).tasks
    (groups,) = task.groups.values()
    return {group: scores.scores[rate].value for group, scores in groups.items()}
