"""Data sets by name: `digits` ships with scikit-learn, all others are read from files.

Nothing is ever downloaded. Where files are missing the error says which, where they are looked
for, and how to get them.
"""

import functools
import inspect
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fedkd.data.checks import check_finite, check_targets, integers
from fedkd.data.cifar import cifar10_jpeg
from fedkd.data.files import idx
from fedkd.data.files.cifar import cifar
from fedkd.data.files.emnist import SPLITS, emnist
from fedkd.data.files.plays import shakespeare
from fedkd.data.files.sensors import har
from fedkd.data.files.stl10 import stl10
from fedkd.data.files.svhn import svhn
from fedkd.data.files.tables import abalone, california, films
from fedkd.data.speech import spoken_digits
from fedkd.targets import CLASSES, LABELS, REAL, SEQUENCE, Target
from kdcore.registry import Registry, is_reference, members
from kdcore.training.batches import shape_of

IDX = "put the four idx files there (as torchvision.datasets.{} stores them)"


class Dataset(NamedTuple):
    """Examples and their labels; of the data sets by name, images in [0, 1].

    Shapes:
        x: (N, ...), of images (N, channels, height, width) float32; or a tuple of such tables, for
            networks with several inputs.
        y: (N,) int64; of another target than one class what `fedkd.targets` says of it.
        official: how many of the last rows are the official test set; 0 where there is none.
        domains: (N,) int64, where each example is from, such as its speaker; None if not known.
        foreign: how many of the first rows are of another data set, and can be public alone.
        label_names: what the classes are called; empty if not known.
        notes: what was converted when the data were read, in words.
        standardise: places on the second axis of x (columns, channels) that `federate` brings to
            mean 0 and standard deviation 1, once it is known which examples are trained on.
        name: what the data are called in results.
        target: what an example is answered with (`fedkd.targets`); `num_classes` is how many
            classes, real numbers or labels there are.
        key: (N,) numbers by which the partition `bands` cuts the examples; None for y itself.
    """

    x: Any
    y: Tensor
    num_classes: int
    official: int = 0
    domains: Tensor | None = None
    foreign: int = 0
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    standardise: tuple[int, ...] = ()
    name: str = ""
    target: Target = CLASSES
    key: Tensor | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """The shape of one example; where there are several inputs, a tuple of shapes."""
        return shape_of(self.x)

    @property
    def places(self) -> int:
        """T, where there is a class at each of so many places; else 0."""
        return self.y.shape[1] if self.target.name == "sequence" else 0


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets are kept: as named, else `$KDSIM_DATA`, else `~/.cache/kdsim`; ~ is home."""
    return Path(root or os.environ.get("KDSIM_DATA") or "~/.cache/kdsim").expanduser()


def names() -> tuple[str, ...]:
    """The data sets there are."""
    return tuple(REGISTRY.names())


def load(name: str, root: str | Path | None = None) -> Dataset:
    """The data set of a name, or of two with a plus between them, see `beside`.

    Args:
        name: one of `names()`, or a reference to a loader of one's own (`REGISTRY`); with
            `mnist:5-9` for some of its labels alone; or, as in `fashion-mnist+mnist`, that of
            private and test examples and that of public ones.
        root: the folder of data sets, see `data_root`; `digits` needs none.

    Raises:
        ValueError: there is no such data set; the message names the nearest and lists all.
        ValueError: labels that the data set does not have.
        ValueError: a file is damaged.
        FileNotFoundError: a file is missing; the message says how to get it.
    """
    first, plus, second = name.partition("+")
    if plus:
        return beside(load(first, root), load(second, root), name)
    base, colon, labels = name.rpartition(":")
    if colon and not is_reference(name):
        return of_labels(load(base, root), labels, name)
    loader = REGISTRY.get(name)
    return loader(data_root(root)) if name in _LOADERS else _own(name, loader, data_root(root))


@functools.lru_cache(maxsize=2)
def _own(name: str, loader: Callable[..., Any], root: Path) -> Dataset:
    """What a loader of the user's gives, checked; it is asked once."""
    try:
        found = loader(root) if inspect.signature(loader).parameters else loader()
        return checked(found if isinstance(found, Dataset) else of_pair(*_two(found)))
    except OSError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"data set {name!r}: {type(error).__name__}: {error}") from error


def _two(found: Any) -> tuple[Any, Any]:
    if isinstance(found, (tuple, list)) and len(found) == 2:
        return found[0], found[1]
    raise TypeError(
        f"it gives {type(found).__name__}; expected examples and labels (x, y), or what kdsim.data "
        "gives"
    )


def of_pair(x: Any, y: Any) -> Dataset:
    """A data set of two arrays, examples (N, ...) and labels (N,) from 0 to C - 1."""
    examples, labels = torch.as_tensor(x), integers(torch.as_tensor(y), "labels")
    if examples.is_floating_point():
        examples = examples.to(torch.get_default_dtype())
    return Dataset(examples, labels, int(labels.max()) + 1 if len(labels) else 0)


def checked(data: Dataset) -> Dataset:
    """The data set, with finite examples and labels that are what its target says.

    Of classes these are whole numbers (N,) from 0 to C - 1.

    Raises:
        ValueError: it is not one; the message names the value, what was expected and the way out.
    """
    tables = data.x if isinstance(data.x, tuple) else (data.x,)
    for x in tables:
        if not isinstance(x, Tensor) or not x.ndim or not len(x):
            said = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"{type(x)}"
            raise ValueError(f"a data set needs examples x, a tensor (N, ...), and has {said}")
    y = integers(data.y, "labels") if data.target == CLASSES else _targets(data)
    domains = None if data.domains is None else integers(data.domains, "domains")
    columns = ("labels", y), ("domains", domains), ("inputs", tables[-1]), ("key", data.key)
    for name, values in columns:
        if values is not None and len(values) != len(tables[0]):
            raise ValueError(
                f"{len(values)} {name} for {len(tables[0])} examples; each example needs one"
            )
    check_targets(y, data.target, data.num_classes, data.places)
    if data.key is not None:
        check_finite(data.key, "the key")
    if domains is not None and int(domains.min()) < 0:
        raise ValueError(f"domains must be >= 0, got {int(domains.min())}; renumber them from 0")
    for x in tables:
        check_finite(x)
    return data._replace(y=y, domains=domains)


def _targets(data: Dataset) -> Tensor:
    """Targets that are no classes, as a table: (N, D) real, (N, L) of 0 and 1, (N, T) whole."""
    if not isinstance(data.y, Tensor):
        raise ValueError(f"targets are of {type(data.y)}; expected a tensor (N, ...)")
    y = data.y.unsqueeze(1) if data.y.ndim == 1 else data.y
    if data.target.name == "sequence":
        return y if y.is_floating_point() else y.long()
    return y.to(torch.get_default_dtype())


def of_labels(data: Dataset, labels: str, name: str) -> Dataset:
    """The examples of some labels, as in `5-9`, which are numbered from 0.

    Raises:
        ValueError: no two numbers with a minus between them, or labels that there are not.
    """
    _only_classes(data, name)
    first, _, last = labels.partition("-")
    numbers = first.isdecimal() and last.isdecimal()
    if not numbers or not int(first) < int(last) < data.num_classes:
        raise ValueError(
            f"{name}: labels must be FIRST-LAST, at least two of 0 to {data.num_classes - 1}, such "
            f"as 0-{data.num_classes // 2}, got {labels!r}"
        )
    kept = (data.y >= int(first)) & (data.y <= int(last))
    official = int(kept[len(kept) - data.official :].sum())
    domains = None if data.domains is None else data.domains[kept]
    classes = int(last) - int(first) + 1
    x = tree_map(lambda one: one[kept], data.x)
    return Dataset(x, data.y[kept] - int(first), classes, official, domains)


def beside(data: Dataset, other: Dataset, name: str) -> Dataset:
    """A data set whose public examples are those of another one: related, but of other classes.

    The first C labels are its own, those of the other follow. Of the other there are the examples
    outside its official test set, as the first rows.

    Raises:
        ValueError: examples of different shapes.
    """
    _only_classes(data, name)
    _only_classes(other, name)
    if data.shape != other.shape:
        raise ValueError(
            f"{name}: examples of shape {data.shape} beside others of shape {other.shape}; "
            "take two data sets of one shape, such as mnist and fashion-mnist"
        )
    foreign = len(other.y) - other.official
    x = tree_map(lambda one, its: torch.cat([one[:foreign], its]), other.x, data.x)
    y = torch.cat([other.y[:foreign] + data.num_classes, data.y])
    return Dataset(x, y, data.num_classes + other.num_classes, data.official, foreign=foreign)


def _only_classes(data: Dataset, name: str) -> None:
    if data.target != CLASSES:
        raise ValueError(
            f"{name}: some of the classes are chosen, and each example has {data.target.words}; "
            "name one data set as it is"
        )


@functools.lru_cache(maxsize=1)
def _digits(root: Path) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, from the UCI repository, with scikit-learn."""
    there = find_spec("sklearn")  # its own reader, which gives the same, takes a second to import
    assert there is not None
    assert there.submodule_search_locations
    table = Path(there.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    rows = np.loadtxt(table, delimiter=",")
    x = torch.tensor(rows[:, :-1] / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return Dataset(x, torch.tensor(rows[:, -1], dtype=torch.long), 10)


@functools.lru_cache(maxsize=2)
def _idx(folder: str, root: Path) -> Dataset:
    """60,000 training and 10,000 test images of 28 x 28 pixels; the test set comes last."""
    where = root if (root / folder).is_dir() or not (root / "torchvision").is_dir() else None
    raw = (where or root / "torchvision") / folder / "raw"
    how = IDX.format(folder)
    images = [
        idx.read(raw / f"{part}-images-idx3-ubyte", 3, folder, how) for part in ("train", "t10k")
    ]
    labels = [
        idx.read(raw / f"{part}-labels-idx1-ubyte", 1, folder, how) for part in ("train", "t10k")
    ]
    for shown, named in zip(images, labels, strict=True):
        if shown.shape != (len(named), 28, 28) or named.max(initial=0) > 9:
            raise ValueError(
                f"{raw}: images of shape {shown.shape} and {len(named)} labels up to "
                f"{named.max(initial=0)} do not fit together; fetch the files again"
            )
    x = torch.from_numpy(np.concatenate(images)).unsqueeze(1).float() / 255
    return Dataset(x, torch.from_numpy(np.concatenate(labels)).long(), 10, official=len(labels[1]))


@functools.lru_cache(maxsize=1)
def _fsdd(root: Path) -> Dataset:
    """3,000 spoken digits by six speakers as pictures of 16 x 16; the test set comes last."""
    x, y, speaker, test = spoken_digits(root)
    return Dataset(x, y, 10, test, speaker)


@functools.lru_cache(maxsize=1)
def _cifar(root: Path) -> Dataset:
    """50,000 training and 10,000 test photographs of 32 x 32 pixels; the test set comes last."""
    x, y, test = cifar10_jpeg(root)
    return Dataset(x, y, 10, test)


@functools.lru_cache(maxsize=1)
def _with_official(
    read: Callable[[Path], tuple[Tensor, Tensor, int]], classes: int, root: Path
) -> Dataset:
    """Data in files of their authors, with an official test set that comes last."""
    x, y, test = read(root)
    return Dataset(x, y, classes, test)


@functools.lru_cache(maxsize=1)
def _har(root: Path) -> Dataset:
    """10,299 windows of sensors; each person is a domain, and there is no official test set."""
    x, y, person = har(root)
    return Dataset(x, y, 6, domains=person)


@functools.lru_cache(maxsize=2)
def _regression(
    read: Callable[[Path], tuple[Tensor, Tensor, Tensor]], measured: tuple[int, ...], root: Path
) -> Dataset:
    """A table whose last column is a real target, with the number that `bands` cuts by."""
    x, y, key = read(root)
    return Dataset(x, y, 1, standardise=measured, target=REAL, key=key)


@functools.lru_cache(maxsize=1)
def _films(root: Path) -> Dataset:
    """2,269 films by who rated them, each with several genres; `bands` are of their years."""
    x, y, year, names = films(root)
    return Dataset(x, y, len(names), label_names=names, target=LABELS, key=year)


@functools.lru_cache(maxsize=1)
def _shakespeare(root: Path) -> Dataset:
    """Text of ten speakers, who are its domains, and of others who can be public or tested on."""
    found = shakespeare(root)
    return Dataset(
        *(found.tokens[:, :-1], found.tokens[:, 1:], len(found.alphabet), found.test),
        domains=found.speaker,
        foreign=found.public,
        label_names=found.alphabet,
        target=SEQUENCE,
    )


def _of_files(
    read: Callable[[Path], tuple[Tensor, Tensor, int]], classes: int
) -> Callable[[Path], Dataset]:
    return functools.partial(_with_official, read, classes)


_LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "digits": _digits,
    "mnist": functools.partial(_idx, "MNIST"),
    "fsdd": _fsdd,
    "fashion-mnist": functools.partial(_idx, "FashionMNIST"),
    "cifar10-jpeg": _cifar,
    "cifar10": _of_files(functools.partial(cifar, 10), 10),
    "cifar100": _of_files(functools.partial(cifar, 100), 100),
    "svhn": _of_files(svhn, 10),
    "stl10": _of_files(stl10, 10),
    **{
        f"emnist-{split}": _of_files(functools.partial(emnist, split), classes)
        for split, classes in SPLITS.items()
    },
    "har": _har,
    "california": functools.partial(_regression, california, tuple(range(8))),
    "abalone": functools.partial(_regression, abalone, tuple(range(3, 10))),
    "movielens": _films,
    "shakespeare": _shakespeare,
}

REGISTRY: Registry[Callable[..., Any]] = Registry(
    "data set",
    members(_LOADERS),
    "kdsim.datasets",
    expected="a function of the data root, a Path, or of nothing, that gives a Dataset or (x, y)",
)
"""Loaders: functions of the data root, a `Path`, or of nothing, that give a `Dataset` or (x, y).

x is (N, ...), y (N,) with labels from 0 on: tensors, or arrays of NumPy. A loader gives the same
each time; it is asked once in a process.
"""
