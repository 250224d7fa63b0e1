"""From reward plugins to what TRL calls: completions are read as evaluation reads them, and every number is checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prompts import choose_style, format_target
from medvqa_cli.data.replies import read_reply
from medvqa_cli.errors import DataError, MedVQAError, PluginError
from medvqa_cli.training.attempts import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings
    from medvqa_cli.training.attempts import Reward

TRIALS = 256
"""Questions whose gold answers are rated before a training."""
HINT = "A reward returns one finite number for each attempt, or None where it does not apply."


@dataclass(frozen=True, slots=True)
class Examiner:
    """Rates completions of `samples` by named rewards.

    `decode` turns token ids into text, `end_ids` end a completion of at most `most_tokens`.
    """

    samples: Sequence[VQASample]
    rewards: Mapping[str, Reward]
    prompt: PromptSettings
    decode: Callable[[Sequence[int]], str]
    end_ids: frozenset[int]
    most_tokens: int

    def read(self, index: int, tokens: Sequence[int]) -> Attempt:
        """Return a completion of the sample of that index as rewards see it."""
        kept = [token for token in tokens if token not in self.end_ids]
        return read_attempt(self.samples[index], self.decode(kept).strip(), self.prompt, num_tokens=len(tokens),
                            most_tokens=self.most_tokens, is_ended=bool(tokens) and tokens[-1] in self.end_ids)

    def list_functions(self) -> list[Callable[..., list[float | None]]]:
        """Return the rewards in the form that TRL calls, each with its name."""
        return [self._make_function(name, reward) for name, reward in self.rewards.items()]

    def _make_function(self, name: str, reward: Reward) -> Callable[..., list[float | None]]:
        def rate(*, completion_ids: Sequence[Sequence[int]], sample: Sequence[int], **_: Any) -> list[float | None]:
            return rate_all(name, reward, [self.read(index, tokens)
                                           for index, tokens in zip(sample, completion_ids, strict=True)])

        rate.__name__ = name
        return rate


def read_attempt(sample: VQASample, text: str, prompt: PromptSettings, **facts: Any) -> Attempt:
    """Return a text as an attempt at a sample's question, read as evaluation reads it.

    Differs: where nothing stands in the form asked for, evaluation takes the whole text; here there is no answer, or a
    model would learn to leave the form.
    """
    reply = read_reply(text, sample, prompt)
    answer = reply.answer if reply.is_well_formed else ""
    return Attempt(sample, text, answer, reply.is_well_formed, choose_style(sample, prompt), **facts)


def rate_all(name: str, reward: Reward, attempts: Sequence[Attempt]) -> list[float | None]:
    """Return a reward's numbers for some attempts.

    Raises:
        PluginError: If it fails, or returns too many or too few numbers, or one that is none; reward and question are
            named.
    """
    try:
        found = list(reward.rate(attempts))
    except MedVQAError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise PluginError(f"The reward '{name}' failed on {_name(attempts)}: {type(error).__name__}: {error}",
                          "Mend the reward, or leave it out of --rewards.") from error
    if len(found) != len(attempts):
        raise PluginError(f"The reward '{name}' returned {len(found)} numbers for {len(attempts)} attempts.", HINT)
    for attempt, value in zip(attempts, found, strict=True):
        if value is not None and not _is_number(value):
            raise PluginError(f"The reward '{name}' rated question '{attempt.sample.question_id}' with '{value}'; the "
                              f"completion was '{attempt.text}'.", HINT)
    return [None if value is None else float(value) for value in found]


def _name(attempts: Sequence[Attempt]) -> str:
    names = ", ".join(f"'{one}'" for one in dict.fromkeys(a.sample.question_id for a in attempts[:4]))
    return f"question {names}{' or another' if len(attempts) > 4 else ''}"


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value) and not isinstance(value, bool | str)
    except (TypeError, ValueError):
        return False


def try_rewards(rewards: Mapping[str, Reward], samples: Sequence[VQASample], prompt: PromptSettings) -> None:
    """Rate gold answers, and an empty one, so that a reward that cannot work is known before a model is loaded.

    Raises:
        DataError: If no question has what a reward needs, or no reward applies to any question.
        PluginError: As `rate_all`.
    """
    for name, reward in rewards.items():
        for needed in reward.card.needs:
            if not any(getattr(sample, needed) for sample in samples):
                raise DataError(f"The reward '{name}' needs {needed}, and none of the {len(samples)} training "
                                "questions has any.", "Leave it out of --rewards, or train on other data.")
    tried = samples[:: max(1, len(samples) // TRIALS)]
    attempts = [read_attempt(sample, text, prompt) for sample in tried
                for text in (format_target(sample, prompt), "")]
    found = [rate_all(name, reward, attempts) for name, reward in rewards.items()]
    if all(value is None for values in found for value in values):
        raise DataError(f"None of the rewards {', '.join(rewards)} applies to any of {len(tried)} training questions.",
                        "Closed questions take accuracy, open ones token_f1; see `medvqa plugins list`.")
