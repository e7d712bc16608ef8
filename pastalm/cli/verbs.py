"""What all commands have in common: their help, what they say of missing arguments, and which flags they know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pastalm.cli.help import examples, page

FLAGS = "pastalm.flags"  # where a context keeps how each parameter of the running command is typed


class Verb(TyperCommand):
    """A command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; all that are missing are named in one error."""
        missing = [] if ctx.resilient_parsing else self._missing(ctx, args)
        if missing:
            ctx.fail(f"Missing {', '.join(missing)}.{_for_example(self.epilog)}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        ctx.meta[FLAGS] = {param.name: param.opts[0] for param in self.params if param.param_type_name == "option"}
        return super().invoke(ctx)

    def _missing(self, ctx: Any, args: list[str]) -> list[str]:
        """The required parameters that are not among the arguments, as they are typed."""
        if set(args) & set(ctx.help_option_names):
            return []
        given = self.make_parser(ctx).parse_args(args=list(args))[0]
        return [_typed(param) for param in self.params if param.required and not given.get(param.name)]


class Group(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        formatter.write(page(self, ctx))


def add(app: typer.Typer, command: Callable[..., None], *lines: str, name: str | None = None) -> None:
    """Add a command with its examples."""
    app.command(name, cls=Verb, epilog=examples(*lines))(command)


def _typed(param: Any) -> str:
    return param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper()


def _for_example(epilog: str | None) -> str:
    """The first example of an epilog."""
    lines = (epilog or "").split("\n")[1:]
    end = next((number for number, line in enumerate(lines, 1) if not line.endswith("\\")), 0)
    return "\n\nFor example:\n" + "\n".join(lines[:end]) if lines else ""
