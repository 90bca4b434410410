"""Teach the tiny model further kinds of tasks, in about a minute on a CPU.

This is a short continuation of pretraining with a model of its own as the result: the base model,
and what was measured with it, stay as they are.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken
from transformers import AutoModelForImageTextToText, AutoProcessor

from mtrl_judge.common.errors import JudgeError
from mtrl_judge.common.files import read_json, refuse_existing, whole_folder
from mtrl_judge.judge_tasks.spec import CHECKPOINT_CARD

from .corpus import further_tasks
from .further_examples import load_further
from .pretrain import (
    Phase,
    image_patches,
    is_tiny_model,
    train_text,
    vision_features,
    write_tiny_model,
)
from .tiny_model import fixed_passages, instructions

FURTHER_PHASE = Phase(150, 32, 2e-3)


def teach_further_kinds(
    base: Path,
    data_root: Path,
    out: Path,
    seed: int = 0,
    phase: Phase = FURTHER_PHASE,
    *,
    force: bool = False,
) -> None:
    """Continue the pretraining of a tiny model with all tasks of the sample corpus.

    Args:
        base: the output of :func:`.pretrain.pretrain_tiny_model` on the same corpus.
        out: the folder to create; with ``force``, an older tiny model there is replaced.

    Raises:
        DataError: the data is not a sample corpus.
        JudgeError: ``base`` is no tiny model, or ``out`` exists.
    """
    base, out = Path(base), Path(out)
    if not is_tiny_model(base):
        raise JudgeError(
            f"{base}: not a tiny base model; create one with `mtrl-judge tiny --out {base}`"
        )
    refuse_existing(out, force, replaceable=is_tiny_model)
    curriculum = load_further(Path(data_root), seed)
    card = read_json(base / CHECKPOINT_CARD)
    with whole_folder(out) as folder:
        transformers.set_seed(seed)
        transformers.utils.logging.disable_progress_bar()
        processor = AutoProcessor.from_pretrained(base)
        tokenizer = processor.tokenizer
        # Items of a ranking may have fewer candidates than its task allows: other instructions.
        answered = ((e.row.kind, e.row.verdicts) for e in curriculum.examples)
        passages = dict.fromkeys([*fixed_passages(further_tasks()), *instructions(answered)])
        tokenizer.add_tokens([AddedToken(passage, normalized=False) for passage in passages])
        model = AutoModelForImageTextToText.from_pretrained(base)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        patches_N_P_V = image_patches(processor, curriculum.images)
        with torch.no_grad():
            batches = torch.split(patches_N_P_V, 256)
            features = torch.cat([vision_features(model.model.visual, batch) for batch in batches])
        train_text(model, tokenizer, features, curriculum.examples, phase, seed)
        further = {"schedule": asdict(phase), "seed": seed}
        write_tiny_model(
            folder,
            model,
            processor,
            {**card, "data": curriculum.fingerprints, "further": further},
        )
