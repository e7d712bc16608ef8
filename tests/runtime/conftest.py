"""What tests of the runtime share."""

from __future__ import annotations

import pytest

from pastalm.runtime import kernels


@pytest.fixture(scope="session")
def built() -> None:
    """Our own kernels, which take half a minute where they have never been built."""
    if not kernels.load_kernels():
        pytest.skip("there is no C++ compiler that builds the kernels")
