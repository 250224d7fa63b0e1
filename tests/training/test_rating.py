"""Rewards see what evaluation sees, and a reward that does not work is named."""

from __future__ import annotations

import math

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import DataError, PluginError
from medvqa_cli.records import Box, VQASample
from medvqa_cli.settings.data import PromptSettings
from medvqa_cli.training.attempts import Reward, RewardCard
from medvqa_cli.training.rating import Examiner, rate_all, read_attempt, try_rewards

PLAIN, THINK = PromptSettings(), PromptSettings(style="think")
CLOSED = VQASample(dataset="d", split="train", question_id="q1", image_id="1", question="Is there a lesion?",
                   answer="yes", answer_type="closed")
OPEN = VQASample(dataset="d", split="train", question_id="q2", image_id="1", question="Where is it?",
                 answer="left upper lung", answer_type="open")
CHOICE = VQASample(dataset="d", split="train", question_id="q3", image_id="1", question="Which organ is it?",
                   answer="heart", answer_type="closed", options=("liver", "heart"))
BOXED = VQASample(dataset="d", split="train", question_id="q4", image_id="1", question="Where?", answer="here",
                  answer_type="open", boxes=(Box("lesion", 0, 0, 10, 10),))
REWARDS = ("accuracy", "calibration", "choice", "exact_match", "format", "grounding", "length", "token_f1")


def rate(name, sample, text, prompt=PLAIN, **facts):
    return plugins.rewards.get(name).rate([read_attempt(sample, text, prompt, **facts)])[0]


def test_all_rewards_are_plugins_of_the_protocol():
    assert set(REWARDS) <= set(plugins.rewards.names())
    for name in REWARDS:
        assert isinstance(plugins.rewards.get(name), Reward)
        assert plugins.rewards.summary(name).startswith(f"{name}: ")
    assert plugins.rewards.resolve("rlcr") == "calibration"


@pytest.mark.parametrize(("name", "sample", "text", "prompt", "reward"), [
    ("accuracy", CLOSED, "Yes.", PLAIN, 1.0), ("accuracy", CLOSED, "no", PLAIN, 0.0),
    ("accuracy", OPEN, "left upper lung", PLAIN, None),
    ("accuracy", CLOSED, "<think>no</think><answer>no</answer><answer>yes</answer>", THINK, 1.0),
    ("accuracy", CLOSED, "<answer>yes</answer><answer>no</answer>", THINK, 0.0),
    ("accuracy", CLOSED, "<think><answer>yes</answer>", THINK, 0.0),
    ("accuracy", CHOICE, "B", PLAIN, 1.0), ("accuracy", CHOICE, "liver heart", PLAIN, 0.0),
    ("exact_match", OPEN, "Left upper lung", PLAIN, 1.0), ("exact_match", CLOSED, "yes indeed", PLAIN, 0.0),
    ("token_f1", OPEN, "left lung", PLAIN, 0.8), ("token_f1", CLOSED, "yes", PLAIN, None),
    ("choice", CHOICE, "B) heart", PLAIN, 1.0), ("choice", CHOICE, "A or B", PLAIN, 0.0),
    ("choice", CLOSED, "yes", PLAIN, None),
    ("format", CLOSED, "yes", PLAIN, None), ("format", CLOSED, "yes", THINK, 0.0),
    ("format", CLOSED, "<think>it is dark</think><answer>yes</answer>", THINK, 1.0),
    ("format", CLOSED, "It is dark there. The answer is (yes).", PromptSettings(style="chain_of_thought"), 1.0),
    ("format", CLOSED, "The answer is (yes).", PromptSettings(style="chain_of_thought"), 0.0),
    ("grounding", BOXED, "[0, 0, 10, 10]", PLAIN, 1.0), ("grounding", CLOSED, "[0, 0, 10, 10]", PLAIN, None),
    ("grounding", BOXED, "<think>[0, 0, 10, 10]</think><answer>here</answer>", THINK, 0.0),
    ("calibration", CLOSED, "yes <confidence>0.9</confidence>", PLAIN, 0.99),
    ("calibration", CLOSED, "no <confidence>0.9</confidence>", PLAIN, -0.81),
    ("calibration", OPEN, "left upper lung <confidence>1</confidence>", PLAIN, 1.0),
    ("calibration", CLOSED, "<think>confidence 100%</think><answer>no</answer>", THINK, -1.0)])
def test_rewards(name, sample, text, prompt, reward):
    assert rate(name, sample, text, prompt) == (None if reward is None else pytest.approx(reward))


def test_length_is_of_tokens():
    assert rate("length", CLOSED, "yes", num_tokens=128, most_tokens=128) == -1.0
    assert rate("length", CLOSED, "yes", num_tokens=3, most_tokens=128, is_ended=False) == -1.0
    assert rate("length", CLOSED, "yes", num_tokens=3, most_tokens=128) == 0.0


def test_completions_are_decoded_without_their_end():
    words = ["yes", "no", "<end>"]
    examiner = Examiner([OPEN, CLOSED], {"accuracy": plugins.rewards.get("accuracy")}, PLAIN,
                        lambda tokens: " ".join(words[token] for token in tokens), frozenset({2}), 2)
    function = examiner.list_functions()[0]
    assert function.__name__ == "accuracy"
    assert function(completion_ids=[[0, 2], [0, 2], [1, 2], [0]], sample=[0, 1, 1, 1], prompts=[], trainer_state=None
                    ) == [None, 1.0, 0.0, 1.0]
    cut, whole = examiner.read(1, [0, 0]), examiner.read(1, [0, 2])
    assert (cut.is_ended, cut.text, cut.num_tokens) == (False, "yes yes", 2)
    assert (whole.is_ended, whole.text, whole.most_tokens) == (True, "yes", 2)


class Faulty:
    """Rates as it is told to."""

    card = RewardCard("")

    def __init__(self, answer):
        self.rate = answer


@pytest.mark.parametrize(("answer", "message"), [
    (lambda attempts: 1 / 0, r"The reward 'mine' failed on question 'q1': ZeroDivisionError: division by zero"),
    (lambda attempts: None, r"The reward 'mine' failed on question 'q1': TypeError"),
    (lambda attempts: [1.0], r"The reward 'mine' returned 1 numbers for 2 attempts\."),
    (lambda attempts: [1.0, math.nan], r"rated question 'q1' with 'nan'; the completion was 'no'\."),
    (lambda attempts: [math.inf, 0.0], r"rated question 'q1' with 'inf'; the completion was 'yes'\."),
    (lambda attempts: ["1", 0], r"rated question 'q1' with '1'"),
    (lambda attempts: [True, 0], r"rated question 'q1' with 'True'")])
def test_a_reward_that_does_not_work_is_named(answer, message):
    attempts = [read_attempt(CLOSED, text, PLAIN) for text in ("yes", "no")]
    with pytest.raises(PluginError, match=message) as caught:
        rate_all("mine", Faulty(answer), attempts)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_trials_find_faults_before_a_training():
    good = {"accuracy": plugins.rewards.get("accuracy")}
    try_rewards(good, [CLOSED, OPEN], PLAIN)
    with pytest.raises(PluginError, match="The reward 'mine' failed on question 'q1'"):
        try_rewards({"mine": Faulty(lambda attempts: 1 / 0)}, [CLOSED], PLAIN)
    with pytest.raises(DataError, match="The reward 'grounding' needs boxes, and none of the 2 training questions"):
        try_rewards({"grounding": plugins.rewards.get("grounding")}, [CLOSED, OPEN], PLAIN)
    with pytest.raises(DataError, match="None of the rewards accuracy applies to any of 1 training questions") as error:
        try_rewards(good, [OPEN], PLAIN)
    assert "open ones token_f1" in error.value.hint
