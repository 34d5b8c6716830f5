"""Students as plain PyTorch, in memory and in files."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch_geometric.nn.models import GCN

import graphkd
from graphkd.data import datasets, splits
from graphkd.methods.glnn import GLNN
from graphkd.methods.mlp import MLP
from graphkd.models import networks
from graphkd.training.loop import predict

FAKE = datasets.fake(size=55)
SPLIT = splits.transductive(FAKE, 0)


@pytest.fixture(scope="module")
def result():
    *_, found = graphkd.run(GLNN(epochs=3, teacher_epochs=3, hidden=8, dropout=0.5), SPLIT)
    return found


@pytest.mark.parametrize("name", networks.names())
def test_a_network_answers_to_tensors_as_to_its_graph(name):
    network = networks.build(name, FAKE, 16, 2, 0.5).eval()
    expected = predict(network, FAKE).logits
    one_way = FAKE.edge_index[:, FAKE.edge_index[0] < FAKE.edge_index[1]]
    for pairs in (FAKE.edge_index, one_way.int()):
        torch.testing.assert_close(network(FAKE.x, pairs), expected)
    alone = network(FAKE.x)
    assert torch.allclose(alone, expected) == (name == "mlp")
    assert alone.shape == (165, 3)


def test_a_student_is_a_sequence_of_layers(result):
    student, network = graphkd.plain(result), result.trained["student"].network
    kinds = [type(part) for part in student]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert not student.training
    said = student(FAKE.x)
    torch.testing.assert_close(said, predict(network, FAKE).logits)
    torch.testing.assert_close(network(FAKE.x), said)
    taught, alone = graphkd.plain(result), graphkd.plain(result, "baseline")
    assert not torch.equal(taught[0].weight, alone[0].weight)


def test_a_file_is_read_by_plain_pytorch_alone(result, tmp_path):
    path = graphkd.save(result, tmp_path / "student.safetensors")
    x, expected = FAKE.x[:2], graphkd.plain(result)(FAKE.x[:2])
    code = (
        "import torch\nfrom safetensors.torch import load_file\nfrom torch import nn\n"
        "net = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))\n"
        f"net.eval().load_state_dict(load_file({str(path)!r}))\n"
        f"print(net(torch.tensor({x.tolist()})).tolist())"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["student.safetensors"]


def test_what_was_saved_is_loaded(result, tmp_path):
    path = graphkd.save(result, tmp_path / "s.safetensors")
    again = graphkd.load(path)
    assert torch.equal(again(FAKE.x), graphkd.plain(result)(FAKE.x))
    ours = networks.MLP([12, 8, 3], 0.5)
    assert graphkd.load(path, into=ours) is ours
    torch.testing.assert_close(ours(FAKE.x), again(FAKE.x))
    with pytest.raises(ValueError, match="weights of another module: .*size mismatch"):
        graphkd.load(path, into=networks.MLP([12, 9, 3], 0.5))


def test_a_module_of_ones_own_comes_back_as_itself(tmp_path):
    def net():
        return nn.Sequential(nn.LazyLinear(6), nn.BatchNorm1d(6), nn.ReLU(), nn.LazyLinear(3))

    *_, found = graphkd.run(MLP(epochs=3), SPLIT, student=net)
    assert found.student == "net"
    own = graphkd.plain(found)
    assert [type(part) for part in own] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    path = graphkd.save(found, tmp_path / "own.safetensors")
    other = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    other.load_state_dict(load_file(path))
    assert torch.equal(other(FAKE.x), own(FAKE.x))
    with pytest.raises(ValueError, match="weights of Sequential; give the module"):
        graphkd.load(path)
    filled = graphkd.load(path, into=net())
    assert torch.equal(filled(FAKE.x), own(FAKE.x))


def test_a_teacher_of_pyg_and_one_of_ours(result, tmp_path):
    *_, found = graphkd.run(GLNN(epochs=2, teacher_epochs=2, hidden=8), SPLIT, teacher=GCN)
    teacher = graphkd.plain(found, "teacher")
    assert type(teacher) is GCN
    expected = predict(found.trained["teacher"].network, FAKE).logits
    torch.testing.assert_close(teacher(FAKE.x, FAKE.edge_index), expected)
    with pytest.raises(ValueError, match="SAGE has no form in plain PyTorch; call it with"):
        graphkd.plain(result, "teacher")
    path = graphkd.save(result, tmp_path / "sage.safetensors", "teacher")
    sage = graphkd.load(path, into=networks.SAGE([12, 128, 3], 0.0))
    same = result.trained["teacher"].network
    assert torch.equal(predict(sage, FAKE).logits, predict(same, FAKE).logits)


def test_files_and_roles_that_are_not_there(result, tmp_path):
    with pytest.raises(FileNotFoundError):
        graphkd.load(tmp_path / "nothing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is no file of weights, or is damaged"):
        graphkd.load(tmp_path / "bad.safetensors")
    *_, alone = graphkd.run(MLP(epochs=1), SPLIT)
    with pytest.raises(ValueError, match="a run of mlp has no teacher; choose student, baseline"):
        graphkd.plain(alone, "teacher")
