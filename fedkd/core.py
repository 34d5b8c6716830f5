"""The nouns of federated distillation. Read this first.

A *client* holds private examples and a model of some architecture (its *group*). In each round
the server *broadcasts* a message, each client of the cohort *updates* itself and *uploads*
another, and the server updates itself from the uploads. An `Algorithm` is exactly these steps,
as pure functions: no device, no network, no clock.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from fedkd.messages import (
    Message,
    PayloadSpec,
    Received,
    Stage,
    Upload,
    summed,
    unweighted,
    weighted,
)
from fedkd.targets import CLASSES, Target
from kdcore.settings import Setting, check_ranges
from kdcore.training.batches import leading, rows
from kdcore.training.loop import STATE, Batches, Examples, Params, Predict, TrainingConfig
from kdcore.training.torch_module import FunctionModule

Server = dict[str, Tensor]
# How a server calls a number that is for the records alone, such as how good its teacher was.
MEASURED = "/measured/"


def as_sent(numbers: Tensor) -> Tensor:
    """Numbers in the type in which they cross the network: torch's default floating type.

    The type of the inputs decides nothing: they may be bytes, or numbers of a tokenizer. What is
    computed from parameters has their type, what is counted is whole.
    """
    return numbers.to(torch.get_default_dtype())


MEMORY = f"{STATE}memory/"  # of what a client remembers; see `fedkd.components.client_memory`
STREAM = f"{STATE}stream"  # of a client's chances: a number that goes on by one at each step


def leaving(params: Mapping[str, Tensor]) -> Params:
    """What of a client's parameters may leave it where the model has nothing local."""
    return {
        name: value
        for name, value in params.items()
        if not name.startswith(MEMORY) and value.is_floating_point()
    }


class Model(NamedTuple):
    """An architecture, without parameters: how to draw them and how to predict with them.

    Attributes:
        init: draws the parameters of a client.
        predict: (params, x) -> Outputs.
        local: names in `params` of what never leaves a client, though it could be averaged.
        restored: makes a torch module of parameters, where the model is one.
        constants: a hash of what all clients share beside their parameters; "" where nothing.
        notes: what is to be said about how it is run, in words.
        name: what it is called where nobody names it.
        tried: what makes the model of a few inputs and the number of classes, where it is no more
            than a description yet (`fedkd.models.from_module`).
        held: makes of some inputs (N, ...) the same model with no more than these need, where a
            model knows data of its own, as graphs, of which not everybody has all.
    """

    init: Callable[[torch.Generator], Params]
    predict: Predict
    local: frozenset[str] = frozenset()
    restored: Callable[[Mapping[str, Tensor]], nn.Module] | None = None
    constants: str = ""
    notes: tuple[str, ...] = ()
    name: str = "model"
    tried: Callable[[Any, int | None], "Model"] | None = None
    held: Callable[[Any], "Model"] | None = None

    def shared(self, params: Mapping[str, Tensor]) -> Params:
        """What of a client's parameters may leave it, to be averaged with those of others.

        Weights, and statistics in real numbers (running means and variances), but for what is
        local; whole numbers (streams, counts of mini-batches) and what a client remembers never.
        """
        return {name: value for name, value in leaving(params).items() if name not in self.local}

    def module(self, params: Mapping[str, Tensor]) -> nn.Module:
        """A torch module with these parameters, in eval mode: what was trained, to be taken away.

        That of a user is the user's own; one of `fedkd.models` answers inputs with logits.
        """
        if self.restored is not None:
            return self.restored(params)
        return FunctionModule(self.predict, params).eval()


@dataclass(frozen=True)
class Client:
    """A party: its number, its architecture, its parameters, and the examples only it sees.

    Among the parameters is what it remembers beside its model: names that begin with `MEMORY`.
    """

    id: int
    group: str
    params: Params
    private: Examples

    def with_params(self, params: Params) -> "Client":
        """The same client after training; `dataclasses.replace` takes four times as long."""
        return Client(self.id, self.group, params, self.private)


# In the place of private examples that are not at hand: at the server, or in an engine's worker.
ELSEWHERE = Examples(torch.empty(0), torch.empty(0).long(), torch.empty(0).long())


class Public(NamedTuple):
    """The public examples of one round, the same for all who take part.

    Shapes:
        x: (P, ...) all public examples, or a tuple of such tables.
        rows: (P_r,) those that this round asks about.
        order, mask: (S, B) mini-batches over 0 .. P_r - 1, shared by all clients; see `Batches`.
        labels: (P,) of all public examples, or None where they have none.
    """

    x: Any
    rows: Tensor
    order: Tensor
    mask: Tensor
    labels: Tensor | None = None

    @property
    def asked(self) -> Any:
        """(P_r, ...), the examples that this round asks about."""
        return rows(self.x, self.rows)

    @property
    def total(self) -> int:
        """P, how many public examples there are."""
        return len(leading(self.x))

    def labels_of(self, about: Tensor | None) -> Tensor | None:
        """The labels of the public examples `about` (default: all); None where there are none."""
        if self.labels is None or about is None:
            return self.labels
        return self.labels[about.long()]

    def batches(self, targets: Tensor, about: Tensor | None = None) -> Batches:
        """Mini-batches with targets (P_r, ...) for the public examples `about` (default: all)."""
        x = self.x if about is None else rows(self.x, about.long())
        size = torch.tensor(len(targets), device=self.order.device)
        return Batches(x, targets, self.order, self.mask, size)


class Failure(NamedTuple):
    """In the place of a client's result: why there is none."""

    reason: str


@dataclass(frozen=True)
class Task:
    """What a federation learns: one model per group, the target, and public examples (P, ...).

    `num_classes` is C: how many classes there are, or real numbers, or labels at once, as `target`
    says; where it is a class at each place of a sequence, `places` is T, their number. Of real
    numbers that were divided by their standard deviations `units` (C,) are these.

    `shape` is that of one example, for algorithms with a network of their own to build; empty where
    it is not known. `labels` (P,) are of the public examples, and `validation` are labelled
    examples at the server, each for algorithms that declare to need them. `private` is how many
    private examples there are in all: no client can have more. Ten million where it is not known.
    `device` is where the server computes; random numbers are drawn on the CPU wherever that is.
    `few` are a few inputs, on the CPU, to try networks with; None where none are at hand.
    `build` makes a network of a name where inputs are not read by the networks of `fedkd.models`,
    being the numbers of what a network knows, as of nodes of a graph. `contents` says of such
    inputs (N, ...) how many bytes it takes to send what they are the numbers of. `rounds` is how
    many there are to be, for what changes from the first to the last; 0 where it is not known.
    """

    models: Mapping[str, Model]
    num_classes: int
    public: Tensor | None = None
    shape: tuple[Any, ...] = ()
    labels: Tensor | None = None
    validation: Examples | None = None
    private: int = 10_000_000
    device: torch.device = torch.device("cpu")
    few: Any = None
    target: Target = CLASSES
    places: int = 0
    units: Tensor | None = None
    build: Callable[[str], Model] | None = None
    contents: Callable[[Tensor], int] | None = None
    rounds: int = 0

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape of a model's outputs for one example: (C,), or (T, C)."""
        return (self.places, self.num_classes) if self.places else (self.num_classes,)


class Properties(NamedTuple):
    """What an algorithm needs and what it reveals.

    Attributes:
        public: the public data it needs.
        up, down: what crosses the network, in words.
        architectures: of the clients' own models: "any"; "one feature width" where features are
            compared; "shared within a group" where all parameters go up and are averaged.
        summand: where the server needs no more than a sum over clients, so that secure aggregation
            applies, what is summed: each client's "payload", or its "weighted payload", weight x
            payload, beside the weight (where rows are named, these are summed too); or "weighted
            rows", each row of a payload times a weight that is taken from it, beside these weights.
            See `Algorithm.summand`. "none" where it needs each upload. What is summed is what the
            server reads; not so the messages of a coding of the algorithm's own (`uplink`).
        server_learns: what an honest but curious server gets to know of each client.
        beyond_training: what of an upload is a function of private examples otherwise than by
            trained parameters: keys of the payload, "rows", "weight" (those of `Upload`). Training
            with differential privacy covers all the rest of an upload, and nothing of this.
        validation: the examples beside the public ones that the server needs, to select on.
        targets: the names of the targets (`fedkd.targets`) that it can learn.
        examples: keys of the payload that are examples themselves, as networks read them.
        divides: whether the server divides a part of the sum by another one that may be small, such
            as means of a label by how many have it: of noise on both nothing bounds the quotient.
        one_round: whether the paper's method is of one round, and all done after it.
        distils: whether what it learns of others are predictions, by `Target.towards` or
            `Target.divergence`, so that a distillation loss of the user's may take their place.
    """

    public: Literal["none", "unlabelled", "labelled"]
    up: str
    down: str
    architectures: Literal["any", "one feature width", "shared within a group"]
    summand: Literal["none", "payload", "weighted payload", "weighted rows"]
    server_learns: str
    beyond_training: tuple[str, ...] = ()
    validation: Literal["none", "labelled"] = "none"
    targets: tuple[str, ...] = ("class",)
    distils: bool = False
    examples: tuple[str, ...] = ()
    divides: bool = False
    one_round: bool = False


@dataclass(frozen=True)
class Algorithm(ABC):
    """A federated algorithm; its fields are its hyperparameters, its methods are the paper.

    All methods are pure. `client_update` and `deploy` see tensors only, so that an engine may run
    them for one client, for a stack of clients under `torch.func.vmap`, or somewhere else.

    A client keeps one model. A second network, which the clients share, comes with the broadcast
    and leaves with the upload; `fedkd.components.paired_models` trains both at once.
    """

    local: Annotated[
        TrainingConfig, Setting("training on private examples", parts=("privacy",))
    ] = TrainingConfig(epochs=2, batch_size=8)

    properties: ClassVar[Properties]
    target: ClassVar[Target] = CLASSES  # of the task that it works on; see `learning`

    def __post_init__(self) -> None:
        """Refuse settings out of the ranges that their annotations give; see `kdcore.settings`.

        Privacy is of the private examples, so of `local` alone.
        """
        check_ranges(self)
        for name, training in vars(self).items():
            if name != "local" and isinstance(training, TrainingConfig) and training.privacy:
                raise ValueError(
                    f"{name}.privacy: private examples are those of local; set local.privacy"
                )

    def learning(self, target: Target) -> Self:
        """The algorithm for a task of this target, as `client_update` and `deploy` find it.

        A target is no setting: it comes from the task when a federation begins, and has no part in
        equality, flags or digests.
        """
        if self.target == target:
            return self
        other = copy.copy(self)
        object.__setattr__(other, "target", target)
        return other

    @property
    def public_training(self) -> TrainingConfig | None:
        """How models are fitted to public examples; None where there are none to fit to."""
        return None

    @property
    def central(self) -> bool:
        """Whether there is a server; where not, a broadcast is what a party tells itself alone."""
        return True

    def copies(self, client: int) -> int:
        """How many times an upload of a client crosses the network: once, to the server."""
        return 1

    @property
    def asks(self) -> int | None:
        """How many public examples a round asks about; None for all of them."""
        return None

    @property
    def uplink(self) -> tuple[Stage, ...]:
        """The paper's own coding of uploads; the last stages of any channel."""
        return ()

    @property
    def downlink(self) -> tuple[Stage, ...]:
        """The paper's own coding of broadcasts."""
        return ()

    def check(self, task: Task) -> None:  # noqa: B027  (most need nothing)
        """Raise ValueError, before anything runs, for a task that the algorithm cannot do."""

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """What the server knows before the first round."""
        return {}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The message down to one client. Return the same tensors to those who get the same."""
        return {}

    def broadcasts(self, server: Server, cohort: Mapping[int, str]) -> dict[int, Message]:
        """`broadcast` to each of a cohort, client number -> group.

        For algorithms that have it quicker for all at once; the same messages in any case.
        """
        return {client: self.broadcast(server, client, group) for client, group in cohort.items()}

    @abstractmethod
    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """One round of a client: its new parameters, which stay, and what it sends up."""

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """How many mini-batches `client_update` trains on; what a virtual clock counts."""
        return private.steps

    def deployment(self, server: Server, client: int, group: str) -> Message:
        """The message down to a client that wants the model in use, and no more: for `deploy`."""
        return {}

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The model that a client would use now, given the newest `deployment`."""
        return params

    def server_model(self, task: Task, server: Server) -> tuple[Model, Params] | None:
        """A model of the server's own, to be scored beside the clients'; None: there is none."""
        return None

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """What each key of an upload must look like."""
        return {}

    def summand(self, upload: Received) -> Message:
        """What the server adds up of an upload, in float64, by `Properties.summand`.

        A payload under its own keys; beside it `ROWS`, a count for each row, where some are named,
        and `WEIGHT` where payloads are weighted (`fedkd.messages`).

        Raises:
            ValueError: the server needs each upload.
        """
        if self.properties.summand == "none":
            name = type(self).__name__
            raise ValueError(f"{name} needs each upload on its own; no sum of them would do")
        return (weighted if self.properties.summand == "weighted payload" else unweighted)(upload)

    def server_from_sum(
        self, task: Task, server: Server, total: Message, count: float, public: Public | None
    ) -> Server:
        """The server's knowledge after a round, from the sum of so many uploads' summands.

        `count` is a number of clients, or the one that was expected.
        """
        return server

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """The server's knowledge after a round: `server_from_sum`, unless it needs each upload.

        `uploads` come in the order of client numbers, and can be gone through once.
        """
        if self.properties.summand == "none":
            return server
        total, count = summed(map(self.summand, uploads))
        return self.server_from_sum(task, server, total, count, public)


Engine = Callable[
    [Callable[..., Any], Task, Sequence[Client], Sequence[tuple[Any, ...]]], list[Any]
]
