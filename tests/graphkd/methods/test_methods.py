import dataclasses

import pytest

from graphkd import methods
from graphkd.method import Method
from graphkd.training import published


def test_every_method_is_found_by_its_name():
    assert {"glnn", "lsp", "mlp", "rkd"} <= set(methods.names())
    for name in methods.names():
        assert issubclass(methods.get(name), Method)
        assert methods.get(name).__name__.lower() == name


def test_an_unknown_method_lists_the_known_ones_and_the_nearest():
    with pytest.raises(
        ValueError, match="'glnnn'; did you mean 'glnn'. choose one of adagmlp, cpf, .*, glnn, "
    ):
        methods.get("glnnn")


def test_settings_are_the_published_ones_unless_given():
    glnn = methods.get("glnn")
    (teacher,) = teachers(glnn(), "cora")
    assert teacher == ("sage", 128, 2, 0.0, 0.01, 5e-4, 200, 50, 0)
    assert student(glnn(), "cora") == ("mlp", 128, 2, 0.6, 0.01, 5e-3, 200, 50, 512)
    assert student(glnn(), "amazon-photo").lr == 0.005
    given = glnn(lr=0.5, hidden=7, teacher_dropout=0.25, student="gcn", batch=0)
    assert student(given, "cora")[:5] == ("gcn", 7, 2, 0.5, 0.5)
    assert teachers(given, "cora")[0].dropout == 0.25
    assert student(glnn(weight_decay=0.0), "cora").weight_decay == 0


def student(method, data, protocol="transductive"):
    return published.resolve(method, data, protocol).student


def teachers(method, data, protocol="transductive"):
    return published.resolve(method, data, protocol).teachers


def test_settings_of_a_method_may_depend_on_data_and_protocol():
    krd = methods.get("krd")
    found = [published.resolve(krd(), "cora", p) for p in ("transductive", "inductive", "withheld")]
    assert [plan.method.hard_weight for plan in found] == [0.3, 0.0, 0.3]
    assert published.resolve(krd(hard_weight=0.7), "cora", "inductive").method.hard_weight == 0.7
    nosmog = published.resolve(methods.get("nosmog")(), "amazon-photo", "transductive").method
    assert (nosmog.dimensions, nosmog.radius, nosmog.lr, nosmog.hidden) == (64, 0.1, 0.001, 128)
    for name in methods.names():
        for data in ("cora", "citeseer", "amazon-photo", "amazon-computers", "digits-knn", "x"):
            for protocol in ("transductive", "withheld", "inductive", "folds"):
                resolved = published.resolve(methods.get(name)(), data, protocol).method
                fields = [f.name for f in dataclasses.fields(resolved)]
                open_ = {f for f in fields if getattr(resolved, f) is None}
                assert all(field.startswith("teacher_") for field in open_)


def test_each_of_several_teachers_has_its_own_settings():
    many = methods.get("multiteacher")(teacher="sage+gcn", teacher_layers=3)
    assert [t[:4] for t in teachers(many, "cora")] == [("sage", 128, 3, 0.0), ("gcn", 64, 3, 0.8)]


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("mlp", "lr", 0.0, "lr must be >= 1e-12 and finite, or None, got 0.0"),
        (
            "mlp",
            "teacher_lr",
            float("nan"),
            "teacher_lr must be >= 1e-12 and finite, or None",
        ),
        ("mlp", "dropout", 1.0, "dropout must be from 0 to 0.99, or None, got 1.0"),
        (
            "mlp",
            "teacher_dropout",
            -0.1,
            "teacher_dropout must be from 0 to 0.99",
        ),
        ("mlp", "hidden", 0, "hidden must be from 1 to 16384, or None, got 0"),
        ("mlp", "layers", 1, "layers must be from 2 to 1000, or None, got 1"),
        ("mlp", "batch", -1, "batch must be >= 0, got -1"),
        ("mlp", "epochs", 0, "epochs must be >= 1, got 0"),
        ("mlp", "patience", 0, "patience must be >= 1, got 0"),
        ("mlp", "hard_weight", -1.0, "hard_weight must be >= 0 and finite, or None, got -1.0"),
        ("glnn", "hard_weight", 1.5, "from 0 to 1"),
        ("krd", "hard_weight", 1.5, "from 0 to 1"),
        (
            "ffg2m",
            "temperature",
            -1.0,
            "temperature must be >= 1e-06 and finite",
        ),
        ("krd", "momentum", 1.5, "momentum must be from 0 to 1, got 1.5"),
        ("nosmog", "radius", -0.1, "radius must be >= 0 and finite, or None, got -0.1"),
        ("nosmog", "dimensions", 0, "dimensions must be from 1 to 16384, or None, got 0"),
        ("nosmog", "steps", -1, "steps must be >= 0, got -1"),
        ("gsp", "sample", 1, "sample must be >= 2, got 1"),
        ("gcrd", "width", 0, "width must be from 1 to 16384, got 0"),
        ("gnnsd", "layers", 2, "layers must be from 3 to 1000, or None, got 2"),
        ("cpf", "rounds", 0, "rounds must be >= 1, got 0"),
        ("cpf", "inputs", "features", "inputs are 'features'"),
        ("privileged", "batch", 8, "from 0 to 0"),
        ("glnn", "temperature", 0.0, "temperature must be >= 1e-06"),
        (
            "lsp",
            "kernel",
            "cosin",
            "unknown kernel 'cosin'; did you mean 'cosine'. choose one of cosine, l2",
        ),
        ("rkd", "sample", 2, "sample must be >= 3, got 2"),
    ],
)
def test_settings_that_make_no_training_are_refused(name, field, value, message):
    with pytest.raises(ValueError, match=message):
        methods.get(name)(**{field: value})


@pytest.mark.parametrize("name", methods.names())
def test_fields_are_settings_of_plain_types(name):
    for setting in dataclasses.fields(methods.get(name)):
        assert isinstance(setting.default, int | float | str | None)


def test_who_learns_without_a_teacher_has_none_in_its_plan():
    for name in methods.names():
        plan = published.resolve(methods.get(name)(), "cora", "transductive")
        taught = plan.method.scheme in ("offline", "mutual")
        assert [one.network for one in plan.teachers] == plan.method.teacher.split("+") * taught
        assert plan.student.network == plan.method.student


def test_a_method_derived_from_another_has_its_published_settings():
    krd = methods.get("krd")
    mine = dataclasses.make_dataclass("Mine", [], bases=(krd,), frozen=True)
    found = published.resolve(mine(), "cora", "transductive").method
    assert (type(found), found.hard_weight, found.temperature) == (mine, 0.3, 1.1)
    # Its class may be called as another method's, whose settings are none of its own.
    named = dataclasses.make_dataclass("NOSMOG", [], bases=(methods.get("glnn"),), frozen=True)
    assert published.resolve(named(), "cora", "transductive").student == student(
        methods.get("glnn")(), "cora"
    )
