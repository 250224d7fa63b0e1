"""Labels are checked on many cases without pictures, pictures on a few hundred."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from medvqa_cli.data.phantoms import MAX_QUESTIONS, draw_cases, draw_picture, draw_questions
from medvqa_cli.data.phantoms.cases import MODALITIES, REGIONS, SMUDGES
from medvqa_cli.data.phantoms.pictures import LESION_GREY, ORGAN_GREYS

SIZE = 64
WHITE = 220  # lesions are brighter, all else is darker


@pytest.fixture(scope="module")
def cases():
    return list(draw_cases(11, "train", 12_000))


@pytest.fixture(scope="module")
def asked(cases):
    """Pairs of a case and a question about it."""
    return [(case, question) for number, case in enumerate(cases)
            for question in draw_questions(case, 8, random.Random(number))]


@pytest.fixture(scope="module")
def pictures():
    """Pairs of a case and its picture as grey values [SIZE, SIZE]."""
    return [(case, np.asarray(draw_picture(case, SIZE), float)) for case in draw_cases(5, "test", 400)]


def test_every_closed_question_text_is_balanced(asked):
    answers = defaultdict(Counter)
    for _, question in asked:
        if question.answer_type == "closed":
            answers[question.text][question.answer] += 1
    shares = {text: max(counts.values()) / counts.total() for text, counts in answers.items()}
    assert len(shares) == 19
    assert {text: share for text, share in shares.items() if not 0.5 <= share <= 0.61} == {}
    hits = sum(max(counts.values()) for counts in answers.values())
    assert hits / sum(counts.total() for counts in answers.values()) < 0.56


def test_no_question_text_tells_about_another_attribute(asked):
    """Whatever is asked, modality, region, side and height stay evenly spread, apart from what the answer says."""
    spread = defaultdict(lambda: defaultdict(Counter))
    for case, question in asked:
        for name, value in (("modality", case.modality), ("region", case.region)):
            spread[question.text][name][value] += 1
        if case.findings:
            spread[question.text]["side"][case.findings[0].side] += 1
            spread[question.text]["height"][case.findings[0].height] += 1
    about = {"modality": ("CT", "MRI", "X-ray", "odality"), "region": ("chest", "abdomen", "head", "lungs", "liver",
                                                                        "skull")}
    for text, attributes in spread.items():
        for name, counts in attributes.items():
            if any(word in text for word in about.get(name, ())):
                continue
            for value, count in counts.items():
                assert count / counts.total() == pytest.approx(1 / len(counts), abs=0.05), (text, name, value)


def test_every_image_is_asked_different_questions(cases):
    for number, case in enumerate(cases[:500]):
        texts = [question.text for question in draw_questions(case, MAX_QUESTIONS, random.Random(number))]
        assert len(set(texts)) == len(texts) == MAX_QUESTIONS


def test_a_share_of_the_closed_questions_is_ambiguous(asked):
    closed = [question for _, question in asked if question.answer_type == "closed"]
    assert 0.10 < sum(question.is_ambiguous for question in closed) / len(closed) < 0.15


def test_ambiguous_answers_follow_their_law():
    """Four standard errors around the stated probability, at every contrast and in every part of the pictures."""
    smudged = [case for case in draw_cases(23, "train", 40_000) if case.kind == "ambiguous"]
    assert len(smudged) == 8_000
    groups = defaultdict(list)
    for case in smudged:
        groups[case.findings[0].contrast, "all"].append(case.has_lesion)
        for part in (case.modality, case.region, case.findings[0].side, case.findings[0].height,
                     case.findings[0].radius < 0.09):
            groups[case.findings[0].contrast, part].append(case.has_lesion)
    assert {contrast for contrast, _ in groups} == set(SMUDGES)
    for (contrast, part), lesions in groups.items():
        probability = SMUDGES[contrast]
        error = (probability * (1 - probability) / len(lesions)) ** 0.5
        assert abs(np.mean(lesions) - probability) < 4 * error, (contrast, part)


def test_questions_state_the_law_of_their_case(asked):
    for case, question in asked:
        assert sum(question.probabilities.values()) == pytest.approx(1.0)
        assert question.answer in question.probabilities
        if question.is_ambiguous:
            assert case.kind == "ambiguous"
            lesion = {"Presence": "yes", "Normality": "no", "Count": "one"}[question.question_type]
            assert question.probabilities[lesion] == case.lesion_probability == SMUDGES[case.findings[0].contrast]
            assert (question.answer == lesion) == case.has_lesion  # all questions of an image agree
        else:
            assert question.probabilities == {question.answer: 1.0}


def test_certain_answers_are_true(asked):
    facts = {
        "Is there a lesion in the image?": lambda case: ("no", "yes")[bool(case.findings)],
        "Does this image look normal?": lambda case: ("yes", "no")[bool(case.findings)],
        "How many lesions are there?": lambda case: ("none", "one", "two")[len(case.findings)],
        "Is there more than one lesion?": lambda case: ("no", "yes")[len(case.findings) > 1],
        "Is the lesion on the left side of the image?": lambda case: ("no", "yes")[case.findings[0].x < 0.5],
        "Is the lesion in the upper or the lower half of the image?":
            lambda case: ("lower", "upper")[case.findings[0].y < 0.5],
        "Is the lesion large?": lambda case: ("no", "yes")[case.findings[0].radius > 0.08],
        "Is this an MRI scan?": lambda case: ("no", "yes")[case.modality == "MRI"],
        "Does the image show the liver?": lambda case: ("no", "yes")[case.region == "abdomen"],
        "Which part of the body is shown?": lambda case: case.region,
        "Which modality is used to take this image?": lambda case: case.modality,
    }
    seen = Counter()
    for case, question in asked:
        if question.text in facts and not question.is_ambiguous:
            assert question.answer == facts[question.text](case), (case, question)
            seen[question.text] += 1
    assert min(seen[text] for text in facts) > 500


def test_options_are_named_in_the_question(asked):
    chosen = [question for _, question in asked if question.options]
    assert {question.question_type for question in chosen} == {"Side", "Height"}
    for question in chosen:
        assert question.answer in question.options
        assert all(option in question.text for option in question.options)


def test_splits_and_seeds_draw_other_cases_and_longer_draws_begin_alike():
    first = list(draw_cases(0, "train", 60))
    assert list(draw_cases(0, "train", 90))[:60] == first
    assert list(draw_cases(0, "test", 60)) != first
    assert list(draw_cases(1, "train", 60)) != first
    assert Counter(case.kind for case in first) == {"normal": 12, "ambiguous": 12, "single": 27, "double": 9}


def test_a_lesion_lies_where_its_label_says(pictures):
    """The white pixels of a single lesion: on which side, at which height, how many."""
    seen, areas = Counter(), defaultdict(list)
    for case, grey in pictures:
        if case.kind != "single":
            continue
        rows, columns = np.nonzero(grey > WHITE)
        lesion = case.findings[0]
        assert (columns.max() < SIZE / 2) if lesion.side == "left" else (columns.min() >= SIZE / 2)
        assert (rows.mean() < SIZE / 2 - 2) if lesion.height == "upper" else (rows.mean() > SIZE / 2 + 2)
        seen[lesion.side, lesion.height, case.modality, case.region] += 1
        areas[lesion.size].append(len(rows))
    assert len(seen) == 4 * len(MODALITIES) * len(REGIONS)
    assert max(areas["small"]) < min(areas["large"])


def test_boxes_cover_the_lesions_and_nothing_else_is_white(pictures):
    for case, grey in pictures:
        white = grey > WHITE
        steps = np.arange(SIZE) + 0.5
        for box in case.find_boxes(SIZE):
            inside = np.outer((steps > box.y1) & (steps < box.y2), (steps > box.x1) & (steps < box.x2))
            if case.kind != "ambiguous":
                assert (white & inside).sum() > 0.15 * inside.sum()
                assert box.label == "lesion"
            white &= ~inside
        assert not white.any(), case
        assert len(case.find_boxes(SIZE)) == {"normal": 0, "double": 2}.get(case.kind, 1)


def test_a_smudge_shows_its_contrast_and_so_its_probability(pictures):
    """From the grey values alone the contrast is read off without a mistake: the stated law is the exact posterior."""
    seen = Counter()
    steps = (np.arange(SIZE) + 0.5) / SIZE
    for case, grey in pictures:
        if case.kind != "ambiguous":
            continue
        smudge = case.findings[0]
        core = np.hypot(steps[None, :] - smudge.x, steps[:, None] - smudge.y) < 0.4 * smudge.radius
        tissue = ORGAN_GREYS[case.modality][case.find_organ(smudge)]
        measured = (grey[core].mean() - tissue) / (LESION_GREY - tissue)
        assert min(SMUDGES, key=lambda contrast: abs(contrast - measured)) == smudge.contrast, case
        seen[smudge.contrast] += 1
    assert set(seen) == set(SMUDGES)


def test_a_picture_is_grey_and_depends_on_its_case_alone():
    first, second = draw_cases(2, "train", 2)
    picture = draw_picture(first, 48)
    assert (picture.mode, picture.size) == ("L", (48, 48))
    assert draw_picture(first, 48).tobytes() == picture.tobytes()
    assert draw_picture(second, 48).tobytes() != picture.tobytes()


def test_modalities_and_regions_look_different(pictures):
    """The mean picture of each kind is nearer to pictures of its kind than to those of any other."""
    kinds = defaultdict(list)
    for case, grey in pictures:
        kinds[case.modality, case.region].append(grey)
    means = {kind: np.mean(greys[::2], axis=0) for kind, greys in kinds.items()}
    held_out = [(kind, grey) for kind, greys in kinds.items() for grey in greys[1::2]]
    hits = [min(means, key=lambda name: np.abs(means[name] - grey).mean()) == kind for kind, grey in held_out]
    assert len(means) == 9
    assert np.mean(hits) > 0.98
