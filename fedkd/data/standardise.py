"""Features of mean 0 and standard deviation 1, by those examples alone that are trained on."""

import torch
from torch import Tensor

from fedkd.data.datasets import Dataset


def standardised(data: Dataset, rows: Tensor) -> Dataset:
    """The data with the columns of `Dataset.standardise` as (x - mean) / deviation.

    Mean and deviation (the root of the mean square, no N - 1) are of the given rows, and serve for
    all. Of pictures a column is a channel, and both are over all its pixels. A column that is the
    same in all given rows is only centred.

    Args:
        data: the data set.
        rows: those that are trained on, private examples of all clients.
    """
    places = torch.tensor(data.standardise, dtype=torch.long)
    if not len(places):
        return data
    seen = data.x[rows][:, places].double()
    axes = [axis for axis in range(seen.ndim) if axis != 1]
    mean = seen.mean(dim=axes, keepdim=True)
    deviation = (seen - mean).square().mean(dim=axes, keepdim=True).sqrt()
    flat = deviation <= 1e-12 * mean.abs()  # but for rounding, all the same
    x = data.x.clone()
    found = (x[:, places].double() - mean) / torch.where(flat, 1.0, deviation)
    x[:, places] = found.to(x.dtype)
    return data._replace(x=x, standardise=(), notes=(*data.notes, _said(len(places), len(rows))))


def _said(columns: int, rows: int) -> str:
    which = "1 column has" if columns == 1 else f"{columns} columns have"
    return f"{which} mean 0 and standard deviation 1 over the {rows} private examples"
