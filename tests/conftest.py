"""What every test shares."""

import os
from collections.abc import Iterator

import pytest
import torch

from atras.testing.inputs import CUBLAS, REPEATABLE

os.environ.setdefault(CUBLAS, REPEATABLE[0])  # for tests in poisoned memory, before cuBLAS' first product


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that needs a CUDA device is skipped where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module")
def cache_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests of a module, so that the machine's speed is measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
