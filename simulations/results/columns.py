"""What a table has columns and notes for: the metrics, by kind of experiment."""

from typing import NamedTuple

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
FED = (
    Column("accuracy", "Accuracy, global test set (%)", "share"),
    Column("accuracy", "the same, minus local (points)", "share", minus="local"),
    Column("accuracy_median", "Accuracy, median client (%)", "share"),
    Column("accuracy_least", "Accuracy, least client (%)", "share"),
    Column("accuracy_local", "Accuracy, own distribution (%)", "share"),
    Column("accuracy_local", "the same, minus local (points)", "share", minus="local"),
    Column("accuracy_validation", "Accuracy, validation (%)", "share"),
    *_SHARED,
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
SHARES = ("accuracy", "agreement", "fidelity", "recall", "r2")  # metrics that are shares
MORE_NOTES = {
    "rounds_to_90": "Rounds to 90% of the best: the first evaluated round with nine tenths of the "
    "run's own best accuracy on the global test set; how fast, not how well.",
    "accuracy_least": "Median and least client: of the clients' accuracies on the global test set "
    "in the last round, of each run; means over seeds.",
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


# Metrics of which less is better, beside those of targets (`fedkd.targets.Target.lower`).
ERRORS = {"calibration_error", "loss", DIVERGED}.union(*(t.lower for t in TARGETS.values()))


def more_is_better(metric: str) -> bool:
    """Whether a metric, such as `accuracy_validation`, is to be as large as can be."""
    return not any(f"{metric}_".startswith(f"{name}_") for name in ERRORS)
