"""The options a question names, read off its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvqa_cli.inference import chinese, options
from medvqa_cli.inference.options import find_options


@pytest.mark.parametrize(("question", "expected"), [
    ("Which is bigger, lung,liver or heart?", [["lung"], ["liver"], ["heart"]]),
    ("Which is bigger in this image,kidney or spleen ?", [["kidney"], ["spleen"]]),
    ("Which is highlighted in this image, white or gray matter?", [["white", "white matter"],
                                                                  ["gray", "gray matter"]]),
    ("What is the cause: medical process or physical injury?", [["medical process"], ["physical injury"]]),
    ("Is the abnormality hyperdense or hypodense?", [["hyperdense", "abnormality hyperdense"], ["hypodense"]]),
    ("Is this a T1 weighted, T2 weighted, or FLAIR image?", [["T1 weighted"], ["T2 weighted"], ["FLAIR"]]),
    ("In this slice, is the mass solid or cystic?", [["solid", "mass solid"], ["cystic"]]),
    ("Is the lesion on the patient's right or left side?", [["right", "right side"], ["left", "left side"]]),
    ("Is it more or less dense than brain?", [["more", "more dense"], ["less", "less dense"]]),
    ("Was this taken with or without contrast?", [["with", "with contrast"], ["without", "without contrast"]]),
    ("Is it MRI with contrast or without contrast?", [["with contrast"], ["without contrast"]]),
    ("Is this a non contrast CT or a contrast CT?", [["non-contrast CT"], ["contrast CT"]]),
    ("Is this a pneumonia vs. pleural effusion?", [["pneumonia", "pneumonia effusion"],
                                                  ["pleural", "pleural effusion"]]),
    ("Is the scan CT versus MRI", [["CT", "scan CT"], ["MRI"]]),
    ("Which scan is shown, CT/MRI?", [["CT"], ["MRI"]]),
    ("What is it? A) left lung B) right lung C) both", [["left lung"], ["right lung"], ["both"]]),
    ("What is shown? (A) liver, (B) heart.", [["liver"], ["heart"]]),
])
def test_options_are_found_in_every_form(question, expected):
    assert [list(forms) for forms in find_options(question).options] == expected


@pytest.mark.parametrize("question", [
    "Is/Are there abnormalities in the left lung?", "Is the grey/white matter border sharp?", "Is the lesion large?",
    "Is there any hypo- or hyperattenuation?", "Does this image use contrast or not?", "Where is the liver?", "",
    "or", "Is it or",
])
def test_no_choice_is_no_options(question):
    assert find_options(question).options == ()


@pytest.mark.parametrize(("question", "may_be"), [
    ("Is there a fracture or a dislocation?", True), ("Any epidural or subdural bleeding?", True),
    ("Can a diagnosis or impression be made?", True), ("Is the mass solid or cystic?", False),
    ("Which is larger, any lung or the heart?", False),
])
def test_yes_and_no_stay_possible_where_findings_are_asked_for(question, may_be):
    assert find_options(question).may_be_denied is may_be


@pytest.mark.parametrize(("question", "expected"), [
    ("Is it large?", True), ("Are/Is there kidneys?", True), ("Besides the mass, are there lesions?", True),
    ("Notice anything abnormal?", True), ("Is there a region which is bright?", True),
    ("Where is the lesion?", False), ("In which lobe are the lesions?", False), ("The lesion is where?", False),
])
def test_yes_no_questions_are_known_by_their_words(question, expected):
    assert options.is_yes_no_question(question) is expected


@pytest.mark.parametrize(("question", "expected"), [
    ("图中右肾和肝脏哪个更大?", ["右肾", "肝脏"]), ("图中肺、心脏和肝脏哪个体积最大?", ["肺", "心脏", "肝脏"]),
    ("在这个图像中胃和结肠哪个更大?", ["胃", "结肠"]), ("肺或者心脏哪个是异常的?", ["肺", "心脏"]),
    ("图中异常是高密度还是低密度?", ["高密度", "低密度"]), ("这是T1加权还是T2加权的图像?", ["T1加权", "T2"]),
    ("显示的是哪种成像\uff0cMRI、CT还是X光\uff1f", ["MRI", "CT", "X光"]), ("图中有肿块吗?", []), ("哪里异常?", []),
])
def test_chinese_options_are_found(question, expected):
    assert [forms[0] for forms in chinese.find_options(question)] == expected


@given(st.text(alphabet="Is AB)/.,?:-or vs吗哪还是和、的中\t", max_size=60) | st.text(max_size=80))
def test_any_text_gives_no_options_or_several_with_forms(text):
    for found in (find_options(text).options, chinese.find_options(text)):
        assert len(found) != 1
        assert all(forms and all(form.strip() for form in forms) for forms in found)
    options.is_yes_no_question(text)
    assert all(chinese.list_polar_forms(text))
