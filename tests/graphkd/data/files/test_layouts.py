"""Tiny files as their publishers lay them out, read through PyG's own classes."""

import gzip
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from graphkd.data import datasets, splits
from graphkd.graph import TypedGraph

N, D = 8, 5
X = np.eye(N, D, dtype=np.float32) + np.eye(N, D, 1, dtype=np.float32)
RING = np.stack([np.arange(N), (np.arange(N) + 1) % N])
BOTH = {(a, b) for a, b in RING.T.tolist()} | {(b, a) for a, b in RING.T.tolist()}
NPZ = {
    "coauthor-cs": ("Coauthor/CS/raw/ms_academic_cs.npz", 15),
    "coauthor-physics": ("Coauthor/Physics/raw/ms_academic_phy.npz", 5),
    "amazon-photo": ("Amazon/Photo/raw/amazon_electronics_photo.npz", 8),
    "citation-cora": ("CitationFull/cora/raw/cora.npz", 70),
    "citation-cora-ml": ("CitationFull/cora_ml/raw/cora_ml.npz", 7),
    "citation-citeseer": ("CitationFull/citeseer/raw/citeseer.npz", 6),
    "citation-dblp": ("CitationFull/dblp/raw/dblp.npz", 4),
    "citation-pubmed": ("CitationFull/pubmed/raw/pubmed.npz", 3),
}


def benchmark(path, classes):
    """The layout of gnn-benchmark: adjacency and attributes as CSR, and labels."""
    path.parent.mkdir(parents=True)
    a, x = sp.csr_matrix((np.ones(N), RING), shape=(N, N)), sp.csr_matrix(X)
    parts = {
        f"{name}_{part}": getattr(matrix, part)
        for name, matrix in (("adj", a), ("attr", x))
        for part in ("data", "indices", "indptr")
    }
    labels = np.arange(N) % min(classes, N)
    labels[-1] = classes - 1
    np.savez(path, adj_shape=a.shape, attr_shape=x.shape, labels=labels, **parts)
    return labels.tolist()


def edges(graph):
    return {tuple(pair) for pair in graph.edge_index.T.tolist()}


@pytest.mark.parametrize("name", NPZ)
def test_a_graph_of_gnn_benchmark(name, tmp_path):
    path, classes = NPZ[name]
    labels = benchmark(tmp_path / "pyg" / path, classes)
    graph = datasets.load(name, tmp_path)
    assert (graph.name, graph.classes, graph.y.tolist()) == (name, classes, labels)
    assert edges(graph) == BOTH
    assert torch.equal(graph.x, torch.from_numpy((X > 0).astype(np.float32)))
    assert sorted(p.name for p in (tmp_path / "pyg" / path).parent.parent.iterdir()) == ["raw"]


@pytest.mark.parametrize("name", ["cora", "pubmed"])
def test_a_planetoid_graph(name, tmp_path):
    """Three nodes train and the last three test; PyG has 500 select, so there are more."""
    n, title = 510, {"cora": "Cora", "pubmed": "PubMed"}[name]
    raw = tmp_path / "pyg" / "Planetoid" / title / "raw"
    raw.mkdir(parents=True)
    y = np.eye(3, dtype=np.int32)[np.arange(n) % 3]
    x = sp.eye(n, 9, dtype=np.float32).tocsr()
    seen = n - 3
    parts = {"x": x[:3], "tx": x[seen:], "allx": x[:seen]}
    parts |= {"y": y[:3], "ty": y[seen:], "ally": y[:seen]}
    parts["graph"] = {i: [(i + 1) % n, (i - 1) % n] for i in range(n)}
    for part, value in parts.items():
        (raw / f"ind.{name}.{part}").write_bytes(pickle.dumps(value))
    (raw / f"ind.{name}.test.index").write_text("".join(f"{i}\n" for i in range(seen, n)))
    graph = datasets.load(name, tmp_path)
    assert graph.y.tolist() == [i % 3 for i in range(n)]
    assert edges(graph) == {(i, (i + s) % n) for i in range(n) for s in (1, n - 1)}
    assert torch.equal(graph.x, torch.eye(n, 9))


def magnn(raw, counts, featured, train, val, test):
    """MAGNN's layout: one adjacency of all types, and features and labels by type."""
    raw.mkdir(parents=True)
    n = sum(counts)
    a = np.zeros((n, n))
    for i in range(counts[0]):
        for kind in range(1, len(counts)):
            other = sum(counts[:kind]) + i % counts[kind]
            a[i, other] = a[other, i] = 1
    sp.save_npz(raw / "adjM.npz", sp.csr_matrix(a))
    np.save(raw / "node_types.npy", np.repeat(np.arange(len(counts)), counts))
    np.save(raw / "labels.npy", np.arange(counts[0]) % 3)
    np.savez(raw / "train_val_test_idx.npz", train_idx=train, val_idx=val, test_idx=test)
    for kind, suffix in enumerate(featured):
        x = np.full((counts[kind], 4), kind + 1.0)
        if suffix == "npz":
            sp.save_npz(raw / f"features_{kind}.npz", sp.csr_matrix(x))
        else:
            np.save(raw / f"features_{kind}.npy", x)
    return a


def test_imdb_has_its_types_and_its_own_split(tmp_path):
    parts = [np.arange(3), np.arange(3, 5), np.arange(5, 9)]
    a = magnn(tmp_path / "pyg" / "IMDB" / "raw", (9, 4, 5), ["npz"] * 3, *parts)
    graph = datasets.load("imdb", tmp_path)
    assert isinstance(graph, TypedGraph)
    assert graph.types.nodes == ("movie", "director", "actor")
    assert len(graph.types.relations) == 4
    assert torch.bincount(graph.node_type).tolist() == [9, 4, 5]
    assert edges(graph) == {tuple(pair) for pair in np.argwhere(a).tolist()}
    assert graph.x[:, 0].tolist() == [1.0] * 9 + [2.0] * 4 + [3.0] * 5
    split = splits.split(graph, "transductive", 0)
    assert [split.parts[p].tolist() for p in ("train", "val", "tran")] == [
        p.tolist() for p in parts
    ]


def test_dblp_has_a_type_without_features(tmp_path):
    parts = [np.arange(3), np.arange(3, 5), np.arange(5, 9)]
    raw = tmp_path / "pyg" / "DBLP" / "raw"
    magnn(raw, (9, 4, 5, 2), ["npz", "npz", "npy"], *parts)
    graph = datasets.load("dblp", tmp_path)
    assert graph.types.nodes == ("author", "paper", "term", "conference")
    assert graph.x.shape == (20, 4 + 4 + 4 + 1)


def test_products_are_read_as_arxiv_is(tmp_path):
    raw = tmp_path / "ogb" / "ogbn_products" / "raw"
    raw.mkdir(parents=True)
    for name, text in {"edge": "0,1\n", "node-feat": "1\n2\n", "node-label": "46\n0\n"}.items():
        with gzip.open(raw / f"{name}.csv.gz", "wt") as file:
            file.write(text)
    graph = datasets.load("ogbn-products", tmp_path)
    assert (graph.classes, graph.y.tolist(), edges(graph)) == (47, [46, 0], {(0, 1), (1, 0)})
    with pytest.raises(FileNotFoundError, match="nodeproppred/products.zip"):
        datasets.load("ogbn-products", tmp_path / "none")


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"imdb: no file .*pyg/IMDB/raw/adjM.npz"):
        datasets.load("imdb", tmp_path)
