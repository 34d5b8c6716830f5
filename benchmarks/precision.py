"""A training step in float32 against one in bfloat16, in CPU time."""

import argparse
from collections.abc import Callable

import torch

from benchmarks.harness import compare, machine
from fedkd.models import build
from kdcore.rng import generator
from kdcore.training.batches import Examples, draw
from kdcore.training.loop import TrainingConfig, fit, supervised
from kdcore.training.mixed_precision import Precision, in_precision

NETWORKS = {
    "cnn-48-112": (1, 28, 28),
    "cnn-16-32": (1, 28, 28),
    "resnet8": (3, 32, 32),
    "lenet": (1, 28, 28),
}
STEPS = 8
TRAINING = TrainingConfig("sgd", 0.05, epochs=1, batch_size=32)


def epoch(name: str, shape: tuple[int, ...], precision: Precision) -> Callable[[], object]:
    """Eight steps of a network on noise."""
    model, draws = build(name, shape, 10), generator(0, "noise")
    count = STEPS * TRAINING.batch_size
    x, y = torch.rand(count, *shape, generator=draws), torch.arange(count) % 10
    batches = draw(Examples(x, y, torch.arange(count)), TRAINING, draws)
    params, predict = model.init(draws), in_precision(model.predict, precision)
    return lambda: fit(predict, params, batches, TRAINING, supervised)


def main() -> None:
    """Time both in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    for name, shape in NETWORKS.items():
        full, half = epoch(name, shape, "float32"), epoch(name, shape, "bfloat16")
        found = compare(full, half, options.repeats).cpu
        print(
            f"  {name:11s} float32 / bfloat16  {found.median:.2f}x "
            f"[{found.low:.2f} to {found.high:.2f}], {1e3 * found.slow / STEPS:.1f} ms a step in "
            "float32",
            flush=True,
        )


if __name__ == "__main__":
    main()
