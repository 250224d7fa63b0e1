"""A training that diverges stops with one error, and keeps no weights that are not numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from medvqa_cli.errors import ModelError
from medvqa_cli.records import read_jsonl
from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.training.checkpoints import list_checkpoints
from medvqa_cli.training.divergence import are_finite
from tests.training.test_sft import train

SETTINGS = TrainSettings(max_steps=6, batch_size=1, eval_fraction=0.0, save_fraction=1 / 3, log_steps=1,
                         learning_rate=1e-3, warmup=0.0, scheduler="constant")


class Poison(TrainerCallback):
    """Spoils a weight after a step."""

    def __init__(self, step, number=float("nan")):
        self.step, self.number = step, number

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            with torch.no_grad():
                next(weight for weight in model.parameters() if weight.requires_grad).fill_(self.number)


def run(tiny_directory, paths, directory, poison, **how):
    return train(tiny_directory, paths, directory, SETTINGS, lora=True, callbacks=(poison,), **how)


def test_the_first_loss_that_is_no_number_stops_a_training(tiny_directory, picture_paths, tmp_path):
    with pytest.raises(ModelError) as caught:
        run(tiny_directory, picture_paths, tmp_path, Poison(3))
    assert caught.value.message == ("The training has diverged at step 4 of 6: the loss is nan, where the learning "
                                    "rate is 0.001.")
    (kept,) = list_checkpoints(tmp_path / "checkpoints")
    assert kept.name == "checkpoint-2"
    assert caught.value.hint == ("Start again with a lower rate (--learning-rate 0.0003) or a longer warm-up (--warmup "
                                 f"0.1). The last checkpoint is kept: {kept}.")
    logged = [event["loss"] for event in read_jsonl(tmp_path / "events.jsonl") if event["event"] == "log"]
    assert len(logged) == 3
    assert all(loss > 0 for loss in logged)


def test_spoiled_weights_come_into_no_checkpoint(tiny_directory, picture_paths, tmp_path):
    with pytest.raises(ModelError, match="at step 4 of 6: the trained weights are not finite"):
        run(tiny_directory, picture_paths, tmp_path, Poison(4, float("inf")))
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["checkpoint-2"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_changes_no_weight(tiny_directory, picture_paths, tmp_path, monkeypatch, number):
    from transformers import Trainer

    seen = []

    def backward(trainer, model, inputs, items=None):
        loss = real(trainer, model, inputs, items)
        weight = next(weight for weight in model.parameters() if weight.grad is not None)
        seen.append((weight, weight.detach().clone()))
        if trainer.state.global_step == 1:
            weight.grad.view(-1)[0] = number
        return loss

    real = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", backward)
    with pytest.raises(ModelError, match="at step 2 of 6: the gradient norm is (nan|inf)") as caught:
        train(tiny_directory, picture_paths, tmp_path, SETTINGS, lora=True)
    assert "checkpoint" not in caught.value.hint
    weight, before = seen[-1]
    assert torch.equal(weight, before)


def test_a_step_that_loss_scaling_leaves_out_is_no_divergence(tiny_directory, picture_paths, tmp_path):
    trainer, _ = train(tiny_directory, picture_paths, tmp_path, SETTINGS.model_copy(update={"max_steps": 1}), lora=True)
    trainer._clip_grad_norm = lambda model: torch.tensor(float("inf"))
    with pytest.raises(ModelError, match="the gradient norm is inf"):
        trainer._get_grad_norm(trainer.model, torch.tensor(float("inf")))
    trainer.args.fp16 = True
    assert trainer._get_grad_norm(trainer.model, torch.tensor(float("inf"))) == float("inf")
    trainer._step_loss = torch.tensor(float("nan"))
    with pytest.raises(ModelError, match="the loss is nan"):
        trainer._get_grad_norm(trainer.model, torch.tensor(1.0))


def test_weights_are_finite_or_not():
    whole, part = torch.ones(3), SimpleNamespace(detach=lambda: SimpleNamespace(to_local=lambda: torch.ones(2)))
    assert are_finite([whole, part, torch.ones(2, dtype=torch.int8)])
    assert are_finite([])
    assert not are_finite([whole, torch.tensor([1.0, float("inf")])])
