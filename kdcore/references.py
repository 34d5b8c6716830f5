"""What a user names outside the project: `package.module:Name`, or `path/file.py:Name`.

A module is imported as Python does it. A file is executed as a script is, with the modules in its
folder to be imported; it is a module whose name is its path from the working folder, `net.py` or
`nets/small.py` (from elsewhere its whole path). So what is in it is known by what it says of
itself, f"{cls.__module__}:{cls.__qualname__}", as in any module. The same file twice is the same
module, however its path is spelt; one that has changed since is executed anew.

What is run is known by its source (`source`): the file, and what it imports from beside it.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

SUFFIX = ".py"
OURS = ("kdcore", "fedkd", "graphkd", "fedgraphkd", "kdattacks", "simulations", "kdsim")
_SHA = "__sha256__"  # in a module made of a file: of what was executed


class Source(NamedTuple):
    """The code that a reference leads to.

    Attributes:
        file: where it is; empty for what was typed in.
        sha256: of all of it.
        parts: SHA-256 of the file and of each that it imports from beside it or below, under
            their names; of an installed distribution the file alone, and the version.
    """

    file: str
    sha256: str
    parts: dict[str, str]


def is_reference(name: str) -> bool:
    """Whether a name is of the form `package.module:Name` or `path/file.py:Name`."""
    place, colon, member = name.rpartition(":")
    if not colon or not all(part.isidentifier() for part in member.split(".")):
        return False
    return is_file(place) or all(part.isidentifier() for part in place.split("."))


def names_in(text: str) -> Iterable[str]:
    """The names in a value: two in `a+b`; one in `mnist:5-9`, `3:nan`, `0.2:noise`, and numbers."""
    for part in text.split("+"):
        first, colon, rest = part.partition(":")
        if colon and first.replace(".", "").isdecimal():
            part = rest
        whole, colon, labels = part.rpartition(":")
        yield whole if colon and labels.replace("-", "").isdecimal() else part


def is_file(place: str) -> bool:
    """Whether the part before the colon is that of a file."""
    return place.endswith(SUFFIX) and len(Path(place).name) > len(SUFFIX)


def canonical(name: str) -> str:
    """The one spelling of a reference to a file: `./net.py:Net` is `net.py:Net`."""
    place, _, member = name.rpartition(":")
    if not (is_reference(name) and is_file(place)):
        return name
    return f"{_called(_path(place))}:{member}"


def imported(reference: str, kind: str = "name") -> Any:
    """What a reference leads to.

    Args:
        reference: `package.module:Name` or `path/file.py:Name`.
        kind: of what is looked for, as messages call it.

    Raises:
        ValueError: the module, the file or the name is not there, or its code fails; the message
            says where it was looked for, or which line fails.
    """
    place, _, member = reference.rpartition(":")
    said = f"{kind} {reference!r}"
    found: Any = _of_file(place, said) if is_file(place) else _of_module(place, said)
    _check_unchanged(modules_of(found))
    for part in member.split("."):
        if not hasattr(found, part):
            known = [name for name in vars(found) if not name.startswith("_")]
            raise ValueError(f"{said}: {unknown('name', part, known)}") from None
        found = getattr(found, part)
    return found


def source(reference: str) -> Source:
    """The code of a reference that can be imported.

    Raises:
        ValueError: as `imported`; or what it imports has changed since, and Python has to be
            started again.
    """
    member = imported(reference)
    place = reference.rpartition(":")[0]
    found = sys.modules[_called(_path(place)) if is_file(place) else place]
    return source_of(member, found)


def source_of(member: Any, found: ModuleType | None = None) -> Source:
    """The code of a class or a function.

    Of what stands in a script that is run, or in a notebook, it is the text of the class and of its
    bases there; what is made without any text has none.

    Args:
        member: the class, function or anything else.
        found: the module in which it was found; it may be defined in another one.

    Raises:
        ValueError: what it imports has changed since, and Python has to be started again.
    """
    module = sys.modules.get(getattr(member, "__module__", None) or "", found)
    if module is None or (found is not None and not _users(module, found)):
        module = found
    if module is None or module.__name__ == "__main__":
        return _typed(member)
    files = modules_of(module)
    _check_unchanged(files)
    parts = {name: _sha(Path(_file_of(part)).read_bytes()) for name, part in files.items()}
    parts |= _distribution(module)
    return Source(_file_of(module), _whole(parts), parts) if parts else _typed(member)


def modules_of(module: ModuleType) -> dict[str, ModuleType]:
    """A module and those of the user's that it imports, directly or not, by their files' names.

    Those are what lies in the same folder or below. What the code of functions imports counts once
    it has been imported. Of an installed package it is the module alone: its version says the rest.
    """
    home = _home(module)
    found: dict[str, ModuleType] = {}
    waiting = [module]
    while waiting:
        one = waiting.pop()
        path = _file_of(one)
        if not path or not Path(path).is_relative_to(home) or not _users(one, module):
            continue
        name = Path(path).relative_to(home).as_posix()
        if name not in found:
            found[name] = one
            waiting += [] if _is_installed(Path(path)) else _imports(one)
    return dict(sorted(found.items()))


def users_modules() -> list[ModuleType]:
    """The modules of the user's that references have led to, but for installed ones.

    Another process may not find them: it has to be sent what is in them.
    """
    known = [*sys.modules.values()]
    found = [one for one in known if isinstance(one, ModuleType)]
    own = [one for one in found if _SHA in vars(one) or _file_of(one) in _SEEN]
    return [one for one in own if not _is_installed(Path(_file_of(one)))]


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'fedmd'? `, or nothing where no known name is near."""
    close = get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close and close[0] != name else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for an unknown name: what was asked for, what was likely meant, what there is."""
    known = sorted(known)
    return ValueError(
        f"unknown {kind} {name!r}; {nearest(name, known)}choose one of {', '.join(known)}"
    )


def _path(place: str) -> Path:
    path = Path(place).expanduser()
    return path.parent.resolve() / path.name


def _called(path: Path) -> str:
    """The name of the module that a file is."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def _of_file(place: str, said: str) -> ModuleType:
    path = _path(place)
    if not path.is_file():
        raise ValueError(f"{said}: there is no file {path}; name one that is there")
    name, content = _called(path), path.read_bytes()
    known = sys.modules.get(name)
    if known is not None and (_file_of(known), vars(known).get(_SHA)) == (str(path), _sha(content)):
        return known
    module = ModuleType(name)
    module.__file__, module.__package__ = str(path), ""
    setattr(module, _SHA, _sha(content))
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the last of all: it hides nothing
    sys.modules[name] = module  # dataclasses look there for the names in annotations
    try:
        _try(partial(_execute, content, module), path, said)
        _check_neighbours(module, said)
    except ValueError:
        del sys.modules[name]
        raise
    return module


def _execute(content: bytes, module: ModuleType) -> None:
    # Not by a loader of importlib: its cache takes an edit within a second for no change.
    exec(compile(content, _file_of(module), "exec"), vars(module))


def _check_neighbours(module: ModuleType, said: str) -> None:
    """Raise ValueError for a file that did not get what lies beside it: other code has that name.

    Python imports one module of a name, the first that it finds.
    """
    folder = Path(_file_of(module)).parent
    for one in _imports(module):
        beside = folder / f"{one.__name__}{SUFFIX}"
        if beside.is_file() and _file_of(one) != str(beside):
            where = getattr(one, "__file__", None) or "Python's own"
            raise ValueError(
                f"{said} imports {one.__name__}, which is {where} and not {beside}; rename that"
            )


def _of_module(place: str, said: str) -> ModuleType:
    try:
        return sys.modules[place] if place in sys.modules else _tried(place, said)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{said}: there is no module {error.name!r}; it must be installed, or be "
            "a file in the working folder"
        ) from None


def _tried(place: str, said: str) -> ModuleType:
    """The module, imported; ModuleNotFoundError if it is the one that is not there."""

    def load() -> None:
        try:
            importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise ImportError(str(error)) from error  # it is there, and lacks another
            raise

    _try(load, None, said)
    return sys.modules[place]


def _try(code: Callable[[], None], path: Path | None, said: str) -> None:
    """Run code of the user's; what it raises is said in a line, with the line of its file."""
    try:
        code()
    except (Exception, SystemExit) as error:
        if path is None and isinstance(error, ModuleNotFoundError):
            raise
        name = type(error.__cause__ or error).__name__
        what = " ".join(str(error).split()) or "no more is said"
        raise ValueError(
            f"{said} cannot be imported: {_place(error, path)}{name}: {what}"
        ) from error


def _place(error: BaseException, path: Path | None) -> str:
    """`net.py, line 3: `, where in the user's code an error comes from."""
    if isinstance(error, SyntaxError):
        return ""  # it says so itself
    error = error.__cause__ or error
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _hidden(f.filename)]
    last = next((f for f in reversed(own) if path is None or f.filename == str(path)), None)
    return "" if last is None else f"{Path(last.filename).name}, line {last.lineno}: "


def _hidden(filename: str) -> bool:
    """Whether a frame is of Python's import system, or ours."""
    return filename.startswith("<") or filename == __file__ or "importlib" in filename


def _file_of(module: ModuleType) -> str:
    path = getattr(module, "__file__", None)
    return path if isinstance(path, str) and path.endswith(SUFFIX) else ""


def _home(module: ModuleType) -> Path:
    """The folder in which a module's own are: of a file its own, of a package the one around it."""
    path = Path(_file_of(module) or ".").absolute()
    if _SHA in vars(module):
        return path.parent
    depth = module.__name__.count(".") + (path.name == "__init__.py")
    return path.parents[min(depth, len(path.parents) - 1)]


def _users(one: ModuleType, asked: ModuleType) -> bool:
    """Whether a module is the user's, as far as the one that was asked for goes."""
    top, path = one.__name__.partition(".")[0], Path(_file_of(one))
    if top in OURS and _SHA not in vars(one):
        return False
    if _is_installed(path):
        return top == asked.__name__.partition(".")[0]
    return not path.is_relative_to(Path(os.__file__).parent)


def _is_installed(path: Path) -> bool:
    """Whether a file is in a folder of installed distributions."""
    return any(_has_distributions(root) for root in sys.path if root and path.is_relative_to(root))


@cache
def _has_distributions(root: str) -> bool:
    return any(Path(root).glob("*.dist-info"))


def _imports(module: ModuleType) -> Iterator[ModuleType]:
    """The loaded modules that the code of one names in its imports, with the packages around."""
    tree = ast.parse(Path(_file_of(module)).read_bytes())
    package = str(getattr(module, "__package__", None) or "")
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            whole = (".".join(parts[: n + 1]) for n in range(len(parts)))
            yield from (sys.modules[one] for one in whole if one in sys.modules)


# File -> SHA-256 of what was imported of it, when it was first asked for.
_SEEN: dict[str, str] = {}


def _check_unchanged(files: Mapping[str, ModuleType]) -> None:
    """Raise ValueError for what Python has imported and has changed since.

    A file that a reference names is executed anew; what Python itself imports is not.
    """
    for name, one in files.items():
        path = _file_of(one)
        if _SHA in vars(one):
            continue
        now = _sha(Path(path).read_bytes())
        if _SEEN.setdefault(path, now) != now:
            raise ValueError(f"{name} has changed since it was imported; start Python again")


def _distribution(module: ModuleType) -> dict[str, str]:
    """The version of the installed distribution that a module is of."""
    path = Path(getattr(module, "__file__", None) or "")
    if not _is_installed(path):
        return {}
    names = _distributions().get(module.__name__.partition(".")[0], [])
    return {f"{name} (version)": importlib.metadata.version(name) for name in sorted({*names})}


@cache
def _distributions() -> dict[str, list[str]]:
    return {**importlib.metadata.packages_distributions()}


def _typed(member: Any) -> Source:
    """What stands in a script or a notebook, as far as Python has kept its text."""
    bases = inspect.getmro(member) if inspect.isclass(member) else (member,)
    home = getattr(member, "__module__", None)
    own = [one for one in bases if getattr(one, "__module__", None) == home]
    texts = {getattr(one, "__qualname__", ""): _text(one) for one in own}
    parts = {name: _sha(text) for name, text in texts.items() if text}
    return Source("", _whole(parts), parts)


def text_of(member: Any) -> str:
    """The source of a class or function, also of one that was typed into a notebook.

    Raises:
        OSError: Python has not kept it.
        TypeError: it is no such thing.
    """
    try:
        return inspect.getsource(member)
    except (OSError, TypeError):
        if not inspect.isclass(member):
            raise
    # A notebook is no file, in which Python looks for classes; functions know their cells.
    functions = [one for one in vars(member).values() if inspect.isfunction(one)]
    for cell in {one.__code__.co_filename: None for one in functions}:
        text = "".join(linecache.getlines(cell))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name == member.__name__:
                return ast.unparse(node)
    raise OSError(f"the source of {member!r} is not there")


def _text(member: Any) -> bytes:
    try:
        return text_of(member).encode()
    except (OSError, TypeError):
        return b""


def _whole(parts: dict[str, str]) -> str:
    return _sha(json.dumps(sorted(parts.items())).encode())


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
