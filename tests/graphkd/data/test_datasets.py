from pathlib import Path

import pytest
import torch
import torch_geometric.datasets
from sklearn.datasets import load_digits

from graphkd.data import datasets, splits

EDGES = 6309  # of digits-knn

# Of the largest component: nodes, undirected edges, classes; CPF's own but for CiteSeer, whose
# Planetoid files differ from CPF's (2110, 3668).
COUNTS = {
    "cora": (2485, 5069, 7),
    "citeseer": (2120, 3679, 6),
    "amazon-computers": (13381, 245778, 10),
    "amazon-photo": (7487, 119043, 8),
}


def test_digits_are_joined_to_their_nearest():
    graph = datasets.load("digits-knn")
    pixels = load_digits().data.astype(int)
    expected = set()
    for i, image in enumerate(pixels):
        gaps = ((pixels - image) ** 2).sum(1).tolist()
        nearest = sorted((gap, j) for j, gap in enumerate(gaps) if j != i)[: datasets.NEIGHBOURS]
        expected |= {(i, j) for _, j in nearest} | {(j, i) for _, j in nearest}
    assert set(map(tuple, graph.edge_index.T.tolist())) == expected
    assert (graph.num_nodes, graph.edge_index.shape[1], graph.classes) == (1797, 2 * EDGES, 10)
    assert graph.x.min() == 0
    assert graph.x.max() == 1


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="'coraa'; did you mean 'cora'. choose one of amazon-"):
        datasets.load("coraa")


@pytest.mark.parametrize("name", COUNTS)
def test_a_missing_file_is_named_with_its_place_and_the_way_out(name, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"raw.*KDSIM_DATA.*digits-knn") as error:
        datasets.load(name, tmp_path)
    assert str(tmp_path / "pyg") in str(error.value)
    monkeypatch.delenv("KDSIM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "home" / ".cache" / "kdsim")):
        datasets.load(name)


def test_nothing_is_downloaded_unless_asked_for(tmp_path, monkeypatch):
    asked = []

    def offline(self):
        asked.append(self.name)
        raise ConnectionError("no network")

    monkeypatch.setattr(torch_geometric.datasets.Planetoid, "download", offline)
    with pytest.raises(FileNotFoundError, match="no file"):
        datasets.load("cora", tmp_path)
    assert asked == []
    with pytest.raises(FileNotFoundError, match="could not be downloaded.*no network"):
        datasets.load("cora", tmp_path, download=True)
    assert asked == ["Cora"]


@pytest.mark.data
def test_what_is_downloaded_is_kept_for_the_next_time(tmp_path, monkeypatch):
    real = datasets.data_root() / "pyg" / "Planetoid" / "Cora" / "raw"

    def download(self):
        Path(self.raw_dir).mkdir(parents=True, exist_ok=True)
        for file in real.iterdir():
            (Path(self.raw_dir) / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(torch_geometric.datasets.Planetoid, "download", download)
    assert datasets.load("cora", tmp_path, download=True).num_nodes == 2708
    monkeypatch.setattr(torch_geometric.datasets.Planetoid, "download", None)
    assert datasets.load("cora", tmp_path).num_nodes == 2708
    assert not list(tmp_path.rglob("processed"))


@pytest.mark.data
@pytest.mark.parametrize("name", COUNTS)
def test_the_largest_components_have_the_counts_of_the_protocol(name):
    component, _ = splits.largest_component(datasets.load(name))
    nodes, edges, classes = COUNTS[name]
    assert (component.num_nodes, component.edge_index.shape[1] // 2) == (nodes, edges)
    split = splits.transductive(datasets.load(name), 0)
    sizes = {part: len(ids) for part, ids in split.parts.items()}
    assert sizes == {"train": 20 * classes, "val": 30 * classes, "tran": nodes - 50 * classes}


def test_the_fake_graph_is_simple_and_follows_its_seed():
    graph = datasets.fake(seed=1)
    assert torch.equal(graph.edge_index, splits.simple(graph.edge_index, graph.num_nodes))
    assert torch.equal(graph.x, datasets.fake(seed=1).x)
    assert not torch.equal(graph.x, datasets.fake(seed=2).x)
    inside = (graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]).float().mean()
    assert inside > 0.8
