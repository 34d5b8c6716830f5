"""What a finished run is worth on the test nodes: the only place that sees their labels.

A run reports, all between 0 and 1:

    accuracy            of the student on the test nodes of the protocol: "tran" in the
                        transductive one, "ind" (unseen in training) in the inductive one
    accuracy_tran, accuracy_ind, accuracy_prod
                        the same by part; prod = 0.8 tran + 0.2 ind, GLNN's "production" setting:
                        the parts' own shares of the test nodes
    accuracy_baseline*  the same student, trained on the labels alone, likewise by part
    accuracy_teacher*   the teacher, likewise by part
    agreement           share of the same nodes as `accuracy` where student and teacher agree
    calibration_error   of the student, on the same nodes

A network that uses edges is scored at observed nodes from the observed graph, and at held-out
nodes from the whole graph, as in GLNN.
"""

from torch import Tensor, nn

from graphkd.core import Split
from graphkd.inputs import get as get_inputs
from graphkd.training import predict
from knowledge import fidelity


def measure(
    split: Split, student: Tensor, baseline: Tensor, teacher: Tensor | None
) -> dict[str, float]:
    """The metrics of a run from the logits (N, C) of its three networks, in global order."""
    everything = split.view("evaluate")
    chosen = everything.part("ind" if split.protocol == "inductive" else "tran")
    y = everything.graph.y
    metrics = scores(split, student, "accuracy") | scores(split, baseline, "accuracy_baseline")
    metrics["calibration_error"] = fidelity.calibration_error(student[chosen], y[chosen])
    if teacher is not None:
        metrics |= scores(split, teacher, "accuracy_teacher")
        metrics["agreement"] = fidelity.agreement(student[chosen], teacher[chosen])
    return metrics


def scores(split: Split, logits: Tensor, name: str) -> dict[str, float]:
    """The accuracy of logits (N, C) by part of the test nodes, and that of the protocol."""
    everything = split.view("evaluate")

    def on(part: str) -> float:
        nodes = everything.part(part)
        return fidelity.accuracy(logits[nodes], everything.graph.y[nodes])

    if split.protocol == "transductive":
        return {name: on("tran"), f"{name}_tran": on("tran")}
    tran, ind = on("tran"), on("ind")
    share = len(everything.part("ind")) / len(everything.part("test"))
    prod = (1 - share) * tran + share * ind
    return {name: ind, f"{name}_tran": tran, f"{name}_ind": ind, f"{name}_prod": prod}


def everywhere(network: nn.Module, split: Split, inputs: str = "features") -> Tensor:
    """The logits of a network at every node, (N, C) in global order."""
    whole, seen, prepare = split.view("evaluate"), split.view("distill"), get_inputs(inputs)
    logits = predict(network, prepare(whole.graph)).logits
    if split.protocol == "inductive":
        logits[seen.ids] = predict(network, prepare(seen.graph)).logits
    return logits
