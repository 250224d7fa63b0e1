"""Small portions of data, and what they keep of the user's settings."""

from __future__ import annotations

import pytest

from medvqa_cli.records import VQASample
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.checks.outcome import NotApplicableError
from medvqa_cli.workflows.checks.portions import (
    STEPS,
    portion_calibration,
    portion_data,
    portion_inference,
    portion_training,
)
from medvqa_cli.workflows.checks.scope import SanityScope

SCOPE = SanityScope(train_samples=7, test_samples=2, calibration_samples=3)


def ask(answer: str, answer_type: str) -> VQASample:
    return VQASample(dataset="d", split="test", question_id="0", image_id="0", question="Q?", answer=answer,
                     answer_type=answer_type)


@pytest.fixture
def split(monkeypatch):
    """Replace the test split; returns the settings it was asked for."""
    asked = []

    def put(*samples):
        def choose(settings, _split):
            asked.append(settings)
            return list(samples)

        monkeypatch.setattr("medvqa_cli.workflows.data.choose_samples", choose)
        return asked

    return put


def test_the_demo_is_a_small_one_of_its_own_and_other_data_stay(tmp_path):
    demo = portion_data(make_settings({"data": {"options": {"size": 32}}}), SCOPE, tmp_path)
    assert demo.data.options == {"train_images": 7, "validation_images": 1, "test_images": 4, "size": 32}
    assert demo.paths.prepared == tmp_path / "prepared"
    own = make_settings({"data": {"dataset": "slake", "mixture": "m.yaml"}})
    assert portion_data(own, SCOPE, tmp_path).model_dump() == make_settings({"data": {"dataset": "slake"}}).model_dump()


def test_training_is_short_watches_its_own_questions_and_keeps_the_users_recipe():
    own = make_settings({"train": {"batch_size": 3, "lora": {"r": 2}, "learning_rate": 3e-4, "epochs": 9},
                         "data": {"limit": 4}})
    short = portion_training(own, SCOPE, tiny=False)
    assert (short.train.batch_size, short.train.lora.r, short.train.learning_rate) == (3, 2, 3e-4)
    assert (short.train.max_steps, short.train.eval_fraction * STEPS) == (STEPS, 1)
    assert (short.data.validation_split, short.data.limit) == ("train", 4)
    assert portion_training(own, SCOPE, tiny=True).train.learning_rate == 5e-3


def test_answers_are_short_only_of_random_weights():
    own = make_settings({})
    assert portion_inference(own, SCOPE, tiny=False).infer == own.infer
    assert portion_inference(own, SCOPE, tiny=True).infer.max_new_tokens == 8


def test_calibration_takes_as_many_questions_as_hold_enough_yes_no_ones(split):
    asked = split(ask("liver", "open"), ask("CT", "closed"), ask("yes", "closed"), ask("left", "closed"),
                  ask("no", "closed"), ask("yes", "closed"))
    portion = portion_calibration(make_settings({}), SCOPE)
    assert asked[0].data.limit is None
    assert (portion.data.question_type, portion.data.limit, portion.calibration.samples) == ("closed", 4, 3)
    assert portion_calibration(make_settings({"data": {"limit": 1}}), SCOPE).data.limit == 2


def test_without_yes_no_questions_there_is_no_calibration(split):
    split(ask("CT", "closed"), ask("yes", "open"))
    with pytest.raises(NotApplicableError, match="no yes/no question in the test split"):
        portion_calibration(make_settings({}), SCOPE)
