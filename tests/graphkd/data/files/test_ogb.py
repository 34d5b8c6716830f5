import gzip

import pytest
import torch

from graphkd.data import datasets


def write(root, **files):
    raw = root / "ogb" / "ogbn_arxiv" / "raw"
    raw.mkdir(parents=True)
    for name, text in files.items():
        with gzip.open(raw / f"{name.replace('_', '-')}.csv.gz", "wt") as file:
            file.write(text)


def test_the_raw_files_are_read_and_made_undirected(tmp_path):
    write(
        tmp_path, edge="0,2\n2,1\n2,0\n", node_feat="0.5,1\n-2,0\n3,4e-2\n", node_label="7\n0\n39\n"
    )
    graph = datasets.load("ogbn-arxiv", tmp_path)
    assert graph.edge_index.T.tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]
    torch.testing.assert_close(graph.x, torch.tensor([[0.5, 1], [-2, 0], [3, 0.04]]))
    assert graph.y.tolist() == [7, 0, 39]
    assert (graph.classes, graph.name) == (40, "ogbn-arxiv")


def test_a_missing_file_is_named_with_its_place_and_the_way_out(tmp_path, monkeypatch):
    write(tmp_path, edge="0,1\n", node_feat="1\n2\n")
    words = r"node-label.csv.gz; expected edge.csv.gz, node-feat.*snap.stanford.*KDSIM_DATA.*sbm"
    with pytest.raises(FileNotFoundError, match=words) as error:
        datasets.load("ogbn-arxiv", tmp_path)
    assert str(tmp_path / "ogb" / "ogbn_arxiv" / "raw") in str(error.value)
    monkeypatch.setenv("KDSIM_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere.*edge.csv.gz"):
        datasets.load("ogbn-arxiv")


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    write(tmp_path, edge="0,3\n", node_feat="1\n2\n", node_label="0\n1\n")
    with pytest.raises(ValueError, match="2 rows of features, 2 labels.*to node 3"):
        datasets.load("ogbn-arxiv", tmp_path)
