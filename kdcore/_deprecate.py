"""Old names that still lead to the new ones for a while, with a warning that says both.

    __getattr__ = old_names(__name__, {"Answers": Renamed("kdcore.outputs:Outputs", "0.3")})

at the end of the module that had `Answers`. What may be renamed, and for how long the old name
stays, is said in docs/stable.md.
"""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Renamed(NamedTuple):
    """Where a name has gone: `package.module:Name`; and the version that no longer has the old."""

    new: str
    until: str


def old_names(module: str, renamed: Mapping[str, Renamed]) -> Callable[[str], Any]:
    """A module's `__getattr__`: old names give what the new ones do, and warn.

    Args:
        module: its `__name__`.
        renamed: the old names.
    """

    def found(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, until = renamed[name]
        place, _, member = new.partition(":")
        warnings.warn(
            f"{module}.{name} is now {place}.{member}; kdsim {until} has the new name alone",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(place), member)

    return found
