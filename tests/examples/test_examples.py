"""Programs in `examples` are short, do what they say, and their names work on the command line."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedkd.algorithms.fedavg import FedAvg
from fedkd.algorithms.fedmd import FedMD
from fedkd.data.datasets import Dataset
from fedkd.rounds.round import private_of, public_of
from fedkd.rounds.synchronous import simulate
from graphkd.methods.glnn import GLNN
from kdcore.training.loop import TrainingConfig
from simulations.config import files, grid, library

FOLDER = Path(__file__).resolve().parents[2] / "examples"
KDSIM = [sys.executable, "-c", "import sys; from simulations.cli.app import main; sys.exit(main())"]


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for the module of their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_a_page(path):
    assert len(path.read_text().splitlines()) <= 60


def test_fedmd_as_a_plain_loop_gives_the_numbers_of_simulate():
    module = example("fedmd_plain_loop")
    data, algorithm = module.federation(), FedMD()
    *_, last = simulate(algorithm, data.task, data.clients, rounds=module.ROUNDS, seed=module.SEED)
    plain = module.plain(algorithm, data)
    assert plain.shape == (100, 10)
    torch.testing.assert_close(last.server["consensus"], plain, rtol=0, atol=1e-6)


def test_a_graph_network_teaches():
    found = example("graph_distillation").metrics(GLNN())
    assert found["accuracy_teacher"] > 0.8
    assert found["accuracy"] > 0.8


def test_a_club_is_split_as_its_members_split():
    module = example("own_graph")
    result, clubs = module.distilled()
    assert (result.teacher, result.student) == ("GCN", "Student")
    true = dict(zip(module.club().node_names, module.club().y.tolist(), strict=True))
    assert clubs.keys() == true.keys()
    assert all(clubs[f"member {i}"] == true[f"member {i}"] for i in (1, 2, 33, 34))
    right = [clubs[name] == true[name] for name in clubs]
    assert sum(right) >= 30
    share = (sum(right) - known_right(clubs, true)) / 28
    assert result.metrics["accuracy"] == pytest.approx(share)


def known_right(clubs, true):
    """How many of the six who train and select the student has right."""
    known = [f"member {i}" for i in (1, 2, 33, 34, 8, 24)]
    return sum(clubs[name] == true[name] for name in known)


def test_hellinger_is_zero_for_equals_and_one_for_opposites_and_teaches():
    module = example("own_loss")
    sure = module.Outputs(torch.tensor([[50.0, -50.0], [0.0, 0.0]]))
    other = module.Outputs(torch.tensor([[-50.0, 50.0], [0.0, 0.0]]))
    torch.testing.assert_close(module.hellinger(sure, None, sure), torch.zeros(2))
    torch.testing.assert_close(module.hellinger(sure, None, other), torch.tensor([1.0, 0.0]))
    found = module.distilled()
    assert found["student"] > 0.7
    assert found["teacher"] > 0.7


def test_an_algorithm_of_ones_own_that_keeps_nothing_is_fedmd():
    data, own = example("fedmd_plain_loop").federation(), example("own_algorithm").SlowConsensus
    given = data.task, data.clients
    (_, fedmd), (_, none), (first, half) = (
        list(simulate(one, *given, rounds=2)) for one in (FedMD(), own(keep=0.0), own(keep=0.5))
    )
    assert torch.equal(fedmd.server["consensus"], none.server["consensus"])
    mean = (first.server["consensus"] + none.server["consensus"]) / 2
    torch.testing.assert_close(half.server["consensus"], mean)


def test_the_command_takes_an_algorithm_of_the_working_folder(tmp_path):
    """As the installed script does, with a path on which the working folder is not."""
    settings = [
        "--clients",
        "2",
        "--rounds",
        "1",
        "--private",
        "60",
        "--public",
        "40",
        "--keep",
        "0.25",
        "--no-baseline",
    ]
    code = f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(FOLDER.parent)!r}]\n"
    command = [*KDSIM[:2], code + KDSIM[2], "fed", "own_algorithm:SlowConsensus", *settings]
    (tmp_path / "own_algorithm.py").write_text((FOLDER / "own_algorithm.py").read_text())
    done = subprocess.run([*command, "--out", "run"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (kept,) = (tmp_path / "run").rglob("run.json")
    assert kept.parent.name.startswith("own_algorithm.SlowConsensus-digits-s0-")
    assert json.loads(kept.read_text())["experiment"]["keep"] == 0.25


def test_clients_read_public_examples_after_their_own():
    plain, module = example("fedmd_plain_loop"), example("public_text")
    data = plain.federation()
    once = TrainingConfig(learning_rate=0.1, epochs=1, batch_size=16)
    alone = module.PublicText(local=once, reading=once)
    (only,) = simulate(alone, data.task, data.clients, rounds=1)
    public = public_of(alone, data.task, 0, 1)
    labelled = public.batches(data.task.labels)
    for client, after in zip(data.clients, only.clients, strict=True):
        own = private_of(alone, client, 0, 1)
        params = plain.trained(data.task, client.group, client.params, own, 0.1)
        params = plain.trained(data.task, client.group, params, labelled, 0.1)
        torch.testing.assert_close(after.params, params)


def test_what_is_averaged_has_read_too():
    module, data = example("public_text"), example("fedmd_plain_loop").federation()
    algorithm = module.AveragedPublicText()
    (only,) = simulate(algorithm, data.task, data.clients[:1], rounds=1)
    trained = only.clients[0].params
    average = {name: only.server[f"{data.clients[0].group}/{name}"] for name in trained}
    torch.testing.assert_close(average, trained)
    (first,) = simulate(FedAvg(), data.task, data.clients[:1], rounds=1)
    assert not torch.equal(first.clients[0].params[name := next(iter(trained))], trained[name])


def test_whole_weights_and_adapters_begin_with_one_network_that_has_read():
    module = example("adapters")
    tokens = torch.arange(60 * 5).view(60, 5) % 6  # what comes next is certain
    text = Dataset(tokens[:, :-1], tokens[:, 1:], 6, foreign=40)
    with torch.random.fork_rng():
        network = module.pretrained(text, seed=0, count=40, epochs=12)
    with torch.no_grad():
        right = network(text.x[40:]).argmax(dim=-1) == text.y[40:]
    assert right.double().mean() > 0.9
    few = module.adapted(network)
    assert torch.equal(few(text.x), network(text.x))
    # Of each linear layer 4 (D + C): two blocks of four, and the head.
    blocks = 2 * ((64 + 192) + (64 + 64) + (64 + 128) + (128 + 64))
    learnt = sum(value.numel() for value in few.parameters() if value.requires_grad)
    assert learnt == 4 * (blocks + 64 + 6)


def test_the_experiment_on_public_text_is_that_of_shakespeare_but_for_its_algorithms(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    own, _ = grid.expand(files.read(FOLDER / "public_text.toml"), "public_text.toml")
    known = grid.expand(files.read(library.FOLDER / "shakespeare.toml"), "shakespeare.toml")
    (alike,) = {replace(one, algorithm=FedAvg(), seed=0) for one in known.experiments}
    assert {replace(one, algorithm=FedAvg(), seed=0) for one in own} == {alike}
    assert len(own) == 6
