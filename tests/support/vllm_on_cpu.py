"""vLLM's build for CPUs, made able to take new weights: import this before an engine is made.

That build repacks the weights of linear layers when it loads them and keeps no originals, into
which new weights could be loaded; here it leaves them as they are.

``python -m support.vllm_on_cpu grpo …`` is ``mtrl-judge train grpo …`` on it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # others may use the cores as well
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }
)

from torch.nn import functional
from vllm.model_executor.layers import utils


def keep_weights(layer: Any, remove_weight: bool) -> None:
    layer.cpu_linear = functional.linear


utils.dispatch_cpu_unquantized_gemm = keep_weights

if __name__ == "__main__":
    from mtrl_judge.rl.train import main

    main(sys.argv[1:])
