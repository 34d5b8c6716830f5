"""`kdsim fed ALGORITHM` and `kdsim graph METHOD`: a command for each, its flags the settings."""

from collections.abc import Callable, Sequence
from typing import Any

import click
from typer.core import TyperGroup

from simulations.cli import catalogue
from simulations.errors import users_input

TYPES = {"str": str, "int": int, "float": float, "bool": bool}

Run = Callable[..., int]


class Listing(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """Values separated by commas."""

    name = "a,b,c"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The list of values."""
        return value.split(",") if isinstance(value, str) else value


class Methods(TyperGroup):
    """A group with a command for every algorithm (or method) there is, made when it is asked for.

    Args:
        kind: a key of `simulations.config.experiments.KINDS`.
        run: called with the kind, the name, the settings that were given, and the other flags.
        options: flags beside the settings.
    """

    def __init__(self, kind: str, run: Run, options: Callable[[], list[click.Option]]):
        noun = {"fed": "federated run: ALGORITHM", "graph": "graph distillation: METHOD"}[kind]
        super().__init__(name=kind, help=f"One {noun} and its flags.", no_args_is_help=True)
        self.kind, self.run, self.options = kind, run, options

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all."""
        return catalogue.names(self.kind)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command of one; a usage error if there is none."""
        try:
            summary, known = catalogue.learner(self.kind, name)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        settings: list[click.Parameter] = [option(key, flag) for key, flag in known.items()]
        seeds = click.Option(["--seeds"], type=int, help="run seeds 0 to N-1 instead")
        settings.append(seeds)

        def call(**flags: Any) -> int:
            given = {key: flags.pop(variable(key)) for key in (*known, "seeds")}
            chosen = {key: value for key, value in given.items() if value is not None}
            with users_input():
                catalogue.check_values(known, chosen)
            return self.run(self.kind, name, chosen, flags)

        words = f"{summary}\n\nHyperparameters and settings are listed with their defaults."
        params = [*settings, *self.options()]
        # A plain click command: Typer's table of flags cuts long ones off.
        return click.Command(name, callback=call, params=params, help=words)


def option(key: str, flag: catalogue.Flag) -> click.Option:
    """The click option of a flag."""
    name = "--" + key.replace(".", "-").replace("_", "-")
    kind: Any = click.Choice(flag.choices) if flag.choices else TYPES[flag.kind]
    # Alone, a switch is on; it takes a value as well, such as false, for those that are on.
    alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind is bool else {}
    return click.Option(
        param_decls=[variable(key), name],
        **alone,
        type=Listing() if flag.many else kind,
        default=None,  # so that what was given can be told from what was not
        multiple=flag.many,
        callback=_joined if flag.many else None,
        help=flag.help,
    )


def _joined(ctx: click.Context, param: click.Parameter, given: Sequence[list[str]]) -> Any:
    """The values of a flag that may be given several times, or None."""
    return [value for values in given for value in values] or None


def variable(key: str) -> str:
    """The name of a flag's value in Python."""
    return key.replace(".", "__")
