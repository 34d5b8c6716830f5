"""Things by name: those of a package, those that installed packages add, and a user's own.

    derived = subclass_of(Algorithm)
    ours = files_of("fedkd.algorithms", derived)
    REGISTRY = Registry("algorithm", ours, "kdsim.algorithms", derived)
    REGISTRY.get("fedmd")                     # the class in fedkd/algorithms/fedmd.py
    REGISTRY.get("my_project.methods:Mine")   # a user's own, from a module that can be imported

Nothing is imported before it is asked for.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

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
        accepts: whether a thing is of this kind, and what is said of one that is not.
    """

    kind: str
    own: Callable[[], Mapping[str, Callable[[], T]]]
    group: str
    accepts: Callable[[Any], bool] = callable

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.own(), *self._added()})

    def __contains__(self, name: object) -> bool:
        return name in self.own() or name in self._added()

    def get(self, name: str) -> T:
        """What has this name, or is at `module:Name`.

        Raises:
            ValueError: there is none; the message names the nearest and lists all. Or it cannot be
                imported, or is of another kind.
        """
        own = self.own()
        if name in own:
            return own[name]()
        if name in (added := self._added()):
            return self._checked(name, added[name].load())
        if is_reference(name):
            return self._checked(name, imported(name, self.kind))
        raise unknown(self.kind, name, [*own, *added])

    def name_of(self, member: Any) -> str:
        """The name by which `get` gives a class (or an instance's): its `NAME`, else its place."""
        cls = member if inspect.isclass(member) else type(member)
        given = vars(cls).get("NAME")
        if isinstance(given, str):
            return given
        file, own = cls.__module__.rpartition(".")[2], self.own()
        ours = file in own and own[file]() is cls  # a file of the user's may have the same name
        return file if ours else f"{cls.__module__}:{cls.__qualname__}"

    def _added(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def _checked(self, name: str, found: Any) -> T:
        if not self.accepts(found):
            raise ValueError(f"{name} is no {self.kind}: it is {found!r}")
        return found  # type: ignore[no-any-return]  # `accepts` has just said so


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


def is_reference(name: str) -> bool:
    """Whether a name is of the form `package.module:Name`."""
    module, colon, member = name.partition(":")
    parts = [*module.split("."), *member.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def imported(reference: str, kind: str) -> Any:
    """What `package.module:Name` refers to.

    Raises:
        ValueError: the module or the name is not there; the message says where it was looked for.
    """
    place, _, member = reference.partition(":")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(
            f"{kind} {reference!r}: there is no module {error.name!r}; it must be installed, or be "
            "a file in the working folder"
        ) from None
    for part in member.split("."):
        if not hasattr(found, part):
            known = [name for name in vars(found) if not name.startswith("_")]
            raise ValueError(f"{kind} {reference!r}: {unknown('name', part, known)}") from None
        found = getattr(found, part)
    return found


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: what was asked for, what was likely meant, what there is."""
    known = sorted(known)
    return ValueError(
        f"unknown {kind} {name!r}; {nearest(name, known)}choose one of {', '.join(known)}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'fedmd'? `, or nothing where no known name is near."""
    close = get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close and close[0] != name else ""


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
