"""FedDF: the server distils the ensemble of its clients into their average."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedkd.algorithms.fedavg import FedAvg, average_by_group, of_group
from fedkd.core import Properties, Public, Received, Server, Task
from knowledge.outputs import Outputs
from knowledge.response import kl
from knowledge.training import Tensor, Training, fit, logits_of


@dataclass(frozen=True)
class FedDF(FedAvg):
    """Ensemble distillation for robust model fusion in federated learning.

    Tao Lin, Lingjing Kong, Sebastian Stich, Martin Jaggi. "Ensemble Distillation for Robust Model
    Fusion in Federated Learning". NeurIPS 2020. https://arxiv.org/abs/2006.07242

    Clients: as in FedAvg. Server: teacher z(x) = mean_k z_k(x), the mean of the logits of all
    uploaded models, whatever their architecture; for each architecture, from the average of its
    clients, minimise KL(softmax(z) || softmax(f)) on unlabelled public examples.
    Up and down: all parameters, 4 W bytes each way in float32.

    Conventions: temperature 1, and a fixed number of epochs in place of the paper's early stopping
    on labelled examples. The mean is over logits as in the paper's AvgLogits: the server computes
    them from parameters that it has already averaged, so nothing is gained by probabilities.
    """

    distill: Training = Training("adam", learning_rate=1e-3, epochs=5, batch_size=128)

    properties = Properties(
        public="unlabelled",
        up="all parameters",
        down="all parameters of the group's distilled model",
        architectures="shared within a group",
        sum_suffices=False,
        server_learns="the client's parameters and the number of its examples",
    )

    @property
    def public_training(self) -> Training:
        """How the server distils."""
        return self.distill

    def server_update(
        self, task: Task, server: Server, uploads: Sequence[Received], public: Public | None
    ) -> Server:
        """Average within groups, then distil the ensemble of all clients into each average."""
        assert public is not None
        models = [(task.models[upload.group].predict, upload.payload) for upload in uploads]
        logits = [logits_of(*model, public.x, public.rows) for model in models]
        teacher = torch.stack(logits).double().mean(dim=0).to(public.x.dtype)
        lesson = public.lesson(teacher, public.rows)

        def loss(outputs: Outputs, y: Tensor) -> Tensor:
            return kl(outputs.logits, y)

        averaged = average_by_group(uploads)
        for group in sorted({upload.group for upload in uploads}):
            start = of_group(averaged, group)
            if start:
                student = fit(task.models[group].predict, start, lesson, self.distill, loss)
                averaged |= {f"{group}/{name}": value for name, value in student.items()}
        return server | averaged
