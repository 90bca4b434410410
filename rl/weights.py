"""Weights in files: a checkpoint's back into the model, and a judge's as its base has them.

transformers gives weights other names in files than in the model for some families, LLaVA and
Qwen2.5-VL among them. Only ``from_pretrained`` and ``save_pretrained`` translate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from peft import PeftModel
from transformers.core_model_loading import Transpose
from transformers.modeling_utils import load_state_dict
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from mtrl_judge.common.errors import JudgeError


def load_weights(model: Any, folder: Path) -> None:
    """Load what ``save_pretrained`` wrote to a checkpoint into the model that it was written from.

    ``Trainer`` (transformers/trainer.py of 5.23) loads the names in the files as they are, and
    only warns if none of them is in the model.

    Args:
        model: a ``PreTrainedModel``, or a ``PeftModel``, of which the active adapter is loaded.

    Raises:
        JudgeError: the checkpoint lacks weights of the model, or has others.
    """
    if isinstance(model, PeftModel):
        found = model.load_adapter(str(folder), model.active_adapter, is_trainable=True)
        missing, unexpected = found.missing_keys, found.unexpected_keys
    else:
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
        missing, unexpected = info["missing_keys"], info["unexpected_keys"]
        if not missing and not unexpected:
            model.load_state_dict(loaded.state_dict())
    differences = [*_listed("lacks", missing), *_listed("has", unexpected)]
    if differences:
        raise JudgeError(
            f"{folder}: not a checkpoint of this model: it {' and '.join(differences)}; expected "
            "what its save_pretrained writes"
        )


def _listed(verb: str, names: Iterable[str]) -> list[str]:
    """What to say of names, if there are any.

    >>> _listed("lacks", ["b", "a"])
    ['lacks 2 weights (a, b)']
    """
    some = sorted(names)
    if not some:
        return []
    weights, more = "weight" if len(some) == 1 else "weights", ", …" if len(some) > 3 else ""
    return [f"{verb} {len(some)} {weights} ({', '.join(some[:3])}{more})"]


@dataclass(frozen=True)
class BaseWeights:
    """What a judge's files must contain so that they can replace those of its base anywhere."""

    base: str
    shapes: Mapping[str, Sequence[int]]
    """By the names in the files of the base."""
    size: int
    """The number of scalars in the model's weights; tied weights count once."""

    @classmethod
    def read(cls, base: str, revision: str | None, model: Any) -> BaseWeights:
        """Read the headers of the base's files.

        Args:
            base: a folder, or the hub id of a model in the cache.
            model: as it was loaded from them, before it gets adapters.

        Raises:
            JudgeError: the files are not there.
        """
        weights = {id(value): value for value in model.state_dict(keep_vars=True).values()}
        return cls(base, _shapes(base, revision), sum(prod(_shape(w)) for w in weights.values()))

    def check(self, folder: Path) -> None:
        """Check the weights in a folder by the headers of its files.

        Raises:
            JudgeError: they have other names or shapes than the base's, or some are missing.
        """
        found = _shapes(str(folder))
        size = sum(map(prod, found.values()))
        faults = _listed("has", found.keys() - self.shapes.keys())
        shared = found.keys() & self.shapes.keys()
        other = [name for name in shared if tuple(found[name]) != tuple(self.shapes[name])]
        faults += _listed("has in another shape", other)
        if size != self.size:
            faults.append(f"has {size:,} numbers instead of {self.size:,}")
        if faults:
            faults += _listed("lacks", self.shapes.keys() - found.keys())
            raise JudgeError(
                f"{folder}: these weights cannot replace those of {self.base}: it "
                f"{' and '.join(faults)}"
            )


def keep_layout(model: Any, base: str, revision: str | None) -> None:
    """Have a model that was loaded from ``base`` saved in the layout of its files.

    The hub's Qwen3-VL-MoE files have the experts transposed, and vLLM reads no others. Where the
    shapes in file and model differ, transformers 5.23 transposes; but when it saves, it compares
    the model with itself (``Transpose`` in transformers/core_model_loading.py).
    """
    in_files = _shapes(base, revision)
    in_model = {name: _shape(weight) for name, weight in model.state_dict(keep_vars=True).items()}
    if all(tuple(in_files.get(name, shape)) == tuple(shape) for name, shape in in_model.items()):
        return
    for conversion in model._weight_conversions:
        for operation in getattr(conversion, "operations", ()):
            if isinstance(operation, Transpose):
                operation.check_dims = False


def _shape(weight: Any) -> Sequence[int]:
    """A parameter that DeepSpeed has sharded is empty and has its shape in ``ds_shape``."""
    return getattr(weight, "ds_shape", weight.shape)  # type: ignore[no-any-return]


def _shapes(source: str, revision: str | None = None) -> dict[str, Sequence[int]]:
    """The shape of each weight of a model, by its name in the files."""
    headers = (load_state_dict(file, map_location="meta") for file in _files(source, revision))
    return {name: weight.shape for weights in headers for name, weight in weights.items()}


def _files(source: str, revision: str | None) -> list[Path]:
    """The files with a model's weights, which transformers looks for in this order."""
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        if Path(source).is_dir():
            file = Path(source) / name
        else:
            cached = try_to_load_from_cache(source, name, revision=revision)
            file = Path(cached if isinstance(cached, str) else "")
        if not file.is_file():
            continue
        if file.suffix != ".json":
            return [file]
        parts = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
        return [file.with_name(part) for part in sorted({*parts})]
    raise JudgeError(
        f"{source}: no weights; expected {SAFE_WEIGHTS_NAME} or {SAFE_WEIGHTS_INDEX_NAME}. "
        "DeepSpeed ZeRO-3 writes them with zero3_save_16bit_model: true, FSDP with "
        "fsdp_state_dict_type: FULL_STATE_DICT"
    )
