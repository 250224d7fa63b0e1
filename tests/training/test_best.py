"""The best weights and early stopping: by hand, and in trainings that are stopped and go on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from medvqa_cli.settings.train import TrainSettings
from medvqa_cli.training.best import BestWatch, Standing
from medvqa_cli.training.checkpoints import list_checkpoints, name_checkpoint, rotate_checkpoints


class Controls(SimpleNamespace):
    def __init__(self):
        super().__init__(should_save=False, should_training_stop=False, should_evaluate=False)


def watch(values, *, maximum=100, notes=None, **settings):
    """Return a watch that has seen validation losses, one at each step, and the controls after each."""
    best = BestWatch(TrainSettings(**settings), lambda step: None, lambda step, text: (notes or []).append(text))
    seen = []
    for step, value in enumerate(values, start=1):
        seen.append(Controls())
        best.on_evaluate(None, SimpleNamespace(global_step=step, max_steps=maximum), seen[-1], {"eval_loss": value})
    return best, seen


def test_a_gain_is_kept_and_told_by_more_than_min_delta():
    best, seen = watch([3.0, 2.0, 1.95, 1.8, 2.5], keep="best", min_delta=0.1)
    assert best.standing == Standing(step=4, value=1.8, waited=1)
    assert [control.should_save for control in seen] == [True, True, False, True, False]
    assert not any(control.should_training_stop for control in seen)
    assert best.protected == 4


def test_it_stops_after_so_many_without_a_gain():
    notes = [""]
    best, seen = watch([3.0, 2.0, 2.0, 2.1], early_stopping=2, notes=notes)
    assert [control.should_training_stop for control in seen] == [False, False, False, True]
    assert best.standing == Standing(step=2, value=2.0, waited=2, stopped=True)
    assert notes[1:] == [
        "Stopped early at step 4: eval_loss has not gained for 2 measurements; its best is 2 at step 2."]


def test_a_training_at_its_end_has_not_stopped_early():
    best, seen = watch([2.0, 2.0], early_stopping=1, maximum=2)
    assert not best.standing.stopped
    assert not seen[-1].should_training_stop


def test_what_is_no_number_is_no_gain():
    best, _ = watch([float("nan"), 5.0, float("nan")], keep="best")
    assert best.standing == Standing(step=2, value=5.0, waited=1)


def test_last_weights_are_kept_without_a_word_about_the_best():
    best, seen = watch([3.0, 2.0], early_stopping=9, keep="last")
    assert best.protected is None
    assert not any(control.should_save for control in seen)


def test_probes_are_judged_by_their_accuracy():
    accuracies = {1: 0.25, 3: 0.75, 4: 0.5}
    best = BestWatch(TrainSettings(best_metric="probe_accuracy", keep="best"), accuracies.get, print)
    for step in range(1, 6):
        control = Controls()
        best.on_step_end(None, SimpleNamespace(global_step=step, max_steps=9), control)
        best.on_evaluate(None, SimpleNamespace(global_step=step, max_steps=9), control, {"eval_loss": 0.0})
        assert control.should_save == (step in {1, 3})
    assert best.standing == Standing(step=3, value=0.75, waited=1)


def test_its_standing_is_in_a_checkpoint(tmp_path):
    first, _ = watch([3.0, 2.0, 2.5], early_stopping=1)
    first.save(tmp_path)
    second, _ = watch([], early_stopping=1)
    second.load(tmp_path)
    assert second.standing == first.standing
    control = Controls()
    second.on_train_begin(None, None, control)
    assert control.should_training_stop, "what had stopped does not go on"
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 2


def test_the_best_checkpoint_is_not_rotated_out(tmp_path):
    for step in range(1, 6):
        (tmp_path / name_checkpoint(step)).mkdir()
    rotate_checkpoints(tmp_path, 2, protected=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-4", "checkpoint-1"]


@pytest.mark.parametrize("settings", [{"early_stopping": 2}, {"keep": "best"}])
def test_the_best_must_be_measured(settings):
    with pytest.raises(ValueError, match="need the validation loss, but eval_fraction is 0"):
        TrainSettings(eval_fraction=0.0, **settings)
