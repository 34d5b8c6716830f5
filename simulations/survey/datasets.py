"""What recipes are made with: data sets by name, small networks, scores.

Data are read whole, nothing is downloaded, and nothing here draws a random number that it was not
given a generator for.
"""

import csv
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedkd.data import datasets
from fedkd.data.datasets import data_root
from graphkd.data import datasets as graphs
from kdcore import metrics
from kdcore.registry import Registry, members
from kdcore.rng import generator
from kdcore.schemes.stages import UNLABELLED
from kdcore.training.batches import Examples


class Table(NamedTuple):
    """Rows of numbers and a real target. Shapes: x (N, D); y (N,)."""

    x: Tensor
    y: Tensor


class Views(NamedTuple):
    """The same examples seen in several ways. Shapes: each of x (N, D_v); y (N,)."""

    x: tuple[Tensor, ...]
    y: Tensor


class Citations(NamedTuple):
    """A graph. Shapes: x (N, D); edge_index (2, E), both ways; y (N,), of so many classes."""

    x: Tensor
    edge_index: Tensor
    y: Tensor
    classes: int


class Ratings(NamedTuple):
    """Who rated what, in the order of time. Shapes: users, items (R,), numbered from 0."""

    users: Tensor
    items: Tensor


def load(name: str, root: str | Path | None = None) -> Any:
    """The data of a name: what recipes alone need, and all else as `fedkd.data.datasets` has it.

    A name may be there twice, as shakespeare: recipes want the text, clients want examples of it.

    Several names joined by "+" give a tuple.

    Raises:
        ValueError: the name is not known.
        FileNotFoundError: a file is missing; the message says which, where and how to get it.
    """
    if "+" in name:
        return tuple(load(one, root) for one in name.split("+"))
    return REGISTRY.get(name)(data_root(root))


def _diabetes(root: Path) -> Table:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return Table(torch.tensor(x), torch.tensor(y))


def _shakespeare(root: Path) -> str:
    path = _file(root, "text/tinyshakespeare/input.txt", "github.com/karpathy/char-rnn")
    return path.read_text(encoding="utf-8")


def _movielens(root: Path) -> Ratings:
    place = "grouplens.org/datasets/movielens (ml-latest-small)"
    path = _file(root, "ranking/ml-latest-small/ratings.csv", place)
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["timestamp"]))
    numbers = [torch.tensor([int(row[key]) for row in rows]) for key in ("userId", "movieId")]
    users, items = (n.unique(return_inverse=True)[1] for n in numbers)
    return Ratings(users, items)


def _citations(root: Path) -> Citations:
    cora = graphs.load("cora", root)
    return Citations(cora.x, cora.edge_index, cora.y, cora.classes)


def _views(root: Path) -> Views:
    from scipy.io import loadmat

    place = "archive.ics.uci.edu/dataset/72/multiple+features"
    found = loadmat(_file(root, "multiview/handwritten.mat", place))
    x = tuple(torch.tensor(view, dtype=torch.float32) for view in found["X"].ravel())
    return Views(x, torch.tensor(found["Y"].ravel()).long() - 1)


@functools.cache
def small_mnist(root: Path | None = None) -> datasets.Dataset:
    """MNIST as large as the digits of UCI: its middle 20 x 20 pixels, where digits are, at 8 x 8.

    Shapes: x (N, 1, 8, 8), means over areas.
    """
    found = datasets.load("mnist", root)
    middle = found.x[:, :, 4:24, 4:24]
    return found._replace(x=torch.nn.functional.interpolate(middle, size=(8, 8), mode="area"))


LOADERS: dict[str, Callable[[Path], Any]] = {
    "diabetes": _diabetes,
    "shakespeare": _shakespeare,
    "movielens": _movielens,
    "views": _views,
    "citations": _citations,
    "mnist-8x8": small_mnist,
    "none": lambda root: None,
}

REGISTRY: Registry[Callable[[Path], Any]] = Registry(
    "data set",
    members({name: functools.partial(datasets.load, name) for name in datasets.names()} | LOADERS),
    "kdsim.recipe_data",
    expected="a function of the data root, a Path, that gives what the recipe measures on",
)
"""Loaders: functions of the data root, a `Path`, that give what a recipe's `measure` is given."""


def _file(root: Path, name: str, place: str) -> Path:
    path = root / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} is not in {root}; get it from {place}, or name the folder of data with "
            "--data-root or $KDSIM_DATA"
        )
    return path


def split(count: int, sizes: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Disjoint rows of a table of `count`: so many each, and at last all that are left.

    Raises:
        ValueError: more are asked for than there are, or fewer than none.
    """
    if min(sizes) < 0 or sum(sizes) > count:
        raise ValueError(
            f"{' + '.join(map(str, sizes))} examples are asked for, of {count}; each number has to "
            "be at least 0, and all together at most what there is"
        )
    order = torch.randperm(count, generator=generator(seed, "split"))
    return torch.split(order, [*sizes, count - sum(sizes)])


def labelled(x: Tensor, y: Tensor, rows: Tensor) -> Examples:
    """Examples with their labels; the rows are copied out of the table."""
    return Examples(x[rows], y[rows], torch.arange(len(rows)))


def unlabelled(x: Any) -> Examples:
    """Examples without labels; x is (N, ...), or a tuple of views."""
    count = len(x[0] if isinstance(x, tuple) else x)
    return Examples(x, torch.full((count,), UNLABELLED), torch.arange(count))


def moved(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to so many pixels down or up, and right or left; dark comes in.

    Shapes:
        images: (N, channels, height, width); gives the same.
    """
    count, _, height, width = images.shape
    framed = torch.nn.functional.pad(images, (reach,) * 4)
    down, right = torch.randint(2 * reach + 1, (2, count), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    which = torch.arange(count)[:, None, None]
    return framed.movedim(1, -1)[which, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def share_right(logits: Tensor, y: Tensor) -> float:
    """`kdcore.metrics.accuracy` of a network that has not diverged.

    Raises:
        ArithmeticError: it has: a logit is no number.
    """
    if logits.isnan().any():
        raise ArithmeticError("training diverged: a prediction is no number; lower a learning rate")
    return metrics.accuracy(logits, y)
