"""Small data sets in the layouts of the real ones."""

from __future__ import annotations

import pytest

from tests.data.builders import build_rad, build_slake


@pytest.fixture
def slake_root(tmp_path):
    return build_slake(tmp_path / "slake")


@pytest.fixture
def rad_root(tmp_path):
    return build_rad(tmp_path / "rad")
