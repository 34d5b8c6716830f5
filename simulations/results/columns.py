"""What a table has columns and notes for: the metrics, by kind of experiment."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fedkd.targets import TARGETS


class Column(NamedTuple):
    """A metric; with `minus`, its difference to that run, paired by seed."""

    metric: str
    title: str
    unit: str = ""
    minus: str = ""


KINDS = {"fed": "Federated distillation", "graph": "Graph distillation", "survey": "Recipe"}
DIVERGED = "diverged"
_SHARED = (
    Column(DIVERGED, "Diverged (share of seeds)"),
    Column("agreement", "Agreement (%)", "share"),
    Column("calibration_error", "Calibration error (%)", "share"),
)
PRIMARY = {  # what models are compared by, of each target: in a title, and its unit
    "accuracy": ("Accuracy", "share"),
    "rmse": ("RMSE", ""),
    "f1_macro": ("Macro-F1", "share"),
    "perplexity": ("Perplexity", ""),
}
# Metrics of which less is better; those of targets say so themselves.
ERRORS = {"calibration_error", "loss", "epsilon", DIVERGED}.union(
    *(t.lower for t in TARGETS.values())
)


def primary(record: Mapping[str, Any]) -> str:
    """The metric that a record compares models by; accuracy where it has none."""
    return next((name for name in PRIMARY if name in record), "accuracy")


def is_lower(metric: str) -> bool:
    """Whether less is better of a metric, such as rmse or rmse_validation."""
    return any(f"{metric}_".startswith(f"{name}_") for name in ERRORS)


def scale(metric: str) -> float:
    """By what a metric is multiplied to be shown: shares in per cent, others as they are."""
    return 100.0 if titled(metric)[1] == "share" else 1.0


def figure(value: float, form: str) -> str:
    """A number by a form such as `+.3g`; of five to seven digits without exponent: +106,000."""
    text = format(value, form)
    if not form.endswith("g") or not 1e4 <= abs(float(text)) < 1e7:
        return text
    return format(float(text), "+,.0f" if form.startswith("+") else ",.0f")


def written(metric: str, value: float) -> str:
    """A value as a line of text has it: shares in per cent."""
    return f"{100 * value:.1f} %" if scale(metric) != 1 else figure(value, ".4g")


def _compared(metric: str, title: str, unit: str) -> tuple[Column, ...]:
    """The columns of what models are compared by."""
    per_cent, points = (" (%)", " (points)") if unit else ("", "")
    worst, called = ("most", "worst") if is_lower(metric) else ("least", "least")
    return (
        Column(metric, f"{title}, global test set{per_cent}", unit),
        Column(metric, f"the same, minus local{points}", unit, minus="local"),
        Column(f"{metric}_median", f"{title}, median client{per_cent}", unit),
        Column(f"{metric}_{worst}", f"{title}, {called} client{per_cent}", unit),
        Column(f"{metric}_local", f"{title}, own distribution{per_cent}", unit),
        Column(f"{metric}_local", f"the same, minus local{points}", unit, minus="local"),
        Column(f"{metric}_validation", f"{title}, validation{per_cent}", unit),
        Column(f"{metric}_local_validation", f"{title}, own validation{per_cent}", unit),
    )


FED = (
    *(column for name, about in PRIMARY.items() for column in _compared(name, *about)),
    Column("accuracy_whole", "Accuracy, edges between clients given back (%)", "share"),
    Column("accuracy_local_whole", "Own nodes, edges given back (%)", "share"),
    Column("cut", "Edges cut (%)", "share"),
    Column("accuracy_consensus", "Consensus on public examples (%)", "share"),
    Column("mae", "Mean absolute error"),
    Column("label_accuracy", "Accuracy of a label (%)", "share"),
    Column("token_accuracy", "Accuracy of a token (%)", "share"),
    *_SHARED,
    Column("epsilon_record_add", "Epsilon per record (added)"),
    Column("epsilon_client_add", "Epsilon per client (added)"),
    Column("epsilon_client_replace", "Epsilon per client (replaced)"),
    Column("epsilon_label_replace", "Epsilon per label (replaced)"),
    Column("delta", "at delta", "constant"),
    Column("rounds_to_90", "Rounds to 90% of the best", "rounds"),
    Column("bytes_up", "Sent up", "bytes"),
    Column("bytes_down", "Sent down", "bytes"),
    Column("virtual_seconds", "Virtual time (s)", "seconds"),
    Column("consensus_distance", "Consensus distance"),
    Column("spectral_gap", "Spectral gap"),
    Column("diameter", "Diameter"),
)
GRAPH = (
    Column("accuracy", "Student (%)", "share"),
    Column("accuracy_baseline", "Student without KD (%)", "share"),
    Column("accuracy", "Gain over student without KD (points)", "share", minus="baseline"),
    Column("accuracy_teacher", "Teacher (%)", "share"),
    Column("accuracy_tran", "Student, observed nodes (%)", "share"),
    Column("accuracy_ind", "Student, unseen nodes (%)", "share"),
    Column("accuracy_prod", "Student, both mixed (%)", "share"),
    Column("accuracy_prod", "Gain, both mixed (points)", "share", minus="baseline"),
    Column("r2", "Student, R² (%)", "share"),
    Column("r2_baseline", "Student without KD, R² (%)", "share"),
    Column("r2", "Gain, R² (points)", "share", minus="baseline"),
    Column("r2_teacher", "Teacher, R² (%)", "share"),
    Column("auc", "Student, AUC (%)", "share"),
    Column("auc_baseline", "Student without KD, AUC (%)", "share"),
    Column("auc", "Gain, AUC (points)", "share", minus="baseline"),
    Column("auc_teacher", "Teacher, AUC (%)", "share"),
    Column("hits20", "Student, Hits@20 (%)", "share"),
    Column("hits20_baseline", "Student without KD, Hits@20 (%)", "share"),
    Column("hits20", "Gain, Hits@20 (points)", "share", minus="baseline"),
    Column("hits20_teacher", "Teacher, Hits@20 (%)", "share"),
    *_SHARED,
)
SPREAD = (
    "Mean ± sample standard deviation over seeds; differences, in percentage points, are "
    "paired by seed: their mean, with a 95% t-interval in brackets, or of one or two seeds the "
    "differences themselves. (n = ...): only so many seeds have a number."
)
NOTES = {
    "fed": "Test numbers are those of the last round, never the best over rounds; averages over "
    "clients. Agreement: with what most clients say. Bytes: all clients, all rounds; "
    "1 MB is 10^6 bytes; without ± they are the same for all seeds.",
    "graph": "Test numbers are those of the epoch chosen on validation nodes; of nodes unseen in "
    "training where the protocol is inductive. Agreement: with the teacher.",
}
# Metrics that are shares.
SHARES = (
    *("accuracy", "agreement", "fidelity", "recall", "r2"),
    *("f1_macro", "label_accuracy", "token_accuracy", "auc", "hits20", "cut"),
)
MORE_NOTES = {
    "rounds_to_90": "Rounds to 90% of the best: the first evaluated round with nine tenths of the "
    "run's own best score on the global test set (where less is better, with no more than ten "
    "ninths of it); how fast, not how well.",
    "cut": "Clients hold parts of a graph: accuracy on the global test set is on everybody's test "
    "nodes, each among the nodes of its own client, and own distribution on a client's own ones. "
    "Edges given back: the same nodes, among all private nodes with all edges between them. Edges "
    "cut: of those between private nodes, how many lead from one client to another.",
    "accuracy_least": "Median and least client: of the clients' accuracies on the global test set "
    "in the last round, of each run; means over seeds.",
    "rmse": "RMSE and mean absolute error are in the units of the target, and less is better; "
    "averages over clients.",
    "f1_macro": "Macro-F1: the mean over labels of 2 TP / (2 TP + FP + FN), average over clients.",
    "perplexity": "Perplexity: exp of the mean negative log-likelihood of a token, average over "
    "clients; less is better.",
    "delta": "Epsilon is of all rounds together, for the client of whom most was released, against "
    "whoever sees all messages and not the seed; no figure of one unit can be compared with one of "
    "another. A dash: none is claimed.",
    "virtual_seconds": "Virtual time: on a clock that counts steps and bytes, when the last round "
    "ended; no time of the machine is in it.",
    "consensus_distance": "Peers have no server: what is sent crosses every link once, and is told "
    "under Sent up. Consensus distance: the root mean square distance of a peer's upload to the "
    "mean one, in the last round. Spectral gap: 1 where one round of averaging makes all agree.",
}


def titled(name: str) -> tuple[str, str]:
    """The title of a column that has none of its own, and its unit."""
    share = name.startswith(SHARES)
    return name.replace("_", " ").capitalize() + (" (%)" if share else ""), "share" * share
