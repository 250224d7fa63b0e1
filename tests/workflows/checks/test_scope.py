"""Which models are checked, and which demands contradict each other."""

from __future__ import annotations

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, PluginError, SettingsError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.checks.scope import PRESETS, SanityScope, check_scope, choose_subjects


def choose(scope: SanityScope, **model):
    return [(subject.name, subject.model.name, subject.model.family, subject.tiny)
            for subject in choose_subjects(make_settings({"model": model}), scope)]


@pytest.mark.parametrize(("scope", "message"), [
    (SanityScope(families=("llava",), preset="seeds"), "--families and --preset both say which models to check."),
    (SanityScope(basic=True, tiny=True), "--basic checks no model, but --tiny asks for one."),
    (SanityScope(basic=True, all_families=True), "--basic checks no model, but --all-families asks for one."),
    (SanityScope(only=("data",)), "--only chooses among the steps of --basic."),
    (SanityScope(basic=True, only=("data", "metric")), "--only 'metric' is no step of --basic."),
    (SanityScope(preset="all"), "Unknown preset 'all'."),
    (SanityScope(all_families=True), "--all-families without --tiny would fetch a large checkpoint for every family."),
])
def test_a_scope_that_contradicts_itself_is_refused(scope, message):
    with pytest.raises(SettingsError) as caught:
        check_scope(scope)
    assert caught.value.message == message
    assert caught.value.hint


def test_every_family_is_taken_broken_ones_too(monkeypatch):
    monkeypatch.setattr(plugins.models, "_loose", {"odd": object()})
    found = choose(SanityScope(tiny=True, all_families=True))
    assert [name for name, *_ in found] == plugins.models.names()
    assert ("odd", None, "odd", True) in found


def test_families_by_name_are_tiny_or_their_default_checkpoints():
    scope = SanityScope(tiny=True, families=("qwen2-vl", "llava", "llava"))
    assert choose(scope, name="x/y", options={"width": 32}) == [
        ("qwen2_vl", None, "qwen2_vl", True), ("llava", None, "llava", True)]
    assert choose(SanityScope(families=("llava",))) == [("llava", "llava-hf/llava-1.5-7b-hf", "llava", False)]
    with pytest.raises(PluginError, match="Unknown model family 'lava'. Did you mean 'llava'"):
        choose(SanityScope(tiny=True, families=("lava",)))


def test_a_preset_is_models_by_hub_id_and_with_tiny_their_families():
    assert [name for _, name, _, _ in choose(SanityScope(preset="seeds"))] == list(PRESETS["seeds"])
    assert {name for name, *_ in choose(SanityScope(preset="seeds", tiny=True))} == {
        "qwen2_vl", "internvl", "llava", "llava_next", "llava_med", "blip2"}


def test_without_names_the_configured_model_is_checked_or_a_tiny_one():
    assert choose(SanityScope()) == [("llava", None, "llava", True)]
    assert choose(SanityScope(), name="org/thing") == [("org/thing", "org/thing", None, False)]
    assert choose(SanityScope(tiny=True), name="Qwen/Qwen2-VL-7B-Instruct")[0][2:] == ("qwen2_vl", True)
    assert choose(SanityScope(tiny=True), family="internvl")[0][2:] == ("internvl", True)
    with pytest.raises(SettingsError, match="The family of 'org/thing' cannot be told from its name"):
        choose(SanityScope(tiny=True), name="org/thing")
    with pytest.raises(ModelError, match="Unknown model 'lava'"):
        choose(SanityScope(tiny=True), name="lava")
