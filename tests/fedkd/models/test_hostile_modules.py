"""Whatever module somebody brings: it works as it does in torch, or is refused in one line."""

import json
import re

import pytest
import torch

import kdsim
from fedkd.algorithms.fedmd import FedMD
from fedkd.engines.batched import batched
from fedkd.engines.sequential import sequential
from fedkd.models import build
from fedkd.rounds import checkpoint
from fedkd.rounds.round import check_federation, deployed
from fedkd.rounds.synchronous import simulate
from kdcore.training.loop import TrainingConfig
from simulations.cli import app
from tests import hostile_modules as modules

SHORT = TrainingConfig("adam", 0.01, batch_size=4)
SIZE = ["--private", "40", "--public", "12", "--test", "40", "--clients", "2", "--rounds", "1"]


def each(names, slow=()):
    """Each of them; some take long, because torch does."""
    return [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in names]


REFUSED = {make.__name__: make for make in modules.REFUSED}


@pytest.mark.parametrize("name", each(modules.WORKS, slow=("Optimised", "compiled")))
def test_it_works_as_in_torch(name, tiny):
    """Both engines train it, all of it; the data stay; the way back predicts what was scored."""
    federation = tiny([modules.WORKS[name]], (4, 6), public=4, test=4)
    task, clients = federation.task, federation.clients
    model = next(iter(task.models.values()))
    x, public = clients[0].private.x.clone(), task.public.clone()
    algorithm, ends = FedMD(SHORT, distill=SHORT), []
    check_federation(algorithm, task, clients)
    for engine in (sequential, batched()):
        (last,) = simulate(algorithm, task, clients, rounds=1, engine=engine)
        ends.append(deployed(algorithm, task, last, engine=engine))
    assert torch.equal(x, clients[0].private.x)
    assert torch.equal(public, task.public)
    assert not last.failed
    for before, one, other in zip(clients, *ends, strict=True):
        moved = [n for n, v in one.params.items() if not torch.equal(v, before.params[n])]
        assert len(moved) >= 2
        for key, value in one.params.items():
            assert value.isfinite().all()
            torch.testing.assert_close(other.params[key], value, rtol=1e-3, atol=1e-4)
        if model.predict.alone is not None:
            assert all(torch.equal(v, other.params[n]) for n, v in one.params.items())
        expected = model.predict(one.params, x).logits
        module = model.module(one.params)
        found = module(x.to(next(module.parameters()).dtype, copy=True))
        found = found[0] if isinstance(found, list | tuple) else found
        torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


def test_chances_of_numpy_and_python_are_the_clients_own(tiny):
    """The same in every run, and their own streams are left alone."""
    ends = set()
    for _ in range(2):
        modules.np.random.seed(len(ends))  # noqa: NPY002
        federation = tiny([modules.Chances], (4, 6))
        before = modules.np.random.get_state()[1].tolist(), modules.random.getstate()  # noqa: NPY002
        *_, last = simulate(FedMD(SHORT, distill=SHORT), *federation[:2], rounds=2)
        ends.add(checkpoint.digest(last))
        after = modules.np.random.get_state()[1].tolist(), modules.random.getstate()  # noqa: NPY002
        assert before == after
    assert len(ends) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line(name):
    make = REFUSED[name]
    x = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=modules.REFUSED[make]) as caught:
        build(make, (1, 6, 6), 5, x)
    assert str(caught.value).startswith(f"{make.__name__}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", each(REFUSED, slow=[*REFUSED][3:]))
def test_the_command_refuses_it_before_the_run(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    models = f"{modules.__file__}:{name}"
    assert app.main(["fed", "fedavg", "--models", models, "--out", "out", *SIZE]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(modules.REFUSED[REFUSED[name]], said)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_python_refuses_it_before_the_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make = REFUSED[name]
    sizes = {"private": 40, "public": 12, "test": 40, "clients": 2, "rounds": 1, "workers": 1}
    with pytest.raises(ValueError, match=modules.REFUSED[make]) as caught:
        kdsim.run("fedavg", models=[make], out="out", **sizes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Half", "compiled", "unnamed"])
def test_the_command_runs_it(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    models = f"{modules.__file__}:{name}"
    more = ["--out", "out", "--workers", "1", "--json"]
    assert app.main(["fed", "fedmd", "--models", models, *more, *SIZE]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["record"] for r in records if r["record"] != "note"] == ["round", "run", "summary"]
