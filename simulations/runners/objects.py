"""Data and models that were given as Python objects, and the names that experiments have for them.

An experiment is text: it says `own:`, a name and a hash. Of data that is one of all tensors, so the
same numbers are the same experiment; a model is known by its name and its source, an instance also
by its weights. The objects themselves travel beside the experiment, and no file has them.
"""

import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fedkd.core import Model
from fedkd.models import TRIED, build
from kdcore.references import text_of

PREFIX = "own:"
SHOWN = 12  # hexadecimal digits of a hash in a name
UNSAID = {"notes", "label_names", "node_names"}  # of data: what no number depends on


@dataclass(frozen=True)
class Objects:
    """What was given as objects, by the names that experiments have for it.

    Attributes:
        data: data sets (`Dataset`) and graphs (`graphkd.Graph`).
        models: classes or functions that make a module, or modules.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)

    def given(self, name: str) -> Any:
        """The data of a name; None for a name of data that were not given as an object.

        Raises:
            ValueError: they were, and are not here.
        """
        return _given(self.data, name, "data")

    def built(
        self, names: Iterable[str], shape: Sequence[Any], classes: int, rows: Any
    ) -> dict[str, Model]:
        """The models that were given as objects, by name, tried with some `examples`.

        Raises:
            ValueError: one was, and is not here; or cannot be a client's model.
        """
        found = {name: _given(self.models, name, "model") for name in dict.fromkeys(names)}
        return {k: build(v, shape, classes, rows) for k, v in found.items() if v is not None}

    def said(self, names: Iterable[str]) -> dict[str, Any]:
        """What `run.json` says of those that an experiment names."""
        about: dict[str, Any] = {}
        for name in names:
            if name in self.data:
                about[name] = _about_data(self.data[name])
            elif name in self.models:
                about[name] = {"model": _place(self.models[name])}
        return about


NONE = Objects()


def name_of_data(data: Any) -> str:
    """`own:data-1a2b3c4d5e6f`, or `own:patients-1a2b3c4d5e6f` of data that have a name."""
    found = hashlib.sha256()
    for name, value in _parts(data):
        if name not in UNSAID:
            _add(found, name, value)
    called = getattr(data, "name", "")
    said = "data" if called in ("", "own") else re.sub(r"[^\w.]", "_", called)
    return f"{PREFIX}{said}-{found.hexdigest()[:SHOWN]}"


def name_of_model(what: Any) -> str:
    """`own:Net-1a2b3c4d5e6f`, of a class, a function or a module.

    Raises:
        ValueError: it is none of these, or has no source.
    """
    if not callable(what):
        raise ValueError(
            f"a model is a name, a class or function that makes a torch module, or a module; got "
            f"{what!r}"
        )
    found = hashlib.sha256(_source(what).encode())
    if isinstance(what, nn.Module):
        for name, value in what.state_dict().items():
            _add(found, name, value)
    if isinstance(what, partial):
        found.update(repr((what.args, sorted(what.keywords.items()))).encode())
    return f"{PREFIX}{_named(what).__qualname__.rpartition('.')[2]}-{found.hexdigest()[:SHOWN]}"


def examples(x: Any) -> Any:
    """The first few rows of a table of examples, or of each where there are several inputs."""
    return tree_map(lambda one: one[:TRIED], x)


def _given(there: Mapping[str, Any], name: str, what: str) -> Any:
    if name.startswith(PREFIX) and name not in there:
        raise ValueError(
            f"{what} {name}: this was given as a Python object, which no file can name; call "
            "kdsim.run again with the same objects and the same out, and it goes on from there"
        )
    return there.get(name)


def _parts(data: Any) -> Iterable[tuple[str, Any]]:
    if is_dataclass(data):
        return [(one.name, getattr(data, one.name)) for one in fields(data)]
    return list(data._asdict().items())


def _add(found: Any, name: str, value: Any) -> None:
    """Take a value into a hash: tensors by their bytes; what is nothing is as if it was not there.

    So data that get a field, which is empty here, keep their names.
    """
    if isinstance(value, Mapping):
        for key, one in value.items():
            _add(found, f"{name}.{key}", one)
    elif isinstance(value, tuple | list) and any(isinstance(one, Tensor) for one in value):
        for place, one in enumerate(value):
            _add(found, f"{name}.{place}", one)
    elif hasattr(value, "tolist") and not isinstance(value, Tensor):
        _add(found, name, value.tolist())
    elif isinstance(value, Tensor):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(flat.numpy().data)
    elif value:
        found.update(f"{name} {value!r}".encode())


def _about_data(data: Any) -> dict[str, Any]:
    notes = list(getattr(data, "notes", ()))
    shapes = {k: list(v.shape) for k, v in _parts(data) if isinstance(v, Tensor)}
    return {**shapes, **({"notes": notes} if notes else {})}


def _named(what: Any) -> Any:
    """What has a name and a source: of an instance its class."""
    if isinstance(what, partial):
        return _named(what.func)
    return what if inspect.isclass(what) or inspect.isroutine(what) else type(what)


def _place(what: Any) -> str:
    one = _named(what)
    return f"{one.__module__}:{one.__qualname__}"


def _source(what: Any) -> str:
    one = _named(what)
    try:
        return f"{one.__qualname__}\n{text_of(one)}"
    except (OSError, TypeError):
        raise ValueError(
            f"the source of {_place(what)} cannot be read, so that nothing would tell its runs "
            "from those of another model; put it into a file or a cell of a notebook"
        ) from None
