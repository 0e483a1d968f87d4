"""Both CPU paths: tests that use ``cpu_path`` run with compiled kernels and without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monoscope.ops.native import kernels, pure_pytorch


@pytest.fixture(scope="module", params=["compiled", "pure"])
def cpu_path(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "pure":
        with pure_pytorch():
            yield
    elif kernels() is None:
        pytest.skip("no compiled kernels: the log says why")
    else:
        yield
