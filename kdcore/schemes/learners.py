"""Who learns: a network with its parameters, and ways to change what it sees or how it computes."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from kdcore.outputs import Outputs
from kdcore.training.stacked import Params, Predict, changed, weights


class Learner(NamedTuple):
    """A network and its parameters: `predict(params, x)` are its `Outputs`."""

    predict: Predict
    params: Params

    def __call__(self, x: Any) -> Outputs:
        """What it says of x, without gradient."""
        with torch.no_grad():
            return self.predict(self.params, x)


Learners = Mapping[str, Learner]


def seeing(predict: Predict, view: int) -> Predict:
    """The network, looking at one view of examples that have several: x is a tuple of tensors.

    A modality, a privileged view and a noised copy of the input are all views.
    """

    def looking(form: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, x: form(params, x[view])

    return changed(predict, looking)


def quantised(predict: Predict, bits: int) -> Predict:
    r"""The network with weights of few bits, and gradients as if they were not rounded.

    Matthieu Courbariaux, Yoshua Bengio, Jean-Pierre David. "BinaryConnect: Training Deep Neural
    Networks with binary weights during propagations". NeurIPS 2015.
    https://arxiv.org/abs/1511.00363; the straight-through gradient: Bengio, Leonard, Courville,
    2013, https://arxiv.org/abs/1308.3432.

        w' = s round(w / s),   s = max|w| / (2^{bits - 1} - 1),   dw'/dw = 1

    Convention: one symmetric scale s for each matrix or kernel, with 0 among its 2^bits - 1 values;
    vectors (biases, scales of norms) keep their precision.

    Raises:
        ValueError: bits < 2.
    """
    if bits < 2:
        raise ValueError(f"bits is {bits}; weights with a sign and a zero need at least 2")
    largest = 2 ** (bits - 1) - 1

    def rounded(weight: Tensor) -> Tensor:
        if weight.ndim < 2:
            return weight
        scale = (weight.detach().abs().amax() / largest).clamp(min=1e-12)
        error: Tensor = scale * (weight / scale).round() - weight
        return weight + error.detach()

    def rounding(form: Callable[..., Any]) -> Callable[..., Any]:
        def of_rounded(params: Params, x: Any) -> Any:
            return form(params | {n: rounded(w) for n, w in weights(params).items()}, x)

        return of_rounded

    return changed(predict, rounding)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * upstream[0], None


def gradient_reversed(x: Tensor, strength: float = 1.0) -> Tensor:
    r"""The same values, with a gradient of the opposite sign: what comes before is an adversary.

    Yaroslav Ganin, Victor Lempitsky. "Unsupervised Domain Adaptation by Backpropagation". ICML
    2015. https://arxiv.org/abs/1409.7495

        forward x,   backward -strength dL/dx

    Shapes:
        x: any; gives the same.
    """
    reverse: Tensor = _Reversed.apply(x, strength)
    return reverse


def fingerprint(learner: Learner, x: Any) -> str:
    """A hash of a learner's weights and of the data it is asked about: a key for what it said.

    Two networks that compute differently with the same weights have the same fingerprint; keep what
    they say apart.
    """
    digest = hashlib.sha256()
    for tree in (dict(sorted(learner.params.items())), x):
        leaves, shape = tree_flatten(tree)
        digest.update(str(shape).encode())
        for leaf in leaves:
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
