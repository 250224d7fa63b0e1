"""Question to conversation turns, and what a model should reply to them.

Order of a conversation: exemplars, the sample's history, the question. Order inside a question: context, question,
options, the style's own instruction, `prompt.instruction`. Nothing of it depends on the gold answer.

Options are lettered ("A) liver"), but the answer taught and scored is an option's text, never its letter: a letter in
a reply is read as the option it stands for (`medvqa_cli.data.replies`).
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.data import PromptSettings, PromptStyle

LETTERS = string.ascii_uppercase
FIELDS = ("question", "options", "context", "instruction")
INSTRUCTIONS: dict[str, str] = {
    "short": "Answer in one to four words, not in a sentence: exactly yes or no where that is asked, a number alone "
             "where an amount is asked.",
    "chain_of_thought": 'Reason step by step. Then finish with one sentence of the form "The answer is (X).", with '
                        "your answer in place of X.",
    "think": "Write your reasoning between <think> and </think>, then the answer alone between <answer> and </answer>.",
}
CHOOSE_OPTION = "Answer with the text of one of the options and nothing else."
"""The instruction of `short` where options are shown: their text may have more than four words."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: who speaks, what, and how many images stand before the text."""

    role: Literal["system", "user", "assistant"]
    text: str
    num_images: int = 0


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a question's text is made of; an empty part is left out."""

    question: str
    options: str = ""
    context: str = ""
    instruction: str = ""


def build_turns(sample: VQASample, prompt: PromptSettings) -> tuple[Turn, ...]:
    """Return the conversation that asks a sample's question, ending with the user's turn.

    Exemplars stand first, as turns of their own in the sample's style, each with its image. Style `minimal` continues
    a text rather than a conversation: there, exemplars without images stand inside the question's turn, unless the
    sample has a history or a template is set (the one-shot form of Tu et al. 2023, Med-PaLM M, arXiv:2307.14334).
    The history stands as it was said. The sample's images belong to its first user turn.

    Args:
        sample: The question. Of its labels only `answer_type` counts: it chooses between `open_style` and
            `closed_style`.
        prompt: How it is put.

    Raises:
        SettingsError: As `check_prompt`, about the template.
    """
    style = choose_style(sample, prompt)
    text = _write(_collect_parts(sample, prompt, style), prompt.template, style)
    if _stands_inside(sample, prompt, style):
        shown = (f"{_write(_Parts(one.question), '', style)} {one.answer}\n\n" for one in prompt.exemplars)
        return (Turn("user", "".join(shown) + text, len(sample.images)),)
    turns = [*_demonstrate(prompt, style)]
    start = len(turns)
    for question, answer in sample.history:
        turns += [Turn("user", question), Turn("assistant", answer)]
    turns.append(Turn("user", text))
    turns[start] = replace(turns[start], num_images=len(sample.images))
    return tuple(turns)


REASONING = ("chain_of_thought", "think")
"""Styles that ask for reasons."""
UNTAUGHT = ("(The prompt asks for reasons, the target has none: the data hold none to learn from. `medvqa train grpo` "
            "rewards a model for giving them.)")


def format_target(sample: VQASample, prompt: PromptSettings) -> str:
    """Return the reply that training teaches: the gold answer in the form that the sample's style asks for.

    No reasoning is known, so none is taught: chain_of_thought teaches its last sentence, think its last element.
    """
    return _format_answer(sample.answer, choose_style(sample, prompt))


def render_prompt(sample: VQASample, prompt: PromptSettings) -> str:
    """Return the conversation as text to look at, [image] for each image, and the reply that training would teach."""
    turns = (f"{turn.role}: {'[image] ' * turn.num_images}{turn.text}" for turn in build_turns(sample, prompt))
    untaught = choose_style(sample, prompt) in REASONING
    return "\n".join([*turns, f"target: {format_target(sample, prompt)}", *([UNTAUGHT] if untaught else [])])


def choose_style(sample: VQASample, prompt: PromptSettings) -> PromptStyle:
    """Return the style of a sample's question: that of its answer type, where there is one, else the general one."""
    own = prompt.closed_style if sample.answer_type == "closed" else prompt.open_style
    return own or prompt.style


def list_exemplar_images(prompt: PromptSettings) -> tuple[str, ...]:
    """Return the absolute paths of the exemplars' images, in their order; they stand before the sample's own."""
    return tuple(str(one.image.expanduser().absolute()) for one in prompt.exemplars if one.image)


def check_prompt(prompt: PromptSettings) -> None:
    """Check what types alone do not say.

    Raises:
        SettingsError: If the template is malformed, has an unknown field or lacks {question}; or if an exemplar's
            image does not exist.
    """
    if prompt.template:
        _split_template(prompt.template)
    for number, exemplar in enumerate(prompt.exemplars, start=1):
        if exemplar.image and not exemplar.image.expanduser().is_file():
            raise SettingsError(f"Setting 'prompt.exemplars': the image '{exemplar.image}' of exemplar {number} does "
                                "not exist.", "Relative paths start from the working directory.")


def letter_options(sample: VQASample, prompt: PromptSettings) -> dict[str, str]:
    """Return letter -> option as the prompt shows them; empty where it shows none, or none with letters.

    A choice between yes and no is written without letters, and so are more than 26 options.
    """
    if not _shows_options(sample, prompt) or _is_yes_no(sample.options) or len(sample.options) > len(LETTERS):
        return {}
    return dict(zip(LETTERS, sample.options, strict=False))


def _shows_options(sample: VQASample, prompt: PromptSettings) -> bool:
    """Tell whether options are shown; "auto" hides those that the question names, as "Is it ...?" names yes and no."""
    if not sample.options or prompt.options == "never" or (prompt.template and "{options}" not in prompt.template):
        return False
    named = _is_yes_no(sample.options) or all(_names(sample.question, option) for option in sample.options)
    return prompt.options == "always" or not named


def _is_yes_no(options: tuple[str, ...]) -> bool:
    return {option.strip().casefold() for option in options} == {"yes", "no"}


def _names(question: str, option: str) -> bool:
    """Tell whether an option stands in a question as whole words (in scripts without blanks: anywhere)."""
    text, wanted = (" ".join(part.casefold().split()) for part in (question, option))
    return re.search(rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])", text) is not None


def _collect_parts(sample: VQASample, prompt: PromptSettings, style: str) -> _Parts:
    options = _write_options(sample, prompt)
    return _Parts(sample.question, options, "\n".join(f"Context: {line}" for line in sample.context),
                  _instruct(prompt, style, choose=bool(options)))


def _instruct(prompt: PromptSettings, style: str, *, choose: bool = False) -> str:
    own = CHOOSE_OPTION if choose and style == "short" else INSTRUCTIONS.get(style, "")
    return "\n".join(filter(None, (own, prompt.instruction)))


def _write_options(sample: VQASample, prompt: PromptSettings) -> str:
    if not _shows_options(sample, prompt):
        return ""
    lettered = letter_options(sample, prompt)
    if not lettered:
        return f"Options: {'; '.join(sample.options)}"
    return "\n".join(["Options:", *(f"{letter}) {option}" for letter, option in lettered.items())])


def _write(parts: _Parts, template: str, style: str) -> str:
    if template:
        return _fill(template, parts)
    cue, end = ("Question: ", ["Answer:"]) if style == "minimal" else ("", [])
    before, after = filter(None, [parts.context]), filter(None, [parts.options, parts.instruction])
    return "\n".join([*before, f"{cue}{parts.question}", *after, *end])


def _stands_inside(sample: VQASample, prompt: PromptSettings, style: str) -> bool:
    return (style == "minimal" and not prompt.template and not sample.history
            and not any(exemplar.image for exemplar in prompt.exemplars))


def _demonstrate(prompt: PromptSettings, style: str) -> Iterator[Turn]:
    for exemplar in prompt.exemplars:
        parts = _Parts(exemplar.question, instruction=_instruct(prompt, style))
        yield Turn("user", _write(parts, prompt.template, style), 1 if exemplar.image else 0)
        yield Turn("assistant", _format_answer(exemplar.answer, style))


def _format_answer(answer: str, style: str) -> str:
    if style == "chain_of_thought":
        return f"The answer is ({answer})."
    return f"<answer>{answer}</answer>" if style == "think" else answer


def _fill(template: str, parts: _Parts) -> str:
    """Fill in a template; a line all of whose fields are empty is left out."""
    lines = []
    for pieces in _split_template(template):
        values = [getattr(parts, field) for _, field in pieces if field]
        if any(values) or not values:
            lines.append("".join(text + (getattr(parts, field) if field else "") for text, field in pieces))
    return "\n".join(lines)


def _split_template(template: str) -> list[list[tuple[str, str]]]:
    """Return each line as pieces of text, each with the field that follows it, or with an empty text."""
    try:
        lines = [[(text, _read_field(field, spec, conversion))
                  for text, field, spec, conversion in string.Formatter().parse(line)]
                 for line in template.split("\n")]
    except ValueError as error:
        raise _refuse(template, str(error)) from error
    if not any(field == "question" for line in lines for _, field in line):
        raise _refuse(template, "it lacks the field {question}")
    return lines


def _read_field(field: str | None, spec: str | None, conversion: str | None) -> str:
    if field is None:
        return ""
    if field not in FIELDS or spec or conversion:
        mark = f"!{conversion}" if conversion else ""
        raise ValueError(f"it has the unknown field {{{field}{mark}{f':{spec}' if spec else ''}}}")
    return field


def _refuse(template: str, fault: str) -> SettingsError:
    fields = ", ".join(f"{{{field}}}" for field in FIELDS)
    return SettingsError(f"Setting 'prompt.template' is {template!r}: {fault[0].lower()}{fault[1:]}.",
                         f"Fields: {fields}; {{question}} is needed. Write {{{{ and }}}} for braces themselves.")
