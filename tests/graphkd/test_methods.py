import dataclasses

import pytest

from graphkd import methods, settings
from graphkd.core import Method


def test_every_method_is_found_by_its_name():
    assert {"glnn", "lsp", "mlp", "rkd"} <= set(methods.names())
    for name in methods.names():
        assert issubclass(methods.get(name), Method)
        assert methods.get(name).__name__.lower() == name


def test_an_unknown_method_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="'glnnn'; choose one of glnn, lsp.*did you mean glnn"):
        methods.get("glnnn")


def test_settings_are_the_published_ones_unless_given():
    glnn = methods.get("glnn")
    teacher, student = settings.teacher(glnn()), settings.student(glnn(), "cora")
    assert teacher == ("sage", 128, 2, 0.0, 0.01, 5e-4, 200, 50)
    assert student == ("mlp", 128, 2, 0.6, 0.01, 5e-3, 200, 50, 512)
    assert settings.student(glnn(), "amazon-photo").lr == 0.005
    given = glnn(lr=0.5, hidden=7, teacher_dropout=0.25, student="gcn", batch=0)
    assert settings.student(given, "cora")[:5] == ("gcn", 7, 2, 0.5, 0.5)
    assert settings.teacher(given).dropout == 0.25
    zero = settings.student(glnn(weight_decay=0.0), "cora")
    assert zero.weight_decay == 0


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("mlp", "lr", 0.0, "lr is 0.0; expected"),
        ("mlp", "teacher_lr", float("nan"), "teacher_lr is nan"),
        ("mlp", "dropout", 1.0, "0 <= dropout < 1"),
        ("mlp", "teacher_dropout", -0.1, "0 <= teacher_dropout < 1"),
        ("mlp", "hidden", 0, "1 <= hidden"),
        ("mlp", "layers", 1, "2 <= layers"),
        ("mlp", "batch", -1, "0 <= batch"),
        ("mlp", "epochs", 0, "1 <= epochs"),
        ("mlp", "patience", 0, "1 <= patience"),
        ("mlp", "hard_weight", -1.0, "0 <= hard_weight"),
        ("glnn", "hard_weight", 1.5, "GLNN's lambda"),
        ("glnn", "temperature", 0.0, "temperature is 0.0"),
        ("lsp", "kernel", "cosine", "unknown kernel 'cosine'; choose one of l2, linear"),
        ("rkd", "sample", 2, "3 nodes or more"),
    ],
)
def test_settings_that_make_no_training_are_refused(name, field, value, message):
    with pytest.raises(ValueError, match=message):
        methods.get(name)(**{field: value})


@pytest.mark.parametrize("name", methods.names())
def test_fields_are_settings_of_plain_types(name):
    for setting in dataclasses.fields(methods.get(name)):
        assert isinstance(setting.default, int | float | str | None)
