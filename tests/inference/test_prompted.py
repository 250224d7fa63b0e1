"""An engine asked in another way: what changes, what is shared, what is refused."""

from __future__ import annotations

import pytest
from PIL import Image

from medvqa_cli.errors import SettingsError
from medvqa_cli.inference.prompted import Prompted
from medvqa_cli.settings.data import Exemplar, PromptSettings


class Engine(Prompted):
    """Keeps something that is dear to make."""

    def __init__(self, prompt: PromptSettings) -> None:
        super().__init__(prompt)
        self.model = object()


def test_another_way_of_asking_has_its_own_exemplars_and_the_same_model(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "red.png")
    engine = Engine(PromptSettings())
    other = engine.with_prompt(PromptSettings(
        exemplars=(Exemplar(question="Red?", answer="yes", image=tmp_path / "red.png"),)))
    assert isinstance(other, Engine)
    assert other.model is engine.model
    assert (engine._exemplars, other._exemplars) == ((), (str(tmp_path / "red.png"),))
    assert (engine.prompt.exemplars, other.prompt.exemplars[0].question) == ((), "Red?")


def test_a_way_of_asking_that_cannot_be_used_is_refused_and_changes_nothing(tmp_path):
    engine = Engine(PromptSettings())
    lost = PromptSettings(exemplars=(Exemplar(question="Red?", answer="yes", image=tmp_path / "lost.png"),))
    with pytest.raises(SettingsError, match=r"the image '.*lost\.png' of exemplar 1 does not exist"):
        engine.with_prompt(lost)
    with pytest.raises(SettingsError, match="of exemplar 1 does not exist"):
        Engine(lost)
    assert engine.prompt == PromptSettings()
