"""FedDF: the server distils the ensemble of its clients into their average."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
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
from fedkd.components.early_stopping import best, passes, score
from fedkd.core import MEASURED, Properties, Public, Server, Task
from fedkd.messages import Received
from fedkd.targets import ALL, Target
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import (
    Batches,
    Examples,
    Params,
    TrainingConfig,
    fit,
    logits_of,
)

Share = Callable[[Received], Tensor | float]  # what a model counts for, (P_r, 1) or a number


@dataclass(frozen=True)
class FedDF(FedAvg):
    """Ensemble distillation for robust model fusion in federated learning.

    Tao Lin, Lingjing Kong, Sebastian Stich, Martin Jaggi. "Ensemble Distillation for Robust Model
    Fusion in Federated Learning". NeurIPS 2020. https://arxiv.org/abs/2006.07242

    Clients: as in FedAvg. Server: teacher z(x) = mean_k z_k(x), the mean of the logits of all
    uploaded models, whatever their architecture; for each architecture, from the average of its
    clients, minimise KL(softmax(z) || softmax(f)) on unlabelled public examples.
    Up and down: all parameters, 4 W bytes each way in float32; up, n_k as well.

    Conventions: temperature 1 and no T^2. The mean is over logits as in the paper's AvgLogits: the
    server computes them from parameters that it has already averaged, so nothing is gained by
    probabilities. With `patience` the server stops as in the paper, once that many passes over the
    public examples have brought no gain on labelled validation examples of its own, and goes back
    to the best pass. Without it, which is the default, the number of passes is fixed and no label
    is needed. Test examples are never looked at.

    Where the authors' code differs: it averages all clients alike (`averaging` "uniform"; the
    paper, and the default here, by examples); the average, before any pass, is no candidate there
    (`average_counts` false) and is one here; it stops after 1,000 of at most 10,000 mini-batches
    without gain, lets the learning rate fall along a cosine and clips gradients at a norm of 5,
    which is not done here.

    With `patience`, a round says how often the ensemble and the average are right on the validation
    examples (`ensemble_validation`, `average_validation`, the mean over groups): no student can be
    expected to gain where the teacher is no better than the average from which it begins.
    """

    distill: TrainingConfig = TrainingConfig("adam", learning_rate=1e-3, epochs=5, batch_size=128)
    patience: Annotated[int, Setting("passes without gain; 0: never stop", ge=0)] = 0
    averaging: Annotated[
        Literal["examples", "uniform"], Setting("by what clients count in the average")
    ] = field(default="examples", metadata={"added": True})
    average_counts: Annotated[
        bool, Setting("with patience, whether the average itself may be the best pass")
    ] = field(default=True, metadata={"added": True})

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
        if self.patience:
            self.distill.passes("patience")
            selecting = self.properties._replace(validation="labelled")
            object.__setattr__(self, "properties", selecting)

    @property
    def public_training(self) -> TrainingConfig:
        """How the server distils."""
        return self.distill

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Average within groups, then distil the ensemble of all clients into each average."""
        assert public is not None
        held_out = task.validation if self.patience else None
        ensemble = _Ensemble(task, public, held_out, partial(self._share, server))
        averaged = average_by_group(map(self._counted, ensemble.hearing(uploads)))
        teacher = task.target.known(ensemble.mean(), public.labels_of(public.rows))
        batches = public.batches(teacher, public.rows)
        averages = []
        for group in sorted(task.models):
            start = of_group(averaged, group)
            if start:
                start = full_params(server, group, start)
                reached = -math.inf
                if held_out is not None:
                    reached = score(task, task.models[group].predict, start)
                    averages.append(abs(reached))
                averaged |= apart(task, group, self._taught(task, group, start, reached, batches))
        if averages:
            averaged[f"{MEASURED}ensemble_validation"] = torch.tensor(ensemble.metric())
            averaged[f"{MEASURED}average_validation"] = torch.tensor(averages).mean()
        return server | averaged

    def _counted(self, upload: Received) -> Received:
        """An upload with the weight that it has in the average."""
        return upload if self.averaging == "examples" else upload._replace(weight=1.0)

    def _share(self, server: Server, upload: Received) -> Tensor | float:
        """What a client's logits count for in the ensemble: all alike."""
        return 1.0

    def check(self, task: Task) -> None:
        """Models go up whole: the server has to predict with them."""
        check_sent_whole(self, task)

    def init(self, task: Task, generator: torch.Generator) -> Server:
        """One set of initial parameters for each group, with what a model needs to be trained."""
        averaged, kept = initial(task, generator)
        return averaged | kept

    def _taught(
        self, task: Task, group: str, start: Params, reached: float, batches: Batches
    ) -> Params:
        """The student of an ensemble, or the best of its passes on validation examples."""
        predict, loss = task.models[group].predict, partial(_towards, task.target)
        if not self.patience or not self.distill.epochs:
            return fit(predict, start, batches, self.distill, loss)
        found = passes(predict, start, batches, self.distill, loss)
        before = reached if self.average_counts else -math.inf
        return best(start, found, partial(score, task, predict), self.patience, before)


class _Ensemble:
    """The running float64 sum of the logits of models as they come, for public examples.

    Each counts for its share there; for validation examples all count alike.
    """

    def __init__(self, task: Task, public: Public, held_out: Examples | None, share: Share) -> None:
        self._task, self._public, self._held_out, self._count = task, public, held_out, 0
        self._sum, self._kind = torch.zeros((), dtype=torch.float64), torch.float64
        self._share, self._shares = share, torch.zeros((), dtype=torch.float64)
        self._said: Tensor | float = 0.0  # the same sum, for validation examples

    def hearing(self, uploads: Iterable[Received]) -> Iterable[Received]:
        """The same uploads, each heard as it passes."""
        for upload in uploads:
            predict, public = self._task.models[upload.group].predict, self._public
            logits = logits_of(predict, upload.payload, public.x, public.rows)
            share = self._share(upload)
            self._sum, self._kind = self._sum.to(logits.device) + share * logits, logits.dtype
            self._shares, self._count = self._shares.to(logits.device) + share, self._count + 1
            if (held_out := self._held_out) is not None:
                said = logits_of(predict, upload.payload, held_out.x, held_out.rows)
                self._said = self._said + said.double()
            yield upload

    def mean(self) -> Tensor:
        """The teacher, (P_r, C) logits."""
        return (self._sum / self._shares).to(self._kind)

    def metric(self) -> float:
        """How good the teacher is on validation examples."""
        assert self._held_out is not None
        assert isinstance(self._said, Tensor)
        y = self._held_out.y[self._held_out.rows]
        return abs(self._task.target.score(self._said / self._count, y))  # less is better: negative


def _towards(target: Target, outputs: Outputs, y: Tensor) -> Tensor:
    return target.divergence(outputs.logits, y)
