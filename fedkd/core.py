"""The nouns of federated distillation. Read this first.

A *client* holds private examples and a model of some architecture (its *group*). In each round
the server *broadcasts* a message, each client of the cohort *updates* itself and *uploads*
another, and the server updates itself from the uploads. An `Algorithm` is exactly these steps,
as pure functions: no device, no network, no clock.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from knowledge.training import Batches, Examples, Params, Predict, Training

Message = dict[str, Tensor]
Server = dict[str, Tensor]


class Model(NamedTuple):
    """An architecture, without parameters: how to draw them and how to predict with them."""

    init: Callable[[torch.Generator], Params]
    predict: Predict


@dataclass(frozen=True)
class Client:
    """A party: its number, its architecture, its parameters, and the examples only it sees."""

    id: int
    group: str
    params: Params
    private: Examples


class Public(NamedTuple):
    """The public examples of one round, the same for all who take part.

    Shapes:
        x: (P, ...) all public examples.
        rows: (P_r,) those that this round asks about.
        order, mask: (S, B) mini-batches over 0 .. P_r - 1, shared by all clients.
    """

    x: Tensor
    rows: Tensor
    order: Tensor
    mask: Tensor

    @property
    def asked(self) -> Tensor:
        """(P_r, ...), the examples that this round asks about."""
        return self.x[self.rows]

    def lesson(self, targets: Tensor, rows: Tensor | None = None) -> Batches:
        """Mini-batches with targets (P_r, C) for the public examples `rows` (default: all)."""
        x = self.x if rows is None else self.x[rows.long()]
        size = torch.tensor(float(len(targets)), dtype=self.x.dtype)
        return Batches(x, targets, self.order, self.mask, size)


class Upload(NamedTuple):
    """What a client sends up.

    Shapes:
        payload: the message; under each key one tensor.
        weight: (), how much it should count, in examples; >= 0.
        rows: (C,) of 0 and 1, or None. Where given, only these rows of each payload tensor cross
            the network (the labels that the client holds); the server sees zeros elsewhere.
    """

    payload: Message
    weight: Tensor
    rows: Tensor | None = None


class Received(NamedTuple):
    """An upload as the server has it: checked, decoded, and with its sender's name."""

    client: int
    group: str
    payload: Message
    weight: float
    rows: Tensor | None = None


class Failure(NamedTuple):
    """In the place of a client's result: why there is none."""

    reason: str


@dataclass(frozen=True)
class Task:
    """What a federation learns: one model per group, the classes, and public examples (P, ...)."""

    models: Mapping[str, Model]
    num_classes: int
    public: Tensor | None = None


class Claim(NamedTuple):
    """What a payload tensor claims to be; anything else is turned away at the border.

    Attributes:
        shape: of the whole tensor.
        simplex: whether each row is a distribution.
        rows: whether clients send only the rows that they hold, and say which (`Upload.rows`);
            it is the same for all tensors of a payload.
    """

    shape: tuple[int, ...]
    simplex: bool = False
    rows: bool = False


class Properties(NamedTuple):
    """What an algorithm needs and what it reveals.

    Attributes:
        public: the public data it needs.
        up, down: what crosses the network, in words.
        architectures: "any", or "shared within a group" where parameters are averaged.
        sum_suffices: whether the server needs no more than a sum over clients, so that secure
            aggregation applies.
        server_learns: what an honest but curious server gets to know of each client.
    """

    public: Literal["none", "unlabelled", "labelled"]
    up: str
    down: str
    architectures: Literal["any", "shared within a group"]
    sum_suffices: bool
    server_learns: str


@dataclass(frozen=True)
class Algorithm(ABC):
    """A federated algorithm; its fields are its hyperparameters, its methods are the paper.

    All methods are pure. `client_update` and `deploy` see tensors only, so that an engine may run
    them for one client, for a stack of clients under `torch.func.vmap`, or somewhere else.
    """

    local: Training = Training(epochs=2, batch_size=8)

    properties: ClassVar[Properties]

    @property
    def public_training(self) -> Training | None:
        """How models are fitted to public examples; None where there are none to fit to."""
        return None

    @property
    def asks(self) -> int | None:
        """How many public examples a round asks about; None for all of them."""
        return None

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """What the server knows before the first round."""
        return {}

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The message down to one client. Return the same tensors to those who get the same."""
        return {}

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

    def deploy(
        self, predict: Predict, params: Params, received: Message, public: Public | None
    ) -> Params:
        """The model that a client would use now, given the newest broadcast."""
        return params

    def claims(self, task: Task, group: str) -> dict[str, Claim]:
        """What each key of an upload must look like."""
        return {}

    def server_update(
        self, task: Task, server: Server, uploads: Sequence[Received], public: Public | None
    ) -> Server:
        """The server's knowledge after a round; `uploads` come in the order of client numbers."""
        return server
