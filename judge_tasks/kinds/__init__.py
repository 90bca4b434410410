"""The kinds of judge tasks, one file each; a new file in this folder adds a kind.

Each file defines ``KIND``, an instance of :class:`~.base.Kind`.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from .base import Kind as Kind
from .base import LabelRule

_MODULES = sorted(module.name for module in iter_modules(__path__) if module.name != "base")
KINDS: Mapping[str, Kind] = {name: import_module(f".{name}", __name__).KIND for name in _MODULES}
"""Every kind by its name in the YAML."""
DRAWN_METRICS: tuple[str, ...] = tuple(
    dict.fromkeys(metric for kind in KINDS.values() for metric in kind.drawn_metrics)
)
"""The metrics of all kinds that are computed from rows instead of counts."""
LABEL_RULES: tuple[type[LabelRule], ...] = tuple(
    dict.fromkeys(rule for kind in KINDS.values() for rule in kind.label_rules)
)
