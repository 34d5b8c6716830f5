"""Published settings, in tables; a field of a `Method` that is None takes its value here.

Networks: GLNN's `train.conf.yaml` and its scripts
(https://github.com/snap-research/graphless-neural-networks) for the CPF data sets; for digits-knn
and in general, plain defaults that nobody has tuned. Of NOSMOG, KRD and FF-G2M, what their own code
has for a SAGE teacher (https://github.com/meettyj/NOSMOG, https://github.com/LirongWu/RKD,
https://github.com/LirongWu/FF-G2M), but for the width and depth of the student of the last two:
theirs is 512 to 1024 wide with 2 or 3 layers, ours is GLNN's, so that all students cost the same.
Neither has settings for Amazon Computers; there they have those for Amazon Photo. Of AdaGMLP,
its scripts for a SAGE teacher (https://github.com/WeigangLu/AdaGMLP-KDD24), elsewhere its defaults.
Of TINED its best records for a SAGE teacher (https://github.com/scottjiao/TINED_ICML25), elsewhere
those for Cora: on the Amazon graphs they normalise layers, which ours have not.
"""

from dataclasses import replace
from typing import Any

from graphkd.core import StudentSpec, TeacherSpec
from graphkd.method import Method, Plan
from kdcore.registry import is_reference

Table = dict[str, dict[str, Any]]

# Of each network, on every data set: as a teacher, and as a thin student.
TEACHERS: Table = {
    #            width    dropout        learning rate   L2
    "sage": dict(hidden=128, dropout=0.0, lr=0.01, weight_decay=5e-4),
    "gcn": dict(hidden=64, dropout=0.8, lr=0.01, weight_decay=1e-3),
    "gat": dict(hidden=128, dropout=0.6, lr=0.01, weight_decay=1e-2),
    "appnp": dict(hidden=128, dropout=0.5, lr=0.01, weight_decay=1e-2),
    "mlp": dict(hidden=128, dropout=0.5, lr=0.01, weight_decay=5e-4),
    "rgcn": dict(hidden=64, dropout=0.5, lr=0.01, weight_decay=5e-4),
    "han": dict(hidden=64, dropout=0.6, lr=0.005, weight_decay=1e-3),
    "hgt": dict(hidden=64, dropout=0.5, lr=0.005, weight_decay=1e-3),
}
THIN: dict[str, Any] = dict(layers=2, hidden=16, dropout=0.5, lr=0.01, weight_decay=5e-4)

# Of the MLP student, on each data set; "" is any other.
MLP: Table = {
    "cora": dict(dropout=0.6, lr=0.01, weight_decay=5e-3),
    "citeseer": dict(dropout=0.1, lr=0.01, weight_decay=1e-3),
    "amazon-computers": dict(dropout=0.3, lr=0.001, weight_decay=2e-3),
    "amazon-photo": dict(dropout=0.3, lr=0.005, weight_decay=2e-3),
    "": dict(dropout=0.5, lr=0.01, weight_decay=5e-4),
}


def _nosmog(
    dimensions: int, walks: int, length: int, window: int, radius: float, weight: float, **more: Any
) -> dict[str, Any]:
    return dict(
        dimensions=dimensions,
        walks=walks,
        walk_length=length,
        window=window,
        radius=radius,
        similarity_weight=weight,
        **more,
    )


def _wu(labels: float, temperature: float, dropout: float, lr: float, decay: float) -> Any:
    return dict(
        hard_weight=labels, temperature=temperature, dropout=dropout, lr=lr, weight_decay=decay
    )


_COMPUTERS = dict(lr=0.003, weight_decay=5e-3, dropout=0.1)
_PHOTO = dict(lr=0.001, weight_decay=1e-3, dropout=0.1)

# Of one method alone, on a data set, and where it matters by protocol; "" is any other.
NOSMOG: Table = {
    "cora": _nosmog(64, 5, 50, 5, 0.04, 0.1),
    "cora inductive": _nosmog(64, 3, 50, 3, 0.05, 0.1),
    "citeseer": _nosmog(16, 15, 50, 5, 0.045, 0.1),
    "citeseer inductive": _nosmog(64, 9, 50, 5, 0.05, 0.3),
    "amazon-computers": _nosmog(64, 1, 70, 5, 0.07, 1e-9, **_COMPUTERS),
    "amazon-computers inductive": _nosmog(64, 15, 70, 5, 0.06, 1e-9, **_COMPUTERS),
    "amazon-photo": _nosmog(64, 1, 30, 5, 0.1, 1e-9, **_PHOTO),
    "amazon-photo inductive": _nosmog(32, 1, 50, 3, 0.1, 1e-8, **_PHOTO),
    "": _nosmog(64, 5, 50, 5, 0.05, 1e-6),
}

KRD: Table = {
    "cora": _wu(0.3, 1.1, 0.6, 0.01, 5e-4),
    "cora inductive": _wu(0.0, 0.8, 0.6, 0.005, 1e-3),
    "citeseer": _wu(0.0, 0.8, 0.4, 0.01, 5e-4),
    "citeseer inductive": _wu(0.0, 1.0, 0.3, 0.01, 5e-4),
    "amazon-computers": _wu(0.0, 1.1, 0.4, 0.005, 5e-4),
    "amazon-computers inductive": _wu(0.4, 1.2, 0.5, 0.005, 1e-3),
    "amazon-photo": _wu(0.0, 1.1, 0.4, 0.005, 5e-4),
    "amazon-photo inductive": _wu(0.4, 1.2, 0.5, 0.005, 1e-3),
    "": _wu(0.0, 1.0, 0.5, 0.01, 5e-4),
}

FFG2M: Table = {
    "cora": _wu(0.5, 1.3, 0.4, 0.01, 5e-4),
    "citeseer": _wu(0.1, 1.2, 0.5, 0.01, 5e-4),
    "amazon-computers": _wu(0.2, 1.5, 0.4, 0.001, 5e-4),
    "amazon-photo": _wu(0.2, 1.5, 0.4, 0.001, 5e-4),
    "": _wu(0.2, 1.3, 0.5, 0.01, 5e-4),
}


def _injected(
    labels: float, energy: float, edges: float, share: float, lr: float, decay: float
) -> dict[str, Any]:
    return dict(
        hard_weight=labels,
        energy_weight=energy,
        edge_share=edges,
        injected_share=share,
        layers=2,
        hidden=128,
        dropout=0.0,
        lr=lr,
        weight_decay=decay,
    )


def _boosted(
    students: int, beta: float, labels: float, temperature: float, share: float, masked: float
) -> dict[str, Any]:
    return dict(
        students=students,
        beta=beta,
        label_weight=labels,
        temperature=temperature,
        output_share=share,
        masked=masked,
        hidden=64,
        weight_decay=5e-4,
    )


ADAGMLP: Table = {
    "cora": _boosted(2, 4.0, 0.5, 0.9, 0.0, 0.0) | dict(layers=3, dropout=0.5, lr=0.01),
    "citeseer": _boosted(3, 4.0, 0.1, 0.3, 0.9, 0.1) | dict(layers=2, dropout=0.9, lr=0.01),
    "amazon-photo": _boosted(2, 0.5, 0.2, 0.1, 0.5, 0.0) | dict(layers=2, dropout=0.6, lr=0.005),
    "": _boosted(2, 1.0, 0.1, 1.0, 0.5, 0.0) | dict(layers=2, dropout=0.6, lr=0.01),
}

TINED: Table = {
    "cora": _injected(0.0, 1.0, 1.0, 1.0, 0.005, 5e-3),
    "cora inductive": _injected(0.0, 5.0, 1.0, 1.0, 0.001, 1e-4),
    "citeseer": _injected(0.5, 10.0, 0.1, 0.5, 1e-4, 1e-2),
    "citeseer inductive": _injected(0.0, 1.0, 1.0, 0.01, 0.01, 1e-2),
    "": _injected(0.0, 1.0, 1.0, 1.0, 0.005, 5e-3),
}


def resolve(method: Method, data: str, protocol: str) -> Plan:
    """The plan of a method: published values for what is None, and who is trained how."""
    published = dict(THIN)
    if method.student == "mlp" or is_reference(method.student):  # the user's, which none published
        published |= {"hidden": 128, **MLP.get(data, MLP[""])}
    own = method.published_settings
    published |= own.get(f"{data} {protocol}") or own.get(data) or own[""]
    missing = {name: v for name, v in published.items() if getattr(method, name) is None}
    resolved = replace(method, **missing)
    taught = method.scheme in ("offline", "mutual")
    teachers = [_teacher(resolved, one) for one in method.teacher.split("+") if taught]
    return Plan(resolved, _student(resolved), tuple(teachers))


def _teacher(method: Method, network: str) -> TeacherSpec:
    """One of the teachers; what is given goes for all of them."""
    published = {"layers": 2, **TEACHERS.get(network, TEACHERS["sage"])}
    given = {name: getattr(method, f"teacher_{name}") for name in published}
    chosen: dict[str, Any] = {n: published[n] if v is None else v for n, v in given.items()}
    for limit in ("epochs", "patience", "batch"):
        chosen[limit] = getattr(method, f"teacher_{limit}")
    return TeacherSpec(network, **chosen)


def _student(method: Method) -> StudentSpec:
    names = [name for name in StudentSpec._fields if name != "network"]
    chosen: dict[str, Any] = {name: getattr(method, name) for name in names}
    assert None not in chosen.values(), "published values leave nothing open"
    return StudentSpec(method.student, **chosen)
