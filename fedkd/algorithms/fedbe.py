"""FedBE: the server samples models from around its clients', and distils them all into the mean."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import (
    FedAvg,
    apart,
    average_by_group,
    check_sent_whole,
    full_params,
    initial,
    of_group,
)
from fedkd.core import Properties, Public, Server, Task, as_sent
from fedkd.messages import Received
from fedkd.targets import ALL
from kdcore.rng import generator as stream
from kdcore.settings import Setting
from kdcore.training.loop import STATE, Batches, Params, TrainingConfig, fit, logits_of


@dataclass(frozen=True)
class FedBE(FedAvg):
    """Federated learning with a Bayesian model ensemble.

    Hong-You Chen, Wei-Lun Chao. "FedBE: Making Bayesian Model Ensemble Applicable to Federated
    Learning". ICLR 2021. https://arxiv.org/abs/2009.01974

    Clients: as in FedAvg. Server: around the models w_k of a group, weighted by n_k, a distribution
    q(w), with `posterior` "gaussian" N(mean_k w_k, mean_k (w_k - mean)^2), each weight on its own,
    or "dirichlet" w = sum_k g_k n_k w_k / sum_k g_k n_k, g ~ Dir(1). Teachers: M = `samples` of q
    for each group, the averages and the clients; p(x) = the mean of their predictions. From each
    average, minimise CE(p, f) on public examples; the result is the mean of the models after each
    pass, stochastic weight averaging.
    Up and down: all parameters, 4 W bytes each way in float32; up, n_k as well.

    Conventions: the paper itself was not at hand, and both distributions are from memory. The
    authors' code (hongyouc/FedBE, read, not copied) weighs by n_k in neither, draws with a Gaussian
    of the clients' updates, each tensor divided by its length, with a tenth of their deviation,
    sharpens p to p^2 / sum_c p_c^2, divides the divergence by C, trains by SGD at 0.001 with
    momentum, 20 passes, takes a snapshot each 25 steps from the 500th on, and uses the clients as
    teachers only where told to. The learning rate of a pass
    is constant, and its optimiser starts afresh, where the paper lets the rate fall within each
    cycle. Samples of different architectures teach together, as the models in FedDF do. Statistics
    of mini-batches are not sampled but averaged: a variance drawn from a Gaussian may be negative.
    """

    distill: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=5, batch_size=128)
    samples: Annotated[int, Setting("M, models drawn for each group", ge=0)] = 10
    posterior: Annotated[Literal["gaussian", "dirichlet"], Setting("from what they are drawn")] = (
        "gaussian"
    )

    properties = Properties(
        public="unlabelled",
        up="all parameters",
        down="all parameters of the group's distilled model",
        architectures="shared within a group",
        summand="none",
        server_learns="the client's parameters and the number of its examples",
        beyond_training=("weight",),
        targets=ALL,
        distils=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.distill.passes("fedbe")

    @property
    def public_training(self) -> TrainingConfig:
        """How the server distils."""
        return self.distill

    def check(self, task: Task) -> None:
        """Models go up whole: the server has to predict with them."""
        check_sent_whole(self, task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """One set of initial parameters for each group, and the seed of what is drawn."""
        averaged, kept = initial(task, generator)
        seed = torch.randint(2**62, (1,), generator=generator)
        return averaged | kept | {"seed": seed, "round": torch.zeros(1, dtype=torch.long)}

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Average within groups, draw models, and distil all of them into each average."""
        assert public is not None
        received = list(uploads)
        after = average_by_group(received) | {"round": server["round"] + 1}
        groups = {g: mean for g in sorted(task.models) if (mean := of_group(after, g))}
        teachers = [(one.group, one.payload) for one in received]
        for group, mean in groups.items():
            mine = [one for one in received if one.group == group]
            dice = stream(int(server["seed"]), "samples", int(server["round"]), group)
            teachers += [(group, model) for model in (mean, *self.drawn(mine, mean, dice))]
        taught = task.target.known(said(task, teachers, public), public.labels_of(public.rows))
        batches = public.batches(taught, public.rows)
        for group, mean in groups.items():
            start = full_params(server, group, mean)
            after |= apart(task, group, self._student(task, group, start, batches))
        return server | after

    def drawn(self, received: list[Received], mean: Params, dice: torch.Generator) -> list[Params]:
        """M models from around those of a group; their statistics are the mean's."""
        names = sorted(name for name in mean if STATE not in name)  # what is drawn goes by name
        models = torch.stack(
            [torch.cat([one.payload[n].flatten() for n in names]).double() for one in received]
        )  # (K, W)
        weights = torch.tensor([one.weight for one in received], dtype=torch.float64)
        if self.posterior == "dirichlet":
            lots = torch.rand(self.samples, len(weights), generator=dice, dtype=torch.float64)
            shares = -weights * lots.log()
            found = (shares / shares.sum(dim=1, keepdim=True)).to(models.device) @ models
        else:
            shares = (weights / weights.sum()).to(models.device)
            spread = (shares @ (models - shares @ models).square()).sqrt()
            noise = torch.randn(self.samples, models.shape[1], generator=dice, dtype=torch.float64)
            found = shares @ models + spread * noise.to(models.device)
        sizes = [mean[name].numel() for name in names]
        return [
            mean | {n: as_sent(part.view_as(mean[n])) for n, part in zip(names, parts, strict=True)}
            for parts in (one.split(sizes) for one in found.unbind())
        ]

    def _student(self, task: Task, group: str, start: Params, batches: Batches) -> Params:
        """The mean of the models after each pass."""
        predict, steps = task.models[group].predict, batches.steps // max(1, self.distill.epochs)
        params, ends = start, []
        for order, mask in zip(
            batches.order.split(max(1, steps)), batches.mask.split(max(1, steps)), strict=True
        ):
            one = batches._replace(order=order, mask=mask)
            params = fit(predict, params, one, self.distill, task.target.towards)
            ends.append(params)
        return params | _mean(task.models[group].shared(params), ends)


def said(task: Task, teachers: list[tuple[str, Params]], public: Public) -> Tensor:
    """The mean prediction of some models for the round's public examples."""
    total: Tensor | float = 0.0
    for group, params in teachers:
        logits = logits_of(task.models[group].predict, params, public.x, public.rows)
        total = total + task.target.prediction(logits).double()
    assert isinstance(total, Tensor)
    return (total / len(teachers)).to(logits.dtype)


def _mean(names: Params, models: list[Params]) -> Params:
    """The mean of models, of what stands under some names; nothing of none."""
    if not models:
        return {}
    return {n: as_sent(torch.stack([one[n].double() for one in models]).mean(dim=0)) for n in names}
