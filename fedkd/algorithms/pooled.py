"""Pooled: all examples in one place; the upper bound that every federation is measured against."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.algorithms.fedavg import FedAvg, apart, full_params, initial, of_group
from fedkd.core import Properties, Public, Server, Task, as_sent
from fedkd.messages import ANY, Message, PayloadSpec, Received, Upload
from fedkd.targets import ALL, CLASSES, NO_LABEL
from kdcore.rng import generator as stream
from kdcore.training.batches import side_by_side, widths
from kdcore.training.loop import Batches, Examples, Params, Predict, draw, fit


@dataclass(frozen=True)
class Pooled(FedAvg):
    """Training in one place on what all clients send there: their examples.

    The baseline that federated learning avoids, named so in: Brendan McMahan, Eider Moore, Daniel
    Ramage, Seth Hampson, Blaise Aguera y Arcas. "Communication-Efficient Learning of Deep Networks
    from Decentralized Data". AISTATS 2017. https://arxiv.org/abs/1602.05629

    Client: sends its examples and their labels. Server: one model for each architecture,
    w <- argmin sum CE(y, f(x; w)) over the examples of all, from the last w.
    Up: 4 (D + 1) n_k bytes, in each round; of clients that hold graphs features and edges of all
    nodes of these, which the server's models need. Down: all parameters, 4 W bytes.

    It breaks the one promise of federated learning, that data stay where they are. The server keeps
    no examples: the cohort sends them again in each round, and the server makes `local.epochs`
    passes over them.
    """

    properties = Properties(
        public="none",
        up="all examples and their labels",
        down="all parameters of a model trained on everybody's examples",
        architectures="any",
        summand="none",
        server_learns="everything: each example of the client, and its label",
        beyond_training=("x", "y", "rows"),
        targets=ALL,
        examples=("x",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.local.passes("pooled")

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """One set of initial parameters for each group, and what the server draws shuffles from."""
        seed = torch.randint(2**31, (1,), generator=generator)
        averaged, kept = initial(task, generator)
        return averaged | kept | {"seed": seed, "round": torch.tensor([0])}

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Send the examples, each once."""
        index, once = private.records
        x = tree_map(lambda one: as_sent(one[index]), private.x)
        x = side_by_side(x, torch.get_default_dtype()) if isinstance(x, tuple) else x
        examples = {"x": x, "y": as_sent(private.y[index])}
        return params | received, Upload(examples, rows=as_sent(once))

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """None: it is the server that trains."""
        return 0

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """As many examples as there are."""
        return {
            "x": PayloadSpec((ANY, *_shape(task)), rows=True, tells_size=True),
            "y": PayloadSpec((ANY, *_label_shape(task)), rows=True, tells_size=True),
        }

    def check(self, task: Task) -> None:
        """The shape of an example is known, to tell examples from anything else."""
        if not task.shape:
            raise ValueError("Pooled needs the shape of an example; give Task(..., shape=...)")

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Train each architecture on the examples of all."""
        x, y = _examples(uploads, task)
        number = server["round"] + 1
        purpose = int(server["seed"]), "pooled", int(number)
        batches = draw(Examples(x, y, torch.arange(len(y))), self.local, stream(*purpose))
        trained: Server = {}
        for group in sorted(task.models):
            params = full_params(server, group, of_group(server, group))
            predict = task.models[group].predict
            params = fit(predict, params, batches, self.local, task.target.loss)
            trained |= apart(task, group, params)
        return server | trained | {"round": number}


def _examples(uploads: Iterable[Received], task: Task) -> tuple[Any, Tensor]:
    """The examples of all, as models read them; not those whose label is none."""
    sent = [(one.payload["x"], one.payload["y"], one.rows) for one in uploads]
    x, y, held = (torch.cat(column) for column in zip(*sent, strict=True))
    fine = held.bool()
    if task.target.name not in ("real", "labels"):
        fits = (y >= 0) & (y < task.num_classes) | (y == NO_LABEL) * (task.places > 0)
        fine, y = fine & (fits if y.ndim == 1 else fits.all(dim=1)), y.long()
    return _read(x[fine], task), y[fine]


def _shape(task: Task) -> tuple[int, ...]:
    """Of one example as it is sent: several inputs go side by side."""
    return (sum(widths(task.shape)),) if widths(task.shape) else task.shape


def _read(x: Tensor, task: Task) -> Any:
    """Examples in the shape and the type in which models read them."""
    if not widths(task.shape):
        return x if task.few is None else x.to(task.few.dtype)
    parts = zip(x.split(widths(task.shape), dim=1), task.shape, strict=True)
    found = tuple(part.reshape(-1, *shape) for part, shape in parts)
    return tree_map(lambda one, few: one.to(few.dtype), found, task.few or found)


def _label_shape(task: Task) -> tuple[int, ...]:
    """Of one example: a number for a class, a row of all else."""
    return () if task.target.name == CLASSES.name else task.outputs[:1]
