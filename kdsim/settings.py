"""What is given in Python: algorithms by name, class or instance, and settings by keyword.

Settings are those of an experiment file. Nested ones are dicts, `local={"epochs": 5}`, dataclasses,
`local=TrainingConfig(epochs=5)`, or dotted names: `local__epochs=5`, `**{"local.epochs": 5}`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedkd.data.datasets import Dataset
from fedkd.data.own.partition import of_examples, rows_of
from fedkd.data.partition import AUTO
from fedkd.targets import CLASSES
from kdcore.registry import imported, is_reference, unknown
from simulations.config import files, library
from simulations.config.experiments import KINDS, Experiment, FedExperiment, Template
from simulations.config.files import Document, put
from simulations.config.grid import SEEDS
from simulations.config.schema import Leaf, leaves, meant, values
from simulations.graph_settings import GRAPH, MANY, kind_of
from simulations.runners import objects
from simulations.runners.objects import Objects
from simulations.survey import experiments as survey

Settings = Mapping[str, Any]
GRAPHS = {"graphkd", "networkx", "torch_geometric"}  # whose objects are graphs
DEFAULT = FedExperiment.data  # where none are named
LOSSES = {"loss", "distillation_loss"}
LEARNERS = ("fed", "graph")  # kinds of experiments that an algorithm or a method stands for


class Learner(NamedTuple):
    """Who learns: the kind of experiment, and an algorithm or method with its settings."""

    kind: str
    instance: Any

    @property
    def name(self) -> str:
        """By which it is found."""
        return KINDS[self.kind].name_of(self.instance)


class Source(NamedTuple):
    """An experiment as a document, what messages and its folder call it, and a file's own text."""

    document: Document
    said: str
    name: str
    text: str = ""


def learner(what: Any, kinds: Sequence[str] = LEARNERS) -> Learner:
    """The algorithm or method of a name, of `module:Class`, a class, or an instance.

    Raises:
        ValueError: it is none; the message says what there is.
    """
    if isinstance(what, str):
        what = _found(what, kinds)
    cls = what if isinstance(what, type) else type(what)
    for kind in kinds:
        if KINDS[kind].registry.accepts(cls):
            return Learner(kind, _made(what) if isinstance(what, type) else what)
    raise ValueError(f"{what!r} is no {_nouns(kinds)}: give a name, module:Class, or such a class")


def experiment(kind: str, what: Any, given: Settings) -> Experiment:
    """One experiment, from settings of its own and of its algorithm.

    Raises:
        ValueError: an unknown name or setting, the nearest is named; or a value that cannot be.
    """
    about, instance = KINDS[kind], learner(what, [kind]).instance
    flat, template = _all_private(kind, opened(given)), Template(kind, instance)
    _check_known(flat, template.known, about.name_of(instance))
    built: Experiment = template.build(flat)
    return built


def source(what: Any, given: Settings, assignments: Settings) -> Source:
    """The experiment that `kdsim.run` runs.

    Args:
        what: the path of a TOML file, the name of an experiment or of a recipe that comes with
            kdsim, or one or several of what `learner` takes.
        given: settings, for each algorithm or method that has them.
        assignments: `fed.rounds` and the like, as after `--set`; they come last.

    Raises:
        ValueError, FileNotFoundError: there is no such thing, or no such setting.
    """
    if _is_file(what):
        path = library.find(Path(what))
        document = files.read(path)
        said, name, text = path.name, path.stem, path.read_text(encoding="utf-8")
        assignments = {**opened(given), **assignments}
    elif recipe := _recipe(what):
        more = opened(given)
        document, text = survey.joined([recipe], more.pop("seeds", None)), ""
        said = name = recipe
        assignments = {**more, **assignments}
    else:
        several = isinstance(what, Sequence) and not isinstance(what, str)
        if isinstance(what, str) and "/" in what:
            raise FileNotFoundError(f"no experiment file {what}; name a .toml file that is there")
        found = [learner(one) for one in (what if several else [what])]
        document, text, said = _document(found, opened(given)), "", "kdsim.run"
        name = "-".join(one.name.rpartition(":")[2].lower() for one in found[:3])
    for key, value in assignments.items():
        document = files.assigned(document, key, _plain(value), f"{key}={value!r}")
    return Source(document, said, name, "" if assignments else text)


def named(given: Settings) -> tuple[dict[str, Any], Objects]:
    """Settings with names in the places of data, models, losses and parts, and what they stand for.

    Raises:
        ValueError: something that is none of these.
    """
    parts, data, models = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    found = _with_parts(given, parts)
    if "data" in found:
        found["data"] = _names(_graphs(found["data"]), _name_of_data, data)
        if any(getattr(one, "target", CLASSES) != CLASSES for one in data.values()):
            found.setdefault("partition", AUTO)  # the usual one is by class
    for side in ("teacher", "student"):
        if callable(found.get(side)):
            raise ValueError(
                f"the {side} is an object, which a kept run cannot name: put its class into a file "
                f"and say {side}='my_networks.py:Net', or call kdsim.distill"
            )
    if "models" in found:
        several = (
            found["models"] if isinstance(found["models"], list | tuple) else [found["models"]]
        )
        found["models"] = _names(list(several), objects.name_of_model, models)
    losses = dict[str, Any]()
    for key in LOSSES & found.keys():
        found[key] = _names(found[key], objects.name_of_loss, losses)
    return found, Objects(data, models, parts, losses)


def _with_parts(given: Settings, kept: dict[str, Any]) -> dict[str, Any]:
    """Settings with a partition's name in the place of `parts`, and data where these hold them."""
    found = dict(given)
    parts = found.pop("parts", None)
    if parts is None:
        return found
    if said := [key for key in ("partition", "clients", "private") if key in found]:
        raise ValueError(f"parts say who holds what, and so does {said[0]}; leave that out")
    examples = of_examples(parts)
    if examples is None:
        rows = rows_of(parts)
    elif found.get("data", DEFAULT) != DEFAULT:
        raise ValueError(
            "parts hold examples, and data are given too; give row numbers, or no data"
        )
    else:
        found["data"], rows = examples
    name = objects.name_of_rows(rows)
    kept[name] = rows
    return {**found, "partition": name, "clients": len(rows), "private": 0}


def _graphs(value: Any) -> Any:
    """Data with the graphs of PyTorch Geometric and networkx, and splits, read as graphs.

    A list of several is an axis, but for PyG's `Data` with one label each: that is one data set.
    """
    several = isinstance(value, list) or type(value) is tuple
    if several and not any(map(_is_graph, value)):
        return value
    if not several and not _is_graph(value):
        return value
    from graphkd.data.sources import are_examples, graph_of

    if several and not are_examples(value):  # an axis of the grid
        return [_graphs(one) for one in value]
    return graph_of(value)


def _is_graph(value: Any) -> bool:
    return bool(GRAPHS & {kind.__module__.partition(".")[0] for kind in type(value).__mro__})


def _all_private(kind: str, given: Settings) -> dict[str, Any]:
    """Of data that are objects all examples are private that are nothing else, if not told."""
    data = given.get("data", "")
    several = data if isinstance(data, list) else [data]
    own = all(str(one).startswith(objects.PREFIX) and not kind_of({"data": one}) for one in several)
    if kind == "fed" and str(given.get("partition")).startswith(objects.PREFIX):
        return {"public": 0, **given}  # what is public must be left by the clients
    return {"private": 0, **given} if kind == "fed" and own else dict(given)


def _names(value: Any, name_of: Callable[[Any], str], kept: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, list) or type(value) is tuple:
        return [_names(one, name_of, kept) for one in value]
    name = name_of(value)
    kept[name] = value
    if not _is_graph(value):
        return name
    return name.replace(objects.PREFIX, MANY if value.readout else GRAPH, 1)


def _name_of_data(value: Any) -> str:
    if not isinstance(value, Dataset) and not dataclasses.is_dataclass(value):
        raise ValueError(
            f"data must be a name, what kdsim.data gives, or a kdsim.Graph, got a "
            f"{type(value).__name__}; kdsim.data makes data of it: kdsim.data(x, y), or of a table "
            "or a file kdsim.data(table, label=...)"
        )
    return objects.name_of_data(value)


def opened(given: Settings) -> dict[str, Any]:
    """Settings by dotted names, with values as TOML has them.

    Raises:
        ValueError: one is given twice.
    """
    found: dict[str, Any] = {}
    for key, value in _pairs(given, ""):
        if key in found:
            raise ValueError(f"{key} is given twice: {found[key]!r} and {value!r}")
        found[key] = value
    return found


def _pairs(given: Settings, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        key = prefix + name.replace("__", ".")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _pairs(values(value), f"{key}.")
        elif isinstance(value, Mapping) and value:
            yield from _pairs(value, f"{key}.")
        else:
            yield key, _plain(value)


def _plain(value: Any) -> Any:
    """The value in Python's own types: arrays and numbers of NumPy and PyTorch are opened."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(one) for one in value] if isinstance(value, tuple | list | range) else value


def _is_file(what: Any) -> bool:
    """Whether it is an experiment file: a path, or a name of one that comes with kdsim."""
    if not isinstance(what, str):
        return isinstance(what, Path)
    known = what in library.names() or what in library.RENAMED
    return known or what.endswith(library.SUFFIX) or Path(what).is_file()


def _recipe(what: Any) -> str:
    """The recipe that a name means, `compression` or `survey/mutual`; empty where it means none."""
    if not isinstance(what, str):
        return ""
    known, name = library.names(survey.FOLDER), what.removeprefix("survey/")
    taken = name == what and any(name in KINDS[kind].registry for kind in LEARNERS)
    return name if name in known and not taken else ""


def _found(name: str, kinds: Sequence[str]) -> Any:
    """The class of a name, or what a reference leads to."""
    if is_reference(name):
        return imported(name, _nouns(kinds))
    registries = [KINDS[kind].registry for kind in kinds]
    for registry in registries:
        if name in registry:
            return registry.get(name)
    known = [one for registry in registries for one in registry.names()]
    raise unknown(_nouns(kinds), name, known)


def _made(cls: type[Any]) -> Any:
    """An instance with default settings."""
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"{cls.__name__} cannot be made without settings ({error}); give each field a "
            "default, or an instance"
        ) from None


def _nouns(kinds: Iterable[str]) -> str:
    return " or ".join(KINDS[kind].key for kind in kinds)


def _check_known(given: Iterable[str], known: Mapping[str, Leaf], who: str) -> None:
    """Raise ValueError for settings that nobody has."""
    unknown = [key for key in given if key not in known]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"{who} has no setting {names}{meant(unknown[0], known)}")


def _document(learners: Sequence[Learner], given: dict[str, Any]) -> Document:
    """What an experiment file would say: [fed] and [graph] for all, a table for each one's own."""
    if not learners:
        raise ValueError("nothing to run: the list is empty; name an algorithm or a method")
    known = {kind: _known(learners, kind) for kind in {one.kind: None for one in learners}}
    every = {key: leaf for leaves_ in known.values() for key, leaf in leaves_.items()}
    _check_known(given, every, ", ".join(one.name for one in learners))
    document: Document = {}
    for kind, leaves_ in known.items():
        names = [one.name for one in learners if one.kind == kind]
        own = _all_private(kind, {k: value for k, value in given.items() if k in leaves_})
        document = _with(document, (kind,), {KINDS[kind].key: names, **own}, leaves_)
    for one in learners:
        _check_findable(one, [other.name for other in learners])
        changed = _changed(one)
        path = (KINDS[one.kind].key, one.name)
        document = _with(document, path, changed, leaves(type(one.instance)))
    return document


def _known(learners: Iterable[Learner], kind: str) -> dict[str, Leaf]:
    found = {**leaves(KINDS[kind].experiment), "seeds": SEEDS}
    for one in learners:
        found |= leaves(one.instance) if one.kind == kind else {}
    return found


def _changed(one: Learner) -> dict[str, Any]:
    """The settings in which an instance is not as its class has them."""
    default = values(KINDS[one.kind].get(one.name))
    return {key: value for key, value in values(one.instance).items() if value != default[key]}


def _check_findable(one: Learner, names: Sequence[str]) -> None:
    """Raise ValueError for what could not be named in an experiment file."""
    if names.count(one.name) > 1:
        raise ValueError(
            f"{one.name} is there more than once; give a list of values for what differs, such as "
            "temperature=[0.1, 0.5], or run them apart"
        )
    if KINDS[one.kind].registry.get(one.name) is not type(one.instance):
        raise ValueError(f"{one.name} is another class than {type(one.instance)}; load it again")


def _with(
    document: Document, path: tuple[str, ...], given: Settings, known: Mapping[str, Leaf]
) -> Document:
    """The document with settings in a table of it; TOML has no None, which is to be the default."""
    for key, value in given.items():
        if value is None and key in known and known[key].default is None:
            continue
        if value is None:
            raise ValueError(f"{key}=None cannot be kept in an experiment file; leave it out")
        document = put(document, [*path, *key.split(".")], value, f"{key}={value!r}")
    return document
