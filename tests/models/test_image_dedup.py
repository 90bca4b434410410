"""Equal images of a batch pass the vision tower once, and nobody can tell from the answers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from support.images import random_image
from support.judges import FAMILIES, row, tiny_judge

from mtrl_judge.judge_tasks.rows import JudgeRow
from mtrl_judge.models.checkpoint import load_model, load_processor
from mtrl_judge.models.image_dedup import deduplicate_images
from mtrl_judge.models.judge import Judge

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FAMILIES)
def judge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return tiny_judge(request.param, tmp_path_factory.mktemp(request.param))


def pairs(*couples: tuple[int, int]) -> list[JudgeRow]:
    """Both orders of each couple of pictures."""
    return [
        row("Which is better, <image> or <image>?", random_image(first), random_image(second))
        for one, other in couples
        for first, second in ((one, other), (other, one))
    ]


@contextmanager
def seen_images(judge: Judge) -> Iterator[list[int]]:
    """How many rows or patches each pass of the vision tower gets, by what it embeds them with."""
    counts: list[int] = []
    base = judge.model.base_model
    tower = base.visual if hasattr(base, "visual") else base.vision_tower
    (embed,) = (module for module in tower.modules() if type(module).__name__.startswith("Conv"))
    handle = embed.register_forward_hook(lambda *call: counts.append(len(call[1][0])))
    try:
        yield counts
    finally:
        handle.remove()


def answers(judge: Judge, rows: Sequence[JudgeRow], batch_size: int = 8) -> list[str]:
    return judge.judge(rows, "reasoned", batch_size=batch_size, max_new_tokens=8)


def features(judge: Judge, rows: Sequence[JudgeRow], *, once: bool) -> tuple[list[Any], int]:
    """What the vision tower hands to the language model, image by image, and what it was given."""
    from mtrl_judge.judge_tasks.prompts import render_messages

    prompts = [judge.prompt(render_messages(row, "direct"), row.images) for row in rows]
    inputs = {k: v for k, v in judge.inputs(prompts).items() if "mask" not in k}
    signature = inspect.signature(judge.model.base_model.get_image_features)
    given = {name: value for name, value in inputs.items() if name in signature.parameters}
    sharing = deduplicate_images(judge.model) if once else nullcontext()
    with torch.no_grad(), seen_images(judge) as counts, sharing:
        found = judge.model.base_model.get_image_features(**given, return_dict=True)
    layers = [found.pooler_output, *found.get("deepstack_features", ())]
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
    ids=["mixed", "pairs", "one picture twice", "twice and alone", "single"],
)
def test_features_are_those_of_the_stock_model(judge: Judge, rows: list[JudgeRow]) -> None:
    stock, all_of_them = features(judge, rows, once=False)
    ours, fewer = features(judge, rows, once=True)
    # LLaVA-OneVision needs a second picture beside one that it is not to cut into tiles.
    needs_two = judge.model.config.model_type == "llava_onevision" and len(rows) < 3
    assert fewer <= all_of_them if needs_two else fewer < all_of_them
    for one, other in zip(ours, stock, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_both_orders_of_a_pair_pass_the_tower_once(judge: Judge) -> None:
    rows = pairs((1, 2), (3, 4), (5, 6))
    with seen_images(judge) as counts:
        answers(judge, rows)
    with seen_images(judge) as halves:
        answers(judge, rows[::2])
    assert sum(counts) == sum(halves)
    assert len(counts) == 1


def test_answers_are_the_same_with_and_without(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = answers(judge, MIXED)
    assert "get_image_features" not in vars(judge.model.base_model)
    monkeypatch.setattr("mtrl_judge.models.judge.deduplicate_images", nullcontext)
    assert shared == answers(judge, MIXED)
    assert len(set(shared)) > len(MIXED) // 2, "equal answers would hide a wrong order"


def test_pictures_that_differ_in_one_pixel_are_two(judge: Judge) -> None:
    other = random_image(1)
    other.putpixel((0, 0), (1, 2, 3))
    different, all_of_them = features(
        judge, [row("a", random_image(1)), row("b", other)], once=True
    )
    assert not torch.equal(different[0], different[1])
    assert (
        all_of_them == features(judge, [row("a", random_image(1)), row("b", other)], once=False)[1]
    )


def test_another_family_is_left_as_it_is() -> None:
    from types import SimpleNamespace

    class Other:
        config = SimpleNamespace(model_type="gemma3")
        base_model = object()

    with deduplicate_images(Other()):
        pass


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_both_orders_land_in_one_batch(random_judge: Path, before: int, batch_size: int) -> None:
    """Whatever longer prompts come first, and although all pairs are of one length."""
    from mtrl_judge.judge_tasks.prompts import render_messages

    judge = Judge(load_model(str(random_judge)), load_processor(str(random_judge)))
    longer = [row("Is it safe? " * 60, random_image(n)) for n in range(before)]
    rows = [*longer, *pairs((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))]
    prompts = [judge.prompt(render_messages(each, "direct"), each.images) for each in rows]
    batch_of = {
        place: number
        for number, batch in enumerate(judge.batches(prompts, batch_size))
        for place in batch.indices
    }
    assert sorted(batch_of) == list(range(len(rows)))
    for place in range(before, len(rows), 2):
        assert batch_of[place] == batch_of[place + 1]
