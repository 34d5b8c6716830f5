"""How likely an input is among a client's own examples, of what an encoder sees of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.components.features import each_once
from fedkd.core import as_sent
from fedkd.encoders.encoder import Encoder
from fedkd.messages import Message, Transform
from kdcore.training.batches import leading
from kdcore.training.loop import Batches, Params, Predict, predict_logits

LEAST = 1e-8  # added to a score, so that where nobody is certain all count alike
STEPS = 20  # of Newton's method, far more than it takes


@dataclass(frozen=True)
class Certainty:
    """What tells a client's own examples from public ones that are set apart: the last ones.

    Attributes:
        encoder: by what an input is seen.
        share: of the public examples, how many are set apart.
        strength: of the regression's penalty.
    """

    encoder: Encoder
    share: float
    strength: float

    def asked(self, x: Any) -> Tensor:
        """The rows of public examples (P, ...) that are not set apart: one at least."""
        total = len(leading(x))
        apart = min(total - 1, max(1, round(self.share * total)))
        return torch.arange(total - apart, device=leading(x).device)

    def deviation(self, x: Any, multiplier: float) -> float:
        """Of the noise on `regression`, of so many times what one private example moves it by."""
        apart = len(leading(x)) - len(self.asked(x))
        return multiplier * 2 / (apart * self.strength)

    def regression(self, predict: Predict, params: Params, private: Batches, x: Any) -> Tensor:
        """The client's half, (D + 1,): `regression` of its own examples against those apart."""
        rows, radius = self._seen(predict, params, x)
        shown = self.encoder.shown(predict)
        own = predict_logits(shown, params, private.x, each_once(private))
        others = rows[len(self.asked(x)) :]
        w = regression(in_ball(own, radius), private.records[1], others, self.strength)
        return as_sent(w)

    def scores(self, predict: Predict, params: Params, x: Any, w: Tensor) -> Tensor:
        """The server's half, (P, 1): the chance that examples `asked` are the client's, over 0."""
        rows, _ = self._seen(predict, params, x)
        return (rows[: len(self.asked(x))] @ w.unsqueeze(1)).double().sigmoid() + LEAST

    def _seen(self, predict: Predict, params: Params, x: Any) -> tuple[Tensor, Tensor]:
        """Public examples as rows of a ball, and its radius before, by the longest of them."""
        everything = torch.arange(len(leading(x)), device=leading(x).device)
        seen = predict_logits(self.encoder.shown(predict), params, x, everything)
        radius = torch.linalg.vector_norm(seen, dim=-1).max()
        return in_ball(seen, radius), radius


def in_ball(seen: Tensor, radius: Tensor) -> Tensor:
    """Rows of a norm of 1 at most, the last number the same in each: (N, D) -> (N, D + 1).

    What is longer than the radius is cut to it, so that no row, of whomever, is out of the ball.
    """
    lengths = torch.linalg.vector_norm(seen, dim=-1, keepdim=True)
    inside = seen / torch.maximum(lengths, radius).clamp(min=torch.finfo(seen.dtype).tiny)
    return torch.cat([inside, torch.ones_like(lengths)], dim=-1) / 2**0.5


def regression(own: Tensor, there: Tensor, others: Tensor, strength: float) -> Tensor:
    r"""Logistic regression of a client's own rows against others, in float64, by Newton's method.

        \min_w strength/2 |w|^2 + 1/n \sum_i log(1 + exp(-t_i w x_i)),   t = 1 of own rows, else -1

    Kamalika Chaudhuri, Claire Monteleoni, Anand Sarwate. "Differentially Private Empirical Risk
    Minimization". JMLR 2011. https://jmlr.org/papers/v12/chaudhuri11a.html: of rows x in the unit
    ball, one that is replaced moves w by 2 / (n strength) at most. All of w is shrunk, so that this
    holds of all of it; the last number of `in_ball` is what takes the place of an intercept.

    Shapes:
        own: (M, D), of which count those that are `there`, (M,); others: (Q, D); gives (D,).
    """
    x = torch.cat([own, others]).double()
    signs = torch.cat([torch.ones_like(own[:, 0]), -torch.ones_like(others[:, 0])]).double()
    counts = torch.cat([there.to(x.dtype), torch.ones_like(others[:, 0]).double()])
    shares = counts / counts.sum()
    ridge = strength * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    w = x.new_zeros(x.shape[1])
    for _ in range(STEPS):
        wrong = (-signs * (x @ w)).sigmoid()
        slope = strength * w - (shares * signs * wrong) @ x
        curvature = (x.mT * (shares * wrong * (1 - wrong))) @ x + ridge
        w = w - torch.linalg.solve(curvature, slope.unsqueeze(-1)).squeeze(-1)
    return w


def noisy(key: str, deviation: str) -> Callable[[Message], Transform]:
    """Gaussian noise on what is sent under a key, of the deviation that the broadcast names."""

    def given_broadcast(broadcast: Message) -> Transform:
        size = float(broadcast[deviation]) if deviation in broadcast else 0.0

        def encode(message: Message, generator: torch.Generator) -> Message:
            if key not in message:
                return message
            value = message[key]
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            return message | {key: (value.double() + size * drawn).to(value.dtype)}

        return Transform(encode)

    return given_broadcast
