"""What an experiment is: frozen dataclasses whose fields are the flags and the keys of a file.

An experiment holds all that determines its numbers and nothing else: no paths, no machine. Two
experiments with the same `digest` are the same run. Help and range of a field stand in its
annotation (`kdcore.settings`), and nowhere else.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from fedgraphkd.shares import BY_EDGES, OF_WHOLE, GraphShares, NodeShares
from fedkd import engines, losses
from fedkd.attacks import byzantine, lies
from fedkd.attacks.lying import liars
from fedkd.communication import compression
from fedkd.communication.private_size import Disclosure, PrivateSize
from fedkd.data import partition
from fedkd.data.own.containers import is_file
from fedkd.privacy.accounting import Unit
from fedkd.privacy.votes import NoisyVotes
from fedkd.rounds.client_sampling import Sample, available, everyone, uniform
from fedkd.rounds.clock import Clock
from kdcore import references
from kdcore.registry import Registry
from kdcore.settings import Setting, check_ranges
from kdcore.training.mixed_precision import Precision
from simulations import graph_settings
from simulations.config.schema import ADDED, Form, Leaf, counted, leaves, replaced
from simulations.graph_settings import DATA, GRAPHS, OBJECT

Compression = Literal[
    "none",
    "float16",
    "uint8",
    "uint8-dither",
    "4bit",
    "root8",
    "root8-delta",
    "top3",
    "top8-shaped",
    "argmax",
    "argmax-delta",
    "krr",
]


Topology = Literal["server", "ring", "small-world", "random-geometric", "complete"]


LOSSES = "fedkd.losses"
USUAL = "default"  # the name of the loss that follows from the target

Seed = Annotated[int, Setting("of every random choice")]

HONEST = "none"  # of liars: nobody lies


@dataclass(frozen=True)
class FedExperiment:
    """One federated run: an algorithm with its hyperparameters, on data, among clients."""

    algorithm: Any
    data: Annotated[str, Setting("data set; `kdsim list datasets`", names=DATA)] = "digits"
    clients: Annotated[int, Setting("how many", ge=1)] = 5
    models: Annotated[
        tuple[str, ...],
        Setting(
            "architectures, dealt out to the clients in turn; `kdsim list models`",
            min_length=1,
            names="fedkd.models",
        ),
    ] = ("mlp-64", "mlp-128-64", "cnn")
    partition: Annotated[
        str,
        Setting(
            "how private examples are dealt out; `kdsim list partitions`",
            names="fedkd.data.partition",
        ),
    ] = "dirichlet"
    alpha: Annotated[
        float, Setting("concentration of dirichlet (-min, -balanced) and quantity", gt=0)
    ] = 0.3
    shards: Annotated[int, Setting("shards for each client, for shards", ge=1)] = 2
    classes_per_client: Annotated[int, Setting("labels of each client, for pathological", ge=1)] = 2
    absent_classes: Annotated[int, Setting("labels that no client holds", ge=0)] = 0
    rotations: Annotated[
        Literal[1, 2, 4], Setting("2 or 4 turn client k by (k modulo that) of a full turn")
    ] = 1
    private: Annotated[
        int, Setting("examples dealt out to clients; 0 is all that nothing else takes", ge=0)
    ] = 500
    public: Annotated[int, Setting("examples that all may see", ge=0)] = 578
    validation: Annotated[int, Setting("examples to select on", ge=0)] = 0
    test: Annotated[int, Setting("test examples; 0 is all that are left", ge=0)] = 0
    rounds: Annotated[int, Setting("how many", ge=1)] = 10
    fraction: Annotated[float, Setting("share of clients in a round", gt=0, le=1)] = 1.0
    engine: Annotated[
        str,
        Setting(
            "who runs the clients; auto: stacked or, of convolutions on a CPU, one on each core; "
            "`kdsim list engines`",
            names="fedkd.engines",
        ),
    ] = "auto"
    chunk: Annotated[int, Setting("clients in a stack (auto, batched)", ge=1)] = 500
    compression: Annotated[Compression, Setting("of messages both ways")] = "none"
    corrupt: Annotated[
        str | None,
        Setting(
            "CLIENT:FAULT, a client whose uploads are tampered with",
            names="fedkd.attacks.byzantine",
        ),
    ] = None
    topology: Annotated[
        Topology, Setting("who hears whom: a server all, or peers their neighbours")
    ] = "server"
    degree: Annotated[
        int, Setting("nearest peers that each is joined to, an even number, for small-world", ge=2)
    ] = 4
    rewiring: Annotated[
        float, Setting("chance of a link to lead elsewhere, for small-world", ge=0, le=1)
    ] = 0.3
    radius: Annotated[
        float,
        Setting("peers in the unit square that are nearer are joined, for random-geometric", gt=0),
    ] = 0.5
    clock: Clock = Clock()
    eval_every: Annotated[
        int, Setting("rounds between evaluations; the last always is one", ge=1)
    ] = 1
    seed: Seed = 0
    same_start: Annotated[
        bool,
        Setting("clients of one architecture begin with the same weights, else each draws its own"),
    ] = field(default=False, metadata=ADDED)
    precision: Annotated[
        Precision,
        Setting("of convolutions and products; weights and messages are float32 in any case"),
    ] = field(default="float32", metadata=ADDED)
    label_noise: Annotated[
        float, Setting("share of private examples with a wrong label", ge=0, le=1)
    ] = field(default=0.0, metadata=ADDED)
    liars: Annotated[
        str,
        Setting(
            "SHARE:LIE, a share of the clients, by lot, that lies within the border, or none; "
            "`kdsim list lies`",
            names="fedkd.attacks.lies",
        ),
    ] = field(default=HONEST, metadata=ADDED)
    label: Annotated[
        str | None, Setting("of data in a file: the column to predict, or several, A,B")
    ] = field(default=None, metadata=ADDED)
    target: Annotated[
        Literal["auto", "class", "real", "labels", "sequence"],
        Setting("of data in a file: what is learnt; auto: what the values plainly are"),
    ] = field(default="auto", metadata=ADDED)
    client: Annotated[
        str | None, Setting("of data in a file: the column that says whose a row is")
    ] = field(default=None, metadata=ADDED)
    by: Annotated[
        str | None, Setting("of data in a file: the column that the partition bands cuts by")
    ] = field(default=None, metadata=ADDED)
    sampling: Annotated[
        Literal["uniform", "poisson"],
        Setting(
            "how a round's clients are drawn; uniform: a share of them, poisson: each with this "
            "probability, so that there may be nobody"
        ),
    ] = field(default="uniform", metadata=ADDED)
    private_size: Annotated[
        Disclosure,
        Setting("what a server that weights clients is told of how many examples each holds"),
    ] = field(default="public", metadata=ADDED)
    size_noise: Annotated[
        float, Setting("standard deviation of what noisy adds to a size, in examples", gt=0)
    ] = field(default=20.0, metadata=ADDED)
    epsilon: Annotated[
        float | None,
        Setting(
            "differential privacy of the whole run, for which noise is calibrated; none: no noise "
            "but what other settings say",
            gt=0,
        ),
    ] = field(default=None, metadata=ADDED)
    delta: Annotated[
        float, Setting("at which epsilon is said; no more than 1 over the number of units", gt=0)
    ] = field(default=1e-5, metadata=ADDED)
    privacy_unit: Annotated[
        Unit,
        Setting(
            "what epsilon protects: a record, by noise in training (DP-SGD); a client, by noise on "
            "the server's sum; or each label that is sent, by randomised response"
        ),
    ] = field(default="record", metadata=ADDED)
    clip_norm: Annotated[
        float,
        Setting("L2 norm to which what noise has to hide is clipped, under epsilon", gt=0),
    ] = field(default=1.0, metadata=ADDED)
    secret_noise: Annotated[
        bool,
        Setting(
            "noise from the system and not from the seed, which the record has: such a run cannot "
            "be repeated, inspected or resumed"
        ),
    ] = field(default=False, metadata=ADDED)
    nodes: NodeShares = field(default=NodeShares(), metadata=ADDED)
    graphs: GraphShares = field(default=GraphShares(), metadata=ADDED)
    epsilon_label: Annotated[
        float | None,
        Setting("epsilon of each label that clients send, for compression krr", gt=0),
    ] = field(default=None, metadata=ADDED)
    votes: NoisyVotes = field(default=NoisyVotes(), metadata=ADDED)
    secure_sum: Annotated[
        bool, Setting("the server is told a sum of masked uploads, and no upload; simulated")
    ] = field(default=False, metadata=ADDED)
    loss: Annotated[
        str,
        Setting(
            "on private examples; default: what follows from the target; `kdsim list losses`",
            names=LOSSES,
        ),
    ] = field(default=USUAL, metadata=ADDED)
    distillation_loss: Annotated[
        str,
        Setting("towards what others predict, where that is learnt; likewise", names=LOSSES),
    ] = field(default=USUAL, metadata=ADDED)

    def __post_init__(self) -> None:
        """Refuse what makes no run."""
        check_ranges(self)
        self._leave_out_idle()
        compression.channel(self.compression, self.epsilon_label)
        self._check_graph()
        for name, value in {**self.columns, "target": self.target}.items():
            if value not in (None, "auto") and not is_file(self.data):
                raise ValueError(
                    f"{name} {value}: of data in a file such as houses.csv, and data is "
                    f"{self.data}; leave it out, or give it to kdsim.data"
                )
        self._check_names()
        if self.corrupt is not None:
            tampering(self.corrupt, self.clients)
        if self.liars != HONEST:
            deception(self.liars, self.clients, self.seed)
        self._check_peers()

    def _leave_out_idle(self) -> None:
        """Without epsilon its unit says nothing: such runs are one and the same."""
        if self.epsilon is None:
            for name in ("privacy_unit", "clip_norm"):
                object.__setattr__(self, name, getattr(type(self), name))

    def _check_peers(self) -> None:
        """Raise ValueError for what takes a server, and there is none."""
        if self.topology != "server" and self.compression == compression.KRR:
            raise ValueError(
                f"topology {self.topology}: labels that are randomised (krr) are for a server, "
                "which makes distributions of their mean; take the topology server"
            )
        if self.topology != "server" and self.clock != Clock():
            raise ValueError(
                f"topology {self.topology}: peers have no common clock; leave out the settings of "
                "`clock`, or take the topology server"
            )

    def _check_names(self) -> None:
        """Refuse names of what there is not."""
        if self.partition != partition.AUTO and not self.is_own_partition and not self.graph:
            partition.REGISTRY.check(self.partition)
        engines.REGISTRY.check(self.engine)
        for name in (self.loss, self.distillation_loss):
            if name != USUAL and not name.startswith(OBJECT):
                losses.REGISTRY.check(name)

    def _check_graph(self) -> None:
        """Raise ValueError for settings that are of nodes, or of anything but nodes."""
        kind = self.graph
        if kind:
            default = {one.name: one.default for one in fields(self)}
            graph_settings.check_settings(self.data, kind, vars(self), default)
            graph_settings.check_training(self.data, kind, vars(self.algorithm))
            graph_settings.check_partition(self.partition, kind)
        elif self.partition in (*BY_EDGES, *OF_WHOLE) and self.partition not in partition.REGISTRY:
            raise ValueError(
                f"partition {self.partition} goes by the edges of a graph, and {self.data} is none;"
                " take one of `kdsim list partitions` for examples, such as dirichlet"
            )
        elif (self.nodes, self.graphs) != (NodeShares(), GraphShares()):
            which = "graphs" if self.nodes == NodeShares() else "nodes"
            raise ValueError(f"{which}: these are shares of a graph's, and {self.data} is no graph")
        else:
            graph_settings.check_models(self.data, self.models)

    @property
    def is_own_partition(self) -> bool:
        """Whether the user has dealt out rows by hand."""
        return self.partition.startswith(OBJECT)

    @property
    def graph(self) -> graph_settings.Kind:
        """What an example is where clients hold parts of a graph, or whole ones; "" elsewhere."""
        return graph_settings.kind_of(vars(self))

    @property
    def name(self) -> str:
        """The algorithm's name on the command line: that of its file, or `module:Class`."""
        return KINDS["fed"].name_of(self.algorithm)

    @property
    def size_disclosure(self) -> PrivateSize:
        """What the server is told of how many examples clients hold."""
        return PrivateSize(self.private_size, self.size_noise)

    @property
    def sample(self) -> Sample:
        """Who takes part in a round."""
        if self.fraction == 1:
            return everyone
        return available(self.fraction) if self.sampling == "poisson" else uniform(self.fraction)

    @property
    def lie(self) -> tuple[tuple[int, ...], lies.Lie] | None:
        """Who lies, and how; None where nobody does."""
        if self.liars == HONEST:
            return None
        who, name = deception(self.liars, self.clients, self.seed)
        return who, lies.REGISTRY.get(name)()

    @property
    def columns(self) -> dict[str, str | None]:
        """What the columns of a file are for."""
        return {"label": self.label, "client": self.client, "by": self.by}

    @property
    def protocol(self) -> str:
        """What has to be equal for two algorithms to be compared, in words."""
        strength = dict.fromkeys(partition.BY_ALPHA, f" {self.alpha:g}")
        strength["shards"] = f" {self.shards}"
        strength["pathological"] = f" {self.classes_per_client}"
        said = [counted(self.clients, "client"), self.partition + strength.get(self.partition, "")]
        said += [f"{name} {value}" for name, value in self.columns.items() if value]
        shifts = {
            f"{counted(self.absent_classes, 'class')} that nobody holds": self.absent_classes,
            f"{self.rotations} rotations": self.rotations > 1,
            "the same initial weights": self.same_start,
            f"{self.label_noise:.0%} wrong labels": self.label_noise,
        }
        said += [words for words, so in shifts.items() if so]
        said += graph_settings.words(kind, self.nodes, self.graphs) if (kind := self.graph) else []
        return ", ".join([*said, *self._rounds_in_words])

    @property
    def _rounds_in_words(self) -> list[str]:
        """What happens in each round, and who does not do as told, as far as it is not usual."""
        drawn = " (Poisson)" if self.sampling == "poisson" else ""
        by_label = f" at epsilon {self.epsilon_label or 0:g} a label"
        share, _, lie = self.liars.replace(HONEST, "0:").partition(":")
        said = {
            counted(self.rounds, "round"): True,
            f"{self.fraction:.0%} of clients a round{drawn}": self.fraction < 1,
            f"{self.private_size} numbers of examples": self.private_size != "public",
            self.compression + by_label * bool(self.epsilon_label): self.compression != "none",
            "a secure sum": self.secure_sum,
            f"{counted(self.votes.most or 0, 'noisy election')} a round": self.votes.most,
            f"client {str(self.corrupt).replace(':', ' sends ')}": self.corrupt,
            f"{float(share):.0%} liars ({lie})": self.liars != HONEST,
            self.clock.words: self.clock != Clock(),
        }
        return [words for words, so in said.items() if so]


@dataclass(frozen=True)
class GraphExperiment:
    """One graph distillation: a method with its hyperparameters, on a graph, or on many."""

    method: Any
    data: Annotated[str, Setting("graph; `kdsim list datasets`", names=GRAPHS)] = "digits-knn"
    protocol: Annotated[
        Literal["transductive", "withheld", "inductive", "folds"],
        Setting("are the test nodes there from the start, and taught? folds: of graphs"),
    ] = "transductive"
    train: Annotated[
        int | None,
        Setting(
            "labelled nodes of a class to train on; none: 20, of many graphs all that are left",
            ge=1,
        ),
    ] = None
    val: Annotated[
        int | None, Setting("the same to select on; none is 30, or of graphs a fold", ge=1)
    ] = None
    feature_noise: Annotated[
        float, Setting("share of noise in the features, to see what a method can stand", ge=0, le=1)
    ] = 0.0
    removed_edges: Annotated[
        float, Setting("share of the edges that is taken away, likewise", ge=0, le=1)
    ] = 0.0
    seed: Annotated[
        int, Setting("of every random choice; of many graphs, modulo 10, the test fold")
    ] = 0

    def __post_init__(self) -> None:
        """Refuse what makes no run."""
        check_ranges(self)

    @property
    def name(self) -> str:
        """The method's name on the command line: that of its file, or `module:Class`."""
        return KINDS["graph"].name_of(self.method)


@dataclass(frozen=True)
class SurveyExperiment:
    """One seed of a recipe of the surveys, with its settings."""

    recipe: Any
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse what makes no run: a recipe has no base class that would."""
        check_ranges(self.recipe)

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


# What settings are by default where data are in a file: most often it is a table of classes or real
# numbers, of any size.
OF_FILES: Mapping[str, Any] = {
    "private": 0,
    "partition": partition.AUTO,
    "models": ("mlp-64", "mlp-128-64"),
}

# And of data by name whose examples have no classes: tables, by a number of each example, and text,
# by who speaks.
_OF_TABLES: Mapping[str, Any] = {
    "private": 1000,
    "partition": "bands",
    "models": ("mlp-64", "mlp-32-32"),
}
OF_DATA: Mapping[str, Mapping[str, Any]] = {
    "california": _OF_TABLES,
    "abalone": _OF_TABLES,
    "movielens": _OF_TABLES,
    "shakespeare": {
        "clients": 10,
        "private": 1500,
        "public": 250,
        "partition": "natural",
        "models": ("gru-64", "lstm-64", "transformer-64", "ngram-128"),
    },
}


@dataclass(frozen=True)
class Template:
    """What the experiments of an algorithm, method or recipe are made from.

    Attributes:
        kind: a key of `KINDS`.
        learner: who learns, with the settings that it has where none are given.
    """

    kind: str
    learner: Any

    @cached_property
    def known(self) -> dict[str, Leaf]:
        """All settings, of the experiment and of who learns, by dotted names."""
        return {**leaves(KINDS[self.kind].experiment), **leaves(self.learner)}

    @cached_property
    def _form(self) -> Form:
        return Form(self.known)

    def build(self, given: Mapping[str, Any]) -> Any:
        """The experiment with some settings; names that it does not have are for others.

        Raises:
            ValueError: a value that cannot be.
        """
        given = self._with_defaults(given)
        spelt = {name: _spelt(value) for name, value in given.items()}
        found, own = self._form.checked(spelt), leaves(self.learner)
        learner = replaced(self.learner, {k: v for k, v in found.items() if k in own})
        rest = {key: value for key, value in found.items() if key not in own}
        return replaced(KINDS[self.kind].experiment(learner), rest)

    def _with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with those that are other by default for the data: a file, a graph, a table."""
        data = str(given.get("data", ""))
        if self.kind == "graph" and "data" in given:
            return {**given, "data": graph_settings.plain(data)}
        if self.kind == "fed" and is_file(data):
            return {**OF_FILES, **given}
        if self.kind != "fed":
            return dict(given)
        if kind := graph_settings.kind_of(given):
            return {**graph_settings.defaults(kind, data), **given}
        return {**OF_DATA.get(data, {}), **given}


def build(kind: str, name: str, given: Mapping[str, Any]) -> Any:
    """The experiment of a kind, an algorithm's or method's name, and flat settings of both.

    Raises:
        ValueError: an unknown name, or a value that cannot be.
    """
    return Template(kind, KINDS[kind].get(name)).build(given)


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


def deception(text: str, clients: int, seed: int) -> tuple[tuple[int, ...], str]:
    """Who lies, and the lie, of `0.2:noise`.

    Raises:
        ValueError: it is not of that form, there is no such lie, or nobody, or too many, would lie.
    """
    share, _, lie = text.partition(":")
    try:
        number = float(share)
    except ValueError:
        number = -1.0
    if not 0 < number < 0.5:
        raise ValueError(
            f"liars must be SHARE:LIE with a share above 0 and below 0.5, and one of "
            f"{', '.join(lies.REGISTRY.names())}, or none, got {text!r}"
        )
    lies.REGISTRY.check(lie)
    return liars(number, clients, seed), lie
