"""Which family loads a checkpoint, and what a wrong one is told."""

from __future__ import annotations

import dataclasses

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError
from medvqa_cli.models.families.llava import Llava
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.models import ModelChoice, choose_family, choose_model, detect_family


class Another(Llava):
    """A family that comes before `llava` in the alphabet and loads the same type."""


class Other(Llava):
    card = dataclasses.replace(Llava.card, model_types=("other",), aliases=(), checkpoints={"other_1": "org/other-1"},
                               id_patterns=())


@pytest.fixture
def families(monkeypatch):
    monkeypatch.setattr(plugins.models, "_loose", {})
    plugins.models.add("a_llava", Another())
    plugins.models.add("other", Other())


def test_a_plugin_of_the_same_type_does_not_take_over_what_is_detected(families):
    assert detect_family({"model_type": "llava"}, "x") == "llava"
    assert choose_family(ModelChoice("x", None), {"model_type": "llava"}) == "llava"


def test_the_family_a_model_was_chosen_with_stays(families):
    assert choose_family(ModelChoice("x", "a_llava"), {"model_type": "llava"}) == "a_llava"


def test_a_family_that_does_not_load_the_type_is_told(families):
    with pytest.raises(ModelError, match="the family 'other' does not load") as failure:
        choose_family(ModelChoice("x", "other"), {"model_type": "llava"})
    assert "--family llava" in failure.value.hint
    with pytest.raises(ModelError, match="of the type 'bert'") as failure:
        choose_family(ModelChoice("x", None), {"model_type": "bert"})
    assert "llava" in failure.value.hint


@pytest.mark.parametrize(("name", "checkpoint", "family"), [
    ("llava", "llava-hf/llava-1.5-7b-hf", "llava"),
    ("LLaVA-Med", "microsoft/llava-med-v1.5-mistral-7b", "llava_med"),
    ("microsoft/llava-med-v1.5-mistral-7b", "microsoft/llava-med-v1.5-mistral-7b", "llava_med"),
    ("someone/llava-med-v1.5-hf", "someone/llava-med-v1.5-hf", None),
    ("llava_1.5_13b", "llava-hf/llava-1.5-13b-hf", "llava"),
    ("someone/llava-1.5-mine", "someone/llava-1.5-mine", "llava"),
])
def test_names_become_checkpoints(name, checkpoint, family):
    choice = choose_model(make_settings({"model": {"name": name}}))
    assert (choice.checkpoint, choice.family_name) == (checkpoint, family)
