"""What examples come in: arrays, tables, data sets of other libraries, files; told by what they do.

No library is imported to recognise its objects: a Hugging Face split has `column_names`, a
DataFrame `dtypes`, a partitioner of Flower `load_partition`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedkd.data.own import items, tables, texts
from kdcore.training.batches import Examples, rows

FILES = (".csv", ".tsv", ".parquet", ".npz", ".txt")
Label = str | Sequence[str] | None
TRAIN, TEST = ("train", "training"), ("test", "testing")
FEATURES = "x", "X", "data", "features", "images", "image"
LABELS = "y", "Y", "target", "labels", "label", "targets"


class Arrays(NamedTuple):
    """Features (N, ...) and labels (N, ...), of any library, and what the labels are called.

    Tokens (N, T + 1) that are to be foretold have no labels beside them: y is None.
    """

    x: Any
    y: Any
    names: tuple[str, ...] = ()


class Contents(NamedTuple):
    """What is in a source, not converted yet: arrays, tables or texts.

    Attributes:
        training: training examples; where there are several, each is of one client.
        test: those of an official test set.
    """

    training: tuple[Any, ...]
    test: tuple[Any, ...] = ()


def is_file(name: str) -> bool:
    """Whether a name is that of a file of examples: `houses.csv`, `data/book.txt`, `a.csv.gz`."""
    return bool(set(FILES) & set(Path(name).suffixes[-2:]))


def contents(source: Any, label: Label = None) -> Contents:
    """What is in a source.

    Args:
        source: see `fedkd.data.own.sources.data`.
        label: the column of labels, where there are columns.

    Raises:
        ValueError: it is none, or cannot be read.
        FileNotFoundError: no such file.
    """
    for fits, read in _KINDS:
        if fits(source):
            return read(source, label)
    raise ValueError(
        f"data of type {type(source).__name__}; expected (x, y), a torch Dataset, a table "
        "(DataFrame, Hugging Face split) or a path"
    )


def _path(source: str | Path, label: Label) -> Contents:
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    if path.suffix == ".npz":
        return _packed(path)
    if path.suffix == ".txt":
        return Contents((texts.read(path),))
    if set(FILES) & set(path.suffixes):
        return Contents((tables.read(path),))
    raise ValueError(
        f"{source}: expected a .csv, .tsv, .parquet, .npz or .txt file, or a folder of pictures by "
        "class"
    )


def _folder(path: Path) -> Contents:
    """A folder for each class, or `train` and `test` with such folders."""
    inside = {one.name: one for one in path.iterdir() if one.is_dir()}
    train = next((inside[name] for name in TRAIN if name in inside), None)
    if train is None:
        return Contents((Arrays(*items.in_folders(path)),))
    test = next((inside[name] for name in TEST if name in inside), None)
    held = () if test is None else (Arrays(*items.in_folders(test)),)
    return Contents((Arrays(*items.in_folders(train)),), held)


def _packed(path: Path) -> Contents:
    """An .npz file with x and y, or x_train, y_train, x_test and y_test."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError) as reason:
        raise ValueError(
            f"{path} cannot be read; expected arrays of numbers or text, as numpy.savez writes "
            "them, and no objects"
        ) from reason
    if {"x_train", "y_train", "x_test", "y_test"} <= set(found):
        train = Arrays(found["x_train"], found["y_train"])
        return Contents((train,), (Arrays(found["x_test"], found["y_test"]),))
    return _mapping(found, None)


def _mapping(source: Mapping[str, Any], label: Label) -> Contents:
    """A dictionary of splits, or of features and labels (as scikit-learn's data sets are)."""
    keys = [str(key) for key in source]
    train = next((name for name in TRAIN if name in keys), None)
    if train is not None:
        test = next((name for name in TEST if name in keys), None)
        held = () if test is None else contents(source[test], label).training
        return Contents(contents(source[train], label).training, held)
    x = next((name for name in FEATURES if name in keys), None)
    y = next((name for name in LABELS if name in keys), None)
    if x is None or y is None:
        raise ValueError(
            f"data with {', '.join(keys)}; expected x and y, or the splits train and test"
        )
    names = source["target_names"] if "target_names" in keys else ()
    return Contents((Arrays(source[x], source[y], tuple(map(str, names))),))


def _split(source: Any, label: Label) -> Contents:
    """A split of Hugging Face: arrays where a column holds pictures or rows of numbers."""
    names = list(source.column_names)
    if label is not None and not isinstance(label, str):  # several columns
        return Contents((_with_texts(source, source.to_pandas()),))
    chosen = label or next((n for n in (*tables.LABEL, "fine_label") if n in names), None)
    first = source[0] if len(source) else {}
    wide = [n for n in names if n != chosen and _is_wide(first.get(n))]
    if not wide:
        return Contents((_with_texts(source, source.to_pandas()),))
    if chosen not in names or len(wide) > 1:
        raise ValueError(
            f"a split with columns {', '.join(names)}: expected a column of labels, say "
            f"label=..., and one of features, and found {', '.join(wide)}"
        )
    x = items.together(source[wide[0]])
    said = tuple(getattr(source.features[chosen], "names", None) or ())
    return Contents((Arrays(x, list(source[chosen]), said),))


def _with_texts(source: Any, table: Any) -> Any:
    """The table, with the names of classes in the place of their numbers."""
    for name, kind in source.features.items():
        said = getattr(kind, "names", None)
        if said:
            table[name] = table[name].map(dict(enumerate(said)))
    return table


def _partitions(source: Any, label: Label) -> Contents:
    """Flower's partitioner, or its data set with one: a client for each partition."""
    dealt = getattr(source, "partitioners", None)
    if dealt is None:
        count, load = source.num_partitions, source.load_partition
    else:
        split = "train" if "train" in dealt else next(iter(dealt))
        load = lambda number: source.load_partition(number, split)  # noqa: E731
        load(0)  # only then it knows what it deals out
        count = dealt[split].num_partitions
    return _several([load(number) for number in range(count)], label)


def _examples(source: Any, label: Label) -> Contents:
    _no_columns(source, label)
    return Contents((Arrays(rows(source.x, source.rows), source.y[source.rows]),))


def _several(source: Any, label: Label) -> Contents:
    """Sources of one client each."""
    found = [contents(one, label) for one in source]
    return Contents(tuple(piece for one in found for piece in one.training))


def _pair(source: Any, label: Label) -> Contents:
    _no_columns(source, label)
    x, y = source
    if not _is_table(x):
        return Contents((Arrays(x, y),))
    if "label" in x.columns:
        raise ValueError("a table with a column 'label', and labels beside it; give one of both")
    return Contents((x.assign(label=np.asarray(y)),))


def _alone(source: Any, label: Label) -> Contents:
    if getattr(source, "ndim", 0) == 2 and _holds_whole(source):
        return Contents((Arrays(source, None),))
    raise ValueError(f"an array of shape {tuple(source.shape)} without labels; give data(x, y)")


def _no_columns(source: Any, label: Label) -> None:
    if label is not None:
        raise ValueError(
            f"label={label!r} is a column of a table, and a {type(source).__name__} has none"
        )


def _items(source: Any, label: Label) -> Contents:
    _no_columns(source, label)
    names = getattr(source, "classes", None)
    said = tuple(names) if isinstance(names, list | tuple) else ()
    return Contents((Arrays(*items.stacked(source), tuple(map(str, said))),))


def _table(source: Any, label: Label) -> Contents:
    return Contents((source,))


def _holds_whole(source: Any) -> bool:
    """Whether an array or a tensor is of whole numbers, as tokens are."""
    plain = not getattr(source, "is_floating_point", bool)() and str(source.dtype) != "torch.bool"
    return plain and getattr(source.dtype, "kind", "i") in "iu"


def _is_wide(value: Any) -> bool:
    """Whether a cell holds more than one number: a picture, or a row of numbers."""
    return hasattr(value, "getbands") or (not isinstance(value, str | bytes) and np.ndim(value) > 0)


def _is_table(source: Any) -> bool:
    return hasattr(source, "dtypes") and hasattr(source, "columns") and hasattr(source, "to_numpy")


def _is_split(source: Any) -> bool:
    return hasattr(source, "column_names") and hasattr(source, "to_pandas")


def _are_several(source: Any) -> bool:
    """Whether a list has a source for each client, rather than an example."""
    if not isinstance(source, list) or not source:
        return False
    first = source[0]
    if isinstance(first, str | Path):
        return all(isinstance(one, str | Path) for one in source)
    pair = isinstance(first, tuple) and len(first) == 2 and np.ndim(first[1]) > 0
    known = _is_table(first) or _is_split(first) or isinstance(first, Examples)
    return known or (pair and len(first[0]) == len(first[1]))


def _can_be_read(source: Any) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


# What a source does -> how it is read; the first that fits.
_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Label], Contents]], ...] = (
    (lambda source: isinstance(source, str | Path), _path),
    (lambda source: isinstance(source, Examples), _examples),
    (_is_table, _table),
    (lambda source: isinstance(source, Mapping), _mapping),
    (_is_split, _split),
    (lambda source: hasattr(source, "load_partition"), _partitions),
    (lambda source: isinstance(source, tuple) and len(source) == 2, _pair),
    (_are_several, _several),
    (lambda source: hasattr(source, "dtype"), _alone),
    (_can_be_read, _items),
)
