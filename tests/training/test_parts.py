"""Parts trained in full beside adapters, or without any, survive a stop."""

from __future__ import annotations

import pytest
import torch

from medvqa_cli.progress import SILENT
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training.checkpoints import find_last_checkpoint
from tests.training.test_sft import train, weights_of


@pytest.mark.parametrize("lora", [LoRASettings(dropout=0.1, dora=True), LoRASettings(targets=("none",))],
                         ids=["beside DoRA", "alone"])
def test_a_stopped_run_resumes_to_the_same_weights(lora, tiny_directory, picture_paths, tmp_path):
    settings = TrainSettings(max_steps=6, batch_size=1, learning_rate=1e-3, eval_fraction=0.0, save_fraction=0.0,
                             lora=lora, tune_projector=True, unfreeze_last_layers=1)
    whole, _ = train(tiny_directory, picture_paths, tmp_path / "whole", settings, lora=True)
    train(tiny_directory, picture_paths, tmp_path / "parts", settings, lora=True, stop_after=3)
    checkpoint = find_last_checkpoint(tmp_path / "parts" / "checkpoints", SILENT)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    resumed, _ = train(tiny_directory, picture_paths, tmp_path / "parts", settings, lora=True, resume=str(checkpoint))
    first, second = weights_of(whole), weights_of(resumed)
    trained = {name for name, parameter in whole.model.named_parameters() if parameter.requires_grad}
    for part in ("multi_modal_projector", "language_model.layers.1"):
        assert any(part in name and ".lora_" not in name for name in trained)
    assert all(torch.equal(first[name], second[name]) for name in first)
