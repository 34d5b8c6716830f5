"""Published settings, in one table each; a field of a `Method` that is None takes its value here.

GLNN's `train.conf.yaml` and its scripts (https://github.com/snap-research/graphless-neural-networks)
for the CPF data sets; for digits-knn and in general, plain defaults that nobody has tuned.
"""

from typing import Any

from graphkd.core import Method, Student, Teacher

# Of each network, on every data set: as a teacher, and as a thin student.
TEACHERS = {
    #            width    dropout        learning rate   L2
    "sage": dict(hidden=128, dropout=0.0, lr=0.01, weight_decay=5e-4),
    "gcn": dict(hidden=64, dropout=0.8, lr=0.01, weight_decay=1e-3),
    "gat": dict(hidden=128, dropout=0.6, lr=0.01, weight_decay=1e-2),
    "appnp": dict(hidden=128, dropout=0.5, lr=0.01, weight_decay=1e-2),
    "mlp": dict(hidden=128, dropout=0.5, lr=0.01, weight_decay=5e-4),
}
THIN = dict(hidden=16, dropout=0.5, lr=0.01, weight_decay=5e-4)

# Of the MLP student, on each data set.
MLP = {
    "cora": dict(dropout=0.6, lr=0.01, weight_decay=5e-3),
    "citeseer": dict(dropout=0.1, lr=0.01, weight_decay=1e-3),
    "amazon-computers": dict(dropout=0.3, lr=0.001, weight_decay=2e-3),
    "amazon-photo": dict(dropout=0.3, lr=0.005, weight_decay=2e-3),
    "digits-knn": dict(dropout=0.5, lr=0.01, weight_decay=5e-4),
}


def teacher(method: Method) -> Teacher:
    """How the teacher of a method is built and trained."""
    published = {"layers": 2, **TEACHERS.get(method.teacher, TEACHERS["sage"])}
    chosen = _chosen(method, published, "teacher_")
    return Teacher(method.teacher, epochs=method.epochs, patience=method.patience, **chosen)


def student(method: Method, data: str) -> Student:
    """How the student of a method is built and trained on a data set."""
    published: dict[str, Any] = {"layers": 2, **THIN}
    if method.student == "mlp":
        published |= {"hidden": 128, **MLP.get(data, MLP["digits-knn"])}
    chosen = _chosen(method, published, "")
    return Student(
        method.student,
        epochs=method.epochs,
        patience=method.patience,
        batch=method.batch,
        **chosen,
    )


def _chosen(method: Method, published: dict[str, Any], prefix: str) -> dict[str, Any]:
    given = {name: getattr(method, prefix + name) for name in published}
    return {name: published[name] if given[name] is None else given[name] for name in published}
