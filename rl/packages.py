"""Optional packages that a run's settings ask for, checked before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from mtrl_judge.common.errors import did_you_mean

from .engine import named_engine
from .settings import Settings

# The packages that provide each of transformers' attention functions; it takes one from the Hub
# (`kernels`) where the original is not installed (modeling_utils.py).
_ATTENTION = {
    "flash_attention_2": ("flash_attn", "kernels"),
    "flash_attention_3": ("flash_attn_interface", "kernels"),
    "flash_attention_4": ("flash_attn", "kernels"),
}
# The extra has the versions that TRL supports.
_PIP_NAMES = {
    **dict.fromkeys(("vllm", "liger_kernel", "deepspeed"), "'mtrl-judge[gpu]'"),
    "flash_attn": "flash-attn",
}


def package_faults(settings: Settings) -> Iterator[str]:
    """What is missing, by field, and how to install it."""
    trainer, model = settings.trainer, settings.model
    attention = model.attn_implementation or ""
    asked_for: list[tuple[str, object, tuple[str, ...]]] = [
        ("use_vllm", getattr(trainer, "use_vllm", False), ("vllm",)),
        ("use_liger_kernel", trainer.use_liger_kernel, ("liger_kernel",)),
        ("use_peft", model.use_peft, ("peft",)),
        ("load_in_8bit", model.load_in_8bit, ("bitsandbytes",)),
        ("load_in_4bit", model.load_in_4bit, ("bitsandbytes",)),
        ("accelerate", named_engine(settings.judge).type == "DeepSpeed", ("deepspeed",)),
        ("attn_implementation", attention in _ATTENTION, _ATTENTION.get(attention, ())),
        ("attn_implementation", "/" in attention, ("kernels",)),
    ]
    for field, asked, alternatives in asked_for:
        if asked and not any(map(find_spec, alternatives)):
            package = alternatives[0]
            yield _fault(field, package, _PIP_NAMES.get(package, package))
    yield from _optimizer_faults(settings)
    yield from _report_faults(settings)


def _fault(field: str, package: str, pip_name: str) -> str:
    return f"{field}: needs {package}, which is not installed; pip install {pip_name}"


def _optimizer_faults(settings: Settings) -> Iterator[str]:
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(settings.trainer)
    except ImportError as error:
        yield f"optim: {settings.trainer.optim.value}: {' '.join(str(error).split())}"
    except (ValueError, AttributeError):
        pass  # of optimizers that are made from the model, which is not loaded yet


def _report_faults(settings: Settings) -> Iterator[str]:
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in settings.trainer.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            yield f"report_to: {name!r}; {did_you_mean(name, INTEGRATION_TO_CALLBACK)}"
        elif name not in get_available_reporting_integrations():
            yield _fault("report_to", name, name)
