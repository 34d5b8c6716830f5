"""What a finished run is worth on the test nodes: the only place that sees their labels.

A run reports, all between 0 and 1:

    accuracy            of the student on the test nodes of the protocol: "tran" in the
                        transductive one, "ind" (held out) in the others
    accuracy_tran, accuracy_ind, accuracy_prod
                        the same by part; prod = 0.8 tran + 0.2 ind, GLNN's "production" setting:
                        the parts' own shares of the test nodes
    accuracy_baseline*  the same student, trained on the labels alone, likewise by part
    accuracy_teacher*   the teacher, likewise by part
    agreement           share of the same nodes as `accuracy` where student and teacher agree
    calibration_error   of the student, on the same nodes

Of real targets it is R^2 instead of the accuracy (r2, r2_baseline, r2_teacher; see
`graphkd.training.loop.score`), and rmse, in the unit of the targets. Of whole graphs "ind" is the
test fold, and "tran" the unlabelled graphs of the other folds, if there are any.

Of links they are auc and hits20 (Hits@20 of the OGB), and these of _baseline and _teacher, on the
edges of the test and as many pairs without one.

A network that uses edges is scored at observed nodes from the observed graph, and at held-out
nodes from the whole graph, as in GLNN.
"""

from torch import Tensor, nn

from graphkd.core import Split
from graphkd.data.links import Pairs
from graphkd.inputs import Encoder
from graphkd.training.loop import predict, score
from kdcore import metrics as fidelity
from kdcore import metrics as ranking


def measure(
    split: Split, student: Tensor, baseline: Tensor, teacher: Tensor | None
) -> dict[str, float]:
    """The metrics of a run from the logits (N, C) of its three networks, in global order."""
    everything = split.view("evaluate")
    if isinstance(everything.graph, Pairs):
        known = {"": student, "_baseline": baseline} | (
            {} if teacher is None else {"_teacher": teacher}
        )
        return {
            k + who: v for who, logits in known.items() for k, v in links(split, logits).items()
        }
    chosen = everything.part("ind" if "ind" in split.parts else "tran")
    y = everything.graph.y
    name = "r2" if y.is_floating_point() else "accuracy"
    metrics = scores(split, student, name) | scores(split, baseline, f"{name}_baseline")
    if teacher is not None:
        metrics |= scores(split, teacher, f"{name}_teacher")
    if y.is_floating_point():
        metrics["rmse"] = float((student[chosen, 0] - y[chosen]).square().mean().sqrt())
        return metrics
    metrics["calibration_error"] = fidelity.calibration_error(student[chosen], y[chosen])
    if teacher is not None:
        metrics["agreement"] = fidelity.agreement(student[chosen], teacher[chosen])
    return metrics


def links(split: Split, logits: Tensor) -> dict[str, float]:
    """The AUC and Hits@20 of logits (P, 1) on the test pairs."""
    everything = split.view("evaluate")
    test = everything.part("test")
    ranked = logits[test, 0], everything.graph.y[test]
    return {"auc": ranking.auc(*ranked), "hits20": ranking.hits_at(*ranked, 20)}


def scores(split: Split, logits: Tensor, name: str) -> dict[str, float]:
    """The accuracy (or R^2) of logits (N, C) by part of the test nodes, and the protocol's."""
    everything = split.view("evaluate")
    found = {}
    for part in ("tran", "ind"):
        if part in split.parts:
            nodes = everything.part(part)
            found[part] = score(logits[nodes], everything.graph.y[nodes])
    values = {name: found.get("ind", found.get("tran", 0.0))}
    values |= {f"{name}_{part}": value for part, value in found.items()}
    if len(found) == 2:
        share = len(everything.part("ind")) / len(everything.part("test"))
        values[f"{name}_prod"] = (1 - share) * found["tran"] + share * found["ind"]
    return values


def everywhere(network: nn.Module, split: Split, encode: Encoder | None = None) -> Tensor:
    """The logits of a network at every node, (N, C) in global order; `encode` makes its inputs."""
    whole, seen = split.view("evaluate"), split.view("distill")
    logits = predict(network, encode(whole) if encode else whole.graph).logits
    if "ind" in split.parts and not split.observed:
        logits[seen.ids] = predict(network, encode(seen) if encode else seen.graph).logits
    return logits
