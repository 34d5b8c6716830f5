"""`kdsim fed ALGORITHM` and `kdsim graph METHOD`: a command for each, its flags the settings."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args, get_origin

import click
from typer.core import TyperGroup

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
        from simulations.config.experiments import KINDS

        return KINDS[self.kind].names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command of one; a usage error if there is none."""
        from simulations.config.experiments import KINDS, Template

        try:
            method = KINDS[self.kind].get(name)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        known = Template(self.kind, method).known
        settings: list[click.Parameter] = [option(key, leaf) for key, leaf in known.items()]
        seeds = click.Option(["--seeds"], type=int, help="run seeds 0 to N-1 instead")
        settings.append(seeds)

        def call(**flags: Any) -> int:
            given = {key: flags.pop(variable(key)) for key in (*known, "seeds")}
            chosen = {key: value for key, value in given.items() if value is not None}
            return self.run(self.kind, name, chosen, flags)

        words = f"{_first(method)}\n\nHyperparameters and settings are listed with their defaults."
        params = [*settings, *self.options()]
        # A plain click command: Typer's table of flags cuts long ones off.
        return click.Command(name, callback=call, params=params, help=words)


def option(key: str, leaf: Any) -> click.Option:
    """The flag of a setting, with the help and the range of its annotation."""
    from kdcore import settings

    flag = "--" + key.replace(".", "-").replace("_", "-")
    kind: Any = settings.plain(leaf.hint)
    shown = ",".join(leaf.default) if leaf.many else leaf.default
    limits = "" if isinstance(_type(kind), click.Choice) else settings.allowed(leaf.hint)
    default = "none" if shown in (None, "") else shown
    said = [settings.said_of(leaf.hint).help, limits and f"[{limits}]", f"[default: {default}]"]
    return click.Option(
        param_decls=[variable(key), flag],
        type=Listing() if leaf.many else _type(kind),
        default=None,  # so that what was given can be told from what was not
        multiple=leaf.many,
        callback=_joined if leaf.many else None,
        help=" ".join(filter(None, said)),
    )


def _joined(ctx: click.Context, param: click.Parameter, given: Sequence[list[str]]) -> Any:
    """The values of a flag that may be given several times, or None."""
    return [value for values in given for value in values] or None


def variable(key: str) -> str:
    """The name of a flag's value in Python."""
    return key.replace(".", "__")


def _type(hint: Any) -> Any:
    """The click type of a hint; `X | None` is X, since leaving a flag out says None."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return click.Choice(choices) if isinstance(choices[0], str) else type(choices[0])
    plain = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    return plain[0]


def _first(method: Any) -> str:
    """The first line of a docstring."""
    return (type(method).__doc__ or "").strip().partition("\n")[0]
