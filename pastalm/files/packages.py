"""Packages that only some commands need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingPackageError(ValueError):
    """A package of an extra that is not installed, and how to install it."""


def require(package: str, extra: str = "annotate") -> Any:
    """Import a package of the extra ``extra``. Raises :class:`MissingPackageError` with what to install."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package.split(".")[0]:
            raise
        raise MissingPackageError(
            f"This needs the package {package.split('.')[0]!r}: install it with  pip install 'pastalm[{extra}]'"
        ) from error
