"""What an experiment is: frozen dataclasses whose fields are the flags and the keys of a file.

An experiment holds all that determines its numbers and nothing else: no paths, no machine. Two
experiments with the same `digest` are the same run.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fedkd import engines
from fedkd.attacks import byzantine
from fedkd.data import partition
from fedkd.rounds.clock import Clock
from kdcore import references
from kdcore.registry import Registry
from simulations.config.schema import ADDED, changes, updated

Compression = Literal[
    "none",
    "float16",
    "uint8",
    "uint8-dither",
    "4bit",
    "root8",
    "root8-delta",
    "top3",
    "argmax",
    "argmax-delta",
]


Topology = Literal["server", "ring", "small-world", "random-geometric", "complete"]


@dataclass(frozen=True)
class FedExperiment:
    """One federated run.

    Attributes:
        algorithm: with its hyperparameters.
        data: name of the data set (`fedkd.data.datasets`).
        clients: K.
        models: architectures, dealt out to the clients in turn.
        partition: how private examples are dealt out; `alpha` is for dirichlet (also -min
            and -balanced) and quantity, `shards` (for each client) for shards, and
            `classes_per_client` for pathological.
        absent_classes: how many labels no client holds.
        rotations: 2 or 4 shift features: client k is turned by (k modulo that) of a full turn.
        same_start: whether clients of one architecture begin with the same weights; by default each
            draws its own, which costs FedProto by the nearest prototype 5 to 6 points on
            Fashion-MNIST.
        private, public, validation, test: examples of each kind; test 0 is all that are left.
        rounds: how many.
        fraction: the share of clients that takes part in a round.
        engine, chunk: who runs the clients (`fedkd.engines`), batched up to `chunk` at once;
            engines agree within rounding, not to the bit; `auto` takes the faster of the first two.
        compression: of messages both ways.
        corrupt: CLIENT:FAULT, a client whose uploads are tampered with (`fedkd.attacks.byzantine`).
        topology: who hears whom (`fedkd.rounds.topology`): a server all, or peers their neighbours;
            `degree` and `rewiring` are for small-world, `radius` for random-geometric.
        clock: what takes how long, and how long the server waits (`fedkd.rounds.clock`).
        eval_every: rounds from one evaluation to the next; the last is always evaluated.
        seed: of every random choice.
    """

    algorithm: Any
    data: str = "digits"
    clients: int = 5
    models: tuple[str, ...] = ("mlp-64", "mlp-128-64", "cnn")
    partition: str = "dirichlet"
    alpha: float = 0.3
    shards: int = 2
    classes_per_client: int = 2
    absent_classes: int = 0
    rotations: int = 1
    private: int = 500
    public: int = 578
    validation: int = 0
    test: int = 0
    rounds: int = 10
    fraction: float = 1.0
    engine: str = "sequential"
    chunk: int = 500
    compression: Compression = "none"
    corrupt: str | None = None
    topology: Topology = "server"
    degree: int = 4
    rewiring: float = 0.3
    radius: float = 0.5
    clock: Clock = Clock()
    eval_every: int = 1
    seed: int = 0
    same_start: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        """Refuse what makes no run."""
        positive = "clients", "rounds", "chunk", "shards", "classes_per_client", "eval_every"
        for name, least in (*((name, 1) for name in positive), ("absent_classes", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.rotations not in (1, 2, 4):
            raise ValueError(f"rotations must be 1, 2 or 4 (exact turns), got {self.rotations}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}; try 0.1 to 100")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction}")
        partition.REGISTRY.check(self.partition)
        engines.REGISTRY.check(self.engine)
        if self.corrupt is not None:
            tampering(self.corrupt, self.clients)
        if self.topology != "server" and self.clock != Clock():
            raise ValueError(
                f"topology {self.topology}: peers have no common clock; leave out the settings of "
                "`clock`, or take the topology server"
            )

    @property
    def name(self) -> str:
        """The algorithm's name on the command line: that of its file, or `module:Class`."""
        return KINDS["fed"].name_of(self.algorithm)

    @property
    def protocol(self) -> str:
        """What has to be equal for two algorithms to be compared, in words."""
        by_alpha = "dirichlet", "dirichlet-min", "dirichlet-balanced", "quantity"
        strength = dict.fromkeys(by_alpha, f" {self.alpha:g}")
        strength["shards"] = f" {self.shards}"
        strength["pathological"] = f" {self.classes_per_client}"
        said = [f"{self.clients} clients", self.partition + strength.get(self.partition, "")]
        if self.absent_classes:
            said.append(f"{self.absent_classes} classes that nobody holds")
        if self.rotations > 1:
            said.append(f"{self.rotations} rotations")
        if self.same_start:
            said.append("the same initial weights")
        said.append(f"{self.rounds} rounds")
        if self.fraction < 1:
            said.append(f"{self.fraction:.0%} of clients a round")
        if self.compression != "none":
            said.append(self.compression)
        if self.corrupt is not None:
            said.append(f"client {self.corrupt.replace(':', ' sends ')}")
        if self.clock != Clock():
            said.append(self.clock.words)
        return ", ".join(said)


@dataclass(frozen=True)
class GraphExperiment:
    """One graph distillation.

    Attributes:
        method: with its hyperparameters.
        data: name of the graph (`graphkd.data.datasets`).
        protocol: of the test nodes, whether they are in the graph from the start, and whether the
            teacher says something of them (`graphkd.data.splits`); "folds" for data of many graphs.
        train, val: labelled nodes of each class that train and select; by default 20 and 30, or
            of many graphs all that are not in the test fold or the validation fold.
        feature_noise, removed_edges: shares, to see what a method can stand
        (`graphkd.data.splits`).
        seed: of every random choice; of many graphs, seed modulo 10 is the fold that tests.
    """

    method: Any
    data: str = "digits-knn"
    protocol: Literal["transductive", "withheld", "inductive", "folds"] = "transductive"
    train: int | None = None
    val: int | None = None
    feature_noise: float = 0.0
    removed_edges: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The method's name on the command line: that of its file, or `module:Class`."""
        return KINDS["graph"].name_of(self.method)


@dataclass(frozen=True)
class SurveyExperiment:
    """One seed of a recipe of the surveys.

    Attributes:
        recipe: with its settings.
        seed: of every random choice.
    """

    recipe: Any
    seed: int = 0

    @property
    def name(self) -> str:
        """The recipe's name on the command line: that of its file, or `module:Class`."""
        return KINDS["survey"].name_of(self.recipe)

    @property
    def data(self) -> str:
        """The data that the recipe needs."""
        return str(self.recipe.data)


Experiment = FedExperiment | GraphExperiment | SurveyExperiment


class ExperimentKind(NamedTuple):
    """A kind: its class, the field that says who learns, where those are, and what runs it."""

    experiment: type[Any]
    key: str
    module: str
    runner: str

    def names(self) -> list[str]:
        """The algorithms or methods there are."""
        return list(importlib.import_module(self.module).names())

    @property
    def registry(self) -> Registry[Any]:
        """Where they are found by name."""
        found: Registry[Any] = importlib.import_module(self.module).REGISTRY
        return found

    def get(self, name: str) -> Any:
        """The algorithm or method of a name, with its default settings; ValueError if none."""
        return importlib.import_module(self.module).get(name)()

    def name_of(self, member: Any) -> str:
        """The name by which `get` gives one."""
        return self.registry.name_of(member)


KINDS = {
    "fed": ExperimentKind(
        FedExperiment, "algorithm", "fedkd.algorithms", "simulations.runners.federated"
    ),
    "graph": ExperimentKind(
        GraphExperiment, "method", "graphkd.methods", "simulations.runners.graph"
    ),
    "survey": ExperimentKind(
        SurveyExperiment, "recipe", "simulations.survey.recipes", "simulations.survey.runner"
    ),
}


def kind_of(experiment: Experiment) -> str:
    """Which of `KINDS` it is."""
    return next(k for k, kind in KINDS.items() if isinstance(experiment, kind.experiment))


def build(kind: str, name: str, given: dict[str, Any]) -> Any:
    """The experiment of a kind, an algorithm's or method's name, and flat settings of both.

    Raises:
        ValueError: an unknown name, or a value that cannot be.
    """
    return build_with(kind, KINDS[kind].get(name), given)


def build_with(kind: str, learner: Any, given: dict[str, Any]) -> Any:
    """The experiment of an algorithm, method or recipe, with flat settings of both changed.

    Raises:
        ValueError: a value that cannot be.
    """
    cls, key = KINDS[kind].experiment, KINDS[kind].key
    given = {name: _spelt(value) for name, value in given.items()}
    return cls(**{key: updated(learner, given)}, **changes(cls, given))


def _spelt(value: Any) -> Any:
    """A value with references to files as they are called from the working folder."""
    if isinstance(value, list | tuple):
        return [_spelt(one) for one in value]
    if not isinstance(value, str):
        return value
    return "+".join(map(references.canonical, value.split("+")))


def tampering(text: str, clients: int) -> tuple[int, str]:
    """The client and the fault of `3:nan`.

    Raises:
        ValueError: it is not of that form, or there is no such client or fault.
    """
    number, _, fault = text.partition(":")
    if not number.isdecimal() or int(number) >= clients:
        raise ValueError(
            f"corrupt must be CLIENT:FAULT with a client from 0 to {clients - 1} and one of "
            f"{', '.join(byzantine.REGISTRY.names())}, got {text!r}"
        )
    byzantine.REGISTRY.check(fault)
    return int(number), fault
