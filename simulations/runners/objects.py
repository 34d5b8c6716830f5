"""Data, models, losses and partitions that are Python objects, and their names in experiments.

An experiment is text: it says `own:`, a name and a hash. Of data that is one of all tensors, so the
same numbers are the same experiment, and so of a partition; a model or a loss is known by its name
and its source, an instance also by its weights. The objects themselves travel beside the
experiment, and no file has them.
"""

import hashlib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core import Model
from fedkd.losses import REGISTRY as LOSSES
from fedkd.models import build
from fedkd.targets import CLASSES, Target
from kdcore.references import text_of
from simulations.config.experiments import USUAL
from simulations.graph_settings import OBJECT, plain

PREFIX = OBJECT
SHOWN = 12  # hexadecimal digits of a hash in a name
UNSAID = {"notes", "label_names", "node_names"}  # of data: what no number depends on


@dataclass(frozen=True)
class Objects:
    """What was given as objects, by the names that experiments have for it.

    Attributes:
        data: data sets (`Dataset`) and graphs (`graphkd.Graph`).
        models: classes or functions that make a module, modules, or a `Model` of either.
        partitions: of each client its rows (`fedkd.data.own.partition.ClientRows`).
        losses: functions (outputs, y) (`fedkd.losses`).
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Any] = field(default_factory=dict)
    partitions: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, Any] = field(default_factory=dict)

    def given(self, name: str) -> Any:
        """The data of a name; None for a name of data that were not given as an object.

        Raises:
            ValueError: they were, and are not here.
        """
        return _given(self.data, name, "data")

    def rows(self, name: str) -> Any:
        """The rows of each client, of a partition by hand; None for another partition's name.

        Raises:
            ValueError: it was given by hand, and is not here.
        """
        return _given(self.partitions, name, "partition")

    def loss(self, name: str) -> Any:
        """The loss of a name; None where it is the one that follows from the target.

        Raises:
            ValueError: there is none of this name, or it was given as an object and is not here.
        """
        if name == USUAL:
            return None
        return _given(self.losses, name, "loss") or LOSSES.get(name)

    def built(
        self, names: Iterable[str], shape: Sequence[Any], classes: int, rows: Any
    ) -> dict[str, Model]:
        """The models that were given as objects, by name, tried with some `rows`.

        Raises:
            ValueError: one was, and is not here; or cannot be a client's model.
        """
        found = {name: _given(self.models, name, "model") for name in dict.fromkeys(names)}
        return {k: build(v, shape, classes, rows) for k, v in found.items() if v is not None}

    def said(self, names: Iterable[str]) -> dict[str, Any]:
        """What `run.json` says of those that an experiment names."""
        about: dict[str, Any] = {}
        for name in map(plain, names):
            if name in self.data:
                about[name] = _about_data(self.data[name])
            elif name in self.models:
                about[name] = {"model": _place(self.models[name])}
            elif name in self.losses:
                about[name] = {"loss": _place(self.losses[name])}
            elif name in self.partitions:
                about[name] = _about_rows(self.partitions[name])
        return about


NONE = Objects()


def name_of_data(data: Any) -> str:
    """`own:data-1a2b3c4d5e6f`, or `own:patients-1a2b3c4d5e6f` of data that have a name."""
    found = hashlib.sha256()
    for name, value in _parts(data):
        if name not in UNSAID:
            _add(found, name, _target_name(value) if isinstance(value, Target) else value)
    called = getattr(data, "name", "")
    said = "data" if called in ("", "own") else re.sub(r"[^\w.]", "_", called)
    return f"{PREFIX}{said}-{found.hexdigest()[:SHOWN]}"


def name_of_model(what: Any) -> str:
    """`own:Net-1a2b3c4d5e6f`, of a class, a function or a module.

    Raises:
        ValueError: it is none of these, or has no source.
    """
    if isinstance(what, Model):
        return _name_of_description(what)
    if not callable(what):
        raise ValueError(
            f"a model is a name, a class or function that makes a torch module, or a module; got "
            f"{what!r}"
        )
    return _name_of_code(what, "model")


def name_of_loss(what: Any) -> str:
    """`own:hellinger-1a2b3c4d5e6f`, of a function, a class or a module.

    Raises:
        ValueError: it is none of these, or has no source.
    """
    if not callable(what):
        raise ValueError(f"a loss is a name, or {LOSSES.expected}; got {what!r}")
    return _name_of_code(what, "loss", _held(what))


def _held(what: Any) -> Mapping[str, Any]:
    """What a function keeps from around it, or an object in its attributes, where it is plain."""
    if not inspect.isfunction(what):
        kept = {} if inspect.isclass(what) else dict(getattr(what, "__dict__", {}))
    else:
        kept = dict(inspect.getclosurevars(what).nonlocals)
        kept["defaults"] = [*(what.__defaults__ or ()), *(what.__kwdefaults__ or {}).values()]
    return {name: value for name, value in sorted(kept.items()) if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float | Tensor | None)


def _name_of_code(what: Any, kind: str, held: Mapping[str, Any] = MappingProxyType({})) -> str:
    found = hashlib.sha256(_source(what, kind).encode())
    _add(found, "", held)
    if isinstance(what, nn.Module):
        for name, value in what.state_dict().items():
            _add(found, name, value)
    if isinstance(what, partial):
        found.update(repr((what.args, sorted(what.keywords.items()))).encode())
    return f"{PREFIX}{_named(what).__qualname__.rpartition('.')[2]}-{found.hexdigest()[:SHOWN]}"


def _name_of_description(what: Model) -> str:
    """The name of a module's model, by what it is the model of, and by what of it is local.

    Raises:
        ValueError: it has been tried, and no more says what it was made of.
    """
    if not isinstance(what.tried, partial):
        raise ValueError(
            f"model {what.name}: of one that has been tried with examples nothing says any more "
            "what it was made of; leave them out: from_module(Net, local=...)"
        )
    build, local = what.tried.args
    found = hashlib.sha256(name_of_model(build).encode())
    several = [local] if callable(local) or isinstance(local, str) else local
    for one in several:
        found.update(one.encode() if isinstance(one, str) else _source(one, "model").encode())
    return f"{PREFIX}{what.name}-{found.hexdigest()[:SHOWN]}"


def name_of_rows(parts: Sequence[Any]) -> str:
    """`own:parts-1a2b3c4d5e6f`, of the rows of each client."""
    found = hashlib.sha256()
    for client, one in enumerate(parts):
        _add(found, str(client), tuple(one))
    return f"{PREFIX}parts-{found.hexdigest()[:SHOWN]}"


def _given(there: Mapping[str, Any], name: str, what: str) -> Any:
    name = plain(name)
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
        _add_tensor(found, name, value)
    elif value:
        found.update(f"{name} {value!r}".encode())


def _target_name(target: Target) -> str:
    """Nothing for one class, so that data without other targets keep their names."""
    return "" if target == CLASSES else target.name


def _add_tensor(found: Any, name: str, value: Tensor) -> None:
    found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    if value.numel():  # bytes of nothing cannot be looked at
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(flat.numpy().data)


def _about_data(data: Any) -> dict[str, Any]:
    notes = list(getattr(data, "notes", ()))
    shapes = {k: list(v.shape) for k, v in _parts(data) if isinstance(v, Tensor)}
    return {**shapes, **({"notes": notes} if notes else {})}


def _about_rows(parts: Sequence[Any]) -> dict[str, Any]:
    """How many rows each client has."""
    tests = [len(one.test) for one in parts]
    return {
        "rows": [len(one.training) for one in parts],
        **({"tests": tests} if any(tests) else {}),
    }


def _named(what: Any) -> Any:
    """What has a name and a source: of an instance its class."""
    if isinstance(what, Model):
        return _named(what.tried.args[0])  # type: ignore[union-attr]  # it has a name, so it is
    if isinstance(what, partial):
        return _named(what.func)
    return what if inspect.isclass(what) or inspect.isroutine(what) else type(what)


def _place(what: Any) -> str:
    one = _named(what)
    return f"{one.__module__}:{one.__qualname__}"


def _source(what: Any, kind: str) -> str:
    one = _named(what)
    try:
        return f"{one.__qualname__}\n{text_of(one)}"
    except (OSError, TypeError):
        raise ValueError(
            f"the source of {_place(what)} cannot be read, so that nothing would tell its runs "
            f"from those of another {kind}; put it into a file or a cell of a notebook"
        ) from None
