"""Tables with named columns: which is the label, and numbers of all others."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcore.registry import nearest

if TYPE_CHECKING:
    import pandas as pd

LABEL = "label", "labels", "y", "target", "class"  # columns that are taken for it, in this order
MOST_KINDS = 50  # more values of a text column would be names, or free text
MISSING = "(missing)"


class Columns(NamedTuple):
    """What the columns of a table are for.

    Attributes:
        label: which one is predicted, or which ones; None for the first of `LABEL` that there is.
        features: which are looked at; None for all that are left.
        client: which one says whose row it is; None for none.
        by: which one has the number by which rows are dealt out; None for none. It is a feature.
    """

    label: str | Sequence[str] | None = None
    features: Sequence[str] | None = None
    client: str | None = None
    by: str | None = None

    @property
    def labels(self) -> list[str]:
        """The columns that are predicted, where they are named."""
        return [self.label] if isinstance(self.label, str) else list(self.label or ())


class Numbers(NamedTuple):
    """A table as numbers.

    Attributes:
        x: (N, F) features, float.
        y: (N,) labels, as they are in the table; (N, L) where several columns are predicted.
        clients: (N,) whose each row is, as in the table; None where that is not said.
        measured: which features are measurements, and not the coding of a text.
        labels: the names of the columns in y.
        key: (N,) what rows are dealt out by, as in the table; None where that is not said.
    """

    x: Tensor
    y: Any
    clients: Any
    measured: tuple[int, ...]
    labels: tuple[str, ...]
    key: Any = None


def read(path: Path) -> "pd.DataFrame":
    """The table in a .csv, .tsv (packed or not) or .parquet file.

    Raises:
        ValueError: it cannot be read, or is of parquet and pyarrow is not installed.
    """
    import pandas as pd

    try:
        if ".parquet" in path.suffixes:
            return pd.read_parquet(path)
        tabs = ".tsv" in path.suffixes
        return pd.read_csv(path, sep="\t" if tabs else ",", encoding="utf-8-sig")
    except ImportError:
        raise ValueError(
            f"{path}: parquet is read by pyarrow; install it (pip install pyarrow), or write .csv"
        ) from None
    except (ValueError, OSError) as reason:  # a parser's errors are ValueErrors
        said = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        raise ValueError(f"{path} is no table that can be read ({said})") from reason


def numbers(table: "pd.DataFrame", columns: Columns, notes: list[str]) -> Numbers:
    """A table as numbers: measurements as they are, text one-hot, True as 1.

    Text that is missing is a kind of its own, and noted. Which kinds there are is read off all
    rows. A measurement that is missing is refused: what to put there is not for us to say.

    Args:
        table: the table.
        columns: what its columns are for.
        notes: gets a line for each column that was coded.

    Raises:
        ValueError: no such column, or one that cannot be a feature; the message names it.
    """
    table = table.rename(columns=str)
    labels, features = _named(table, columns)
    blocks: list[Tensor] = []
    measured: list[int] = []
    for name in features:
        block = _column(table[name], name, notes)
        if block.ndim == 1:
            measured.append(sum(one.shape[1] for one in blocks))
            block = block.unsqueeze(1)
        blocks.append(block)
    if not blocks:
        raise ValueError(f"the table has no column beside {labels[0]!r} to predict it from")
    whose = None if columns.client is None else table[columns.client].to_numpy()
    x = torch.cat(blocks, dim=1).to(torch.get_default_dtype())
    key = None if columns.by is None else table[columns.by].to_numpy()
    y = table[labels].to_numpy() if len(labels) > 1 else table[labels[0]].to_numpy()
    return Numbers(x, y, whose, tuple(measured), tuple(labels), key)


def _named(table: "pd.DataFrame", columns: Columns) -> tuple[list[str], list[str]]:
    """The column of labels, and those of features."""
    there = list(table.columns)
    if len(set(there)) < len(there):
        twice = next(name for name in there if there.count(name) > 1)
        raise ValueError(f"the table has two columns {twice!r}; rename one")
    labels = columns.labels or [name for name in LABEL if name in there][:1]
    if not labels:
        raise ValueError(f"which column is the label? Say label=...; there are {', '.join(there)}")
    used = labels if columns.client is None else [*labels, columns.client]
    features = [name for name in there if name not in used]
    if columns.features is not None:
        features = [str(name) for name in columns.features]
    for name in [*used, *features, *([columns.by] if columns.by else [])]:
        if name not in there:
            raise ValueError(
                f"no column {name!r}; {nearest(name, there)}there are {', '.join(there)}"
            )
        if name in used and name in features:
            raise ValueError(f"column {name!r} is no feature: it is the label, or whose a row is")
    return labels, features


def _column(values: "pd.Series[Any]", name: str, notes: list[str]) -> Tensor:
    """(N,) of a measurement, (N, kinds) of text."""
    from pandas.api import types

    missing = int(values.isna().sum())
    if types.is_bool_dtype(values.dtype) or types.is_numeric_dtype(values.dtype):
        if missing:
            first = int(np.flatnonzero(values.isna())[0])
            raise ValueError(
                f"column {name!r}: {missing} values are missing, first row {first}; fill them "
                "(df.fillna) or drop such rows (df.dropna) first"
            )
        return torch.from_numpy(values.to_numpy(np.float64, copy=True))
    if _is_text(values):
        return _one_hot(values, name, missing, notes)
    raise ValueError(
        f"column {name!r} is {values.dtype}, which is neither numbers nor text alone; convert it, "
        "or leave it out with features=[...]"
    )


def _is_text(values: "pd.Series[Any]") -> bool:
    held = values.dropna()
    return all(isinstance(value, str | bool) for value in held) or values.dtype == "category"


def _one_hot(values: "pd.Series[Any]", name: str, missing: int, notes: list[str]) -> Tensor:
    texts = values.astype(object).where(values.notna(), MISSING).map(str)
    kinds = sorted(set(texts))
    if len(kinds) > MOST_KINDS:
        raise ValueError(
            f"column {name!r} is text of {len(kinds)} different values, over {MOST_KINDS}; code it "
            "yourself, or leave it out: kdsim.data(..., features=[...]), on the command line in a "
            "function that data names, as mine.py:load"
        )
    lost = f", {missing} missing, which are a kind of their own" if missing else ""
    notes.append(f"column {name} is text: one-hot, {len(kinds)} kinds{lost}")
    places = np.searchsorted(np.array(kinds), texts.to_numpy(str))
    return torch.nn.functional.one_hot(torch.from_numpy(places), len(kinds)).double()
