"""How an engine that builds conversations itself is asked in another way."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

from medvqa_cli.data.prompts import check_prompt, list_exemplar_images

if TYPE_CHECKING:
    from medvqa_cli.settings.data import PromptSettings


class Prompted:
    """Keeps how questions are put, and where the exemplars' pictures lie.

    Args:
        prompt: How questions are put.

    Raises:
        SettingsError: If the prompt's template or an exemplar's picture cannot be used.
    """

    def __init__(self, prompt: PromptSettings) -> None:
        check_prompt(prompt)
        self.prompt = prompt
        self._exemplars = list_exemplar_images(prompt)

    def with_prompt(self, prompt: PromptSettings) -> Self:
        """Return the same model, to which questions are put in another way; all else is shared.

        Raises:
            SettingsError: If the prompt's template or an exemplar's picture cannot be used.
        """
        other = copy.copy(self)
        Prompted.__init__(other, prompt)
        return other
