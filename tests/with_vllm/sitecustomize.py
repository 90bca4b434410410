"""For an environment with vLLM for CPUs; `make test-vllm` copies this file into it.

torchvision on PyPI is built for CUDA. On top of a torch without CUDA its operators do not load, and
its import fails on two of them, unless they are declared.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any


class _Declare(importlib.abc.MetaPathFinder):
    library: Any = None  # which has to stay alive

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _Declare())
