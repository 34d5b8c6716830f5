"""One door for data of one's own: from whatever holds examples and labels to a `Dataset`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedkd.data.datasets import Dataset, checked
from fedkd.data.own import arrays
from fedkd.data.own.arrays import as_array, in_order
from fedkd.data.own.containers import Arrays, contents
from fedkd.data.own.tables import Columns, numbers
from fedkd.data.own.targets import next_tokens, number, values
from fedkd.data.own.texts import LENGTH, Text, windows


def data(
    source: Any,
    y: Any = None,
    *,
    label: str | Sequence[str] | None = None,
    target: str | None = None,
    classes: int | None = None,
    features: Sequence[str] | None = None,
    client: str | None = None,
    by: Any = None,
    length: int = LENGTH,
    test: Any = None,
    standardise: bool | None = None,
    name: str = "own",
) -> Dataset:
    """A data set of one's own, checked; each conversion is named in its `notes`.

        data(x, y)                                    # arrays or tensors; x may be several: (a, b)
        data(torchvision_set, test=its_test_set)      # any torch Dataset of (features, label)
        data("patients.csv", label="risk", client="hospital")
        data(load_dataset("mnist"))                   # a Hugging Face split, or train and test
        data([fds.load_partition(k) for k in range(10)])  # a client each, of any of these sources
        data("pictures/")                             # CLASS/PICTURE, or train/... and test/...
        data("houses.csv", label="price", by="latitude")         # a real target
        data("films.csv", label="genres", target="labels")       # several: Comedy|Drama
        data("book.txt")                              # the next character; or tokens (N, T + 1)

    Also a DataFrame, .parquet, .tsv, an .npz with x and y (or x_train, y_train, x_test, y_test) and
    scikit-learn's dictionaries. Columns of text are coded one-hot, text labels numbered, bytes
    divided by 255. Nothing is filled in, dropped or drawn.

    Args:
        source: where examples are.
        y: labels (N,), where `source` is x alone.
        label: of a table, the column to predict, or the columns; by default one called label, y,
            target or class.
        target: what is to be learnt: "class", "real", "labels" (several at once) or "sequence" (a
            class at each place); by default what the values plainly are
            (`fedkd.data.own.targets.values`).
        classes: C, where not every class, or token, has an example.
        features: of a table, the columns to look at; by default all others.
        client: of a table, the column that says whose a row is: the partition `natural`.
        by: numbers by which the partition `bands` cuts, one for each example, test ones last; of a
            table, their column; by default a real target itself.
        length: of texts, how many characters an example has.
        test: an official test set, in a source of the same kind; it is never trained on.
        standardise: whether features get mean 0 and standard deviation 1 over the private examples,
            once these are drawn (`fedkd.data.standardise`), never over test rows. Of tables by
            default, where it leaves columns that were text alone.
        name: what the data are called in results.

    Raises:
        ValueError: not data that could be learnt from as they are; one line names the value, what
            was expected and the way out.
        FileNotFoundError: there is no such file.
    """
    found = contents(source if y is None else (source, y), label)
    held = found.test if test is None else contents(test, label).training
    notes: list[str] = []
    pieces = _as_arrays([*found.training, *held], length, notes)
    what = What(target, classes)
    if isinstance(pieces[0], Arrays):
        _no_columns(features, client)
        made = _of_arrays(pieces, what, notes)
    else:
        column = by if isinstance(by, str) else None
        made = _of_tables(pieces, Columns(label, features, client, column), what, notes)
    if by is not None and made.key is None:
        made = made._replace(key=number(by, len(made.y), "by"))
    sizes = [_size(piece) for piece in pieces]
    official = sum(sizes[len(found.training) :])
    domains = made.domains
    if domains is None and len(found.training) > 1:
        domains = _places(sizes, len(found.training))
        notes.append(f"{len(found.training)} sources, each a client of the partition natural")
    columns = _standardised(made, standardise)
    return checked(
        made._replace(
            official=official,
            domains=domains,
            notes=tuple(dict.fromkeys(notes)),
            standardise=columns,
            name=name,
        )
    )


def _no_columns(features: Any, client: Any) -> None:
    if features is not None or client is not None:
        named = "features" if features is not None else "client"
        raise ValueError(f"{named} names columns, and these data have none; give a table")


class What(NamedTuple):
    """What is said of what is to be learnt: the name of a target, and how many classes."""

    target: str | None
    classes: int | None


def _as_arrays(pieces: list[Any], length: int, notes: list[str]) -> list[Any]:
    """Arrays or tables: texts as tokens, and tokens without labels as inputs and targets."""
    if len({type(piece) in (Arrays, Text) and type(piece) for piece in pieces}) > 1:
        raise ValueError("a table and arrays: give training and test examples in the same form")
    names: tuple[str, ...] = ()
    if isinstance(pieces[0], Text):
        tokens, names = windows(pieces, length)
        pieces = [Arrays(one, None) for one in tokens]
        notes.append(f"text as {len(names)} different characters, {length} to an example")
    if not isinstance(pieces[0], Arrays) or all(one.y is not None for one in pieces):
        return pieces
    pairs = [next_tokens(torch.as_tensor(one.x)) for one in pieces]
    notes.append("each token is to be foretold from those before it")
    return [Arrays(x, y, names) for x, y in pairs]


def _size(piece: Any) -> int:
    return len(piece.y if isinstance(piece, Arrays) else piece)


def _of_arrays(pieces: Sequence[Arrays], what: What, notes: list[str]) -> Dataset:
    shown = [arrays.features(piece.x, notes) for piece in pieces]
    tables = [one if isinstance(one, tuple) else (one,) for one in shown]
    shapes = {tuple(tuple(part.shape[1:]) for part in one) for one in tables}
    if len(shapes) > 1:
        raise ValueError(
            f"examples of shapes {' and '.join(map(str, sorted(shapes)))} in one data set"
        )
    joined = tuple(torch.cat(parts) for parts in zip(*tables, strict=True))
    y = np.concatenate([as_array(piece.y, "labels") for piece in pieces])
    names = max((piece.names for piece in pieces), key=len)
    count = max(what.classes or 0, len(names)) or None
    found = values(y, len(joined[0]), what.target, count, notes)
    x = joined if isinstance(shown[0], tuple) else joined[0]
    known = found.names or names
    return Dataset(x, found.y, found.many, label_names=known, target=found.target)


def _of_tables(pieces: Sequence[Any], columns: Columns, what: What, notes: list[str]) -> Dataset:
    import pandas as pd

    table = pieces[0] if len(pieces) == 1 else pd.concat(pieces, ignore_index=True)
    if not len(table):
        raise ValueError("the table has no rows")
    found = numbers(table, columns, notes)
    said = values(found.y, len(table), what.target, what.classes, notes, found.labels)
    key = None if found.key is None else number(found.key, len(table), f"column {columns.by!r}")
    domains = None if found.clients is None else _domains(found.clients, str(columns.client), notes)
    made = Dataset(found.x, said.y, said.many, domains=domains, label_names=said.names)
    return made._replace(standardise=found.measured, target=said.target, key=key)


def _domains(values: Any, column: str, notes: list[str]) -> Tensor:
    """Whose each row is, numbered in order."""
    texts = [str(value) for value in values if value is not None and value == value]
    if len(texts) < len(values):
        raise ValueError(
            f"column {column!r} does not say whose {len(values) - len(texts)} rows are"
        )
    places = {text: place for place, text in enumerate(in_order(set(texts)))}
    notes.append(f"column {column} says whose a row is: {len(places)} domains")
    return torch.tensor([places[text] for text in texts])


def _places(sizes: Sequence[int], count: int) -> Tensor:
    """The place of each row's source; test rows are of nobody's, a domain of their own."""
    places = torch.arange(len(sizes)).clamp(max=count)
    return places.repeat_interleave(torch.tensor(sizes))


def _standardised(made: Dataset, wanted: bool | None) -> tuple[int, ...]:
    """Which columns are to be standardised: of tables those measured, of arrays all or none."""
    if wanted is None or made.standardise:
        return made.standardise if wanted is not False else ()
    if not wanted:
        return ()
    if isinstance(made.x, tuple) or not made.x.is_floating_point():
        raise ValueError("standardise is for one table of measurements, and not for whole numbers")
    return tuple(range(made.x.shape[1]))
