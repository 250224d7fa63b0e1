import pytest

from medvqa_cli.evaluation.controls import compare_control, measure_habits, measure_option_order
from medvqa_cli.records import Prediction, VQASample
from medvqa_cli.settings.schema import EvaluationSettings

SETTINGS = EvaluationSettings(resamples=400)


def answer(number, text, gold="yes", *, kind="closed", image=None, **values):
    sample = VQASample(dataset="d", split="test", question_id=str(number), image_id=image or f"i{number // 2}",
                       question="?", answer=gold, answer_type=kind, **values)
    return Prediction(sample=sample, answer=text)


def test_the_share_that_survives_is_of_the_same_questions():
    own = [answer(n, "yes" if n % 10 < 8 else "no") for n in range(50)]
    control = [answer(n, "yes" if n % 10 in (0, 1, 2, 8) else "no") for n in range(52)]
    found = compare_control(own, control, SETTINGS)
    part = found["closed"]["accuracy@medvqa"]
    assert (found["n"], found["images"], found["left_out"]) == (50, 25, 2)
    assert (part["own"], part["control"], part["survives"]["value"]) == (0.8, 0.4, 0.5)
    assert part["difference"]["value"] == pytest.approx(-0.4)
    assert part["survives"]["low"] < 0.5 < part["survives"]["high"]
    assert "open" not in found


def test_a_model_that_does_not_look_keeps_all_and_one_that_is_never_right_has_no_share():
    same = [answer(n, "yes" if n % 3 else "no") for n in range(30)]
    part = compare_control(same, same, SETTINGS)["closed"]["accuracy@medvqa"]
    assert part["survives"] == {"value": 1.0, "low": None, "high": None}
    assert (part["difference"]["value"], part["p"]) == (0.0, 1.0)
    assert part["difference"]["high"] == -part["difference"]["low"] == pytest.approx(1 - 0.025 ** (1 / 15))
    wrong = [answer(n, "no") for n in range(4)]
    assert compare_control(wrong, same, SETTINGS)["closed"]["accuracy@medvqa"]["survives"]["value"] is None


def test_the_interval_is_drawn_over_images_both_ways_together():
    """Images are wholly right or wholly wrong; one is lost: the share lies just below 1 however images are drawn."""
    own = [answer(n, "yes" if n // 2 % 2 else "no") for n in range(80)]
    control = [answer(n, "yes" if n // 2 % 2 and n > 4 else "no") for n in range(80)]
    assert compare_control(own, control, SETTINGS)["closed"]["accuracy@medvqa"]["survives"]["low"] > 0.75


def test_open_answers_have_exact_match_and_words():
    own = [answer(n, "left lung", "left lung", kind="open") for n in range(4)]
    control = [answer(n, "lung", "left lung", kind="open") for n in range(4)]
    part = compare_control(own, control, SETTINGS)["open"]
    assert part["exact_match@medvqa"]["survives"]["value"] == 0.0
    assert part["token_f1@medvqa"]["survives"]["value"] == pytest.approx(2 / 3)


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(ValueError, match="no question was answered both ways"):
        compare_control([answer(1, "yes")], [answer(2, "yes")], SETTINGS)


def test_habits_are_told_from_answers_alone():
    rows = [answer(n, "Yes.", "no" if n % 2 else "yes") for n in range(12)]
    rows += [answer(20 + n, text, gold, kind="open") for n, (text, gold) in enumerate(
        [("image", "lung"), ("x-ray", "x-ray"), ("Lung", "heart"), ("not sure", "heart")])]
    found = measure_habits(rows, SETTINGS, frequent=["lung", "liver"])
    assert found["collapse"] == {"answer": "yes", "share": 1.0, "gold_share": 0.5, "n": 12, "is_collapse": True}
    assert found["collapse_open"]["is_collapse"] is False
    assert (found["generic"]["value"], found["generic"]["n"]) == (0.5, 4)
    assert (found["empty"]["value"], found["empty"]["n"]) == (0.0, 16)
    assert (found["frequent"]["value"], found["frequent"]["gold"]) == (0.25, 0.25)
    assert measure_habits(rows, SETTINGS)["frequent"] is None
    assert measure_habits(rows[12:], SETTINGS)["collapse"] is None
    assert measure_habits(rows[:12], SETTINGS)["generic"] is None


def test_empty_answers_are_counted_on_their_own_and_are_a_collapse():
    rows = [answer(n, " ", f"gold {n}", kind="open") for n in range(19)] + [answer(20, "lung", "lung", kind="open")]
    found = measure_habits(rows, SETTINGS)
    assert (found["empty"]["value"], found["generic"]["value"]) == (0.95, 0.0)
    assert (found["collapse_open"]["answer"], found["collapse_open"]["is_collapse"]) == ("", True)


def choose(number, text, options, gold="lung"):
    return answer(number, text, gold, options=options)


def test_who_always_says_a_changes_with_every_order_and_who_reads_does_not():
    three = ("lung", "liver", "heart")
    orders = [(*three[k:], *three[:k]) for k in range(3)]
    always_a = [[choose(n, "A", order) for n in range(4)] for order in orders]
    reads = [[choose(n, "lung", order) for n in range(4)] for order in orders]
    first, second = measure_option_order(always_a, SETTINGS), measure_option_order(reads, SETTINGS)
    assert (first["changed"]["value"], second["changed"]["value"]) == (1.0, 0.0)
    assert [entry["value"] for entry in first["accuracy"]] == [1.0, 0.0, 0.0]
    assert (first["spread"], second["spread"]) == (1.0, 0.0)
    assert (first["positions"], first["orders"], first["n"]) == ({"A": 1.0}, 3, 4)
    assert second["positions"] == pytest.approx({"A": 1 / 3, "B": 1 / 3, "C": 1 / 3})


def test_questions_of_fewer_options_have_fewer_orders():
    two, three = ("lung", "liver"), ("lung", "liver", "heart")
    own = [choose(0, "lung", two), choose(1, "lung", three), choose(2, "yes", ())]
    moved = [choose(0, "B", ("liver", "lung")), choose(1, "none of them", ("liver", "heart", "lung"))]
    found = measure_option_order([own, moved, [choose(1, "lung", ("heart", "lung", "liver"))]], SETTINGS)
    assert (found["n"], found["orders"], found["accuracy"][0]["n"]) == (2, 3, 1)
    assert found["changed"]["value"] == 0.5
    assert found["unnamed"] == pytest.approx(1 / 5)
    with pytest.raises(ValueError, match="no question was asked in two orders"):
        measure_option_order([own, []], SETTINGS)
