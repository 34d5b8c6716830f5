"""What a machine of a cluster does with its files, and which addresses name one; no Ray runs."""

import os
import subprocess
import sys

import pytest

from simulations.config.experiments import FedExperiment, GraphExperiment
from simulations.config.resources import Resources
from simulations.execution import cluster, remote


def test_folders_whose_processes_are_gone_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {owner: f"{remote._prefix()}{owner}-x" for owner in (gone.pid, os.getpid(), "other")}
    elsewhere = f"{remote.PREFIX}elsewhere-{gone.pid}-x"
    for name in (*names.values(), elsewhere):
        (tmp_path / name / "deep").mkdir(parents=True)
    remote.sweep(tmp_path)
    left = {names[os.getpid()], names["other"], elsewhere}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_file_is_sent_when_it_is_new_or_has_changed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").write_bytes(b"one")
    known = dict(remote._there(tmp_path))
    assert remote._new(tmp_path, known) == {}
    (tmp_path / "run" / "weights").write_bytes(b"other")
    (tmp_path / "run" / ".draft-round-000001-7").mkdir()
    (tmp_path / "run" / ".draft-round-000001-7" / "half").write_bytes(b"?")
    (tmp_path / "run" / ".lock").write_bytes(b"7")
    assert remote._new(tmp_path, known) == {"run/weights": b"other"}
    assert remote._new(tmp_path, known) == {}


def test_an_address_names_one_cluster():
    assert cluster.address("10.0.0.1:6379") == "10.0.0.1:6379"
    assert cluster.address("local") == ""
    for asked in ("auto", "ray://10.0.0.1:10001", "http://127.0.0.1:8265"):
        with pytest.raises(ValueError, match="expected HOST:PORT of one that `ray start --head`"):
            cluster.address(asked)


def test_versions_are_the_same_whatever_they_were_built_for():
    assert cluster._same("2.13.0+cpu", "2.13.0+cu128")
    assert not cluster._same("2.13.1", "2.13.0")
    assert not cluster._same(None, "2.13.0")


def test_a_run_takes_its_share_or_room_for_all_of_its_actors():
    from fedkd.algorithms.fedmd import FedMD
    from graphkd import methods

    resources = Resources(cpus=2, gpus=0.25, actors=2, shares=("cnn=1:0.5",))
    graph = GraphExperiment(methods.get("mlp")())
    assert cluster.shares(graph, resources) == [(2, 0.25)]
    fed = FedExperiment(FedMD(), engine="ray", models=("mlp-8", "cnn"))
    assert cluster.shares(fed, resources) == [(1, 0)] + [(2, 0.25)] * 2 + [(1, 0.5)] * 2
    alone = FedExperiment(FedMD(), engine="ray", models=("cnn",))
    assert cluster.shares(alone, resources) == [(1, 0)] + [(1, 0.5)] * 2
