"""Pretrain a judge model of about a million parameters on the sample corpus, in minutes on a CPU.

Besides the tokenizer (:mod:`.tiny_model`) and the curriculum, three things make that possible:

* The vision tower first learns by itself what an image contains and where (:func:`train_vision`).
  The text model is then trained on the tower's fixed features (:func:`train_text`).
* The text model first practices to tell equal words from different ones (:func:`train_comparison`).
* The reasoning that it learns to write names what was asked for next to what the image shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from mtrl_judge.common.files import read_json, refuse_existing, whole_folder, write_json
from mtrl_judge.common.verbosity import is_quiet
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD
from mtrl_judge.models.checkpoint import errors_of_saving

from .corpus import OUTCOMES, comparison
from .curriculum import Example, load_curriculum
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

IGNORED = -100


@dataclass(frozen=True)
class Phase:
    """Optimizer steps, examples per step and peak learning rate of a phase of pretraining."""

    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Schedule:
    """The phases of pretraining, in this order."""

    vision: Phase = Phase(650, 48, 2e-3)
    comparison: Phase = Phase(320, 12, 5e-3)
    text: Phase = Phase(740, 32, 2.5e-3)


# For benchmarks and tests that need a model, not a good one.
BRIEF = Schedule(Phase(15, 16, 2e-3), Phase(5, 12, 5e-3), Phase(40, 8, 2.5e-3))


def pretrain_tiny_model(
    data_root: Path,
    out: Path,
    seed: int = 0,
    schedule: Schedule = Schedule(),
    *,
    force: bool = False,
) -> None:
    """Build the model, pretrain it on the sample's training splits, and write a checkpoint folder.

    ``AutoProcessor`` and ``AutoModelForImageTextToText`` load the folder offline. The same seed,
    data and machine give the same weights.

    Args:
        data_root: the output of :func:`~mtrl_judge.demo.corpus.write_sample`.
        out: the folder to create; with ``force``, an older tiny model there is replaced.

    Raises:
        DataError: the data is not a sample corpus.
        JudgeError: ``out`` exists.
    """
    out = Path(out)
    refuse_existing(out, force, replaceable=is_tiny_model)
    curriculum = load_curriculum(Path(data_root), seed)
    with whole_folder(out) as folder:  # fails here, and not after minutes, if it cannot be written
        transformers.set_seed(seed)
        transformers.utils.logging.disable_progress_bar()
        tokenizer = build_tokenizer(curriculum.examples)
        processor = build_processor(tokenizer)
        model = build_model(tokenizer)
        patches_N_P_V = image_patches(processor, curriculum.images)
        train_vision(model, patches_N_P_V, curriculum.truths, schedule.vision, seed)
        with torch.no_grad():
            batches = torch.split(patches_N_P_V, 256)
            features = torch.cat([vision_features(model.model.visual, batch) for batch in batches])
        train_comparison(model, tokenizer, schedule.comparison, seed)
        train_text(model, tokenizer, features, curriculum.examples, schedule.text, seed)
        card = {
            "style": "reasoned",
            "base": None,
            "seed": seed,
            "schedule": asdict(schedule),
            "data": curriculum.fingerprints,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        write_tiny_model(folder, model, processor, card)


def write_tiny_model(folder: Path, model: Any, processor: Any, card: Mapping[str, Any]) -> None:
    """Write a checkpoint with its card.

    Raises:
        JudgeError: it cannot be written.
    """
    model.eval()
    with errors_of_saving(folder):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    write_json(folder / CHECKPOINT_CARD, dict(card))


def is_tiny_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint that was written here."""
    card = read_json(folder / CHECKPOINT_CARD, missing_ok=True)
    return "base" in card and card["base"] is None


# Vision


def image_patches(processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """The processor's patches of each image, N × P × V."""
    batches = [
        processor.image_processor(images=list(images[start : start + 256]), return_tensors="pt")
        for start in range(0, len(images), 256)
    ]
    patches = torch.cat([batch["pixel_values"] for batch in batches])
    return patches.view(-1, GRID * GRID, PATCH_VALUES)


def vision_features(visual: Any, patches_B_P_V: Tensor) -> Tensor:
    """The output of the vision tower for a batch of images of the same size, B × C × D.

    Equal to the tower's own forward (transformers `Qwen3VLVisionModel`), which loops over images
    in Python for attention; on a CPU the loop takes most of its time.
    """
    grid_thw = torch.tensor([[1, GRID, GRID]])
    index_P_4, weight_P_4 = get_vision_interpolation_indices_and_weights(
        grid_thw,
        num_grid_per_side=visual.num_grid_per_side,
        mode=visual.interpolation_mode,
        align_corners=visual.interpolation_align_corners,
        spatial_merge_size=MERGE,
    )
    position_P_D = (visual.pos_embed(index_P_4) * weight_P_4[:, :, None]).sum(1)
    n, p, _ = patches_B_P_V.shape
    weight = visual.patch_embed.proj.weight.flatten(1)
    x = patches_B_P_V @ weight.T + visual.patch_embed.proj.bias + position_P_D
    cos, sin = visual.rotary_pos_emb(x, get_vision_position_ids(grid_thw, MERGE))
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
_ARRANGEMENTS = ["left of", "above", 1, 2, 3, 4]  # two different things, or so many equal ones
# What is predicted from the features of each image cell: name -> number of classes.
TARGETS = {
    "thing": len(_NAMES) + 1,
    "order": 3,
    "upside_down": 2,
    "fault": len(_FAULT_NAMES),
    "arrangement": len(_ARRANGEMENTS),
    "cell": CELLS,
}


def vision_targets(truths: Sequence[dict[str, Any]]) -> Tensor:
    """The class of each cell of each image in each of :data:`TARGETS`, N × C × S."""
    side = GRID // MERGE
    targets_N_C_S = torch.zeros(len(truths), CELLS, len(TARGETS), dtype=torch.long)
    for n, truth in enumerate(truths):
        things = truth["things"]
        if len({thing["name"] for thing in things}) == 1:
            arrangement = _ARRANGEMENTS.index(len(things))
        else:
            across, down = (abs(things[0][axis] - things[1][axis]) for axis in "xy")
            arrangement = _ARRANGEMENTS.index("left of" if across > down else "above")
        fault = _FAULT_NAMES.index(truth["fault"])
        for c in range(CELLS):
            x, y = ((i + 0.5) * CELL_PIXELS for i in (c % side, c // side))
            name = order = 0
            upside_down = IGNORED  # an empty cell is neither
            for number, thing in enumerate(things):
                if max(abs(thing["x"] - x), abs(thing["y"] - y)) < thing["width"] / 2:
                    name = 1 + _NAMES.index(thing["name"])
                    order = 1 + (number if arrangement < 2 else 0)
                    upside_down = int(thing["upside_down"])
            targets_N_C_S[n, c] = torch.tensor([name, order, upside_down, fault, arrangement, c])
    return targets_N_C_S


def rotate(patches_B_P_V: Tensor, targets_B_C_S: Tensor) -> tuple[Tensor, Tensor]:
    """Images rotated by 180 degrees, and their targets.

    Half of the images are rotated in training, so that as many things are upside down as upright.
    """
    n = len(patches_B_P_V)
    # V is color × time × height × width; both times of a still image are equal.
    pixels = patches_B_P_V.view(n, GRID * GRID, 6, PATCH, PATCH)
    targets = targets_B_C_S.flip(1).clone()
    index = list(TARGETS).index
    order, upside_down = (targets[..., index(name)] for name in ("order", "upside_down"))
    different_things = targets[..., index("arrangement")] < 2
    exchanged = different_things & (order > 0)
    order[exchanged] = 3 - order[exchanged]
    upside_down[upside_down != IGNORED] = 1 - upside_down[upside_down != IGNORED]
    targets[..., index("cell")] = targets_B_C_S[..., index("cell")]
    return pixels.flip(1, 3, 4).reshape_as(patches_B_P_V), targets


def train_vision(
    model: Any, patches_N_P_V: Tensor, truths: Sequence[dict[str, Any]], phase: Phase, seed: int
) -> list[float]:
    """Train the vision tower through linear heads, which are then discarded; returns the losses."""
    visual = model.model.visual
    heads = torch.nn.Linear(visual.config.out_hidden_size, sum(TARGETS.values()))
    targets_N_C_S = vision_targets(truths)

    def loss_of(batch: Tensor) -> Tensor:
        rotated, upright = batch[: len(batch) // 2], batch[len(batch) // 2 :]
        patches, targets = rotate(patches_N_P_V[rotated], targets_N_C_S[rotated])
        patches = torch.cat([patches, patches_N_P_V[upright]])
        targets = torch.cat([targets, targets_N_C_S[upright]])
        logits = heads(vision_features(visual, patches)).split(list(TARGETS.values()), dim=-1)
        losses = [
            cross_entropy(part.flatten(0, 1), targets[:, :, s].flatten(), ignore_index=IGNORED)
            for s, part in enumerate(logits)
        ]
        return torch.stack(losses).sum()

    parameters = [*visual.parameters(), *heads.parameters()]
    batches = _batches(len(truths), phase, seed)
    return _optimize("vision", parameters, loss_of, batches, phase)


# Comparison


def comparison_drill(rng: Random) -> str:
    """Ten comparisons in the words of the reasoning, half of them of a word with itself."""
    comparisons = []
    for _ in range(10):
        words = rng.choice((HARMLESS, HARMLESS, NUMBERS[1:], RELATIONS))
        first = rng.choice(words)
        same = rng.random() < 0.5
        second = first if same else rng.choice([word for word in words if word != first])
        comparisons.append(comparison(first, second))
    return f"<think>Compare {'; '.join(comparisons)}."


def train_comparison(
    model: Any, tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int
) -> list[float]:
    """Train the text model to tell equal words from different ones; returns the losses.

    The reasoning to come contains few comparisons, most of them of equal words. Without these
    drills, a thousand steps did not teach the difference, and every text seemed to fit its image.
    """
    rng = Random(seed)
    drills = [comparison_drill(rng) for _ in range(phase.steps * phase.batch_size)]
    tokens = _pad(tokenizer(drills)["input_ids"], tokenizer.pad_token_id)
    outcomes = [tokenizer(f" {word}")["input_ids"] for word in OUTCOMES]
    is_outcome = torch.isin(tokens[:, 1:], torch.tensor(outcomes))
    text = model.model.language_model

    def loss_of(batch: Tensor) -> Tensor:
        hidden = text(input_ids=tokens[batch, :-1], use_cache=False).last_hidden_state
        predicted = is_outcome[batch]
        logits = linear(hidden[predicted], text.embed_tokens.weight)
        return cross_entropy(logits, tokens[batch, 1:][predicted])

    batches = _batches(len(tokens), phase, seed + 2)
    return _optimize("comparison", list(text.parameters()), loss_of, batches, phase)


# Text


def train_text(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    features_N_C_D: Tensor,
    examples: Sequence[Example],
    phase: Phase,
    seed: int,
) -> list[float]:
    """Train the text model to reason about the image features and answer; returns the losses."""
    prompts = tokenizer([prompt_text(tokenizer, e.row, e.style) for e in examples])["input_ids"]
    answers = tokenizer([e.answer + END for e in examples])["input_ids"]
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    text = model.model.language_model

    def loss_of(batch: Tensor) -> Tensor:
        chosen = batch.tolist()
        tokens = _pad([rows[i] for i in chosen], tokenizer.pad_token_id)
        labels = _pad(
            [[IGNORED] * (len(prompts[i]) - 1) + answers[i] + [IGNORED] for i in chosen], IGNORED
        )
        features = features_N_C_D[[index for i in chosen for index in examples[i].images]]
        is_image = tokens == image
        position_ids, _ = model.model.get_rope_index(
            tokens,
            mm_token_type_ids=is_image.int(),
            image_grid_thw=torch.tensor([[1, GRID, GRID]] * len(features)),
        )
        embeds = text.embed_tokens(tokens).masked_scatter(is_image[:, :, None], features)
        hidden = text(
            inputs_embeds=embeds, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        predicted = labels != IGNORED
        logits = linear(hidden[predicted], text.embed_tokens.weight)
        return cross_entropy(logits, labels[predicted])

    batches = _batches(len(examples), phase, seed + 1, lengths_N=torch.tensor([*map(len, rows)]))
    return _optimize("text", list(text.parameters()), loss_of, batches, phase)


def _pad(rows: Sequence[Sequence[int]], value: Any) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


# Optimization

_SORTED = 4  # batches that are sorted by length together


def _batches(n: int, phase: Phase, seed: int, lengths_N: Tensor | None = None) -> Iterator[Tensor]:
    """Indices of examples: every example once in an epoch, each epoch in a new order.

    With lengths, the examples of a few consecutive batches are assigned to them by length, so that
    batches contain less padding.
    """
    generator = torch.Generator().manual_seed(seed)
    size, left = phase.batch_size, phase.steps
    queue = torch.empty(0, dtype=torch.long)
    while left > 0:
        while len(queue) < size * _SORTED:
            queue = torch.cat([queue, torch.randperm(n, generator=generator)])
        window, queue = queue[: size * _SORTED], queue[size * _SORTED :]
        if lengths_N is not None:
            window = window[lengths_N[window].argsort(stable=True)]
        order = torch.randperm(_SORTED, generator=generator)
        for index in order[:left].tolist():
            yield window[index * size : (index + 1) * size]
        left -= _SORTED


def _warmup_cosine(step: int, steps: int) -> float:
    """Linear warmup over 5 % of the steps, then cosine decay to 2 % of the learning rate."""
    warmup = min(1.0, (step + 1) / max(1, steps // 20))
    return warmup * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def _optimize(
    name: str,
    parameters: Sequence[torch.nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    batches: Iterator[Tensor],
    phase: Phase,
) -> list[float]:
    """Minimize with AdamW; returns the running mean of the loss after each step.

    Each half of a batch is differentiated in a thread of its own, with one thread per operation.
    PyTorch's own threads synchronize at every operation, which on busy cores was ten times slower;
    these two synchronize once per step. It also makes the result independent of the number of
    cores.
    """

    def gradients_of(part: Tensor) -> tuple[float, Sequence[Tensor]]:
        loss = loss_of(part)
        return loss.item(), torch.autograd.grad(loss, parameters)

    optimizer = torch.optim.AdamW(
        parameters, lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    factor = partial(_warmup_cosine, steps=phase.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    means: list[float] = []
    mean, threads = 0.0, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bar = tqdm(total=phase.steps, desc=name, disable=is_quiet())
        with ThreadPoolExecutor(2) as pool, bar as progress:
            for step, batch in enumerate(batches):
                losses, gradients = zip(*pool.map(gradients_of, batch.chunk(2)), strict=True)
                for parameter, parts in zip(parameters, zip(*gradients, strict=True), strict=True):
                    parameter.grad = torch.stack(parts).mean(0)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                scheduler.step()
                mean += (sum(losses) / len(losses) - mean) / min(step + 1, 20)
                means.append(mean)
                progress.set_postfix(loss=f"{mean:.3f}")
                progress.update()
    finally:
        torch.set_num_threads(threads)
    return means
