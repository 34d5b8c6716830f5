"""Data of many graphs, from the files of the TUDataset collection, and a real-valued task on them.

| name | graphs | nodes | features | targets |
|---|---|---|---|---|
| mutag | 188 | 3,371 | 7 | 2 classes |
| proteins | 1,113 | 43,471 | 3 | 2 classes |
| nci1 | 4,110 | 122,747 | 37 | 2 classes |
| mutag-cycles, nci1-cycles | as above | | | independent cycles of the molecule |

Morris, Kriege, Bause, Kersting, Mutzel and Neumann, "TUDataset: A collection of benchmark datasets
for learning with graphs", GRL+ 2020, https://arxiv.org/abs/2007.08663.
"""

import contextlib
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphkd.data.graph_collection import Graphs
from graphkd.ops.edges import simple

_TITLES = {"mutag": "MUTAG", "proteins": "PROTEINS", "nci1": "NCI1"}
_FILES = ("A", "graph_indicator", "graph_labels", "node_labels")
_CYCLES = "-cycles"


def names() -> list[str]:
    """The names of all data sets of graphs."""
    return sorted([*_TITLES, f"mutag{_CYCLES}", f"nci1{_CYCLES}"])


def load(name: str, root: Path) -> Graphs:
    """The graphs of this name, with one-hot node labels as features.

    Args:
        name: one of `names()`.
        root: where data sets are kept, laid out as `pyg/TUDataset/MUTAG/raw/...`; it may be
            read-only.

    Raises:
        FileNotFoundError: a raw file is missing.
    """
    from torch_geometric.datasets import TUDataset  # late: it takes longer to import than torch

    title = _TITLES[name.removesuffix(_CYCLES)]
    raw = root / "pyg" / "TUDataset" / title / "raw"
    missing = [f for part in _FILES if not (f := raw / f"{title}_{part}.txt").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name}: no file {missing[0]}; unpack {title}.zip of "
            "https://chrsmrrs.github.io/datasets there, or name another data root (--data-root or "
            "KDSIM_DATA)"
        )
    with tempfile.TemporaryDirectory(prefix="kdsim-") as folder:  # for what PyG processes
        (Path(folder) / title).mkdir()
        (Path(folder) / title / "raw").symlink_to(raw.resolve(), target_is_directory=True)
        with contextlib.redirect_stderr(io.StringIO()):
            dataset = TUDataset(folder, title)
    y, size = dataset.y.long(), dataset.slices["x"].diff()
    owner = torch.arange(len(y)).repeat_interleave(size)
    shift = dataset.slices["x"][:-1].repeat_interleave(dataset.slices["edge_index"].diff())
    x = dataset._data.x.float()
    edge_index = simple(dataset._data.edge_index + shift, len(x))
    graphs = Graphs(x, edge_index, y, dataset.num_classes, name, owner=owner)
    return replace(graphs, y=cycles(graphs), classes=1) if name.endswith(_CYCLES) else graphs


def cycles(graphs: Graphs) -> Tensor:
    """How many independent cycles each graph has, (G,): edges - nodes + components.

    Of a molecule, its rings: a number that needs the edges, and that an MLP on its atoms can only
    guess from what they are.
    """
    owner, n = graphs.owner, len(graphs.owner)
    source, target = graphs.edge_index.numpy()
    adjacency = coo_matrix((torch.ones(len(source)).numpy(), (source, target)), (n, n))
    _, part = connected_components(adjacency, directed=False)
    first = torch.full((int(part.max()) + 1,), n).scatter_reduce(
        0, torch.from_numpy(part).long(), torch.arange(n), "amin"
    )
    count = graphs.num_nodes
    edges = torch.bincount(owner[graphs.edge_index[0]], minlength=count) // 2
    nodes = torch.bincount(owner, minlength=count)
    components = torch.bincount(owner[first], minlength=count)
    return (edges - nodes + components).float()
