"""Bundles that the tests of the whole flow share."""

from __future__ import annotations

import pytest

from corpus.checks import TinyBundles


@pytest.fixture(scope="session")
def tiny_bundles(tmp_path_factory: pytest.TempPathFactory) -> TinyBundles:
    """Tiny models, compiled when a test first asks for them."""
    return TinyBundles(tmp_path_factory)
