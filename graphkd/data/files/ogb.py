"""ogbn-arxiv from its raw files, without the ogb package.

Hu, Fey, Zitnik, Dong, Ren, Liu, Catasta and Leskovec, "Open Graph Benchmark: Datasets for Machine
Learning on Graphs", NeurIPS 2020, https://arxiv.org/abs/2005.00687. 169,343 papers with 128
features and 40 classes, 1,166,243 citations (as published, not counted here), made undirected.
"""

from pathlib import Path

import numpy as np
import torch

from graphkd.graph import Graph
from graphkd.ops.edges import simple

CLASSES = 40
FILES = ("edge.csv.gz", "node-feat.csv.gz", "node-label.csv.gz")
SOURCE = "http://snap.stanford.edu/ogb/data/nodeproppred/arxiv.zip"


def arxiv(root: Path) -> Graph:
    """The graph from `root`/ogb/ogbn_arxiv/raw/{edge,node-feat,node-label}.csv.gz.

    That is where the ogb package puts them if its own root is `root`/ogb. Reading takes some
    seconds. The official split by year is not read: the protocols draw their own.

    Raises:
        FileNotFoundError: a file is missing; the message names all three and where they are from.
        ValueError: the files do not fit together.
    """
    raw = root / "ogb" / "ogbn_arxiv" / "raw"
    missing = [file for file in FILES if not (raw / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"ogbn-arxiv: no file {raw / missing[0]}; expected {', '.join(FILES)} in that folder, "
            f"from the folder raw of {SOURCE}; or name another data root (--data-root or "
            "KDSIM_DATA), or take sbm-170k, a drawn graph of that size, which needs no files"
        )
    edges, x, y = (_read(raw / file) for file in FILES)
    n = len(x)
    y = y.long().flatten()
    if len(y) != n or edges.shape[1] != 2 or not 0 <= edges.min() <= edges.max() < n:
        raise ValueError(
            f"ogbn-arxiv in {raw} has {n} rows of features, {len(y)} labels and edges of shape "
            f"{tuple(edges.shape)} to node {int(edges.max())}: the files are not of one release"
        )
    return Graph(x.float(), simple(edges.long().T, n), y, CLASSES, "ogbn-arxiv")


def _read(path: Path) -> torch.Tensor:
    kind = np.float32 if path.name.startswith("node-feat") else np.int64
    return torch.from_numpy(np.loadtxt(path, dtype=kind, delimiter=",", ndmin=2))
