"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job, and in all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each would fight over two cores


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Draw the same random numbers in every test, whichever ran before it."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's top folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real VQA-RAD (`vqa_rad/`) and SLAKE (`slake/`), or skip."""
    folder = Path(os.environ.get("MEDVQA_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "slake" / "train.json").is_file():
        pytest.skip(f"real data not found in {folder} (set MEDVQA_TEST_DATA)")
    return folder
