"""The kinds of judge tasks, one file each; a new file in this folder adds a kind.

Each file defines ``KIND``, an instance of :class:`~.base.Kind`. Installed packages add kinds with
entry points of the group :data:`ENTRY_POINTS`: the name is the kind's, the object is its instance
(docs/kinds.md).
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from mtrl_judge.common.errors import JudgeError

from .base import Kind as Kind
from .base import LabelRule

ENTRY_POINTS = "mtrl_judge.kinds"
_MODULES = sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def _installed(own: Mapping[str, Kind]) -> dict[str, Kind]:
    """The kinds of other packages.

    Raises:
        JudgeError: one cannot be loaded, is no kind, or has the name of another.
    """
    kinds: dict[str, Kind] = {}
    for point in entry_points(group=ENTRY_POINTS):
        where = f"{ENTRY_POINTS}: {point.name} = {point.value}"
        if point.name in own or point.name in kinds:
            raise JudgeError(f"{where}: there is a kind {point.name!r} already; rename this one")
        try:
            kind = point.load()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise JudgeError(
                f"{where}: cannot be loaded ({reason}); correct or uninstall it"
            ) from error
        if not isinstance(kind, Kind) or kind.name != point.name:
            raise JudgeError(f"{where}: is no Kind with name = {point.name!r}")
        kinds[point.name] = kind
    return kinds


_OWN = {name: import_module(f".{name}", __name__).KIND for name in _MODULES}
KINDS: Mapping[str, Kind] = {**_OWN, **_installed(_OWN)}
"""Every kind by its name in the YAML."""
DRAWN_METRICS: tuple[str, ...] = tuple(
    dict.fromkeys(metric for kind in KINDS.values() for metric in kind.drawn_metrics)
)
"""The metrics of all kinds that are computed from rows instead of counts."""
LABEL_RULES: tuple[type[LabelRule], ...] = tuple(
    dict.fromkeys(rule for kind in KINDS.values() for rule in kind.label_rules)
)
