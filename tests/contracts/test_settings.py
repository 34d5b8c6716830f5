"""Every setting that a user may type says once what it is, of which type, and in which range.

Of algorithms, methods, recipes and tables of an experiment file; and what is out of its range is
refused in a line, in a file, on the command line and in Python alike, before anything runs.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, get_args, get_origin

import click
import pytest

from kdcore import settings
from simulations.cli import app, catalogue, options
from simulations.config import files, grid, search
from simulations.config.experiments import KINDS, Template
from simulations.config.resources import Resources
from simulations.config.schema import Form, Leaf, leaves
from simulations.process import WRONG

# Numbers that may be anything, and why.
FREE = dict.fromkeys(("seed", "seeds"), "any whole number names a stream of random numbers")
TYPES = {bool, int, float, str, type(None), ...}


class Known(NamedTuple):
    """A setting, and what would be typed to set it: a table of a file and a key in it."""

    where: str
    key: str
    leaf: Leaf

    @property
    def limits(self):
        return settings.said_of(self.leaf.hint).limits


def every():
    """All settings: of each learner its own, and those of its kind of experiment once."""
    for kind, about in KINDS.items():
        yield from (Known(f"{kind}", *one) for one in leaves(about.experiment).items())
        for name in about.names():
            own = leaves(about.get(name))
            yield from (Known(f"{about.key}.{name}", *one) for one in own.items())
    yield from (Known("resources", *one) for one in leaves(Resources).items())
    yield from (Known(files.TUNE, *one) for one in leaves(search.Tune).items())


ALL = list(every())


def kinds_of(hint):
    """The types of which a value is, or its parts are."""
    kind = settings.plain(hint)
    if get_origin(kind) is Literal:
        return {type(one) for one in get_args(kind)}
    return set(get_args(kind) or (kind,))


def outside(known):
    """Values just beyond each bound of a setting, and what is no number at all."""
    whole = float not in kinds_of(known.leaf.hint)
    step = {name: 1 if whole else max(abs(b), 1) / 8 for name, b in known.limits.items()}
    beyond = {"ge": -1, "gt": 0 if not whole else -1, "le": 1, "lt": 0 if not whole else 1}
    return [bound + beyond[name] * step[name] for name, bound in known.limits.items()]


def bounded():
    """Each setting that has a range, once for every annotation."""
    seen = set()
    for known in ALL:
        mark = known.key, known.leaf.hint
        if known.limits and mark not in seen:
            seen.add(mark)
            yield known


BOUNDED = list(bounded())


def test_there_are_settings_of_all_kinds():
    assert {one.where.partition(".")[0] for one in ALL} == {
        *KINDS,
        *(kind.key for kind in KINDS.values()),
        "resources",
        files.TUNE,
    }
    assert len(BOUNDED) > 200


def test_every_setting_has_help_a_type_and_if_it_is_a_number_a_range():
    lacking = []
    for where, key, leaf in ALL:
        said = settings.said_of(leaf.hint)
        free = key.rpartition(".")[2] in FREE
        if not said.help or not kinds_of(leaf.hint) <= TYPES:
            lacking.append(f"{where} {key}: no help, or a type that no file can hold")
        if settings.numeric(leaf.hint) and not said.limits and not free:
            lacking.append(f"{where} {key}: no range")
        if why := settings.refusal(leaf.hint, leaf.default):
            lacking.append(f"{where} {key}: its default {why}")
    assert not lacking


def test_what_may_be_anything_is_there_and_has_no_range():
    found = {one.key: one.limits for one in ALL}
    assert {name: found[name] for name in FREE} == dict.fromkeys(FREE, {})


def toml(known, value):
    """A document in which a setting has a value."""
    table, _, name = known.where.partition(".")
    if table in ("resources", files.TUNE):
        return {"fed": {"algorithm": "local"}, table: {known.key: value}}
    if table in KINDS:
        key = KINDS[table].key
        return {table: {key: KINDS[table].names()[0], known.key: value}}
    kind = next(kind for kind, about in KINDS.items() if about.key == table)
    return {kind: {table: name}, table: {name: {known.key: value}}}


def refusal(call, *arguments):
    """What is said against a value."""
    with pytest.raises(ValueError, match="must|finite") as error:
        call(*arguments)
    return str(error.value)


@pytest.mark.parametrize("known", BOUNDED, ids=lambda one: f"{one.where}-{one.key}")
def test_a_file_with_a_value_beyond_a_bound_is_refused_in_a_line(known):
    first, *more = outside(known)
    many = known.leaf.many
    value = [first] * max(2, len(known.leaf.default)) if many else first
    read = search.read if known.where == files.TUNE else grid.expand
    said = refusal(read, toml(known, [value] if many else value), "e.toml")
    assert said.startswith(f"e.toml: {known.key} must ")
    assert f"{first}" in said
    assert "\n" not in said
    form = Form({known.key: known.leaf})
    for bad in more:
        value = [bad] * max(2, len(known.leaf.default)) if many else bad
        assert refusal(form.checked, {known.key: value}).startswith(f"{known.key} must ")
    if float in kinds_of(known.leaf.hint):
        value = [math.nan] if many else math.nan
        assert "finite" in refusal(form.checked, {known.key: value})


def flagged():
    """A flag for each setting that a command has, once for every annotation."""
    for known in BOUNDED:
        kind = known.where.partition(".")[0]
        if kind in ("fed", "graph", "algorithm", "method"):
            yield known


def test_a_flag_reads_what_a_file_would_hold_and_says_the_range():
    """What a flag makes of its text is checked as a file's value is: one form for both."""
    for known in flagged():
        flag = options.option(known.key, catalogue.flag_of(known.leaf))
        context = click.Context(click.Command("fed"))
        for bad in outside(known):
            assert flag.type.convert(str(bad), flag, context) == bad
        assert settings.allowed(known.leaf.hint) in flag.help


@pytest.mark.parametrize(
    "line",
    [
        ("fed", "local", "--rotations", "3"),
        ("fed", "local", "--private", "-1"),
        ("fed", "local", "--degree", "1"),
        ("fed", "local", "--rewiring", "1.5"),
        ("fed", "local", "--radius", "0"),
        ("fed", "dsfl", "--temperature", "0"),
        ("graph", "glnn", "--feature-noise", "1.25"),
        ("graph", "glnn", "--removed-edges", "-0.5"),
        ("graph", "glnn", "--train", "0"),
    ],
)
def test_a_flag_beyond_a_bound_ends_the_command_in_a_line_before_any_run(line, tmp_path, capsys):
    *_, flag, value = line
    assert app.main([*line, "--out", str(tmp_path / "runs")]) == WRONG
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    name = flag.removeprefix("--").replace("-", "_")
    assert f"{name} must be " in err
    assert value in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_instance_made_in_python_is_held_to_the_same_ranges(kind):
    about = KINDS[kind]
    for name in about.names():
        learner = about.get(name)
        for key, leaf in leaves(learner).items():
            one = Known(name, key, leaf)
            if "." in key or leaf.many or not one.limits:
                continue
            with pytest.raises(ValueError, match=f"^{key} must be "):
                about.experiment(dataclasses.replace(learner, **{key: outside(one)[0]}))


def test_a_tuple_is_held_to_the_range_of_each_value_and_to_its_length():
    template = Template("survey", KINDS["survey"].get("multi_exit"))
    assert template.build({"widths": [8, 16]}).recipe.widths == (8, 16)
    for bad, why in {
        (8, 0): "widths must each be from 1 to 16384, got [8, 0]",
        (8,): "widths must have at least 2 values, got [8]",
    }.items():
        with pytest.raises(ValueError, match="widths must") as error:
            template.build({"widths": list(bad)})
        assert str(error.value) == why
