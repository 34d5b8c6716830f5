"""DP-SGD of many clients in a stack: against Opacus, and against a plain loop without privacy.

    python -m benchmarks.private_training

All take the same Poisson batches of the same records, one thread, in turn; what is compared is CPU
time for each client and step. Opacus and the plain loop have their modules ready; ours begins with
the parameters of each client, and ends with them.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional as F  # noqa: N812

from benchmarks import plain
from benchmarks.harness import compare, machine
from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.models import build
from kdcore.rng import generator
from kdcore.training.loop import (
    Batches,
    Clipping,
    Examples,
    Params,
    Predict,
    TrainingConfig,
    draw,
    fit,
    supervised,
)

RECORDS, CLASSES, SHAPE = 100, 10, (1, 8, 8)
TRAINING = TrainingConfig(epochs=2, batch_size=20, privacy=Clipping(1.0, 1.0))


class Workload(NamedTuple):
    """Clients of one architecture: our name of it, and the module of the others."""

    clients: int
    model: str
    module: Callable[[], nn.Module]


WORKLOADS = (
    Workload(100, "mlp-64", partial(plain.mlp, 64, 64, CLASSES)),
    Workload(20, "cnn", partial(plain.cnn, CLASSES, (16, 32), 8)),
)


def update(predict: Predict, params: Params, private: Batches) -> Params:
    """A client's training."""
    return fit(predict, params, private, TRAINING, supervised)


def by_opacus(module: nn.Module, batches: Batches) -> Callable[[], None]:
    """A client of Opacus, with its hooks in place, that goes through its batches."""
    assert TRAINING.privacy is not None
    private = GradSampleModule(module, loss_reduction="sum")  # type: ignore[no-untyped-call]
    optimizer = DPOptimizer(
        torch.optim.SGD(private.parameters(), lr=TRAINING.learning_rate),
        noise_multiplier=TRAINING.privacy.noise,
        max_grad_norm=TRAINING.privacy.norm,
        expected_batch_size=TRAINING.batch_size,
    )

    def train() -> None:
        for order, mask in zip(batches.order, batches.mask, strict=True):
            rows = order[mask]
            optimizer.zero_grad()
            F.cross_entropy(private(batches.x[rows]), batches.y[rows], reduction="sum").backward()
            optimizer.step()

    return train


def without_privacy(module: nn.Module, batches: Batches) -> Callable[[], None]:
    """A plain loop over the same batches, neither clipped nor noisy."""
    optimizer = torch.optim.SGD(module.parameters(), lr=TRAINING.learning_rate)

    def train() -> None:
        for order, mask in zip(batches.order, batches.mask, strict=True):
            rows = order[mask]
            optimizer.zero_grad()
            F.cross_entropy(module(batches.x[rows]), batches.y[rows]).backward()
            optimizer.step()

    return train


def measure(work: Workload, repeats: int) -> None:
    """Two lines: how many times quicker than the others, and microseconds of each."""
    stream, total = generator(0, "data"), work.clients * RECORDS
    x = torch.rand(total, *SHAPE, generator=stream)
    y = torch.randint(CLASSES, (total,), generator=stream)
    model = build(work.model, SHAPE, CLASSES)
    task = Task({"model": model}, CLASSES)
    clients = [
        Client(k, "model", model.init(generator(0, "init", k)), Examples(x, y, rows))
        for k, rows in enumerate(torch.arange(total).split(RECORDS))
    ]
    drawn = [draw(c.private, TRAINING, generator(0, "draw", c.id)) for c in clients]
    steps, engine = sum(batches.steps for batches in drawn), batched()

    def ours() -> object:
        return engine(update, task, clients, [(batches,) for batches in drawn])

    for name, one in (("Opacus", by_opacus), ("no privacy", without_privacy)):
        theirs = [one(work.module(), batches) for batches in drawn]
        found = compare(lambda: [go() for go in theirs], ours, repeats).cpu  # noqa: B023
        micro = 1e6 / steps
        print(
            f"{work.clients:4d} x {work.model:8s} against {name:10s} {found.median:5.1f}x "
            f"[{found.low:.1f} to {found.high:.1f}]   "
            f"{found.slow * micro:6.0f} us against {found.fast * micro:6.0f} us"
        )


def main() -> None:
    """Both workloads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of hooks, which Opacus asks for
    warnings.filterwarnings("ignore", category=UserWarning)
    print(machine())
    for work in WORKLOADS:
        measure(work, given.repeats)


if __name__ == "__main__":
    main()
