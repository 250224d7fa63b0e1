"""Every style's conversation to the letter, and nothing of the gold answer in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.prompts import (
    UNTAUGHT,
    Turn,
    build_turns,
    check_prompt,
    format_target,
    letter_options,
    list_exemplar_images,
    render_prompt,
)
from medvqa_cli.errors import SettingsError
from medvqa_cli.records import Box, VQASample
from medvqa_cli.settings.data import Exemplar, PromptSettings
from medvqa_cli.settings.schema import make_settings

STYLES = ("plain", "short", "minimal", "chain_of_thought", "think")
SHORT = ("Answer in one to four words, not in a sentence: exactly yes or no where that is asked, a number alone where "
         "an amount is asked.")
REASON = ('Reason step by step. Then finish with one sentence of the form "The answer is (X).", with your answer in '
          "place of X.")
THINK = "Write your reasoning between <think> and </think>, then the answer alone between <answer> and </answer>."


def make_sample(**values) -> VQASample:
    return VQASample(**{"dataset": "d", "split": "test", "question_id": "1", "image_id": "i", "images": ("/a.png",),
                        "question": "Is the liver enlarged?", "answer": "yes", "answer_type": "closed", **values})


def ask(prompt: PromptSettings | None = None, **values) -> str:
    """Return the text of the only turn."""
    (turn,) = build_turns(make_sample(**values), prompt or PromptSettings())
    assert turn.role == "user"
    return turn.text


def test_the_plain_style_is_the_question_and_the_instruction():
    assert build_turns(make_sample(), PromptSettings()) == (Turn("user", "Is the liver enlarged?", 1),)
    assert ask(PromptSettings(instruction="Be brief.")) == "Is the liver enlarged?\nBe brief."
    assert build_turns(make_sample(images=()), PromptSettings())[0].num_images == 0
    assert build_turns(make_sample(images=("/a.png", "/b.png")), PromptSettings())[0].num_images == 2


@pytest.mark.parametrize(("style", "expected"), [
    ("plain", "Is the liver enlarged?\nBe sure."),
    ("short", f"Is the liver enlarged?\n{SHORT}\nBe sure."),
    ("minimal", "Question: Is the liver enlarged?\nBe sure.\nAnswer:"),
    ("chain_of_thought", f"Is the liver enlarged?\n{REASON}\nBe sure."),
    ("think", f"Is the liver enlarged?\n{THINK}\nBe sure."),
])
def test_every_style_to_the_letter(style, expected):
    assert ask(PromptSettings(style=style, instruction="Be sure.")) == expected


@pytest.mark.parametrize(("style", "target"), [
    ("plain", "left lung"), ("short", "left lung"), ("minimal", "left lung"),
    ("chain_of_thought", "The answer is (left lung)."), ("think", "<answer>left lung</answer>")])
def test_what_training_teaches(style, target):
    assert format_target(make_sample(answer="left lung"), PromptSettings(style=style)) == target


def test_the_answer_type_chooses_the_style():
    prompt = PromptSettings(style="think", open_style="short", closed_style="minimal")
    assert ask(prompt) == "Question: Is the liver enlarged?\nAnswer:"
    assert ask(prompt, answer_type="open") == f"Is the liver enlarged?\n{SHORT}"
    assert ask(PromptSettings(style="minimal", open_style="plain"), answer_type="open") == "Is the liver enlarged?"
    assert format_target(make_sample(), PromptSettings(closed_style="think")) == "<answer>yes</answer>"


def test_context_question_options_instructions_in_this_order():
    values = {"question": "Which organ is it?", "options": ("liver", "heart", "spleen"),
              "context": ("liver is in the abdomen", "heart is in the chest")}
    context = "Context: liver is in the abdomen\nContext: heart is in the chest"
    options = "Options:\nA) liver\nB) heart\nC) spleen"
    assert ask(PromptSettings(style="short", instruction="Go."), **values) == (
        f"{context}\nWhich organ is it?\n{options}\nAnswer with the text of one of the options and nothing else.\nGo.")
    assert ask(PromptSettings(style="minimal"), **values) == (
        f"{context}\nQuestion: Which organ is it?\n{options}\nAnswer:")


@pytest.mark.parametrize(("question", "options", "shown"), [
    ("Is it the liver, or the Heart?", ("liver", "heart"), False),
    ("Is it the liver?", ("liver", "heart"), True),
    ("Is it the delivery?", ("liver",), True),
    ("Is it T1 or T2?", ("T1", "T2"), False),
    ("Is it T12 or T2?", ("T1", "T2"), True),
    ("Is it large?", ("Yes", "no"), False),
    ("\u8fd9\u662f\u809d\u8fd8\u662f\u80ba?", ("\u809d", "\u80ba"), False),
    ("Which?", (), False),
])
def test_auto_shows_options_that_the_question_does_not_name(question, options, shown):
    text = ask(PromptSettings(), question=question, options=options)
    assert ("Options:" in text) == shown
    assert "Options:" not in ask(PromptSettings(options="never"), question=question, options=options)
    assert ("Options:" in ask(PromptSettings(options="always"), question=question, options=options)) == bool(options)


def test_yes_no_and_more_options_than_letters_are_not_lettered():
    always = PromptSettings(options="always")
    assert ask(always, options=("yes", "no")) == "Is the liver enlarged?\nOptions: yes; no"
    many = tuple(f"organ {n}" for n in range(27))
    assert ask(always, options=many).endswith("; organ 25; organ 26")
    assert letter_options(make_sample(options=many), always) == {}
    assert list(letter_options(make_sample(options=many[:26]), always))[-1] == "Z"
    assert letter_options(make_sample(options=("a", "b")), PromptSettings(options="never")) == {}


def test_history_stands_before_the_question_and_has_the_images():
    turns = build_turns(make_sample(history=(("What is it?", "CT"), ("Where?", "chest")), context=("fact",)),
                        PromptSettings(style="minimal"))
    assert turns == (Turn("user", "What is it?", 1), Turn("assistant", "CT"), Turn("user", "Where?"),
                     Turn("assistant", "chest"),
                     Turn("user", "Context: fact\nQuestion: Is the liver enlarged?\nAnswer:"))


def test_exemplars_are_turns_in_the_style_of_the_question():
    exemplars = (Exemplar(question="Normal?", answer="no", image=Path("/e.png")),
                 Exemplar(question="CT?", answer="yes"))
    turns = build_turns(make_sample(history=(("What?", "CT"),)), PromptSettings(style="think", exemplars=exemplars))
    assert turns == (
        Turn("user", f"Normal?\n{THINK}", 1), Turn("assistant", "<answer>no</answer>"),
        Turn("user", f"CT?\n{THINK}"), Turn("assistant", "<answer>yes</answer>"),
        Turn("user", "What?", 1), Turn("assistant", "CT"), Turn("user", f"Is the liver enlarged?\n{THINK}"))


def test_the_minimal_style_holds_text_exemplars_in_its_one_turn():
    one = Exemplar(question="Is this a normal chest x-ray?", answer="No.")
    prompt = PromptSettings(style="minimal", exemplars=(one,), instruction="One word.")
    assert ask(prompt) == ("Question: Is this a normal chest x-ray?\nAnswer: No.\n\n"
                           "Question: Is the liver enlarged?\nOne word.\nAnswer:")
    assert len(build_turns(make_sample(history=(("What?", "CT"),)), prompt)) == 5
    pictured = PromptSettings(style="minimal", exemplars=(one.model_copy(update={"image": Path("/e.png")}),))
    assert [(turn.role, turn.num_images) for turn in build_turns(make_sample(), pictured)] == [
        ("user", 1), ("assistant", 0), ("user", 1)]


def test_exemplars_of_the_command_line_are_read():
    prompt = make_settings({"prompt": {"exemplars": ["CT? => yes", "MRI? => no => e.png"]}}).prompt
    assert list_exemplar_images(prompt) == (str(Path("e.png").absolute()),)
    assert [turn.text for turn in build_turns(make_sample(), prompt)] == [
        "CT?", "yes", "MRI?", "no", "Is the liver enlarged?"]


def test_a_template_is_filled_and_empty_lines_of_fields_are_left_out():
    template = "{context}\nQ: {question} {{x}}\nChoose: {options}\n\n({instruction})"
    prompt = PromptSettings(style="short", template=template)
    assert ask(prompt) == f"Q: Is the liver enlarged? {{x}}\n\n({SHORT})"
    assert ask(prompt, context=("a", "b"), options=("x", "y")).startswith(
        "Context: a\nContext: b\nQ: Is the liver enlarged? {x}\nChoose: Options:\nA) x\nB) y\n\n(Answer with the text")
    assert ask(PromptSettings(template="{question}"), options=("x", "y"), question="{options}?") == "{options}?"
    assert letter_options(make_sample(options=("x", "y")), PromptSettings(template="{question}")) == {}


@pytest.mark.parametrize(("template", "fault"), [
    ("Answer!", "it lacks the field {question}"), ("{context}", "it lacks the field {question}"),
    ("{{question}}", "it lacks the field {question}"), ("{question} {answer}", "it has the unknown field {answer}"),
    ("{question} {}", "it has the unknown field {}"), ("{question.real}", "it has the unknown field {question.real}"),
    ("{question!r}", "it has the unknown field {question!r}"), ("{question:>9}", "the unknown field {question:>9}"),
    ("{question} {", "single '{' encountered"), ("{question}}", "single '}' encountered"),
])
def test_a_bad_template_is_one_error_that_lists_the_fields(template, fault):
    for call in (check_prompt, lambda prompt: build_turns(make_sample(), prompt)):
        with pytest.raises(SettingsError) as failure:
            call(PromptSettings(template=template))
        assert "prompt.template" in failure.value.message
        assert repr(template) in failure.value.message
        assert fault in failure.value.message
        assert "{question}, {options}, {context}, {instruction}" in failure.value.hint


def test_a_missing_exemplar_image_is_one_error(tmp_path):
    (tmp_path / "e.png").touch()
    check_prompt(PromptSettings(exemplars=(Exemplar(question="q", answer="a", image=tmp_path / "e.png"),)))
    with pytest.raises(SettingsError, match=r"'/nowhere/e\.png' of exemplar 2 does not exist"):
        check_prompt(PromptSettings(exemplars=(Exemplar(question="q", answer="a"),
                                               Exemplar(question="q", answer="a", image=Path("/nowhere/e.png")))))


def test_a_prompt_can_be_looked_at():
    prompt = PromptSettings(style="think", exemplars=(Exemplar(question="CT?", answer="no"),))
    assert render_prompt(make_sample(images=("/a.png", "/b.png")), prompt) == (
        f"user: CT?\n{THINK}\nassistant: <answer>no</answer>\nuser: [image] [image] Is the liver enlarged?\n{THINK}\n"
        "target: <answer>yes</answer>\n" + UNTAUGHT)


@given(st.sampled_from(STYLES), st.sampled_from(["auto", "always", "never"]), st.booleans(), st.text(max_size=20))
def test_no_prompt_depends_on_the_gold_answer(style, options, has_history, answer):
    prompt = PromptSettings(style=style, options=options, exemplars=(Exemplar(question="CT?", answer="no"),))
    sample = make_sample(question="Which organ?", options=("liver", "heart"), answer="heart",
                         history=(("CT?", "yes"),) if has_history else (), context=("a fact",))
    told = dataclasses.replace(
        sample, answer=answer, alternatives=(answer,), labels={answer: 1.0}, answer_probabilities={answer: 1.0},
        boxes=(Box(answer, 0, 0, 1, 1),), triples=((answer, answer, answer),), scene_graph={"a": answer},
        extra={"a": answer}, organ=answer, modality=answer, question_type=answer, masks=(f"/{answer}.png",))
    assert build_turns(told, prompt) == build_turns(sample, prompt)
