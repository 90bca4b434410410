"""Attributes replaced for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MISSING = object()


@contextmanager
def replaced_attribute(instance: Any, name: str, value: Any) -> Iterator[None]:
    """Within the context, the attribute of an instance has another value.

    Afterwards the instance has what it had before: its own attribute, or none where the attribute
    is its class's. Others replace methods too: ``register_fsdp_forward_method`` of torch makes
    `generate` an attribute of the model, without which a sharded model cannot generate.
    """
    before = vars(instance).get(name, _MISSING)
    setattr(instance, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(instance, name)
        else:
            setattr(instance, name, before)
