"""Triton's interpreter, mended for numpy from 2.4 on, which makes no whole number of an array that holds one."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton", reason="the kernel needs Triton")

import torch
from triton.runtime import interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_patched = interpreter._patch_lang_tensor


def _patch_lang_tensor(tensor: Any, scope: Any) -> None:
    """As it is, but the bounds of a loop may be numbers that were computed."""
    _patched(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


@pytest.fixture(autouse=True)
def loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests of a module that imports it."""
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", _patch_lang_tensor)
