"""Graphs by name: two that need no files, and real ones through PyG's classes.

| name | nodes | edges | features | classes | source |
|---|---|---|---|---|---|
| digits-knn | 1,797 | 6,309 | 64 | 10 | scikit-learn's digits, 5 nearest neighbours |
| sbm-170k | 170,000 | 1,200,000 | 128 | 40 | drawn by `graphkd.data.synthetic.blocks` |
| cora | 2,708 | 5,278 | 1,433 | 7 | `Planetoid` |
| citeseer | 3,327 | 4,552 | 3,703 | 6 | `Planetoid` |
| amazon-computers | 13,752 | 245,861 | 767 | 10 | `Amazon` |
| amazon-photo | 7,650 | 119,081 | 745 | 8 | `Amazon` |
| pubmed | 19,717 | 44,324 | 500 | 3 | `Planetoid`, sizes as published |
| coauthor-cs | 18,333 | 81,894 | 6,805 | 15 | `Coauthor`, sizes as published |
| coauthor-physics | 34,493 | 247,962 | 8,415 | 5 | `Coauthor`, sizes as published |
| citation-dblp | 17,716 | 52,867 | 1,639 | 4 | `CitationFull` |
| citation-cora, -cora-ml, -citeseer, -pubmed | | | | | `CitationFull` |
| imdb | 11,605 | 17,096 | 3,065 | 3 | `IMDB`: movies, directors and actors; labels of movies |
| dblp | | | | 4 | `DBLP`: authors, papers, terms and conferences; labels of authors |
| ogbn-arxiv | 169,343 | 1.16 million | 128 | 40 | `graphkd.data.files.ogb`, sizes as published |
| ogbn-products | 2,449,029 | 61.9 million | 100 | 47 | the same |

Edges are undirected and counted once. Sen et al., "Collective Classification in Network Data", AI
Magazine 2008, https://doi.org/10.1609/aimag.v29i3.2157 (Cora, CiteSeer, in the files of Yang et
al., ICML 2016, https://arxiv.org/abs/1603.08861); Shchur et al., "Pitfalls of Graph Neural Network
Evaluation", 2018, https://arxiv.org/abs/1811.05868 (Amazon, Coauthor); Bojchevski and Günnemann,
"Deep Gaussian Embedding of Graphs", ICLR 2018, https://arxiv.org/abs/1707.03815 (CitationFull); Fu
et al., "MAGNN", WWW 2020, https://arxiv.org/abs/2002.01680 (IMDB, DBLP, with a split of their own).

The protocols (`graphkd.data.splits`) keep the largest connected component. For Cora and the Amazon
graphs that has exactly CPF's counts; for CiteSeer it has 2,120 nodes where CPF's file gives 2,110.
"""

import contextlib
import importlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from graphkd.data import synthetic
from graphkd.data.files import ogb
from graphkd.graph import Graph
from graphkd.ops.edges import simple
from kdcore.registry import unknown
from kdcore.rng import generator

NEIGHBOURS = 5

_PLANETOID = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
# name -> the PyG class, its name for the data set, and the raw files it reads
_MAGNN = tuple(["adjM.npz", "features_0.npz", "features_1.npz", "labels.npy", "node_types.npy"])
_MAGNN = (*_MAGNN, "train_val_test_idx.npz")
_STORED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cora": ("Planetoid", "Cora", tuple(f"ind.cora.{part}" for part in _PLANETOID)),
    "citeseer": ("Planetoid", "CiteSeer", tuple(f"ind.citeseer.{part}" for part in _PLANETOID)),
    "amazon-computers": ("Amazon", "Computers", ("amazon_electronics_computers.npz",)),
    "amazon-photo": ("Amazon", "Photo", ("amazon_electronics_photo.npz",)),
    "pubmed": ("Planetoid", "PubMed", tuple(f"ind.pubmed.{part}" for part in _PLANETOID)),
    "coauthor-cs": ("Coauthor", "CS", ("ms_academic_cs.npz",)),
    "coauthor-physics": ("Coauthor", "Physics", ("ms_academic_phy.npz",)),
    "citation-cora": ("CitationFull", "cora", ("cora.npz",)),
    "citation-cora-ml": ("CitationFull", "cora_ml", ("cora_ml.npz",)),
    "citation-citeseer": ("CitationFull", "citeseer", ("citeseer.npz",)),
    "citation-dblp": ("CitationFull", "dblp", ("dblp.npz",)),
    "citation-pubmed": ("CitationFull", "pubmed", ("pubmed.npz",)),
    "imdb": ("IMDB", "", (*_MAGNN, "features_2.npz")),
    "dblp": ("DBLP", "", (*_MAGNN, "features_2.npy")),
}


def names() -> list[str]:
    """The names of all data sets."""
    return sorted(["digits-knn", "sbm-170k", *ogb.names(), *_STORED])


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets are kept: as named, else `$KDSIM_DATA`, else `~/.cache/kdsim`; ~ is home."""
    return Path(root or os.environ.get("KDSIM_DATA") or "~/.cache/kdsim").expanduser()


def load(name: str, root: str | Path | None = None, download: bool = False) -> Graph:
    """The graph of this name; nothing is downloaded unless asked for.

    Args:
        name: one of `names()`.
        root: where data sets are kept, see `data_root`, laid out as `pyg/Planetoid/Cora/raw/...`.
            It may be read-only.
        download: fetch missing raw files with PyG's own loader and keep them in `root`.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: a raw file is missing, or could not be downloaded.
    """
    if name == "digits-knn":
        return _digits()
    if name == "sbm-170k":
        return synthetic.blocks(name=name)
    if name in ogb.names():
        return ogb.load(name, data_root(root))
    if name not in _STORED:
        raise unknown("data set", name, names())
    kind, title, files = _STORED[name]
    raw = data_root(root) / "pyg" / kind / title / "raw"
    missing = [file for file in files if not (raw / file).is_file()]
    if missing and download:
        _download(name, kind, title, raw)
    elif missing:
        raise FileNotFoundError(
            f"{name}: no file {raw / missing[0]}; put PyG's raw files there, name another data "
            "root (--data-root or KDSIM_DATA), ask for a download, or take digits-knn, which needs "
            "no files"
        )
    return _read(name, kind, title, raw, files)


def fake(classes: int = 3, size: int = 60, seed: int = 0) -> Graph:
    """A small random graph to try things on: a stochastic block model with noisy features.

    Holland, Laskey and Leinhardt, "Stochastic blockmodels: First steps", Social Networks 1983,
    https://doi.org/10.1016/0378-8733(83)90021-7. Two nodes are joined with probability 0.15 within
    a class and 0.01 between classes; features are the class, one-hot, and noise of deviation 1.

    Args:
        classes: C.
        size: nodes per class.
        seed: of the draw.
    """
    draw = generator(seed, "fake graph")
    y = torch.arange(classes).repeat_interleave(size)
    chance = torch.where(y[:, None] == y, 0.15, 0.01)
    joined = torch.rand(chance.shape, generator=draw).triu(1) > 1 - chance.triu(1)
    x = torch.eye(classes).repeat(1, 4)[y]
    x = x + torch.randn(x.shape, generator=draw)
    return Graph(x, simple(joined.nonzero().T, len(y)), y, classes, "fake")


def _reader(kind: str) -> Callable[..., Any]:
    """PyG's class of this name; late, since PyG takes longer to import than torch."""
    return getattr(importlib.import_module("torch_geometric.datasets"), kind)  # type: ignore[no-any-return]


def _read(name: str, kind: str, title: str, raw: Path, files: tuple[str, ...]) -> Graph:
    # PyG writes what it has processed beside the raw files, so it gets links to them in a folder
    # of its own; processing again takes under a second, and no two runs share a half-written file.
    with tempfile.TemporaryDirectory(prefix="kdsim-") as folder:
        linked = Path(folder) / title / "raw"
        linked.mkdir(parents=True)
        for file in files:
            (linked / file).symlink_to((raw / file).resolve())
        with contextlib.redirect_stderr(io.StringIO()):  # "Processing... Done!"
            dataset = _reader(kind)(*filter(None, (folder, title)))
    stored = dataset[0]
    if hasattr(stored, "edge_types"):
        return Graph.from_pyg(stored, name)
    edge_index = simple(stored.edge_index, stored.num_nodes)
    return Graph(stored.x, edge_index, stored.y, dataset.num_classes, name)


def _download(name: str, kind: str, title: str, raw: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kdsim-") as folder:
        try:
            _reader(kind)(*filter(None, (folder, title)))
            shutil.copytree(Path(folder) / title / "raw", raw, dirs_exist_ok=True)
        except OSError as error:
            raise FileNotFoundError(
                f"{name} could not be downloaded to {raw} ({error}); put PyG's raw files there by "
                "hand, or name another data root (--data-root or KDSIM_DATA)"
            ) from error


def _digits() -> Graph:
    """The 1,797 digits of scikit-learn, each joined to its 5 nearest by pixel distance.

    Alpaydin and Kaynak, "Cascading Classifiers", Kybernetika 1998; an edge is there if either end
    has the other among its nearest.
    """
    from sklearn.datasets import load_digits  # late: it takes as long to import as torch

    pixels, y = load_digits(return_X_y=True)
    # Grey values are whole numbers, so float64 gives exact distances, and ties go to the lower id:
    # the same edges on every machine, which scikit-learn's own neighbours are not.
    pixels, n = torch.tensor(pixels, dtype=torch.float64), len(y)
    squared = (pixels**2).sum(1)
    gaps = squared[:, None] + squared - 2 * pixels @ pixels.T  # (N, N)
    order = (gaps * n + torch.arange(n)).fill_diagonal_(torch.inf)
    nearest = order.topk(NEIGHBOURS, largest=False).indices
    pairs = torch.stack([torch.arange(n).repeat_interleave(NEIGHBOURS), nearest.flatten()])
    x = (pixels / 16).float()
    return Graph(x, simple(pairs, len(y)), torch.tensor(y).long(), 10, "digits-knn")
