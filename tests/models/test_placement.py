"""Weights go where they fit; where they do not, one error names both sizes."""

from __future__ import annotations

import pytest
import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.models import placement
from medvqa_cli.models.placement import as_gib, find_free_memory, place_weights

GIB = 2**30
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def free(monkeypatch):
    """GPUs with so many GiB free."""
    def set_free(*sizes: float) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(sizes))
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (int(sizes[device.index] * GIB), 80 * GIB))

    return set_free


def place(needed, device=CUDA, **options):
    return place_weights("org/model", int(needed * GIB), device, advice="Do less.", **options)


def test_a_model_that_fits_one_gpu_stays_whole(free):
    free(24, 24)
    assert place(21).arguments == {"device_map": {"": CUDA}}


def test_a_model_that_does_not_is_spread(free):
    free(24, 40)
    assert place(22).arguments == {"device_map": "auto", "max_memory": {0: int(24 * GIB * 0.9), 1: int(40 * GIB * 0.9)}}
    assert place(12, limit=10 * GIB).max_memory == {0: int(10 * GIB * 0.9), 1: int(10 * GIB * 0.9)}


def test_one_gpu_may_be_filled(free):
    free(24)
    assert place(23.5).device_map == {"": CUDA}
    with pytest.raises(ModelError) as failure:
        place(26)
    assert failure.value.message == ("'org/model' does not fit: its weights take 26.0 GiB, the device 'cuda:0' has "
                                     "24.0 GiB free.")
    assert failure.value.hint == "Do less."


def test_all_gpus_together_may_be_too_small(free):
    free(24, 24)
    with pytest.raises(ModelError, match="its weights take 50.0 GiB, the 2 visible GPUs have 48.0 GiB free"):
        place(50)
    with pytest.raises(ModelError, match="the 2 visible GPUs have 8.0 GiB allowed by max_memory_per_gpu or free"):
        place(12, limit=4 * GIB)


def test_several_processes_do_not_share_a_model(free, monkeypatch):
    free(24, 24)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match="the device 'cuda:1' has 24.0 GiB free"):
        place(30, torch.device("cuda", 1))
    assert place(20, torch.device("cuda", 1)).device_map == {"": torch.device("cuda", 1)}


def test_an_unknown_size_or_memory_is_not_refused(monkeypatch):
    monkeypatch.setattr(placement, "find_free_memory", lambda device: None)
    assert place(10**6, CPU).device == CPU
    assert place_weights("m", None, CPU).device == CPU


def test_memory_of_a_machine_and_of_its_container(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(placement, "CGROUP", tmp_path)
    assert find_free_memory(CPU) is None
    assert find_free_memory(torch.device("mps")) is None
    (tmp_path / "meminfo").write_text("MemTotal:  32000000 kB\nMemAvailable:   8000000 kB\n")
    assert find_free_memory(CPU) == 8000000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    assert find_free_memory(CPU) == 8000000 * 1024
    (tmp_path / "memory.max").write_text("4000000000\n")
    assert find_free_memory(CPU) == 1_500_000_000


def test_sizes_for_people():
    assert (as_gib(GIB // 4), as_gib(1.5 * GIB), as_gib(3 * 2**19)) == ("0.2 GiB", "1.5 GiB", "1.5 MiB")
