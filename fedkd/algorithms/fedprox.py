"""FedProx: federated averaging whose clients are held near the average."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.fedavg import FedAvg
from fedkd.core import Public
from fedkd.messages import Message, Upload
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, fit
from kdcore.training.stacked import weights


@dataclass(frozen=True)
class FedProx(FedAvg):
    """Federated optimisation in heterogeneous networks, with a proximal term.

    Tian Li, Anit Kumar Sahu, Manzil Zaheer, Maziar Sanjabi, Ameet Talwalkar, Virginia Smith.
    "Federated Optimization in Heterogeneous Networks". MLSys 2020.
    https://arxiv.org/abs/1812.06127

    Client: w_k <- argmin mean CE(y, f(x; w)) + mu/2 ||w - w_server||^2 from w_server, with the mean
    over a mini-batch. Server: w <- sum_k n_k w_k / sum_k n_k.
    Up and down: all parameters, 4 W bytes each way in float32; up, n_k as well.

    Conventions: the average is by number of examples, as in FedAvg; the paper draws clients by it
    instead, and counts each once. All clients do the same number of epochs.
    """

    mu: Annotated[float, Setting("weight of the proximal term", ge=0)] = 0.01

    properties = FedAvg.properties

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Train from the average, and not far from it."""

        def loss(outputs: Outputs, y: Tensor, start: Params) -> Tensor:
            return self.target.loss(outputs, y)

        def near(params: Params, y: Tensor, start: Params) -> Tensor:
            gaps = [(params[name] - value).square().sum() for name, value in start.items()]
            return self.mu / 2 * torch.stack(gaps).sum()

        mine = params | received
        params = fit(predict, mine, private, self.local, loss, weights(received), penalty=near)
        return params, Upload({name: params[name] for name in received}, private.size)
