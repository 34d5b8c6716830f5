"""Modules as they should not be, or as few people write them, for images of any size."""

import math
import random
import threading
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Plain(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.classes = classes
        self.body, self.head = nn.Linear(math.prod(shape), 6), nn.Linear(6, classes)

    def features(self, x):
        return torch.tanh(self.body(x.flatten(1)))

    def forward(self, x):
        return self.head(self.features(x))


# --- what works -----------------------------------------------------------------------------------


class InPlace(Plain):
    """It writes into its inputs, which all clients share."""

    def forward(self, x):
        return super().forward(x.mul_(2).sub_(1))


class Listed(Plain):
    """A list that begins with its logits."""

    def forward(self, x):
        return [super().forward(x), None]


class Double(Plain):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.double()


class Half(Plain):
    """Half precision throughout, with statistics."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.norm = nn.BatchNorm1d(6)
        self.bfloat16()

    def features(self, x):
        return self.norm(super().features(x))


class Hooked(Plain):
    """Hooks before, behind and in the way back."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.body.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        self.body.register_forward_hook(lambda module, args, output: output + 1)
        self.head.weight.register_hook(lambda gradient: gradient)


class Remembering(Plain):
    """It keeps its last activations as an attribute, with their graph."""

    def features(self, x):
        self.last = super().features(x)
        return self.last


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, shape, classes):
        super().__init__()
        width = math.prod(shape)
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.two.weight = self.one.weight
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.two(torch.tanh(self.one(x.flatten(1)))))


class Spectral(Plain):
    """A weight that is computed, from a buffer that moves."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.body = nn.utils.parametrizations.spectral_norm(self.body)
        self.head = nn.utils.parametrizations.weight_norm(self.head)


class Hidden(Plain):
    """Buffers that a state_dict leaves out; one that moves and one that does not."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("nothing", None)

    def forward(self, x):
        if self.training:
            self.calls += 1
        return super().forward(x)


class Optimised(Plain):
    """It holds an optimiser of its own."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.optimiser = torch.optim.SGD(self.parameters(), 0.1)


class Sparse(nn.Module):
    """Embeddings with sparse gradients, of pixels as five shades."""

    def __init__(self, shape, classes):
        super().__init__()
        self.shades = nn.Embedding(5, 3, sparse=True)
        self.head = nn.Linear(math.prod(shape) * 3, classes)

    def forward(self, x):
        return self.head(self.shades((x.flatten(1) * 4).long()).flatten(1))


class Chances(Plain):
    """Noise from NumPy's and Python's global streams, in its values and as it learns."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.scale = nn.Parameter(torch.tensor(np.random.rand(6)).float() + random.random())

    def features(self, x):
        found = super().features(x) * self.scale
        if self.training:
            found = found + 0.1 * np.random.rand()
        return found


class Branching(Plain):
    """What it does depends on the numbers that it sees."""

    def features(self, x):
        return super().features(x) if float(x.mean()) > 0.4 else super().features(x) * 0.5


class Talking(Plain):
    def forward(self, x):
        print("forward", tuple(x.shape))
        return super().forward(x)


class Auxiliary(Plain):
    """Two heads as it learns, and one as it predicts."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.other = nn.Linear(6, classes)

    def forward(self, x):
        features = self.features(x)
        return (self.head(features), self.other(features)) if self.training else self.head(features)


def compiled(shape, classes):
    return torch.compile(Plain(shape, classes), backend="eager")


def parallel(shape, classes):
    return nn.DataParallel(Plain(shape, classes))


def of_nothing():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))


unnamed = lambda classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))  # noqa: E731

instance = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))

WORKS = [InPlace, Listed, Double, Half, Hooked, Remembering, Tied, Spectral, Hidden, Optimised,
         Sparse, Chances, Branching, Talking, Auxiliary, compiled, parallel,
         of_nothing]  # fmt: skip
WORKS = {make.__name__: make for make in WORKS} | {"unnamed": unnamed, "instance": instance}


# --- what is refused ------------------------------------------------------------------------------


class GivesNothing(Plain):
    def forward(self, x):
        super().forward(x)


class GivesNames(Plain):
    def forward(self, x):
        return {"prediction": super().forward(x)}


class FewerClasses(Plain):
    def __init__(self, shape, classes):
        super().__init__(shape, classes - 1)


class MoreAxes(Plain):
    def forward(self, x):
        return super().forward(x).unsqueeze(-1)


class AnyShape(Plain):
    """As many logits as a stream of its own says."""

    dice = np.random.default_rng()

    def forward(self, x):
        return super().forward(x).repeat(1, int(self.dice.integers(1, 1000)))


class Anything(Plain):
    """Values from a stream that nobody seeds."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.scale = nn.Parameter(torch.tensor(np.random.default_rng().random(6)).float())


class AsksForMore(Plain):
    def forward(self, x, *, mask):
        return super().forward(x * mask)


class Complex(Plain):
    def forward(self, x):
        return super().forward(x).to(torch.complex64)


class ComplexWeights(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(math.prod(shape), classes, dtype=torch.complex64))

    def forward(self, x):
        return (x.flatten(1).to(torch.complex64) @ self.weight).abs()


class Decided(Plain):
    """It says which class, not how likely each is."""

    def forward(self, x):
        return F.one_hot(super().forward(x).argmax(1), self.classes)


class Detached(Plain):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class NoNumber(Plain):
    def forward(self, x):
        return super().forward(x) / 0 * 0


class Locked(Plain):
    """It cannot be copied."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.lock = threading.Lock()


class Late(Plain):
    """A layer that is made by the first forward."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.late = None

    def features(self, x):
        if self.late is None:
            self.late = nn.Linear(6, 6)
        return self.late(super().features(x))


class Renormed(Plain):
    """It bounds its weights where they are."""

    def features(self, x):
        self.body.weight.data = torch.renorm(self.body.weight.data, 2, 0, 0.1)
        return super().features(x)


class FixedBatch(Plain):
    def forward(self, x):
        return super().forward(x.reshape(4, *x.shape[1:]))


class Endless(Plain):
    def forward(self, x):
        return self.forward(x)


class Quits(Plain):
    def __init__(self, shape, classes):
        raise SystemExit(3)


class OldNorm(Plain):
    """Its weight is an attribute that is computed, which torch cannot copy."""

    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        with warnings.catch_warnings(action="ignore"):
            self.body = nn.utils.weight_norm(self.body)


REFUSED = {
    GivesNothing: "its forward gives a NoneType; expected logits",
    GivesNames: "its forward gives a dict; expected logits",
    FewerClasses: r"it gives \d+ logits for each example, and there are \d+ classes",
    MoreAxes: r"it gives 1 logits for each example, and there are \d+ classes",
    AnyShape: "the same seed give it other logits the second time",
    Anything: "with the same seed scale begins with other values the second time",
    AsksForMore: r"cannot be trained .* TypeError: .*'mask'",
    Complex: "its logits are complex64; expected real numbers",
    ComplexWeights: "weight is complex64, and what is trained and averaged are real numbers",
    Decided: "its logits are int64; expected real numbers",
    Detached: "its logits have no gradient",
    NoNumber: r"its logits are no numbers \(NaN\)",
    Locked: r"it cannot be copied .*TypeError: cannot pickle '_thread.lock' object",
    Late: "its forward makes late.weight when it first runs",
    Renormed: r"its forward changes its own weights \(body.weight\)",
    FixedBatch: "it cannot predict one example .*RuntimeError: shape",
    Endless: "RecursionError",
    Quits: "it cannot be made .*SystemExit: 3",
    OldNorm: "it cannot be copied",
}
