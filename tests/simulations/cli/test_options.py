"""Flags made of settings."""

import click
import pytest

from simulations.cli import catalogue, options

SWITCH = options.option("secure_sum", catalogue.learner("fed", "fedmd").flags["secure_sum"])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], (None, None)),
        (["--secure-sum"], (True, None)),
        (["--secure-sum", "--out", "x"], (True, "x")),
        (["--secure-sum", "true"], (True, None)),
        (["--secure-sum", "false", "--out", "x"], (False, "x")),
        (["--secure-sum=no"], (False, None)),
    ],
)
def test_a_switch_alone_is_on_and_takes_a_value_too(typed, expected):
    found = []
    command = click.Command(
        "fed",
        params=[SWITCH, click.Option(["--out"])],
        callback=lambda secure_sum, out: found.append((secure_sum, out)),
    )
    command.main(typed, standalone_mode=False)
    assert found == [expected]
