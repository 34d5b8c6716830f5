"""A run that goes on from a checkpoint is the run that never stopped."""

import json

import pytest
import torch

from fedkd.algorithms import get, names
from fedkd.core import Client, Task
from fedkd.engines.batched import batched
from fedkd.messages import Ledger
from fedkd.models import mlp
from fedkd.rounds import checkpoint
from fedkd.rounds.synchronous import simulate
from kdcore.rng import generator
from kdcore.training.loop import Examples
from tests import by_default


def federation() -> tuple[Task, list[Client]]:
    stream = generator(0, "data")
    x, y = torch.rand(40, 1, 3, 3, generator=stream), torch.randint(3, (40,), generator=stream)
    models = {"a": mlp((1, 3, 3), 3, (4,)), "b": mlp((1, 3, 3), 3, (5, 4))}
    clients = [
        Client(i, g, models[g].init(generator(0, i)), Examples(x, y, torch.arange(7) + 7 * i))
        for i, g in enumerate("aba")
    ]
    return Task(models, 3, x[30:], (1, 3, 3)), clients


@pytest.mark.parametrize("name", names())
def test_resumed_run_is_the_same_bit_for_bit(name, tmp_path):
    task, clients = federation()
    algorithm = by_default.make(name)
    whole = list(simulate(algorithm, task, clients, rounds=4, engine=batched(2), seed=3))
    total = whole[0].ledger + whole[1].ledger
    checkpoint.save(tmp_path, whole[1], total, "me")
    after, spent = checkpoint.load(tmp_path, clients, "me")
    assert (spent, after.index) == (total, 2)
    rest = list(
        simulate(algorithm, task, clients, rounds=4, engine=batched(2), seed=3, after=after)
    )
    assert [current.index for current in rest] == [3, 4]
    assert checkpoint.digest(rest[-1]) == checkpoint.digest(whole[-1])
    assert checkpoint.digest(rest[-1]) != checkpoint.digest(whole[-2])
    assert rest[-1].ledger == whole[-1].ledger


@pytest.fixture
def saved(tmp_path):
    task, clients = federation()
    for current in simulate(get("fedmd")(), task, clients, rounds=3):
        where = checkpoint.save(tmp_path, current, Ledger(), "me")
    return tmp_path, clients, where


def test_only_the_newest_are_kept_and_drafts_are_swept(saved):
    folder, clients, _ = saved
    (folder / ".draft-1").mkdir()
    (folder / ".draft-1" / "server.safetensors").write_bytes(b"half")
    assert checkpoint.load(folder, clients, "me")[0].index == 3
    task, _ = federation()
    (current,) = simulate(get("fedmd")(), task, clients, rounds=1)
    checkpoint.save(folder, current, Ledger(), "me")
    assert sorted(p.name for p in folder.iterdir()) == ["round-000002", "round-000003"]


def test_each_tensor_lies_where_torch_lays_one(saved):
    """Not at some place in a file: products of numbers at odd places differ in their last bits."""
    folder, clients, _ = saved
    found, _ = checkpoint.load(folder, clients, "me")
    for value in (*found.server.values(), *(v for c in found.clients for v in c.params.values())):
        assert value.untyped_storage().nbytes() == value.nbytes
        assert value.data_ptr() % 16 == 0


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert checkpoint.load(tmp_path / "none", [], "me") is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("harm", [flip, truncate, lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["server.safetensors", "clients.safetensors", "state.json"])
def test_damage_is_refused(saved, harm, name):
    folder, clients, where = saved
    harm(where / name)
    with pytest.raises(ValueError, match=f"damaged: {name} is not what the manifest says"):
        checkpoint.load(folder, clients, "me")


def test_a_broken_manifest_is_refused(saved):
    folder, clients, where = saved
    (where / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="its manifest cannot be read"):
        checkpoint.load(folder, clients, "me")


def test_a_manifest_that_names_no_files_vouches_for_none(saved):
    folder, clients, where = saved
    manifest = json.loads((where / "manifest.json").read_text())
    (where / "manifest.json").write_text(json.dumps(manifest | {"sha256": {}}))
    with pytest.raises(ValueError, match="is not what the manifest says"):
        checkpoint.load(folder, clients, "me")


def test_a_checkpoint_has_the_name_of_its_round(saved):
    folder, clients, where = saved
    (folder / "round-999999").mkdir()
    where.rename(folder / "round-1000000")
    assert checkpoint.rounds(folder) == [2, 999_999, 1_000_000]  # by number, not by letter
    with pytest.raises(ValueError, match="is damaged: state.json is of round 3"):
        checkpoint.load(folder, clients, "me")
    (folder / "round-1000000").rename(folder / "round-last")
    assert checkpoint.reached(folder) == 999_999
    checkpoint.drop_after(folder, 2)
    assert checkpoint.load(folder, clients, "me")[0].index == 2
    checkpoint.drop_after(folder, 1)
    assert checkpoint.load(folder, clients, "me") is None


def test_another_experiment_is_refused(saved):
    folder, clients, _ = saved
    with pytest.raises(ValueError, match="belongs to another experiment"):
        checkpoint.load(folder, clients, "somebody else")


def test_a_hostile_header_is_no_more_than_a_damaged_file(saved):
    """A length of 2^63 in the header, with a manifest made to fit: refused, nothing allocated."""
    folder, clients, where = saved
    bad = (2**63 - 1).to_bytes(8, "little") + b"{}"
    (where / "server.safetensors").write_bytes(bad)
    manifest = json.loads((where / "manifest.json").read_text())
    manifest["sha256"]["server.safetensors"] = checkpoint._sha256(where / "server.safetensors")
    (where / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(folder, clients, "me")


def test_a_checkpoint_is_of_models_with_the_same_constants(tmp_path):
    task, clients = federation()
    (current,) = simulate(get("fedmd")(), task, clients, rounds=1)
    checkpoint.save(tmp_path, current, Ledger(), "me", "a=1f")
    assert checkpoint.load(tmp_path, clients, "me", constants="a=1f")[0].index == 1
    for other in ("a=20", ""):
        with pytest.raises(ValueError, match="written with other frozen weights"):
            checkpoint.load(tmp_path, clients, "me", constants=other)
