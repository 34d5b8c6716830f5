"""Graphs of the Open Graph Benchmark from their raw files, without the ogb package.

Hu, Fey, Zitnik, Dong, Ren, Liu, Catasta and Leskovec, "Open Graph Benchmark: Datasets for Machine
Learning on Graphs", NeurIPS 2020, https://arxiv.org/abs/2005.00687. 169,343 papers with 128
features and 40 classes, 1,166,243 citations; 2,449,029 products with 100 features and 47 classes,
61,859,140 pairs bought together (as published, not counted here), all made undirected.
"""

from pathlib import Path

import numpy as np
import torch

from graphkd.graph import Graph
from graphkd.ops.edges import simple

CLASSES = {"ogbn-arxiv": 40, "ogbn-products": 47}
FILES = ("edge.csv.gz", "node-feat.csv.gz", "node-label.csv.gz")
SOURCE = "http://snap.stanford.edu/ogb/data/nodeproppred/"


def names() -> list[str]:
    """The names of the graphs."""
    return sorted(CLASSES)


def load(name: str, root: Path) -> Graph:
    """The graph from, say, `root`/ogb/ogbn_arxiv/raw/{edge,node-feat,node-label}.csv.gz.

    That is where the ogb package puts them if its own root is `root`/ogb. Reading takes some
    seconds, of products some minutes. The official splits are not read: the protocols draw theirs.

    Raises:
        FileNotFoundError: a file is missing; the message names all three and where they are from.
        ValueError: the files do not fit together.
    """
    raw = root / "ogb" / name.replace("-", "_") / "raw"
    missing = [file for file in FILES if not (raw / file).is_file()]
    if missing:
        source = f"{SOURCE}{name.removeprefix('ogbn-')}.zip"
        raise FileNotFoundError(
            f"{name}: no file {raw / missing[0]}; expected {', '.join(FILES)} in that folder, from "
            f"the folder raw of {source}; or name another data root (--data-root, KDSIM_DATA), or "
            "take sbm-170k, a drawn graph, which needs no files"
        )
    edges, x, y = (_read(raw / file) for file in FILES)
    n = len(x)
    y = y.long().flatten()
    if len(y) != n or edges.shape[1] != 2 or not 0 <= edges.min() <= edges.max() < n:
        raise ValueError(
            f"{name} in {raw} has {n} rows of features, {len(y)} labels and edges of shape "
            f"{tuple(edges.shape)} to node {int(edges.max())}: the files are not of one release"
        )
    return Graph(x.float(), simple(edges.long().T, n), y, CLASSES[name], name)


def _read(path: Path) -> torch.Tensor:
    kind = np.float32 if path.name.startswith("node-feat") else np.int64
    return torch.from_numpy(np.loadtxt(path, dtype=kind, delimiter=",", ndmin=2))
