"""Things by name: those of a package, those that installed packages add, and a user's own.

    derived = subclass_of(Algorithm)
    ours = files_of("fedkd.algorithms", derived)
    REGISTRY = Registry("algorithm", ours, "kdsim.algorithms", derived)
    REGISTRY.get("fedmd")                     # the class in fedkd/algorithms/fedmd.py
    REGISTRY.get("my_project.methods:Mine")   # a user's own, from a module that can be imported
    REGISTRY.get("path/mine.py:Mine")         # or from a file (`kdcore.references`)

Nothing is imported before it is asked for.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from kdcore.references import SUFFIX, imported, is_reference, nearest, unknown

__all__ = ["Loader", "Registry", "files_of", "imported", "is_reference", "members", "nearest"]
__all__ += ["places", "subclass_of", "unknown"]

T = TypeVar("T")

Loader = Callable[[], Any]


@dataclass(frozen=True)
class Registry(Generic[T]):
    """What there is of a kind.

    Attributes:
        kind: what one of them is called in messages, in the singular.
        own: the project's, name -> a function that gives it; called when names are asked for, so
            that nothing is imported before.
        group: the entry points by which installed packages add to them.
        accepts: whether a thing is of this kind.
        expected: what one has to be, for the message about what is not.
    """

    kind: str
    own: Callable[[], Mapping[str, Callable[[], T]]]
    group: str
    accepts: Callable[[Any], bool] = callable
    expected: str = ""

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.own(), *self._added()})

    def __contains__(self, name: object) -> bool:
        return name in self.own() or name in self._added()

    def get(self, name: str) -> T:
        """What has this name, or is at `module:Name` or `path/file.py:Name`.

        Raises:
            ValueError: there is none; the message names the nearest and lists all. Or it cannot be
                imported, or is of another kind.
        """
        own = self.own()
        if name in own:
            return own[name]()
        if name in (added := self._added()):
            return self._checked(name, imported(_place(added[name]), f"{self.kind} {name!r} at"))
        if is_reference(name):
            return self._checked(name, imported(name, self.kind))
        raise self._unknown(name)

    def check(self, name: str) -> None:
        """Raise ValueError for what is no name, and no reference; nothing is imported."""
        if name not in self and not is_reference(name):
            raise self._unknown(name)

    def added(self) -> dict[str, str]:
        """The names that installed packages add, and the distribution of each."""
        return {n: p.dist.name if p.dist else p.module for n, p in sorted(self._added().items())}

    def name_of(self, member: Any) -> str:
        """The name by which `get` gives a class (or an instance's): its `NAME`, else its place."""
        cls = member if inspect.isclass(member) else type(member)
        given = vars(cls).get("NAME")
        if isinstance(given, str):
            return given
        return f"{cls.__module__}:{cls.__qualname__}" if self.foreign(cls) else _file_name(cls)

    def foreign(self, cls: type[Any]) -> bool:
        """Whether a class is none of the project's."""
        file, own = _file_name(cls), self.own()
        return not (file in own and own[file]() is cls)  # the user's may be called the same

    def reference(self, name: str) -> str | None:
        """Where a thing is that is not the project's, `module:Name`; None of one that is.

        Raises:
            ValueError: there is no such thing.
        """
        if name in self.own():
            return None
        self.check(name)
        added = self._added()
        return _place(added[name]) if name in added else name

    def _unknown(self, name: str) -> ValueError:
        if name.endswith(SUFFIX):
            return ValueError(f"{self.kind} {name!r}: say what in that file, as in {name}:Name")
        return unknown(self.kind, name, self.names())

    def _added(self) -> Mapping[str, EntryPoint]:
        return _points(entry_points, self.group, tuple(sys.path))

    def _checked(self, name: str, found: Any) -> T:
        if not self.accepts(found):
            wanted = f"; expected {self.expected}" if self.expected else ""
            raise ValueError(f"{name} is no {self.kind}: it is {found!r}{wanted}")
        return found  # type: ignore[no-any-return]  # `accepts` has just said so


@lru_cache(maxsize=64)
def _points(
    find: Callable[..., Iterable[EntryPoint]], group: str, path: tuple[str, ...]
) -> Mapping[str, EntryPoint]:
    """What installed packages add to a group, by name; all are gone through once for a path."""
    return {point.name: point for point in find(group=group)}


def members(table: Mapping[str, T]) -> Callable[[], Mapping[str, Callable[[], T]]]:
    """For a `Registry` of what a table holds."""

    def own() -> Mapping[str, Callable[[], T]]:
        return {name: partial(table.__getitem__, name) for name in table}

    return own


def places(table: Mapping[str, str]) -> Callable[[], Mapping[str, Loader]]:
    """For a `Registry` of what is at `module:Name`, which is imported when it is asked for."""
    return lambda: {name: partial(imported, place) for name, place in table.items()}


def files_of(package: str, accepts: Callable[[Any], bool]) -> Callable[[], Mapping[str, Loader]]:
    """For a `Registry` of classes: each file of a package, or of one below it, defines one.

    The file's name is the name of the class, the only one in it that is accepted.
    """

    def own() -> Mapping[str, Loader]:
        path = importlib.import_module(package).__path__
        named = _files(package, tuple(path))
        return {name: partial(_class_in, file, accepts) for name, file in named.items()}

    return own


@cache
def _files(package: str, path: tuple[str, ...]) -> Mapping[str, str]:
    """The names of the public files of a package that lies there, and their modules."""
    found = pkgutil.walk_packages(path, f"{package}.")
    named = {m.name.rpartition(".")[2]: m.name for m in found if not m.ispkg}
    return {name: file for name, file in named.items() if not name.startswith("_")}


def subclass_of(base: type[Any]) -> Callable[[Any], bool]:
    """For `Registry.accepts`: classes derived from one."""
    return lambda found: inspect.isclass(found) and issubclass(found, base)


def _place(point: EntryPoint) -> str:
    return f"{point.module}:{point.attr}"


def _file_name(cls: type[Any]) -> str:
    return cls.__module__.rpartition(".")[2]


def _class_in(module: str, accepts: Callable[[Any], bool]) -> Any:
    found = [
        value
        for value in vars(importlib.import_module(module)).values()
        if inspect.isclass(value) and value.__module__ == module and accepts(value)
    ]
    assert len(found) == 1, (
        f"{module} defines {len(found)} classes that its registry takes, not one"
    )
    return found[0]
