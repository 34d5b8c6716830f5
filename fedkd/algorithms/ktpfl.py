"""KT-pFL: each client learns from a mixture of all that is its own, and the mixture is learnt."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from fedkd.components.public_consensus import (
    digest,
    predictions_spec,
    rows_asked,
    student_steps,
)
from fedkd.core import Algorithm, Properties, Public, Server, Task, as_sent
from fedkd.messages import Message, PayloadSpec, Received, Upload
from kdcore.losses.response import soft_cross_entropy
from kdcore.outputs import Outputs
from kdcore.settings import Setting
from kdcore.training.loop import Batches, Params, Predict, TrainingConfig, fit, predict_logits

LEAST = 1e-6  # of a coefficient before all of a client are made to add up to 1


@dataclass(frozen=True)
class KTpFL(Algorithm):
    """Parameterised knowledge transfer for personalised federated learning.

    Jie Zhang, Song Guo, Xiaosong Ma, Haozhao Wang, Wenchao Xu, Feijie Wu. "Parameterized Knowledge
    Transfer for Personalized Federated Learning". NeurIPS 2021. https://arxiv.org/abs/2111.02862

    Client k: digest, T^2 KL(q_k || softmax(f(public) / T)); revisit, CE(y, f(private)); upload
    p_k = softmax(f(public) / T). Server: q_k = sum_m c_km p_m, where c_k takes a step in each round
    down the slope of mean_p |sum_m c_km p_m - p_k|^2 + r |c_k - 1/K|^2, r = `penalty`, from 1/K.
    Up: 4 C P_r bytes. Down: 4 C P_r, and 4 P_r of row numbers when a round asks about a part only.

    Conventions: the paper itself was not at hand; equations are read off the authors' code
    (cugzj/KT-pFL, not copied), and what is said of the paper is from memory. The distance is that
    of the code, where the paper has a divergence. Coefficients are kept positive and made to add up
    to 1; the code takes softmax(5 c) after each step, which all but undoes it, and scales steps by
    hand; neither is in the paper. Its distance is divided by C, and its penalty by K, with r 0.7;
    here neither is, and r is 0.1. There T is 10, and the loss lacks T^2 and is divided by C; here T
    is 1. There clients digest once, in batches of 256, and revisit once in the first round, twice
    in the second and so on, in batches of 16, all by SGD at 0.02; here as often in each. The
    model in use, and so what is scored, is the one after revisiting, as there. Who is not
    in the newest cohort is sent a mixture of what that has said, by the coefficients that it has,
    and whoever is new the plain mean.
    """

    distill: TrainingConfig = TrainingConfig(learning_rate=0.2, epochs=3)
    public_size: Annotated[int | None, Setting("public examples of a round; none: all", ge=1)] = (
        None
    )
    temperature: Annotated[float, Setting("T, of predictions and of the loss", gt=0)] = 1.0
    step: Annotated[float, Setting("of the coefficients, in a round", ge=0)] = 0.1
    penalty: Annotated[float, Setting("r, of unequal coefficients", ge=0)] = 0.1

    properties = Properties(
        public="unlabelled",
        up="predictions for the round's public examples",
        down="a mixture of all predictions for each of them, another for each client",
        architectures="any",
        summand="none",
        server_learns="the client's predictions for public examples, and whose are like them",
    )

    @property
    def public_training(self) -> TrainingConfig:
        """How the mixture is digested."""
        return self.distill

    @property
    def asks(self) -> int | None:
        """P_r."""
        return self.public_size

    def broadcast(self, server: Server, client: int, group: str) -> Message:
        """The client's own mixture of what the newest cohort has said."""
        return self.broadcasts(server, {client: group})[client]

    def broadcasts(self, server: Server, cohort: Mapping[int, str]) -> dict[int, Message]:
        """The same for a cohort: the server is read once."""
        if "said" not in server:
            return {client: {} for client in cohort}
        table, said = server["coefficients"], server["said"]
        known = {client: place for place, client in enumerate(server["known"].tolist())}
        speaking = torch.tensor([known[one] for one in server["cohort"].tolist()]).to(table.device)
        places = [known.get(one, len(known)) for one in cohort]  # none, where nobody takes part
        listed = torch.tensor(places, dtype=torch.long).to(table.device)
        shares = torch.cat([table, torch.ones_like(table[:1])])[listed][:, speaking]
        shares = shares / shares.sum(dim=1, keepdim=True)
        rows = {"rows": server["rows"]} if "rows" in server else {}
        return {
            client: {"consensus": (mine.view(-1, 1, 1) * said).sum(dim=0)} | rows
            for client, mine in zip(cohort, shares.unbind(), strict=True)
        }

    def client_update(
        self,
        predict: Predict,
        params: Params,
        received: Message,
        private: Batches,
        public: Public | None,
    ) -> tuple[Params, Upload]:
        """Digest, revisit, predict."""
        assert public is not None

        def loss(outputs: Outputs, q: Tensor) -> Tensor:
            return self.temperature**2 * soft_cross_entropy(outputs.logits, q, self.temperature)

        if received:
            params = digest(predict, params, received, public, self.distill, self.target, loss)
        params = fit(predict, params, private, self.local, self.target.loss)
        logits = predict_logits(predict, params, public.x, public.rows)
        return params, Upload({self.target.sent: (logits / self.temperature).softmax(dim=-1)})

    def mini_batches(self, received: Message, private: Batches, public: Public | None) -> int:
        """Public ones once there is a mixture, and private ones."""
        return student_steps(received, public) + private.steps

    def payload_spec(self, task: Task, group: str) -> dict[str, PayloadSpec]:
        """A distribution for each public example of the round."""
        return predictions_spec(task, self.public_size)

    def server_update(
        self, task: Task, server: Server, uploads: Iterable[Received], public: Public | None
    ) -> Server:
        """Keep what was said, and let each client's coefficients take a step."""
        assert public is not None
        received = list(uploads)
        said = torch.stack([one.payload[task.target.sent] for one in received])
        cohort = [one.client for one in received]
        before = server["known"].tolist() if "known" in server else []
        known = sorted({*before, *cohort})
        coefficients = torch.ones(len(known), len(known), dtype=torch.float64, device=said.device)
        old, here = ([known.index(one) for one in some] for some in (before, cohort))
        if old:
            coefficients[_pairs(old)] = server["coefficients"].double()
        coefficients[_pairs(here)] = len(here) * self.stepped(coefficients[_pairs(here)], said)
        return rows_asked(public) | {
            "said": said,
            "cohort": torch.tensor(cohort),
            "known": torch.tensor(known),
            "coefficients": as_sent(coefficients),
        }

    def stepped(self, coefficients: Tensor, said: Tensor) -> Tensor:
        """The coefficients of a cohort after a step, (K, K): each row positive, adding up to 1."""
        c = coefficients / coefficients.sum(dim=1, keepdim=True)
        flat = said.double().flatten(1)
        products = flat @ flat.T / said[0, ..., 0].numel()  # mean_p <p_m, p_k>
        slope = 2 * (c @ products - products) + 2 * self.penalty * (c - 1 / len(c))
        moved = (c - self.step * slope).clamp(min=LEAST)
        return moved / moved.sum(dim=1, keepdim=True)


def _pairs(places: list[int]) -> tuple[Tensor, Tensor]:
    index = torch.tensor(places)
    return index.unsqueeze(1), index.unsqueeze(0)
