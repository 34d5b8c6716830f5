"""Every attack on clients that hold a graph, or whole graphs: it is made, or refused in a line.

The attacks are found by looking into their package. One that cannot be made of what an algorithm
sends has its reason here.
"""

from pathlib import Path

import pytest

from kdattacks import REGISTRY, scoring
from simulations.audits import federated, run
from simulations.config import experiments
from simulations.config.resources import Resources
from simulations.execution import scheduler
from simulations.execution.scheduler import Job

GRAPH = Path(__file__).parents[1] / "fedgraphkd" / "graphs.py"
GIVEN = {
    "nodes": {"data": f"{GRAPH}:found", "partition": "greedy", "models": ["gcn-4"]},
    "graphs": {"data": "coloured-trees", "graphs.train": 0.1, "models": ["gin-4"]},
}
SAID = r"no predictions of public examples crossed \(.*did\); take an algorithm that exchanges them"
OF_PREDICTIONS = dict.fromkeys(("public", "public-nearest"), SAID)
REFUSED = {
    "fedmd": {},
    "fd": {**OF_PREDICTIONS, "links-sent": SAID},
    "fedproto": {**OF_PREDICTIONS, "links-sent": SAID},
    "fedavg": {**OF_PREDICTIONS, "invert": SAID},
}
LINKS = {"links", "links-sent", "links-influence"}
NOT_OF = {"nodes": {"nodes"}, "graphs": {"nodes"} | LINKS}
QUICK = {("nodes", "fedmd"), ("nodes", "fedavg"), ("graphs", "fedmd")}


def ran(folder, name, kind):
    """A run of two clients, as its server has seen it."""
    given = {"clients": 2, "rounds": 1, "engine": "batched", "alpha": 10.0, **GIVEN[kind]}
    experiment = experiments.build("fed", name, given)
    resources = Resources(weights=0)
    *_, end = scheduler.attempt(Job(experiment, folder / "run", None, resources))
    assert end["record"] == "run", end
    return folder / "run"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(k, n, marks=[] if (k, n) in QUICK else [pytest.mark.slow])
        for k in GIVEN
        for n in REFUSED
    ],
)
def test_every_attack_is_made_or_says_in_a_line_why_not(kind, name, tmp_path):
    path = ran(tmp_path, name, kind)
    for attack in sorted(NOT_OF[kind]):
        with pytest.raises(
            ValueError, match=f"^{attack} is no attack on a federated run o.* one of"
        ):
            run.audit(path, run.Wanted((attack,), 4), print)
    seen = federated.seen(path, None, 4, None, None)
    made = sorted({*REGISTRY.names()} - NOT_OF[kind])
    for attack in made:
        if attack in REFUSED[name]:
            with pytest.raises(ValueError, match=REFUSED[name][attack]) as refusal:
                run.of_clients(seen, attack)
            assert "\n" not in str(refusal.value)
            continue
        found = run.of_clients(seen, attack)
        assert len(found) == (4 if attack in LINKS else 1)  # two kinds of pairs, and the features
        for outcome in found:
            assert outcome.decisions.values.isfinite().all()
            assert len(outcome.decisions.truth)
            low, high = scoring.interval(outcome.decisions.values, outcome.decisions.control, 4)
            control = outcome.record["control_auc"]
            assert control is None or low <= control <= high
