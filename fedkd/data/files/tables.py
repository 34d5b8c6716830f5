"""Tables of their authors, as downloaded: California housing, Abalone, MovieLens's films."""

import csv
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedkd.data.files.places import needed

FOLDER = "regression"
FEWEST = 10  # ratings of a film that is an example
FILMS = "ml-latest-small"
UNKNOWN = "(no genres listed)"
YEAR = re.compile(r"\((\d{4})\)\s*$")

CALIFORNIA = "california_housing.csv.gz", "cal_housing.data"
CALIFORNIA_HOW = (
    "unpack cal_housing.data of https://www.dcc.fc.up.pt/~ltorgo/Regression/cal_housing.tgz there"
)
ABALONE = "abalone.csv", "abalone.data"
ABALONE_HOW = "unpack abalone.data of https://archive.ics.uci.edu/dataset/1 there"
FILMS_HOW = (
    "unpack ml-latest-small.zip of https://files.grouplens.org/datasets/movielens/ in the folder "
    "ranking"
)


def california(root: Path) -> tuple[Tensor, Tensor, Tensor]:
    """20,640 blocks of houses in California: what the median house costs, of the census of 1990.

    Kelley Pace, Ronald Barry. "Sparse Spatial Autoregressions". Statistics & Probability Letters
    1997. https://doi.org/10.1016/S0167-7152(96)00140-X. Columns are as in the file: longitude,
    latitude, median age, rooms, bedrooms, people, households, median income; those of scikit-learn
    are shares of the same.

    Args:
        root: the folder of data sets, with the file in its folder `regression`.

    Returns:
        x (N, 8), y (N, 1) in 100,000 dollars, and the latitude (N,).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged.
    """
    path = _first(root, CALIFORNIA, "california", CALIFORNIA_HOW)
    rows = (row for row in _rows(path) if row[0] != "longitude")
    table = _numbers(path, rows, 9)
    return table[:, :8].float(), table[:, 8:].float() / 1e5, table[:, 1]


def abalone(root: Path) -> tuple[Tensor, Tensor, Tensor]:
    """4,177 abalones: how many rings a shell has, which is its age, from its measures.

    Warwick Nash and others. "The Population Biology of Abalone in Tasmania". 1994.
    https://archive.ics.uci.edu/dataset/1

    Args:
        root: the folder of data sets, with the file in its folder `regression`.

    Returns:
        x (N, 10), of which the first three say male, female or infant, the next length, diameter,
        height, and whole, shucked, viscera and shell weight; y (N, 1), rings; the length (N,).

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged.
    """
    path = _first(root, ABALONE, "abalone", ABALONE_HOW)
    kinds = {kind: [str(int(kind == one)) for one in "MFI"] for kind in "MFI"}
    table = _numbers(path, (kinds.get(row[0], []) + row[1:] for row in _rows(path)), 11)
    return table[:, :10].float(), table[:, 10:].float(), table[:, 3]


def films(root: Path) -> tuple[Tensor, Tensor, Tensor, tuple[str, ...]]:
    """2,269 films of MovieLens: which genres a film has, from who rated it, and how.

    Maxwell Harper, Joseph Konstan. "The MovieLens Datasets: History and Context". ACM Transactions
    on Interactive Intelligent Systems 2015. https://doi.org/10.1145/2827872. Of the small set of
    2018 the films with ten ratings or more, a year in the title and a genre.

    Args:
        root: the folder of data sets, with `ml-latest-small` in its folder `ranking`.

    Returns:
        x (N, 610), what each user gave of five stars as a share, 0 where there is no rating; y (N,
        L) of 0 and 1; the year (N,); and the L genres in the order of the alphabet.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is damaged.
    """
    paths = [root / "ranking" / FILMS / f"{name}.csv" for name in ("movies", "ratings")]
    listed, rated = [needed(path, "movielens", FILMS_HOW) for path in paths]
    ratings = _numbers(rated, (row for row in _rows(rated) if row[0] != "userId"), 4)
    numbers, film, counts = ratings[:, 1].unique(return_inverse=True, return_counts=True)
    often = {int(n): place for place, n in enumerate(numbers) if counts[place] >= FEWEST}
    known = {}
    for number, title, genres in _of_width(listed, 3):
        said = YEAR.search(title)
        if number.isdecimal() and int(number) in often and said and genres != UNKNOWN:
            known[often[int(number)]] = int(said[1]), genres.split("|")
    names = tuple(sorted({genre for _, several in known.values() for genre in several}))
    users, user = ratings[:, 0].unique(return_inverse=True)
    stars = torch.zeros(len(numbers), len(users))
    stars[film, user] = ratings[:, 2].float() / 5
    y = torch.tensor([[float(name in several) for name in names] for _, several in known.values()])
    years = torch.tensor([year for year, _ in known.values()])
    return stars[list(known)], y, years, names


def _first(root: Path, names: Sequence[str], data: str, how: str) -> Path:
    """The file of the first name that there is; where there is none, the last one is missed."""
    paths = [root / FOLDER / name for name in names]
    return next((path for path in paths if path.is_file()), None) or needed(paths[-1], data, how)


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows of a file of commas, packed or not; empty lines are none.

    Raises:
        ValueError: it is no such file.
    """
    opened: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            yield from filter(None, csv.reader(file))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as reason:
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from reason


def _of_width(path: Path, width: int) -> Iterator[list[str]]:
    """The rows, each of so many columns."""
    for row in _rows(path):
        if len(row) != width:
            raise ValueError(f"{path} is damaged (a row {row}); expected {width} columns")
        yield row


def _numbers(path: Path, rows: Iterator[list[str]], width: int) -> Tensor:
    """(N, width) float64."""
    try:
        table = np.array(list(rows), dtype=np.float64)
    except ValueError as reason:
        raise ValueError(f"{path} is damaged ({reason}); fetch it again") from reason
    if table.ndim != 2 or table.shape[1] != width:
        raise ValueError(f"{path} is damaged; expected rows of {width} numbers, got {table.shape}")
    return torch.from_numpy(table)
