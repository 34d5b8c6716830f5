"""What crossed, replayed: the very payload, its numbers, and one line where there is none."""

import json
import math
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from fedkd import algorithms
from fedkd.communication import compression
from fedkd.engines.auto import AutoEngine
from fedkd.rounds.synchronous import simulate
from simulations.config.experiments import FedExperiment
from simulations.config.identity import folder_name
from simulations.config.resources import Resources
from simulations.execution import payloads, scheduler
from simulations.execution.replay import inspect
from simulations.execution.scheduler import Job
from simulations.results import run_folder
from simulations.runners import federated
from tests.simulations.conftest import read

SMALL = dict(clients=4, private=60, public=20, test=40, rounds=3, models=("mlp-8",))


def write(folder, name="fedmd", every=10, **settings):
    """Run an experiment into a folder of its own, as the command does."""
    experiment = FedExperiment(algorithms.get(name)(), **(SMALL | settings))
    path = folder / folder_name(experiment)
    resources = Resources(checkpoint_every=every)
    assert list(scheduler.attempt(Job(experiment, path, None, resources)))[-1]["record"] == "run"
    return experiment, path


def test_the_replay_is_what_was_sent(tmp_path):
    experiment, path = write(tmp_path)
    federation = federated.prepare(experiment)
    parties = federation.task, federation.clients
    _, second, _ = simulate(experiment.algorithm, *parties, rounds=3, engine=AutoEngine())
    sent = second.uploads[2].payload["probabilities"]
    head, down, _, up, told = inspect(path, 2, 2)
    assert next(iter(inspect(tmp_path, 2, 2))) == head  # the folder above holds no other run
    assert head["bytes_up"] == up["bytes"] == 20 * 10 * 4
    assert head["weight"] is None  # FedMD counts each client once, and is told no number
    assert (down["key"], down["direction"]) == ("consensus", "down")
    assert (up["key"], up["shape"], up["type"]) == ("probabilities", [20, 10], "float32")
    assert (up["min"], up["max"]) == (float(sent.min()), float(sent.max()))
    entropy = [-sum(p * math.log2(p) for p in row) for row in sent.double().tolist()]
    assert told["entropy_bits"]["mean"] == pytest.approx(sum(entropy) / 20)
    assert told["entropy_bits"]["min"] == pytest.approx(min(entropy))
    assert told["entropy_bits"]["even"] == pytest.approx(math.log2(10))
    assert list(told["largest"]) == ["0", "1", "2"]
    for row, largest in told["largest"].items():
        order = sorted(range(10), key=lambda label: -sent[int(row), label])[:3]
        assert [label for label, _ in largest] == order


@pytest.mark.parametrize(
    "settings",
    [
        dict(name="fd"),
        dict(compression="float16"),
        dict(compression="root8-delta"),
        dict(topology="ring"),
        dict(fraction=0.5),
        dict(corrupt="1:nan"),
        dict(name="fedavg", engine="batched"),
        dict(engine="sequential"),
        dict(clients=5, fraction=0.6, models=("mlp-8", "cnn-4-4"), every=1),
    ],
    ids=str,
)
def test_every_client_of_every_round_can_be_seen(settings, tmp_path):
    _, path = write(tmp_path, **settings)
    for record in run_folder.load(path)[0].records[:-1]:
        for client in record["cohort"]:
            head, *tensors = inspect(path, record["round"], client)
            assert head["checksum"] == record["checksum"]
            assert tensors


def test_a_replay_goes_on_from_a_checkpoint_before_the_round(tmp_path, monkeypatch):
    experiment, path = write(tmp_path, every=1)
    whole = list(inspect(path, 3, 0))
    seen, course = [], federated.federated_run(experiment, federated.prepare(experiment))
    original = type(course).rounds

    def counted(self, *given):
        for current in original(self, *given):
            seen.append(current.index)
            yield current

    monkeypatch.setattr(type(course), "rounds", counted)
    assert list(inspect(path, 3, 0)) == whole
    assert seen == [3]
    assert list(inspect(path, 1, 0))[0]["round"] == 1
    assert seen == [3, 1]


def test_only_rows_that_are_held_cross(tmp_path):
    experiment, path = write(tmp_path, "fd")
    held = federated.prepare(experiment).label_counts[1].nonzero().flatten().tolist()
    _, up, told = inspect(path, 1, 1, rows=99)
    assert up["rows"] == held
    assert up["shape"] == [len(held), 10]
    assert list(told["largest"]) == [str(label) for label in held]


def test_an_upload_without_any_row_is_shown(tmp_path):
    # After the first round both ends know all of the consensus, and nothing more is asked about.
    _, path = write(tmp_path, "scarlet", rounds=2)
    _, *messages = inspect(path, 2, 1)
    (up,) = (one for one in messages if one["direction"] == "up")
    assert (up["shape"], up["rows"], up["min"]) == ([0, 10], [], None)
    assert list(payloads.lines(up)) == ["up probabilities: 0 x 10 float32", "  0 bytes, rows none"]


@pytest.mark.parametrize("settings", [dict(), dict(name="fd"), dict(compression="uint8")])
def test_payloads_are_saved_as_they_crossed_and_as_they_are_read(tmp_path, settings):
    experiment, path = write(tmp_path, **settings)
    list(inspect(path, 2, 2, save=tmp_path / "payload.safetensors"))
    found = load_file(tmp_path / "payload.safetensors")
    federation = federated.prepare(experiment)
    parties = federation.task, federation.clients
    channel = compression.channel(experiment.compression)
    more = {"rounds": 3, "channel": channel, "engine": AutoEngine()}
    _, second, _ = simulate(experiment.algorithm, *parties, **more)
    for key, sent in second.uploads[2].payload.items():
        assert torch.equal(found.pop(f"up.{key}"), sent)
    for key, told in second.broadcasts[2].items():
        assert torch.equal(found.pop(f"down.{key}"), told)
    coded = settings.get("name") == "fd" or "compression" in settings
    assert any(key.endswith(".read") for key in found) == coded
    for key, value in found.items():  # the rest: distributions again, of all labels
        assert value.dtype == torch.float32
        assert ((value.sum(1) - 1).abs() < 0.05).logical_or(value.sum(1) == 0).all(), key


def test_what_was_turned_away_is_shown_as_it_was_sent(tmp_path):
    _, path = write(tmp_path, corrupt="1:nan")
    head, up = inspect(path, 1, 1)
    assert "not finite" in head["rejected"]
    assert (up["min"], up["not_finite"]) == (None, 200)


def test_a_replay_that_differs_is_not_shown(tmp_path):
    _, path = write(tmp_path)
    metrics = path / "metrics.jsonl"
    first = run_folder.load(path)[0].records[0]["checksum"]
    metrics.write_text(metrics.read_text().replace(first, "00000000"))
    head = json.loads((path / "run.json").read_text())
    head["versions"]["torch"] = "1.0"
    (path / "run.json").write_text(json.dumps(head))
    with pytest.raises(ValueError, match="round 1 cannot be replayed exactly") as error:
        next(inspect(path, 1, 0))
    assert f"torch 1.0 (now {run_folder.versions()['torch']}" in str(error.value)


def test_a_replay_that_differs_in_last_bits_is_not_shown(tmp_path, monkeypatch):
    """All clients of a round are computed again, in the stacks of the run: to the last bit."""
    _, path = write(tmp_path, models=("mlp-8", "mlp-16"))
    assert list(inspect(path, 3, 1))
    whole = federated.engine_of

    @contextmanager
    def off_by_bits(*given):
        with whole(*given) as (engine, *rest):

            def other(function, task, clients, inputs):
                # The weights of one client are the next numbers that there are.
                first, *others = clients
                params = {k: v.nextafter(torch.tensor(9.0)) for k, v in first.params.items()}
                return engine(function, task, [first.with_params(params), *others], inputs)

            yield other, *rest

    monkeypatch.setattr(federated, "engine_of", off_by_bits)
    with pytest.raises(ValueError, match="cannot be replayed exactly, so nothing is shown"):
        list(inspect(path, 3, 1))


def test_a_run_without_checksums_is_shown_and_says_so(tmp_path):
    _, path = write(tmp_path)
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"checksum"', '"other"'))
    assert next(inspect(path, 1, 0))["checksum"] is None


@pytest.mark.usefixtures("no_report")
def test_the_command(kdsim, small, tmp_path):
    assert kdsim("fed", "fedmd", *small, "--out", "runs", "--no-baseline")[0] == 0
    (path,) = (tmp_path / "runs").glob("fedmd*")
    where = ["inspect", path, "--round", "2", "--client", "1"]
    status, out, _ = kdsim(*where)
    assert status == 0
    assert "up probabilities: 20 x 10 float32" in out
    assert "replayed exactly, checksum" in out
    status, out, _ = kdsim(*where, "--json")
    assert [r["record"] for r in read(out)] == ["inspect", *["payload", "predictions"] * 2]
    assert kdsim(*where, "--save", "it.safetensors")[0] == 0
    assert set(load_file(tmp_path / "it.safetensors")) == {"up.probabilities", "down.consensus"}
    for more, message in [
        (["--round", "9"], "--round 9: .* has the rounds 1 to 2"),
        (["--round", "0"], "--round 0: "),
        (["--client", "3"], "--client 3: the clients are 0 to 2"),
        (["--client", "-1"], "--client -1: "),
    ]:
        status, _, err = kdsim(*where, *more)
        assert (status, err.count("\n")) == (2, 1), err
        assert message.split(":")[0] in err
    write(tmp_path / "runs", "fd")
    for folder, message in [("runs", "holds 2 runs; name one"), ("nowhere", "is no run folder")]:
        status, _, err = kdsim("inspect", folder, "--round", "1", "--client", "0")
        assert (status, err.count("\n")) == (2, 1), err
        assert message in err


@pytest.mark.usefixtures("no_report")
def test_who_was_not_there_and_runs_that_exchange_nothing(kdsim, small, tmp_path):
    _, path = write(tmp_path, fraction=0.3)
    (cohort,) = {
        tuple(r["cohort"]) for r in run_folder.load(path)[0].records if r.get("round") == 1
    }
    (absent, *_) = set(range(4)) - set(cohort)
    with pytest.raises(ValueError, match=f"nothing crossed between client {absent} and the others"):
        next(inspect(path, 1, absent))
    assert kdsim("graph", "mlp", "--out", "g")[0] == 0
    (graph,) = (tmp_path / "g").glob("mlp*")
    status, _, err = kdsim("inspect", graph, "--round", "1", "--client", "0")
    assert (status, err.count("\n")) == (2, 1)
    assert "no federated run" in err
