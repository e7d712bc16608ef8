"""What tests of the runtime share."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from pastalm.runtime import kernels


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Our own kernels, which take half a minute where they have never been built."""
    if not kernels.load_kernels():
        assert not can_compile(tmp_path_factory.mktemp("compiler")), "There is a compiler; the kernels do not build."
        pytest.skip("there is no C++ compiler that takes the kernels' flags")


def can_compile(folder: Path) -> bool:
    """Whether there is a compiler that makes a library of nothing with the kernels' flags."""
    nothing = ["-x", "c++", os.devnull, "-o", str(folder / "nothing.so")]
    try:
        done = subprocess.run([*shlex.split(kernels.compiler()), *kernels.FLAGS, *nothing], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0
