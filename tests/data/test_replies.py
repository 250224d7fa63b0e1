"""A model's text to its answer: what training teaches is read back, and what is malformed is known to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.data.prompts import format_target
from medvqa_cli.data.replies import Reply, extract_answer, read_reply
from medvqa_cli.scoring.answers import normalize_answer
from medvqa_cli.settings.data import PromptSettings
from tests.data.test_prompts import STYLES, make_sample

WORDS = st.sampled_from(["yes", "no", "left lung", "(left)", "1) left", "b) right", "T1 (weighted)", "5 cm", "> 3",
                         "q/a", "\u809d", "e.g. a", "the answer", "think", "answer", "a < b", "question"])
ANSWERS = st.one_of(st.lists(WORDS, min_size=1, max_size=4).map(" ".join),
                    st.text(st.characters(blacklist_characters="()", blacklist_categories=("Cs",)), min_size=1)
                    .filter(str.strip))


@given(ANSWERS, st.sampled_from(STYLES))
def test_what_training_teaches_is_read_back(answer, style):
    target = format_target(make_sample(answer=answer), PromptSettings(style=style))
    found = extract_answer(target, style)
    assert found is not None
    assert normalize_answer(found) == normalize_answer(answer)


@pytest.mark.parametrize(("text", "answer"), [
    ("The liver is large.\nThe answer is (yes).", "yes"),
    ("the final answer is (left lung)", "left lung"),
    ("The answer is: (no).", "no"),
    ("The answer is (yes). On second thought, the answer is (no).", "no"),
    ("The answer is (yes). I hope it helps (a bit).", "yes"),
    ("The answer is (yes) because of its size (5 cm).", "yes"),
    ("The answer is (lobe (left)).", "lobe (left)"),
    ("The answer is (1) left 2) right).", "1) left 2) right"),
    ("The answer is ( yes ).\n", "yes"),
    ("The answer is yes.", None), ("The answer is (yes", None), ("The answer is ().", None), ("", None),
    ("Reason step by step", None), ("The answer is (yes). Then the answer is (", None),
])
def test_the_last_sentence_of_a_chain_of_thought(text, answer):
    assert extract_answer(text, "chain_of_thought") == answer


@pytest.mark.parametrize(("text", "answer"), [
    ("<think>large</think><answer>yes</answer>", "yes"),
    ("<think>I could write <answer>no</answer></think>\n<answer> yes\n</answer>", "yes"),
    ("<think>I could write <answer>no</answer>, but", None),
    ("it looks large</think><answer>yes</answer>", "yes"),
    ("<answer>no</answer> or <answer>yes</answer>", "yes"),
    ("<ANSWER>two\nlines</ANSWER>", "two\nlines"),
    ("<think>so</think>yes", None), ("<answer>yes", None), ("<answer></answer>", None), ("yes", None),
])
def test_the_last_answer_element_outside_of_a_thought(text, answer):
    assert extract_answer(text, "think") == answer


@pytest.mark.parametrize(("style", "text", "answer"), [
    ("minimal", " yes\nQuestion: Is it?\nAnswer: no", "yes"), ("minimal", "Answer: left lung", "left lung"),
    ("short", "answer:yes", "yes"), ("plain", "Answer: yes\n", "Answer: yes"), ("minimal", "", "")])
def test_styles_that_ask_for_the_answer_alone(style, text, answer):
    assert extract_answer(text, style) == answer


def test_a_malformed_reply_counts_as_its_whole_text():
    prompt = PromptSettings(style="think")
    assert read_reply("<think>I see no lesion ", make_sample(), prompt) == Reply("<think>I see no lesion", False)
    assert read_reply("<answer>no</answer>", make_sample(), prompt) == Reply("no", True)


@pytest.mark.parametrize(("text", "answer"), [
    ("B", "heart"), ("b", "heart"), ("(B)", "heart"), ("B)", "heart"), ("B.", "heart"), ("B) heart", "heart"),
    ("B: Heart.", "heart"), ("Option B", "heart"), ("the option (b)", "heart"),
    ("heart", "heart"), ("Heart.", "Heart."), ("B) liver", "B) liver"), ("Z", "Z"), ("a heart", "a heart"),
    ("B and C", "B and C"), ("", "")])
def test_a_letter_is_read_as_the_option_it_stands_for(text, answer):
    sample = make_sample(question="Which organ?", options=("liver", "heart", "spleen"), answer="heart")
    assert read_reply(text, sample, PromptSettings()).answer == answer
    assert read_reply(text, sample, PromptSettings(options="never")).answer == text
    if text:
        wrapped = read_reply(f"<answer>{text}</answer>", sample, PromptSettings(style="think"))
        assert wrapped == Reply(answer, True)


def test_an_option_that_is_itself_a_letter_wins():
    sample = make_sample(question="Which vitamin?", options=("B", "A"), answer="A")
    assert read_reply("A", sample, PromptSettings()).answer == "A"
    assert read_reply("A) B", sample, PromptSettings()).answer == "B"


def test_a_confidence_is_no_part_of_an_answer():
    left = make_sample(question="Which side?", answer="left")
    assert read_reply("left <confidence>0.7</confidence>", left, PromptSettings()).answer == "left"
    wrapped = "<answer>left<confidence>70%</confidence></answer>"
    assert read_reply(wrapped, left, PromptSettings(style="think")) == Reply("left", True)
