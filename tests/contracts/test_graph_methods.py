"""What every method of graph distillation promises; they are found, not listed."""

import dataclasses
import inspect
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import graphkd
from graphkd import distill, methods
from graphkd.core import Epoch
from graphkd.data import datasets
from graphkd.training import distillation
from graphkd.training.distillation import fit_one_teacher
from graphkd.training.loop import predict
from kdcore.outputs import Outputs
from tests.graphkd.examples import graphs

FAKE = datasets.fake(size=55)
QUICK = {"epochs": 3, "hidden": 8, "teacher_epochs": 3, "teacher_hidden": 8}
INTO_AN_MLP = {"tined"}  # copy parameters, which fit into nothing else
EMBEDDED = {"gcrd", "gnnsd", "gsp", "lsp", "nosmog", "rkd", "vqgraph"}  # compare hidden states
NODES, LINKS = (
    [name for name in methods.names() if methods.get(name).task == task]
    for task in ("nodes", "links")
)
OFFLINE = [name for name in NODES if methods.get(name).scheme == "offline"]
every_method = pytest.mark.parametrize("name", NODES)
every_link_method = pytest.mark.parametrize("name", LINKS)


def test_a_method_is_of_a_task():
    assert sorted(NODES + LINKS) == methods.names()
    assert "llp" in LINKS


@pytest.mark.parametrize("name", methods.names())
def test_methods_link_their_paper_and_give_the_loss(name):
    text = inspect.getdoc(methods.get(name))
    assert re.search(r"https?://\S+", text)
    assert re.search(r"^\s+L = ", text, re.MULTILINE)


@every_method
@pytest.mark.parametrize("protocol", graphkd.splits.PROTOCOLS)
def test_a_method_runs_and_the_same_seed_gives_the_same_run(name, protocol):
    method = methods.get(name)(**QUICK)
    records = list(graphkd.run(method, FAKE, protocol, seed=5))
    assert all(isinstance(record, Epoch) for record in records[:-1])
    result = records[-1]
    assert (result.method, result.data, result.protocol, result.seed) == (name, "fake", protocol, 5)
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert {"accuracy", "accuracy_baseline", "calibration_error"} <= set(result.metrics)
    assert records == list(graphkd.run(method, FAKE, protocol, seed=5))
    assert records != list(graphkd.run(method, FAKE, protocol, seed=6))


@every_method
def test_a_method_teaches_every_kind_of_student_or_says_what_is_missing(name):
    for student in sorted(set(graphkd.networks.names()) - set(graphkd.networks.TYPED)):
        if name in INTO_AN_MLP and student != "mlp":
            with pytest.raises(ValueError, match=f"student {student}; .* into an mlp"):
                methods.get(name)(student=student, **QUICK)
            continue
        method = methods.get(name)(student=student, **QUICK)
        if student == "sgc" and name in EMBEDDED:  # the only network without a hidden state
            with pytest.raises(ValueError, match=r"no hidden state|0 hidden states"):
                list(graphkd.run(method, FAKE))
        else:
            *_, last = graphkd.run(method, FAKE)
            assert 0 <= last.metrics["accuracy"] <= 1


@pytest.mark.parametrize("name", OFFLINE)
def test_a_method_with_a_teacher_reports_it_and_the_student_alone(name):
    *_, last = graphkd.run(methods.get(name)(epochs=3), FAKE)
    metrics = last.metrics
    assert {"accuracy_teacher", "agreement"} <= set(metrics)
    assert metrics["accuracy_teacher"] > 0.8


@every_method
def test_a_run_on_a_float64_graph_is_in_float64_and_near_the_one_in_float32(name, monkeypatch):
    types = {}

    def fit_student(network, student, view, targets=None, terms=(), **more):
        for term in terms:
            types["loss"] = of_numbers(term.loss) if isinstance(term.loss, nn.Module) else set()
        return distillation.fit_student(network, student, view, targets, terms, **more)

    def run(graph):
        view = graphkd.splits.transductive(graph, 1).view("evaluate")
        *epochs, last = graphkd.run(methods.get(name)(**QUICK | {"epochs": 2}), graph, seed=1)
        for role, (network, encode) in last.trained.items():
            types[role] = of_numbers(network, predict(network, encode(view)))
        return epochs, last.metrics

    monkeypatch.setattr(distill, "fit_student", fit_student)
    exact, exact_metrics = run(replace(FAKE, x=FAKE.x.double()))
    assert types.pop("loss", set()) <= {torch.float64}
    assert types.keys() >= {"baseline"}
    assert all(found == {torch.float64} for found in types.values())
    single, metrics = run(FAKE)
    for one, other in zip(exact, single, strict=True):
        assert one.phase == other.phase
        assert one.loss == pytest.approx(other.loss, rel=1e-4, abs=1e-6)
    assert exact_metrics == pytest.approx(metrics, abs=0.07)  # one node of fifteen, tied


@pytest.mark.parametrize("name", ["cpf", "krd", "nosmog"])  # which count edges of their own
def test_edges_of_32_bits_change_nothing(name):
    settings = QUICK | {"epochs": 1, "teacher_epochs": 1}
    narrow = replace(FAKE, edge_index=FAKE.edge_index.int(), y=FAKE.y.int())
    one, other = (list(graphkd.run(methods.get(name)(**settings), g)) for g in (FAKE, narrow))
    assert one == other


def of_numbers(network, outputs=None):
    """The types of a network's parameters, and of what it shows."""
    shown = () if outputs is None else (outputs.logits, *outputs.hidden)
    return {tensor.dtype for tensor in (*network.parameters(), *shown)}


class Slander(nn.Module):
    """A network that says something else of some nodes, and shows something else."""

    def __init__(self, network, nodes):
        super().__init__()
        self.network, self.nodes = network, nodes

    def forward(self, graph, nodes=None):
        """See the class."""
        outputs = self.network(graph, nodes)
        asked = torch.arange(graph.num_nodes) if nodes is None else nodes
        wrong = torch.isin(asked, self.nodes).unsqueeze(1)
        false = (torch.where(wrong, 3 - 2 * shown, shown) for shown in outputs.hidden)
        return Outputs(torch.where(wrong, -5 * outputs.logits, outputs.logits), tuple(false))


@pytest.mark.parametrize("name", OFFLINE)
def test_what_a_teacher_says_of_withheld_nodes_teaches_nobody(name):
    split = graphkd.splits.withheld(FAKE, 0)
    at_once = {"krd": {"warmup": 0, "momentum": 0.0}}  # else it takes longer to show
    settings = QUICK | at_once.get(name, {})

    def slandered(nodes):
        def train(*given, **more):
            fitted = yield from fit_one_teacher(*given, **more)
            return fitted._replace(network=Slander(fitted.network, nodes))

        method = methods.get(name)(**settings)
        *_, last = graphkd.distill.distill(method, split, seed=0, train=train)
        return last.trained["student"].network.state_dict()

    honest, other = slandered(torch.tensor([], dtype=torch.long)), slandered(split.parts["ind"])
    assert all(torch.equal(honest[key], other[key]) for key in honest)
    heard = slandered(torch.cat([split.parts["tran"], split.parts["train"]]))
    assert any(not torch.equal(honest[key], heard[key]) for key in honest)


@every_method
def test_a_method_bears_nodes_that_have_lost_all_their_edges(name):
    split = graphkd.splits.split(FAKE, "inductive", 0, removed_edges=1.0)
    *_, last = graphkd.distill.distill(methods.get(name)(**QUICK), split, seed=0)
    assert all(0 <= value <= 1 for value in last.metrics.values())


@every_method
@pytest.mark.parametrize("real", [False, True], ids=["classes", "real targets"])
def test_a_method_learns_on_whole_graphs_or_says_which_ones_do(name, real):
    method, many = methods.get(name), graphs(real=real)
    lacks = {"edges", "classes"} if real else {"edges"}
    if method.needs & lacks:
        with pytest.raises(ValueError, match=r"choose one of .*logits"):
            list(graphkd.run(method(**QUICK), many, "folds"))
    else:
        *_, last = graphkd.run(method(**QUICK), many, "folds")
        assert ("r2" if real else "accuracy") in last.metrics


@pytest.mark.parametrize("name", methods.names())
def test_a_method_cannot_be_changed(name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        methods.get(name)().epochs = 3


@every_link_method
def test_a_link_method_runs_and_the_same_seed_gives_the_same_run(name):
    method = methods.get(name)(**QUICK)
    records = list(graphkd.run(method, FAKE, seed=5))
    metrics = records[-1].metrics
    whose = ("", "_baseline", "_teacher")
    assert set(metrics) == {f"{m}{who}" for m in ("auc", "hits20") for who in whose}
    assert all(0 <= value <= 1 for value in metrics.values())
    assert records == list(graphkd.run(method, FAKE, seed=5))
    assert records != list(graphkd.run(method, FAKE, seed=6))


@every_link_method
@pytest.mark.parametrize("student", ["mlp", "gcn", "sgc", "appnp"])
def test_a_link_method_teaches_every_kind_of_student(name, student):
    settings = QUICK | {"student": student, "teacher": student}
    *_, last = graphkd.run(methods.get(name)(**settings), FAKE)
    assert 0 <= last.metrics["auc"] <= 1


@every_link_method
def test_a_link_method_computes_in_the_type_of_the_graph(name):
    def run(graph):
        *epochs, last = graphkd.run(methods.get(name)(**QUICK | {"epochs": 2}), graph, seed=1)
        types = {of.dtype for one in last.trained.values() for of in one.network.parameters()}
        return epochs, last.metrics, types

    exact, exact_metrics, types = run(replace(FAKE, x=FAKE.x.double()))
    assert types == {torch.float64}
    single, metrics, _ = run(FAKE)
    for one, other in zip(exact, single, strict=True):
        assert one.phase == other.phase
        assert one.loss == pytest.approx(other.loss, rel=1e-4, abs=1e-6)
    assert exact_metrics == pytest.approx(metrics, abs=0.05)


@every_link_method
def test_a_link_method_refuses_what_is_no_graph_of_nodes(name):
    with pytest.raises(ValueError, match=r"is many graphs, and links are predicted in one"):
        list(graphkd.run(methods.get(name)(**QUICK), graphs(), "transductive"))
    with pytest.raises(ValueError, match="the split is one of nodes: give the graph"):
        list(graphkd.run(methods.get(name)(**QUICK), graphkd.splits.transductive(FAKE, 0)))
    with pytest.raises(ValueError, match="'inductive' holds nodes out: leave it out"):
        list(graphkd.run(methods.get(name)(**QUICK), FAKE, "inductive"))
