"""``mtrl-judge train`` with FSDP or DeepSpeed on CPUs, which accelerate 1.15 ignores there.

``accelerate launch --config_file FILE --num_processes 2 -m support.engines_on_cpu grpo …``, with
``ACCELERATE_TORCH_DEVICE=cpu`` and neither ``--use_cpu`` nor ``ACCELERATE_USE_CPU``. For accelerate
these are processes of an accelerator that talks over gloo; everything else is what runs on GPUs.
"""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import Tensor


def _prepare_backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


class SampledByRow:
    """Stands for ``torch.multinomial`` with the same samples for any number of processes.

    A row's sample depends on its place in the whole batch, not on the process that has it. All
    completions of a run must have the same length, or processes would sample unequally often.
    """

    def __init__(self) -> None:
        self._calls = count()
        self._process = int(os.environ.get("RANK", "0"))
        self._processes = int(os.environ.get("WORLD_SIZE", "1"))

    def __call__(self, probabilities_B_V: Tensor, num_samples: int) -> Tensor:
        rows, tokens = probabilities_B_V.shape
        generator = torch.Generator().manual_seed(next(self._calls))
        noise_N_V = torch.rand(self._processes * rows, tokens, generator=generator)
        noise_B_V = noise_N_V[self._process * rows : (self._process + 1) * rows]
        # As torch does: the smallest of exponential variables with these rates.
        return (probabilities_B_V / -noise_B_V.log()).argmax(dim=-1, keepdim=True)


if __name__ == "__main__":
    from mtrl_judge.rl.train import main

    if "ACCELERATE_TORCH_DEVICE" in os.environ:  # else DDP, which accelerate has for CPUs
        PartialState._prepare_backend = _prepare_backend
    torch.multinomial = SampledByRow()
    main()
