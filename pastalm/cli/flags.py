"""A command whose flags are the fields of a config dataclass: names, types and defaults have one home."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from copy import copy
from inspect import Parameter, Signature
from typing import Annotated, Any, get_args, get_type_hints

import typer

from pastalm.cli.options import SHARED, as_path, expanded


def with_flags(
    config: type, helps: Mapping[str, str], action: Callable[[Any], None], flags: Mapping[str, str] | None = None
) -> Callable[..., None]:
    """A function for typer that fills a ``config`` from its flags and hands it to ``action``, whose docstring it takes.

    Each field becomes an option, a field without default a required one. ``helps`` has a sentence for each, ``flags``
    the names of options that are not called like their field. A field that other commands have as a flag, too, is the
    same flag here; its sentence may say more.
    """
    types = get_type_hints(config)
    parameters = []
    for field in dataclasses.fields(config):
        default = Parameter.empty if field.default is dataclasses.MISSING else field.default
        named = [(flags or {})[field.name]] if field.name in (flags or {}) else []
        option: Any = Annotated[types[field.name], _option(field.name, types[field.name], named, helps.get(field.name))]
        parameters.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=option))

    def command(**values: Any) -> None:
        action(config(**values))

    command.__doc__ = action.__doc__
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # this is what typer reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _option(name: str, kind: Any, named: list[str], help: str | None) -> Any:
    """The option of a field: the shared one, or a new one with this help."""
    if name not in SHARED:
        return typer.Option(*named, help=help)
    option = copy(get_args(SHARED[name])[1])
    option.help = help or option.help
    if option.parser is not None:
        option.parser = expanded if kind is str else as_path
    return option
