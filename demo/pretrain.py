"""A model of about a million parameters, built and taught from nothing on the sample corpus.

Three things make it learn in minutes on a CPU, beside what its tokenizer and its school are:

* The vision tower first learns, picture by picture, what stands where (:func:`learn_to_see`);
  the text model later reads the tower's finished features (:func:`learn_to_describe`).
* The text model first drills telling same words from different ones (:func:`learn_to_compare`).
* Its reasoning says what is asked beside what is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from mtrl_judge.common.files import read_json, refuse_existing, whole_folder, write_json
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

from .corpus import OUTCOMES, comparison
from .curriculum import Example, School, load_school
from .drawing import FAULTS, HARMLESS, NUMBERS, RELATIONS, THINGS
from .tiny_model import (
    CELL_PIXELS,
    CELLS,
    END,
    GRID,
    IMAGE,
    MERGE,
    PATCH,
    PATCH_VALUES,
    build_model,
    build_processor,
    build_tokenizer,
    prompt_text,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from rich.progress import Progress
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
HALVES = 2


@dataclass(frozen=True)
class Lessons:
    """How long each part of the teaching lasts, in steps, what is in a step, the learning rates."""

    seeing: int = 650
    comparing: int = 320
    describing: int = 740
    pictures: int = 48
    drills: int = 12
    texts: int = 32
    seeing_rate: float = 2e-3
    comparing_rate: float = 5e-3
    describing_rate: float = 2.5e-3


BRIEF = Lessons(seeing=15, comparing=5, describing=40, pictures=16, texts=8)


def teach_tiny_model(
    data_root: Path, out: Path, seed: int = 0, lessons: Lessons = Lessons(), *, force: bool = False
) -> None:
    """Build the model, teach it on the sample's training split, write a checkpoint folder.

    ``AutoProcessor`` and ``AutoModelForImageTextToText`` load the folder without a network. Same
    seed, data and machine, same weights.

    Args:
        data_root: what :func:`~mtrl_judge.demo.corpus.write_sample` wrote.
        out: the folder to make; with ``force`` an older tiny model there is replaced.

    Raises:
        DataError: ``out`` is taken, or the data is no sample.
    """
    out = Path(out)
    refuse_existing(out, force, replaceable=_is_tiny_model)
    school = load_school(Path(data_root), seed)
    with whole_folder(out) as part:
        _teach(school, part, seed, lessons)


def _teach(school: School, folder: Path, seed: int, lessons: Lessons) -> None:
    import torch
    from transformers import set_seed
    from transformers.utils import logging

    set_seed(seed)
    logging.disable_progress_bar()
    tokenizer = build_tokenizer(school.examples)
    processor = build_processor(tokenizer)
    model = build_model(tokenizer)
    patches = patches_of(processor, school.pictures)
    with _progress() as progress:
        learn_to_see(model, patches, school.truths, lessons, seed, progress)
        features = features_of(model, patches)
        learn_to_compare(model, tokenizer, lessons, seed, progress)
        learn_to_describe(model, tokenizer, features, school.examples, lessons, seed, progress)
    model.eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _write_card(folder, seed, lessons, school, torch.__version__)


def _write_card(folder: Path, seed: int, lessons: Lessons, school: School, torch_: str) -> None:
    import transformers

    card = {
        "style": "reasoned",
        "base": None,
        "seed": seed,
        "lessons": asdict(lessons),
        "data": school.fingerprints,
        "versions": {"torch": torch_, "transformers": transformers.__version__},
    }
    write_json(folder / CHECKPOINT_CARD, card)


def _is_tiny_model(folder: Path) -> bool:
    card = read_json(folder / CHECKPOINT_CARD, missing_ok=True)
    return "base" in card and card["base"] is None


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


# Seeing


def patches_of(processor: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """patches_N_P_V: each picture's patches as the processor cuts them."""
    import torch

    cut = [
        processor.image_processor(images=list(pictures[i : i + 256]), return_tensors="pt")
        for i in range(0, len(pictures), 256)
    ]
    return torch.cat([c["pixel_values"] for c in cut]).view(-1, GRID * GRID, PATCH_VALUES)


def see(visual: Any, patches_B_P_V: Tensor) -> Tensor:
    """features_B_C_D: what the tower's own forward gives, for pictures of one size at once.

    The tower attends picture by picture in a Python loop, which is most of its time on a CPU.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
    from transformers.vision_utils import (
        get_vision_interpolation_indices_and_weights,
        get_vision_position_ids,
    )

    one = torch.tensor([[1, GRID, GRID]])
    index_P_4, weight_P_4 = get_vision_interpolation_indices_and_weights(
        one,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=MERGE,
    )
    place_P_D = (visual.pos_embed(index_P_4) * weight_P_4[:, :, None]).sum(1)
    n, p, _ = patches_B_P_V.shape
    weight = visual.patch_embed.proj.weight.flatten(1)
    x = patches_B_P_V @ weight.T + visual.patch_embed.proj.bias + place_P_D
    cos, sin = visual.rotary_pos_emb(x, get_vision_position_ids(one, MERGE))
    for block in visual.blocks:
        attn = block.attn
        q, k, v = attn.qkv(block.norm1(x)).view(n, p, 3, attn.num_heads, -1).unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        heads = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        x = x + attn.proj(heads.transpose(1, 2).reshape(n, p, -1))
        x = x + block.mlp(block.norm2(x))
    merged: Tensor = visual.merger(x.reshape(n * p, -1))
    return merged.view(n, CELLS, -1)


_NAMES = list(THINGS)
_FAULT_NAMES = [None, *FAULTS]
_ARRANGEMENTS = ["left of", "above", 1, 2, 3, 4]
# What each picture cell is asked for: name -> number of classes.
SIGHTS = {
    "thing": len(_NAMES) + 1,
    "order": 3,
    "upside_down": 2,
    "fault": len(_FAULT_NAMES),
    "arrangement": len(_ARRANGEMENTS),
    "cell": CELLS,
}
_TURNING = ("order", "upside_down", "cell")


def sights(truths: Sequence[dict[str, Any]]) -> Tensor:
    """targets_N_C_S: for each cell of a picture its class in each of :data:`SIGHTS`."""
    import torch

    side = GRID // MERGE
    targets = torch.zeros(len(truths), CELLS, len(SIGHTS), dtype=torch.long)
    for n, truth in enumerate(truths):
        things = truth["things"]
        arrangement = _ARRANGEMENTS.index(_arrangement(things))
        for c in range(CELLS):
            x, y = ((i + 0.5) * CELL_PIXELS for i in (c % side, c // side))
            thing = order = 0
            upside_down = IGNORED  # there is nothing here that could be
            for number, t in enumerate(things):
                if max(abs(t["x"] - x), abs(t["y"] - y)) < t["width"] / 2:
                    thing = 1 + _NAMES.index(t["name"])
                    order = 1 + (number if isinstance(_ARRANGEMENTS[arrangement], str) else 0)
                    upside_down = int(t["upside_down"])
            fault = _FAULT_NAMES.index(truth["fault"])
            targets[n, c] = torch.tensor([thing, order, upside_down, fault, arrangement, c])
    return targets


def turn(patches_B_P_V: Tensor, targets_B_C_S: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures turned by 180 degrees, and what is true of them then.

    It shows the tower as many things upside down as upright.
    """
    n = len(patches_B_P_V)
    pixels = patches_B_P_V.view(n, GRID * GRID, 6, PATCH, PATCH)
    targets = targets_B_C_S.flip(1).clone()
    order, upside_down, cell = (targets[..., list(SIGHTS).index(s)] for s in _TURNING)
    two = targets[..., list(SIGHTS).index("arrangement")] < 2
    order[two & (order > 0)] = 3 - order[two & (order > 0)]
    upside_down[upside_down != IGNORED] = 1 - upside_down[upside_down != IGNORED]
    cell[:] = targets_B_C_S[..., list(SIGHTS).index("cell")]
    return pixels.flip(1, 3, 4).reshape_as(patches_B_P_V), targets


def _arrangement(things: Sequence[dict[str, Any]]) -> str | int:
    if len({t["name"] for t in things}) == 1:
        return len(things)
    first, second = things
    across, down = (abs(first[axis] - second[axis]) for axis in "xy")
    return "left of" if across > down else "above"


def learn_to_see(
    model: Any,
    patches: Tensor,
    truths: Sequence[dict[str, Any]],
    lessons: Lessons,
    seed: int,
    progress: Progress,
) -> None:
    """Teach the tower what stands where; the linear heads that ask it are thrown away."""
    import torch
    from torch.nn.functional import cross_entropy

    visual = model.model.visual
    heads = torch.nn.Linear(visual.config.out_hidden_size, sum(SIGHTS.values()))
    targets = sights(truths)

    def loss_of(batch: Tensor) -> Tensor:
        half = len(batch) // 2
        turned, turned_targets = turn(patches[batch[:half]], targets[batch[:half]])
        shown = torch.cat([turned, patches[batch[half:]]])
        wanted = torch.cat([turned_targets, targets[batch[half:]]])
        answers = torch.split(heads(see(visual, shown)), list(SIGHTS.values()), dim=-1)
        losses = [
            cross_entropy(answer.flatten(0, 1), wanted[:, :, s].flatten(), ignore_index=IGNORED)
            for s, answer in enumerate(answers)
        ]
        return torch.stack(losses).sum()

    parameters = [*visual.parameters(), *heads.parameters()]
    batches = _batches(len(truths), lessons.pictures, lessons.seeing, seed)
    _descend(parameters, loss_of, batches, lessons.seeing, lessons.seeing_rate, progress, "seeing")


def features_of(model: Any, patches: Tensor) -> Tensor:
    """features_N_C_D of every picture, from the tower as it is now."""
    import torch

    with torch.no_grad():
        return torch.cat([see(model.model.visual, part) for part in torch.split(patches, 256)])


# Comparing

_WORDS = (HARMLESS, NUMBERS[1:], RELATIONS)
_COMPARISONS = 10


def drill(draw: Random) -> str:
    """Ten comparisons in the words of the reasoning, half of them of a thing with itself."""
    compared = []
    for _ in range(_COMPARISONS):
        words = draw.choice((_WORDS[0], _WORDS[0], *_WORDS[1:]))
        first = draw.choice(words)
        same = draw.random() < 0.5
        second = first if same else draw.choice([word for word in words if word != first])
        compared.append(comparison(first, second))
    return f"<think>Compare {'; '.join(compared)}."


def learn_to_compare(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Lessons,
    seed: int,
    progress: Progress,
) -> None:
    """Teach the text model to tell words that are the same from words that are not.

    Of the words compared in the reasoning to come most are the same, and few are compared at all:
    without drills a thousand steps did not teach it, and every text seemed to fit.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear

    draw = Random(seed)
    drills = tokenizer([drill(draw) for _ in range(lessons.comparing * lessons.drills)])
    length = max(map(len, drills["input_ids"]))
    pad = tokenizer.pad_token_id
    tokens = torch.tensor([row + [pad] * (length - len(row)) for row in drills["input_ids"]])
    outcomes = [tokenizer(f" {word}")["input_ids"] for word in OUTCOMES]
    asked = torch.isin(tokens[:, 1:], torch.tensor(outcomes))
    text = model.model.language_model

    def loss_of(batch: Tensor) -> Tensor:
        hidden = text(input_ids=tokens[batch, :-1], use_cache=False).last_hidden_state
        chosen = asked[batch]
        logits = linear(hidden[chosen], text.embed_tokens.weight)
        return cross_entropy(logits, tokens[batch, 1:][chosen])

    batches = _batches(len(tokens), lessons.drills, lessons.comparing, seed + 2)
    _descend(
        list(text.parameters()),
        loss_of,
        batches,
        lessons.comparing,
        lessons.comparing_rate,
        progress,
        "comparing",
    )


# Describing


def learn_to_describe(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    examples: Sequence[Example],
    lessons: Lessons,
    seed: int,
    progress: Progress,
) -> None:
    """Teach the text model to reason from the tower's features and to answer in form."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    prompts = tokenizer([prompt_text(tokenizer, e.row, e.style) for e in examples])["input_ids"]
    answers = tokenizer([e.answer + END for e in examples])["input_ids"]
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    text = model.model.language_model

    def loss_of(batch: Tensor) -> Tensor:
        chosen = batch.tolist()
        rows = [prompts[i] + answers[i] for i in chosen]
        length = max(map(len, rows))
        tokens = torch.full((len(rows), length), tokenizer.pad_token_id)
        targets = torch.full((len(rows), length), IGNORED)
        for b, (i, row) in enumerate(zip(chosen, rows, strict=True)):
            tokens[b, : len(row)] = torch.tensor(row)
            targets[b, len(prompts[i]) - 1 : len(row) - 1] = torch.tensor(answers[i])
        seen = features[[number for i in chosen for number in examples[i].pictures]]
        places = (tokens == image)[:, :, None]
        embeds = text.embed_tokens(tokens).masked_scatter(places, seen)
        hidden = text(
            inputs_embeds=embeds,
            position_ids=torch.stack([positions(row, image) for row in tokens], dim=1),
            use_cache=False,
        ).last_hidden_state
        asked = targets != IGNORED
        return cross_entropy(linear(hidden[asked], text.embed_tokens.weight), targets[asked])

    lengths = torch.tensor([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)])
    batches = _batches(len(examples), lessons.texts, lessons.describing, seed + 1, lengths)
    _descend(
        list(text.parameters()),
        loss_of,
        batches,
        lessons.describing,
        lessons.describing_rate,
        progress,
        "describing",
    )


def positions(tokens_T: Tensor, image: int) -> Tensor:
    """positions_3_T (time, height, width) of a row with pictures of :data:`CELLS` tokens each.

    Qwen3-VL's rule: a picture's tokens share one time, text goes on after its longer side.
    """
    import torch

    side = GRID // MERGE
    seen = tokens_T == image
    nth_T = (seen.cumsum(0) - 1) % CELLS
    begins_T = seen & (nth_T == 0)
    # A picture's first token moves on by one, its others not at all, what follows it by the rest.
    after_T = torch.zeros_like(tokens_T)
    after_T[1:] = (seen[:-1] & (nth_T[:-1] == CELLS - 1)) * (side - 1)
    start_T = ((~seen | begins_T) + after_T).cumsum(0) - 1
    grid_2_T = torch.stack([nth_T // side, nth_T % side]) * seen
    return torch.cat([start_T[None], start_T + grid_2_T])


# Descent

_DEALT = 4  # batches that are dealt by length at once


def _batches(
    n: int, size: int, steps: int, seed: int, lengths_N: Tensor | None = None
) -> Iterator[Tensor]:
    """Numbers of examples: every example once in an epoch, each epoch in a new order.

    With lengths, the examples of some batches that follow each other are dealt by length, so
    that less of a batch is padding.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.long)
    given = 0
    while given < steps:
        while len(left) < size * _DEALT:
            left = torch.cat([left, torch.randperm(n, generator=generator)])
        hand, left = left[: size * _DEALT], left[size * _DEALT :]
        if lengths_N is not None:
            hand = hand[lengths_N[hand].argsort(stable=True)]
        for place in torch.randperm(_DEALT, generator=generator)[: steps - given].tolist():
            yield hand[place * size : (place + 1) * size]
            given += 1


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / max(1, steps // 20))
    return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def _descend(
    parameters: Sequence[torch.nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    steps: int,
    rate: float,
    progress: Progress,
    name: str,
) -> None:
    """Minimise by AdamW; a batch is cut in two, each half differentiated in its own thread.

    One thread of arithmetic a half: on other work's busy cores, PyTorch's own threads wait for
    each other at every operation (ten times slower here), these two once a step. The result does
    not hang on the number of cores either.
    """
    import torch

    def gradients_of(part: Tensor) -> tuple[float, Sequence[Tensor]]:
        loss = loss_of(part)
        return loss.item(), torch.autograd.grad(loss, parameters)

    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_warm_cosine, steps=steps))
    bar = progress.add_task(name, total=steps, loss=float("nan"))
    mean = 0.0
    with _one_thread_an_operation(), ThreadPoolExecutor(HALVES) as pool:
        for step, batch in enumerate(batches):
            losses, gradients = zip(*pool.map(gradients_of, batch.chunk(HALVES)), strict=True)
            for parameter, parts in zip(parameters, zip(*gradients, strict=True), strict=True):
                parameter.grad = torch.stack(parts).mean(0)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            mean += (sum(losses) / len(losses) - mean) / min(step + 1, 20)
            progress.update(bar, advance=1, loss=mean)


@contextmanager
def _one_thread_an_operation() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
