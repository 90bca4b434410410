"""What a run under DeepSpeed needs beyond transformers and accelerate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.state import AcceleratorState
from transformers.integrations import set_hf_deepspeed_config, unset_hf_deepspeed_config


@contextmanager
def in_this_process_alone() -> Iterator[None]:
    """Load a whole model in one process, which ZeRO-3 would otherwise shard over all of them.

    Loading would wait for the other processes. Without DeepSpeed this changes nothing.
    """
    plugin = AcceleratorState().deepspeed_plugin
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if plugin is not None:
            set_hf_deepspeed_config(plugin.hf_ds_config)


def begin_again(plugin: Any) -> None:
    """Let a trainer use its own configuration of DeepSpeed, although another one came before.

    accelerate 1.15 refuses a second configuration (``Accelerator.__init__``), and the first has the
    batch sizes of its trainer filled in. There is no public way to forget it; transformers uses the
    same private one (``TrainingArguments._setup_devices``).

    Args:
        plugin: ``deepspeed_plugin`` of the trainer's arguments; None without DeepSpeed.
    """
    if plugin is not None:
        AcceleratorState._reset_state()
        plugin.set_deepspeed_weakref()  # from_pretrained shards the model by it
