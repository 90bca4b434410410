"""Equal images of a batch pass the vision tower once, and the answers stay the same."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.images import random_image
from support.judges import FAMILIES, row, tiny_judge

from mtrl_judge.judge_tasks.prompts import render_messages
from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.image_dedup import deduplicate_images
from mtrl_judge.models.transformers_judge import TransformersJudge

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FAMILIES)
def judge(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TransformersJudge:
    return tiny_judge(request.param, tmp_path_factory.mktemp(request.param))


def pairs(*seeds: tuple[int, int]) -> list[JudgeRow]:
    """Both orders of pairs of images."""
    question = "Which is better, <image> or <image>?"
    return [
        row(question, *map(random_image, order)) for a, b in seeds for order in ((a, b), (b, a))
    ]


@contextmanager
def tower_inputs(judge: TransformersJudge) -> Iterator[list[int]]:
    """How many images or patches each pass of the vision tower embeds."""
    counts: list[int] = []
    base = judge.model.base_model
    tower = base.visual if hasattr(base, "visual") else base.vision_tower
    (embed,) = (module for module in tower.modules() if type(module).__name__.startswith("Conv"))
    handle = embed.register_forward_hook(lambda *call: counts.append(len(call[1][0])))
    try:
        yield counts
    finally:
        handle.remove()


def answers(judge: TransformersJudge, rows: Sequence[JudgeRow], batch_size: int = 8) -> list[str]:
    return judge.judge(rows, "reasoned", batch_size=batch_size, max_new_tokens=8)


def features(
    judge: TransformersJudge, rows: Sequence[JudgeRow], *, deduplicate: bool
) -> tuple[list[Any], int]:
    """The vision tower's output for each image, and the number of its inputs."""
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    inputs = {k: v for k, v in judge.inputs(prompts).items() if "mask" not in k}
    signature = inspect.signature(judge.model.base_model.get_image_features)
    given = {name: value for name, value in inputs.items() if name in signature.parameters}
    context = deduplicate_images(judge.model) if deduplicate else nullcontext()
    with torch.no_grad(), tower_inputs(judge) as counts, context:
        output = judge.model.base_model.get_image_features(**given, return_dict=True)
    layers = [output.pooler_output, *output.get("deepstack_features", ())]
    return [image for layer in layers for image in layer], sum(counts)


MIXED = [
    *pairs((1, 2), (3, 1)),
    row("Same? <image> <image>", random_image(4), random_image(4)),
    row("Is it safe?", random_image(1)),
    row("Is it sound?", random_image(5, (96, 40))),
    row("Is a circle round?"),
    row("Is it natural?", random_image(5, (96, 40))),
]


@pytest.mark.parametrize(
    "rows",
    [MIXED, MIXED[:4], MIXED[4:5], [MIXED[4], row("Is it safe?", random_image(4))], MIXED[5:]],
    ids=["mixed", "pairs", "one image twice", "twice and alone", "single"],
)
def test_features_equal_those_of_the_stock_model(
    judge: TransformersJudge, rows: list[JudgeRow]
) -> None:
    theirs, all_inputs = features(judge, rows, deduplicate=False)
    ours, inputs = features(judge, rows, deduplicate=True)
    # LLaVA-OneVision needs a second image next to one that it must not cut into tiles.
    needs_two = judge.model.config.model_type == "llava_onevision" and len(rows) < 3
    assert inputs <= all_inputs if needs_two else inputs < all_inputs
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_both_orders_of_a_pair_pass_the_tower_once(judge: TransformersJudge) -> None:
    rows = pairs((1, 2), (3, 4), (5, 6))
    with tower_inputs(judge) as both_orders:
        answers(judge, rows)
    with tower_inputs(judge) as one_order:
        answers(judge, rows[::2])
    assert both_orders == [sum(one_order)]


def test_answers_do_not_change(judge: TransformersJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = answers(judge, MIXED)
    assert "get_image_features" not in vars(judge.model.base_model)
    monkeypatch.setattr("mtrl_judge.models.transformers_judge.deduplicate_images", nullcontext)
    assert ours == answers(judge, MIXED)
    assert len(set(ours)) > 2, "equal answers would hide a wrong order"


def test_images_that_differ_in_one_pixel_are_distinct(judge: TransformersJudge) -> None:
    image, other = random_image(1, (32, 32)), random_image(1, (32, 32))  # not cut into tiles
    other.putpixel((0, 0), (1, 2, 3))
    rows = [row("a", image), row("b", other)]
    (first, second, *_), inputs = features(judge, rows, deduplicate=True)
    assert not torch.equal(first, second)
    assert inputs == features(judge, rows, deduplicate=False)[1]


def test_other_families_are_left_unchanged() -> None:
    class Other:
        config = SimpleNamespace(model_type="idefics3")
        base_model = object()

    with deduplicate_images(Other()):
        pass


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_both_orders_land_in_one_batch(random_judge: Path, before: int, batch_size: int) -> None:
    """For any number of longer prompts before them, and although all pairs have one length."""
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))
    longer = [row("Is it safe? " * 60, random_image(n)) for n in range(before)]
    rows = [*longer, *pairs((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))]
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    batch_of = {
        index: number
        for number, batch in enumerate(judge.batches(prompts, batch_size))
        for index in batch.indices
    }
    assert sorted(batch_of) == list(range(len(rows)))
    for index in range(before, len(rows), 2):
        assert batch_of[index] == batch_of[index + 1]


def test_without_keeping_pairs_together_batches_are_full(random_judge: Path) -> None:
    """Processes of a sharded model answer equally many rows, and must do so in as many batches."""
    judge = TransformersJudge(load_model(str(random_judge)), load_processor(str(random_judge)))
    rows = pairs((1, 2), (3, 4), (5, 6), (7, 8))
    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    kept, full = (
        [len(batch.prompts) for batch in judge.batches(prompts, 3, keep_pairs=keep)]
        for keep in (True, False)
    )
    assert (kept, full) == ([2, 2, 2, 2], [3, 3, 2])
