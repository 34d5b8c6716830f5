"""Co-Boosting: made inputs that are hard, and an ensemble weighed by them, better each other."""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from fedkd.algorithms.dense import DENSE
from fedkd.components.data_free.ensemble import AT_ONCE, Ensemble
from kdcore.losses.logarithms import divergence
from kdcore.losses.response import cross_entropy
from kdcore.settings import Setting
from kdcore.training.batches import Examples, draw, rows
from kdcore.training.loop import Params, Predict

SOFT = 4.0  # temperature of the direction in which inputs are made harder
NEWS = 3.0  # temperature at which ensemble and student are held apart


@dataclass(frozen=True)
class CoBoosting(DENSE):
    """Data and ensemble co-boosting.

    Rong Dai, Yonggang Zhang, Ang Li, Tongliang Liu, Xun Yang, Bo Han. "Enhancing One-Shot Federated
    Learning through Data and Ensemble Co-Boosting". ICLR 2024. https://arxiv.org/abs/2402.15070

    As in DENSE, but for three things. The teacher is D(x) = sum_k w_k f_k(x) / sum_k w_k, at first
    w_k = 1/K. G makes inputs of which D is not sure: with p = softmax(D(x))_y, a constant, it
    minimises
        mean (1 - p)^hardness CE(y, D(x)) - adversarial mean 9 KL(D / 3 || f / 3).
    From the second turn on, for each mini-batch of what was made before,
        w <- clip(w - (boost / K) decay^turn sign(grad_w CE(y, D(x))), 0, 1).
    And f sees x + (nudge / 255) sign(grad_x u softmax(D(x) / 4)), u uniform in (-1, 1)^C, drawn
    anew each time.
    Up: all parameters, 4 W bytes. Down: as many, once, when the round is over.

    Conventions: after the authors' code, whose values are the defaults of what is set below; it
    takes a step of 0.01 for ten clients, here 0.1 / K as the paper has it, and clips gradients at a
    norm of 10, lets f's learning rate fall along a cosine and its weights decay by 0.0001, which
    is not done here. Its pixels are from -1 to 1 where they are nudged, so that 4 here is its 8. It
    takes 200 turns of 128 inputs. What differs of DENSE's training of G
    and f differs here as well. There are no statistics in G's objective by default (`statistics`).
    With `inputs` "noise" an input's label, by which w is learnt, is what D takes it for.
    """

    statistics: Annotated[float, Setting("weight of batch normalisation's", ge=0)] = 0.0
    temperature: Annotated[float, Setting("T, of distillation", gt=0)] = 4.0
    hardness: Annotated[float, Setting("by how much unsure inputs count for more", ge=0)] = 1.0
    boost: Annotated[float, Setting("K times a step of the ensemble's weights", ge=0)] = 0.1
    decay: Annotated[float, Setting("of these steps, in a turn", ge=0, le=1)] = 0.99
    nudge: Annotated[float, Setting("by which inputs are made harder, in 1/255", ge=0)] = 8.0

    def objective(
        self, ensemble: Ensemble, predict: Predict, student: Params, x: Tensor, y: Tensor
    ) -> Tensor:
        """What makes inputs: of their labels, though not surely, and new to f."""
        said, unlike = ensemble(x)
        now = predict(student, x).logits
        new = NEWS**2 * divergence(
            (said / NEWS).log_softmax(dim=-1), (now / NEWS).log_softmax(dim=-1)
        )
        sure = said.detach().softmax(dim=-1).gather(1, y.unsqueeze(1)).squeeze(1)
        hard = (1 - sure).pow(self.hardness) * cross_entropy(said, y)
        return hard.mean() + self.statistics * unlike - self.adversarial * new.mean()

    def reweighted(
        self, ensemble: Ensemble, before: Examples, turn: int, dice: torch.Generator
    ) -> Ensemble:
        """Weights moved towards what makes the ensemble right, mini-batch by mini-batch."""
        size = self.boost / len(ensemble.members) * self.decay**turn
        for index in draw(before, replace(self.distill, epochs=1), dice).examples():
            x, y = rows(before.x, index), before.y[index]
            weights = ensemble.weights.detach().requires_grad_()
            with torch.enable_grad():
                loss = cross_entropy(ensemble._replace(weights=weights).mean(x), y).mean()
            (slope,) = torch.autograd.grad(loss, weights)
            moved = (weights.detach() - size * slope.sign()).clamp(0, 1)
            ensemble = ensemble._replace(weights=moved.where(moved.any(), weights.detach()))
        return ensemble

    def studied(
        self, ensemble: Ensemble, x: Tensor, said: Tensor, dice: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Inputs moved a little in a direction in which the ensemble changes its mind."""
        x = torch.cat([self._harder(ensemble, part, dice) for part in x.split(AT_ONCE)])
        return x, ensemble.logits(x)

    def _harder(self, ensemble: Ensemble, x: Tensor, dice: torch.Generator) -> Tensor:
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            p = (ensemble.mean(x) / SOFT).softmax(dim=-1)
        direction = 2 * torch.rand(p.shape, generator=dice).to(p) - 1
        (slope,) = torch.autograd.grad((direction * p).sum(), x)
        return x.detach() + self.nudge / 255 * slope.sign()
