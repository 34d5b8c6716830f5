"""`kdsim list`: what there is, found by looking into the packages."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from kdcore.references import unknown
from kdcore.registry import Registry

Record = dict[str, Any]


def algorithms() -> Iterable[Record]:
    """Federated algorithms, with what each needs and what it reveals."""
    from fedkd.algorithms import REGISTRY, get, names

    for name in names():
        algorithm = get(name)
        said = algorithm.properties._asdict() | _settings(algorithm())
        yield _entry(name, algorithm) | _from(REGISTRY, name) | said


def methods() -> Iterable[Record]:
    """Methods of graph distillation."""
    from graphkd.methods import REGISTRY, get, names

    for name in names():
        yield _entry(name, get(name)) | _from(REGISTRY, name) | _settings(get(name)())


def losses() -> Iterable[Record]:
    """Losses: for `--loss`, of graph distillation, and those of `kdcore` on any outputs."""
    import graphkd.losses
    from fedkd.losses import REGISTRY
    from kdcore import losses as ours

    yield from _entries(REGISTRY)
    found = {module.name for module in pkgutil.iter_modules(ours.__path__)} - ours.PARTS
    modules = [importlib.import_module(f"kdcore.losses.{name}") for name in sorted(found)]
    for module in (graphkd.losses, *modules):
        for name, function in _functions(module).items():
            yield _entry(f"{module.__name__}.{name}", function)


def models() -> Iterable[Record]:
    """Architectures of federated clients, and networks on graphs."""
    from fedkd import models as federated
    from graphkd.models import networks

    yield from (entry | {"for": "fed"} for entry in _entries(federated.REGISTRY))
    yield from (entry | {"for": "graph"} for entry in _entries(networks.REGISTRY))


def datasets() -> Iterable[Record]:
    """Data sets; `kdsim doctor` says which of them are there."""
    from fedkd.data import datasets as images
    from graphkd.data import registry as graphs

    for kind, registry in (("fed", images.REGISTRY), ("graph", graphs.REGISTRY)):
        for name in registry.names():
            yield {"name": name, **_from(registry, name), "for": kind}


def partitions() -> Iterable[Record]:
    """Ways to deal private examples out to clients."""
    from fedgraphkd import partition
    from fedkd.data.partition import REGISTRY

    yield from (entry | {"for": "fed"} for entry in _entries(REGISTRY))
    yield from (entry | {"for": "fed, graphs"} for entry in _entries(partition.REGISTRY))
    yield _entry("size", partition.size) | {"for": "fed, whole graphs"}


def engines() -> Iterable[Record]:
    """Who runs the clients."""
    from fedkd.engines import REGISTRY

    return _entries(REGISTRY)


def aggregations() -> Iterable[Record]:
    """Ways to a consensus of what clients predict."""
    from fedkd.consensus import REGISTRY

    return _entries(REGISTRY)


def encoders() -> Iterable[Record]:
    """What makes features of inputs before any label is learnt."""
    from fedkd.encoders import REGISTRY

    return _entries(REGISTRY)


def faults() -> Iterable[Record]:
    """What a corrupt client may send."""
    from fedkd.attacks.byzantine import REGISTRY

    yield from ({"name": name, **_from(REGISTRY, name)} for name in REGISTRY.names())


def lies() -> Iterable[Record]:
    """What clients that lie within the border may do."""
    from fedkd.attacks.lies import REGISTRY

    return _entries(REGISTRY)


def attacks() -> Iterable[Record]:
    """Attacks on privacy, for `kdsim audit`."""
    from kdattacks import REGISTRY

    return _entries(REGISTRY)


def trackers() -> Iterable[Record]:
    """What may be told of runs, `--track`."""
    from simulations.results.trackers import REGISTRY

    return _entries(REGISTRY)


def recipes() -> Iterable[Record]:
    """Recipes, as the surveys group their terms."""
    from simulations.survey import experiments

    for name in experiments.names():
        said = experiments.described(name)
        about = {"group": said.group, "term": said.term, "claims": "; ".join(said.claims)}
        yield {"name": name, "summary": said.what, **about}


def experiments() -> Iterable[Record]:
    """Experiments for `kdsim run NAME`, that come with kdsim."""
    from simulations.config import library

    yield from ({"name": name, "summary": library.summary(name)} for name in library.names())


KINDS: dict[str, Callable[[], Iterable[Record]]] = {
    "algorithms": algorithms,
    "methods": methods,
    "losses": losses,
    "models": models,
    "datasets": datasets,
    "partitions": partitions,
    "engines": engines,
    "aggregations": aggregations,
    "encoders": encoders,
    "faults": faults,
    "lies": lies,
    "attacks": attacks,
    "trackers": trackers,
    "recipes": recipes,
    "experiments": experiments,
}


def show(
    what: str | None, as_json: bool, kept: Callable[[str], list[Record] | None] = lambda kind: None
) -> None:
    """Print one kind, or all of them.

    Args:
        what: a key of `KINDS`, or None for all.
        as_json: a line for each entry, in place of a table.
        kept: the entries of a kind where they are known already; None where they are not.

    Raises:
        ValueError: there is no such kind.
    """
    if what is not None and what not in KINDS:
        raise unknown("kind", what, KINDS)
    for kind in KINDS if what is None else [what]:
        entries = kept(kind) or list(KINDS[kind]())
        if as_json:
            record = kind.removesuffix("es" if kind == "losses" else "s")
            for entry in entries:
                print(json.dumps({"record": record, **entry}, allow_nan=False))
        else:
            _print(kind, entries)


def _print(kind: str, entries: list[Record]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    group = ""
    for entry in entries:
        module, _, name = entry["name"].rpartition(".")
        if module != group:
            group = module
            table.add_row(Text(f"  {module}", style="bold underline"), "")
        about = {k: v for k, v in entry.items() if k not in ("name", "summary", "settings")}
        said = [f"{key.replace('_', ' ')}: {_text(value)}" for key, value in about.items()]
        lines = [entry["summary"], *said] if "summary" in entry else said
        table.add_row(Text(f"  {name}", style="bold"), Text("\n".join(lines)))
    console = Console(highlight=False)
    console.print(Text(kind.upper()), table, Text(""))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "nothing"
    return str(value)


def _entry(name: str, documented: Any) -> Record:
    """Its name, and the first sentence of its docstring."""
    return {"name": name, "summary": (inspect.getdoc(documented) or "").partition("\n")[0]}


def _entries(registry: Registry[Any]) -> Iterable[Record]:
    for name in registry.names():
        try:
            entry = _entry(name, registry.get(name))
        except ValueError as error:  # an installed package has left it out
            entry = {"name": name, "summary": str(error)}
        yield entry | _from(registry, name)


def _from(registry: Registry[Any], name: str) -> Record:
    """The installed distribution that adds it; nothing for the project's own."""
    if name in registry.own():
        return {}
    return {"from": registry.added()[name]}


def _settings(instance: Any) -> Record:
    from simulations.config.schema import values

    return {"settings": values(instance)}


def _functions(module: ModuleType) -> dict[str, Any]:
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__.startswith(module.__name__)
        and name in getattr(module, "__all__", [name])
        and not name.startswith("_")
    }
