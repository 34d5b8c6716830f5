"""The pages about algorithms say what the code does: one is made from it, the other is run."""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch

from fedkd import algorithms
from fedkd.engines.batched import batched
from fedkd.rounds.synchronous import simulate

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"


def test_the_table_is_that_of_the_code():
    page = (DOCS / "algorithms.md").read_text()
    (written,) = re.findall(r"<!-- made by: .*? -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert written == algorithms.table()


def test_the_table_names_every_algorithm():
    rows = algorithms.table().splitlines()
    assert len(rows) == 2 + len(algorithms.names())
    assert len({row.count("|") for row in rows}) == 1


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The algorithm of the page, saved where algorithms are looked for."""
    page = (DOCS / "add-an-algorithm.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert max(map(len, code.splitlines())) <= 100
    (name,) = re.findall(r"`fedkd/algorithms/(\w+)\.py`", page)
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    yield name
    sys.modules.pop(f"fedkd.algorithms.{name}", None)
    vars(algorithms).pop(name, None)


def test_the_page_is_short():
    assert len((DOCS / "add-an-algorithm.md").read_text().splitlines()) < 65


def test_the_algorithm_of_the_page_is_found_and_runs(added, tiny, double):
    assert added in algorithms.names()
    assert f"`{added}`" in algorithms.table()
    algorithm, federation = algorithms.get(added)(), tiny()
    results = [
        list(simulate(algorithm, federation.task, federation.clients, rounds=2, engine=engine))
        for engine in (batched(1), batched(50))
    ]
    for key, value in results[0][-1].server.items():
        torch.testing.assert_close(results[1][-1].server[key], value)
    with pytest.raises(ValueError, match="strength must be >= 0"):
        algorithms.get(added)(strength=-1.0)
    plain = algorithms.get(added)(strength=0.0)
    alone = list(simulate(plain, federation.task, federation.clients, rounds=2))
    average = algorithms.get("fedavg")()
    expected = list(simulate(average, federation.task, federation.clients, rounds=2))
    for key, value in expected[-1].server.items():
        torch.testing.assert_close(alone[-1].server[key], value)
        assert not torch.equal(results[0][-1].server[key], value)


def contracts():
    """The contract tests that need a name and a federation, and nothing else."""
    spec = importlib.util.spec_from_file_location("contracts", HERE / "test_algorithms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [
        function
        for key, function in vars(module).items()
        if key.startswith("test_")
        and "name" in (given := list(inspect.signature(function).parameters))
        and set(given) <= {"name", "tiny"}
    ]


def test_the_algorithm_of_the_page_keeps_every_contract(added, tiny):
    found = contracts()
    assert len(found) > 20
    for contract in found:
        given = {"name": added, "tiny": tiny}
        contract(**{key: given[key] for key in inspect.signature(contract).parameters})
