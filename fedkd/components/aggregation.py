"""What algorithms share whose server makes one prediction of many clients'."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Annotated

import torch
from torch import Tensor

from fedkd import consensus
from fedkd.components.features import comparable, each_once, embedding
from fedkd.core import Algorithm, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Received, summed
from fedkd.targets import Target
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, predict_logits

UPLOADERS, OUTLYING = "uploaders", "outlying"  # who was compared, and their outlier scores so far
LATER = {"added": True}  # `simulations.config.schema.ADDED`


@dataclass(frozen=True)
class Aggregating(Algorithm):
    """An algorithm to whose consensus there are several ways (`fedkd.consensus`).

    Its uploads hold one tensor, predictions, and where a rule places examples `beside` them what
    each counts for. `server_from_sum` makes the consensus of them by
    `pooled`, and does the rest; the sum is that of the rule's summands, each times what its client
    counts for, and the number of clients that of what they count for together.
    """

    aggregation: Annotated[
        str,
        Setting("how predictions become one; `kdsim list aggregations`", names="fedkd.consensus"),
    ] = field(default="sa", kw_only=True, metadata=LATER)
    temperature: Annotated[float, Setting("of the sharpening", gt=0)] = field(
        default=0.1, kw_only=True, metadata=LATER
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule.each:
            declared = self.properties._replace(summand="none")
        elif self.rule.weighs_rows:
            declared = self.properties._replace(summand="weighted rows")
        else:
            return
        if self.rule.placed:
            declared = declared._replace(
                up=f"{declared.up}, and how near these lie to the client's own",
                server_learns=f"{declared.server_learns}, and how near these lie to its own",
                beyond_training=(*declared.beyond_training, consensus.NEARNESS),
            )
        object.__setattr__(self, "properties", declared)

    @property
    def rule(self) -> consensus.Rule:
        """The way."""
        return consensus.REGISTRY.get(self.aggregation)()

    def beside(
        self, predict: Predict, params: Params, private: Batches, public: Public
    ) -> dict[str, Tensor]:
        """What a client sends beside its predictions: where its examples lie, or nothing."""
        if not self.rule.placed:
            return {}
        known = private.records[1]
        seen = embedding(predict)
        own = predict_logits(seen, params, private.x, each_once(private))
        asked = seen(params, public.asked).logits  # the same for all, and so computed once
        return {consensus.NEARNESS: as_sent(self.rule.nearness(own, known, asked))}

    def with_nearness(self, spec: dict[str, PayloadSpec]) -> dict[str, PayloadSpec]:
        """What predictions must look like, and what is beside them."""
        if not self.rule.placed:
            return spec
        ((count, *_),) = (one.shape for one in spec.values())
        return spec | {consensus.NEARNESS: PayloadSpec((count,), least=0.0, most=1.0)}

    def check(self, task: Task) -> None:
        """Sharpened, or weighted by row, are distributions alone; placed are numbers alone."""
        target, name = task.target, f"{type(self).__name__} with aggregation {self.aggregation}"
        if self.rule.sharpened and target.sharpened is None:
            raise ValueError(
                f"{name} sharpens distributions, and predictions of {target.words} are none; take "
                "aggregation sa, the plain mean"
            )
        if self.rule.distributions and not target.simplex:
            raise ValueError(
                f"{name} weighs rows by how sure they are, as distributions over classes, and "
                f"predictions of {target.words} are none; take aggregation sa, the plain mean"
            )

        if self.rule.placed and not all(map(comparable, task.models.values(), repeat(task.few))):
            raise ValueError(
                f"{name} compares inputs as they are, and these are whole numbers that stand for "
                "something, such as words; take aggregation variance or sa"
            )

    def summand(self, upload: Received) -> Message:
        """By the rule, from this upload alone."""
        if self.properties.summand == "none":
            return super().summand(upload)  # which says that no sum would do
        return self.rule.summand(upload.payload)

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """`server_from_sum`, of everybody, or of what the rule takes each client for."""
        rule = self.rule
        if not rule.each:
            total, count = summed(rule.summand(upload.payload) for upload in uploads)
            return self.server_from_sum(task, server, total, count, public)
        received = list(uploads)
        clients = torch.tensor([upload.client for upload in received])
        said = torch.stack([next(iter(u.payload.values())).double() for u in received])
        weights, outlying = rule.clients(said, _outlying(server, clients))
        terms = (rule.summand(upload.payload) for upload in received)
        counted = (
            {key: weight * value for key, value in term.items()}
            for weight, term in zip(weights.to(said.device), terms, strict=True)
        )
        after = self.server_from_sum(task, server, summed(counted)[0], float(weights.sum()), public)
        return after | _noted(server, clients, outlying)

    def pooled(self, total: Message, key: str, count: float, target: Target) -> Tensor:
        """The consensus."""
        found = self.rule.pooled(total, key, count)
        if not self.rule.sharpened:
            return found
        assert target.sharpened is not None
        return target.sharpened(found, self.temperature)


def of_consensus(server: Server) -> Message:
    """What a server tells of what it knows: a consensus, and the rows that it is about."""
    return {key: value for key, value in server.items() if key in ("consensus", "rows")}


def _outlying(server: Server, clients: Tensor) -> Tensor:
    """(K,) the outlier scores of clients so far, on the CPU."""
    known = _scores(server)
    scores = [known.get(client, 0.0) for client in clients.tolist()]
    return torch.tensor(scores, dtype=torch.float64)


def _noted(server: Server, clients: Tensor, outlying: Tensor) -> Server:
    """What a server keeps of all clients heard so far."""
    known = _scores(server) | dict(zip(clients.tolist(), outlying.tolist(), strict=True))
    everybody = sorted(known)
    return {
        UPLOADERS: torch.tensor(everybody),
        OUTLYING: torch.tensor([known[one] for one in everybody], dtype=torch.float64),
    }


def _scores(server: Server) -> dict[float, float]:
    """Client -> its outlier score, of all that were heard."""
    return dict(zip(_listed(server, UPLOADERS), _listed(server, OUTLYING), strict=True))


def _listed(server: Server, key: str) -> list[float]:
    return server[key].tolist() if key in server else []
