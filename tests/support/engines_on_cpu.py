"""``mtrl-judge train`` with FSDP or DeepSpeed on CPUs, which accelerate 1.15 ignores there.

``accelerate launch --config_file FILE --num_processes 2 -m support.engines_on_cpu grpo …``, with
``ACCELERATE_TORCH_DEVICE=cpu`` and neither ``--use_cpu`` nor ``ACCELERATE_USE_CPU``. For accelerate
these are processes of an accelerator that talks over gloo; everything else is what runs on GPUs.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType


def _prepare_backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


if __name__ == "__main__":
    from mtrl_judge.rl.train import main

    PartialState._prepare_backend = _prepare_backend
    main()
