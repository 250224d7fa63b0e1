"""Knowledge: a small graph written by hand, every way to ask it, and the real one with all of SLAKE's questions."""

from __future__ import annotations

import dataclasses
import json

import pytest

from medvqa_cli.data.knowledge.facts import attach_knowledge
from medvqa_cli.data.knowledge.graph import Fact, read_graph, says
from medvqa_cli.data.knowledge.lookup import MAX_WORDS, write_fact
from medvqa_cli.data.knowledge.positions import rank_labels
from medvqa_cli.data.knowledge.report import holds_answer
from medvqa_cli.data.sources.slake import PLUGIN
from medvqa_cli.errors import DataError
from medvqa_cli.records import Box
from medvqa_cli.settings.data import KnowledgeSettings
from tests.data.builders import make_sample

GRAPH = {
    "en_disease.csv": """disease#attribute#value
Pulmonary Nodules#location#Lung
Pulmonary Nodules#treatment#medical treatment, surgical treatment
Pulmonary Nodules#cause#pulmonary infection
Breast Nodules#location#Breast
Breast Nodules#treatment#surgery
Brain Tumour#treatment#radiotherapy
Cardiomegaly#location#Heart
Cardiomegaly#treatment#physical therapy
Cardiomegaly#treatment#physical therapy
""",
    "en_organ.csv": """organ#attribute#value
Lung#function#breathe
Heart#function#promote blood flow
Heart#weight#about 250g
Small Intestine#alias#Small Bowel, Gut
Small Intestine#function#absorb nutrients, digest food
Stomach#function#digest food
Liver#definition#an organ
Liver#effect#detoxification
Breast#position#chest
""",
    "en_organ_rel.csv": """organ#attribute#value
Stomach#belong to#Digestive System
Small Intestine#belong to#Digestive System
Liver#belong to#Digestive System
Lung#belong to#Respiratory System
Lung Lobe#belong to#Lung
""",
    "disease.csv": "disease,relation,object\n肺结节,发病部位,肺\n肺结节,治疗方法,药物治疗\n",
    "organ.csv": "entity,property,value\n肺,功能,呼吸\n心脏,功能,推动血液流动\n肝脏,定义,器官\n",
    "organ_rel.csv": "entity,property,value\n肺,属于,呼吸系统\n心脏,属于,循环系统\n",
}
NODULE, HEART = Box("Nodule", 0, 0, 10, 10), Box("Cardiomegaly", 50, 50, 90, 90)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "KG").mkdir()
    for name, text in GRAPH.items():
        (tmp_path / "KG" / name).write_text(text, encoding="utf-8")
    return tmp_path


def ask(root, question, relation="_", tail="_", mode="graph", limit=3, **changes):
    sample = make_sample(0, question=question, triples=(("vhead", relation, tail),), **changes)
    (result,) = attach_knowledge([sample], KnowledgeSettings(mode=mode, max_triples=limit), root).samples
    return list(result.context)


def test_the_disease_in_the_picture_answers_what_is_asked(root):
    assert ask(root, "How to treat the disease?", "treat", "ktail", boxes=(NODULE,), organ="Lung") == [
        "Pulmonary Nodules (Nodule): treatment: medical treatment, surgical treatment"]
    assert ask(root, "How to treat the disease?", "treat", "ktail", boxes=(NODULE,), organ="Breast") == [
        "Breast Nodules (Nodule): treatment: surgery"]
    assert ask(root, "How to treat the disease?", "treat", "ktail", boxes=(NODULE,)) == []  # lung or breast?
    assert ask(root, "What causes it?", "cause", "ktail", boxes=(NODULE,), organ="Chest_lung") == [
        "Pulmonary Nodules (Nodule): cause: pulmonary infection"]
    assert ask(root, "How to treat it?", "treat", "ktail", boxes=(Box("Brain Enhancing Tumor", 0, 0, 1, 1),)) == [
        "Brain Tumour (Brain Enhancing Tumor): treatment: radiotherapy"]


def test_the_place_in_the_question_decides_which_comes_first(root):
    both = {"boxes": (NODULE, HEART), "organ": "Lung", "limit": 1, "relation": "treat", "tail": "ktail"}
    nodule = ["Pulmonary Nodules (Nodule): treatment: medical treatment, surgical treatment"]
    heart = ["Cardiomegaly: treatment: physical therapy"]
    assert ask(root, "How to treat the disease?", **both) == nodule
    assert ask(root, "How to treat the disease on the lower right?", **both) == heart
    assert ask(root, "How to treat the most severe disease?", **both) == heart
    assert ask(root, "How to treat the disease on the upper left of the heart?", **both) == heart  # the organ is named
    assert ask(root, "How to treat the disease?", **both | {"limit": 9}) == nodule + heart


@pytest.mark.parametrize(("question", "expected"), [
    ("the organ on the left", ["a", "c", "b"]), ("the rightmost organ", ["b", "c", "a"]),
    ("the top organ", ["a", "b", "c"]), ("the lower organ", ["c", "a", "b"]), ("the main organ", ["c", "a", "b"]),
    ("the organ in the center", ["c", "a", "b"]), ("the organ", ["a", "b", "c"]), ("left or right", ["a", "b", "c"]),
    ("the lower left", ["a", "c", "b"]), ("图像右侧的器官", ["b", "c", "a"]), ("图中心脏的疾病", ["a", "b", "c"]),
])
def test_boxes_where_the_question_points(question, expected):
    boxes = (Box("a", 0, 0, 10, 10), Box("b", 90, 0, 100, 10), Box("c", 30, 40, 80, 70))
    assert rank_labels(boxes, question) == expected


def test_organs_of_the_picture_record_and_diseases(root):
    function = {"relation": "function", "tail": "ktail"}
    assert ask(root, "What is its function?", boxes=(Box("Left Lung", 0, 0, 1, 1), Box("Right Lung", 1, 0, 2, 1)),
               **function) == ["Lung: function: breathe"]
    assert ask(root, "What is its function?", boxes=(Box("Small Bowel", 0, 0, 1, 1),), **function) == [
        "Small Intestine (Small Bowel): function: absorb nutrients, digest food"]
    assert ask(root, "What is its function?", organ="Lung", boxes=(HEART,), **function) == [
        "Lung: function: breathe", "Heart: function: promote blood flow"]
    assert ask(root, "What is its role?", "role", "ktail", boxes=(Box("Liver", 0, 0, 1, 1),)) == [
        "Liver: effect: detoxification"]


def test_backwards_those_in_the_picture_or_all(root):
    lung, bowel = Box("Left Lung", 0, 0, 1, 1), Box("Small Bowel", 0, 0, 1, 1)
    question = "Which organs belong to the digestive system?"
    assert ask(root, question, "belong to", "digestive system", boxes=(lung, bowel)) == [
        "Small Intestine (Small Bowel): belong to: Digestive System"]
    assert ask(root, question, "part of", "ktail", boxes=(bowel,)) == [
        "Small Intestine (Small Bowel): belong to: Digestive System"]
    assert ask(root, question, "belong to", "digestive system", boxes=(lung,), limit=2) == [
        "Stomach: belong to: Digestive System", "Small Intestine: belong to: Digestive System"]
    assert ask(root, "Can an organ here digest food?", "can", "digest food", boxes=(lung, bowel)) == [
        "Small Intestine (Small Bowel): function: absorb nutrients, digest food"]
    assert ask(root, "What system does it belong to?", "belong to", "ktail", boxes=(lung,)) == [
        "Lung: belong to: Respiratory System"]
    assert ask(root, "Can it fly?", "can", "fly", boxes=(lung,)) == ["Lung: function: breathe"]


def test_without_a_relation_the_picture_stays_out(root):
    assert ask(root, "What disease is in the picture?", boxes=(NODULE,), organ="Lung") == []
    assert ask(root, "Is the liver left of the hearts?", boxes=(NODULE,)) == [
        "Liver: definition: an organ", "Liver: effect: detoxification", "Liver: belong to: Digestive System"]
    assert ask(root, "What is the effect of the liver?")[0] == "Liver: effect: detoxification"
    assert ask(root, "Is there a delivery?") == []
    assert ask(root, "How much damage does it do?", "damage", "ktail", boxes=(NODULE,), organ="Lung") == []


def test_without_triples_the_words_of_the_question_tell_the_relation(root):
    sample = make_sample(0, question="How is the nodule treated?", boxes=(NODULE,), organ="Lung", context=("earlier",))
    result = attach_knowledge([sample], KnowledgeSettings(mode="graph"), root)
    assert result.samples[0].context == (
        "earlier", "Pulmonary Nodules (Nodule): treatment: medical treatment, surgical treatment")
    assert result.samples[0] == dataclasses.replace(sample, context=result.samples[0].context)
    plain = make_sample(0, question="Is the gut seen?", boxes=(NODULE,), organ="Lung")
    (found,) = attach_knowledge([plain], KnowledgeSettings(mode="graph", max_triples=1), root).samples
    assert found.context == ("Small Intestine: alias: Small Bowel, Gut",)


def test_chinese_questions_have_the_chinese_graph(root):
    zh = {"language": "zh", "organ": "Lung"}
    assert ask(root, "如何治疗疾病?", "治疗", "ktail", boxes=(NODULE,), **zh) == ["肺结节: 治疗方法: 药物治疗"]
    assert ask(root, "哪个器官属于循环系统?", "属于", "循环系统", **zh) == ["心脏: 属于: 循环系统"]
    assert ask(root, "器官的功能是什么?", "功能", "ktail", **zh) == ["肺: 功能: 呼吸"]
    assert ask(root, "肝脏健康吗?", **zh) == ["肝脏: 定义: 器官"]


def test_record_keeps_what_the_triple_says(tmp_path):
    assert ask(tmp_path, "?", "belong to", "urinary system", mode="record") == ["belong to: urinary system"]
    assert ask(tmp_path, "?", "treat", "ktail", mode="record") == ["treat"]
    assert ask(tmp_path, "?", mode="record") == []
    triples = (("a", "b", "c"), ("a", "b", "c"), ("d", "_", "e"), ("x", "y", "z"))
    sample = make_sample(0, triples=triples)
    (found,) = attach_knowledge([sample], KnowledgeSettings(mode="record", max_triples=2), tmp_path).samples
    assert found.context == ("a: b: c", "d: e")


def test_long_values_are_cut():
    value = " ".join(f"w{number}" for number in range(MAX_WORDS))
    assert write_fact(Fact("A", "b", value), "") == f"A: b: {value}"
    assert write_fact(Fact("A", "b", f"{value} more"), "Left A") == f"A: b: {value} ..."
    assert write_fact(Fact("肺", "b", "字" * 61), "") == f"肺: b: {'字' * 60}..."


@pytest.mark.parametrize(("value", "wanted", "expected"), [
    ("food delivery", "deliver food", True), ("biotransformation, detoxification", "detoxicate", True),
    ("sensing light", "sense light", True), ("Sense Organ", "sensory organs", True), ("gastric juice", "gas", False),
    ("breathe", "", False), ("digest food", "digest meat", False), ("吸收营养\uff0c分泌酶", "分泌酶", True),
])
def test_what_a_value_says(value, wanted, expected):
    assert says(value, wanted) is expected


@pytest.mark.parametrize(("lines", "answer", "expected"), [
    (["Lung: function: breathe"], "Breathe.", True), (["A: belong to: B", "Liver: belong to: B"], "liver, A", True),
    (["A: b: medical treatment"], "Medical treatment, surgery", False), (["Nodules: a: b"], "nodule", True),
    (["A: b: yes"], "Yes", False), (["A: b: pulmonary infection"], "monary", False), ([], "a", False),
    (["A: b: c"], "", False), (["肺: 功能: 呼吸"], "呼吸", True), (["有: 功能: 呼吸"], "有", False),
])
def test_facts_that_hold_the_answer(lines, answer, expected):
    assert holds_answer(lines, answer) is expected


def test_report(root):
    kvqa = {"extra": {"base_type": "kvqa"}, "organ": "Lung"}
    samples = [
        make_sample(0, question="Function?", triples=(("vhead", "function", "ktail"),), answer="Breathe", **kvqa),
        make_sample(1, question="What is it part of?", triples=(("vhead", "part of", "ktail"),), answer="Yes", **kvqa),
        make_sample(2, question="Damage?", triples=(("vhead", "damage", "ktail"),), answer="Little", **kvqa),
        make_sample(3, question="Is it a lung?", triples=(("vhead", "_", "_"),)),
    ]
    result = attach_knowledge(samples, KnowledgeSettings(mode="graph"), root)
    note = result.report.pop("note")
    assert "privileged information" in note
    assert result.report == {
        "mode": "graph", "max_triples": 3, "questions": 4, "with_facts": 3, "coverage": 0.75, "facts": 4 / 3,
        "knowledge": {"questions": 3, "with_facts": 2, "coverage": 2 / 3, "facts": 1.0, "answers_covered": 1,
                      "answer_coverage": 1 / 3, "not_yes_no": 2, "open_coverage": 0.5},
        "privileged": True}
    assert result.samples[2] is samples[2]
    empty = attach_knowledge([], KnowledgeSettings(mode="graph"), root).report
    assert json.loads(json.dumps(empty)) == empty
    assert empty["coverage"] is None
    with pytest.raises(ValueError, match="attaches nothing"):
        attach_knowledge(samples, KnowledgeSettings(), root)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("en_organ.csv", "organ,attribute,value\nLung,function,breathe\n",
     "the header should be 'organ#attribute#value', but is"),
    ("en_organ.csv", GRAPH["en_organ.csv"] + "Spleen#function\n", "row 10: 2 values under 3 columns."),
    ("en_organ.csv", GRAPH["en_organ.csv"] + "Spleen#function#\n", "row 10: 'value'"),
    ("en_organ.csv", "organ#attribute#value\n", "there are no facts in it."),
    ("en_organ.csv", "", "the file is empty."),
    ("en_organ_rel.csv", None, "cannot be read"),
    ("disease.csv", "disease,relation\n肺,x\n", "the header should be 'disease,relation,object', but is"),
])
def test_a_bad_graph(root, name, text, message):
    path = root / "KG" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as failure:
        attach_knowledge([make_sample(0, language="zh")], KnowledgeSettings(mode="graph"), root)
    assert message in failure.value.message
    assert str(path) in failure.value.message


def test_a_missing_graph(tmp_path):
    with pytest.raises(DataError) as failure:
        attach_knowledge([make_sample(0)], KnowledgeSettings(mode="graph"), tmp_path)
    assert failure.value.message == f"The knowledge graph '{tmp_path / 'KG'}' is missing."
    assert "--knowledge record" in failure.value.hint
    assert attach_knowledge([make_sample(0)], KnowledgeSettings(mode="record"), tmp_path).report["with_facts"] == 0


def test_a_graph_may_lie_one_folder_deeper(root):
    graph = read_graph(root, "en")
    (root / "KG").rename(root / "inner")
    (root / "KG").mkdir()
    (root / "inner").rename(root / "KG" / "KG")
    assert read_graph(root, "en").facts == graph.facts
    assert len(graph.facts) == 22  # one of the 23 rows stands twice


def test_the_real_graph(real_data):
    english = read_graph(real_data / "slake", "en")
    assert english.link("Right Lung", ()) == "Lung"
    assert english.link("Brain Stem", ()) == "Brainstem"
    assert english.link("Small Bowel", ()) == "Small Intestine"
    assert english.link("Mass", {"Lung"}) == "Pulmonary Mass"
    assert english.link("Effusion", ()) == "Pleural Effusion"
    assert english.link("Infiltrate", {"Lung"}) == "Pulmonary Infiltration"
    assert english.link("Brain Non-enhancing Tumor", ()) == "Brain Tumour"
    assert english.link("Left Femoral Head", ()) == ""
    assert len(read_graph(real_data / "slake", "zh").facts) > 2500


def test_slake_is_covered_and_the_answer_is_never_looked_at(real_data):
    samples = [sample for sample in PLUGIN.read(real_data / "slake", None)
               if sample.extra["base_type"] == "kvqa" or int(sample.question_id) % 5 == 0]
    settings = KnowledgeSettings(mode="graph")
    result = attach_knowledge(samples, settings, real_data / "slake")
    lines = [sample.context for sample in result.samples]
    changed = [dataclasses.replace(sample, answer=f"{samples[-place].answer} {place}", alternatives=("x",),
                                   options=("y",), answer_type="open", question_id=str(place))
               for place, sample in enumerate(samples)]
    assert [sample.context for sample in attach_knowledge(changed, settings, real_data / "slake").samples] == lines
    backwards = attach_knowledge(samples[::-1], settings, real_data / "slake").samples
    assert [sample.context for sample in backwards[::-1]] == lines
    assert max(map(len, lines)) == 3
    english = attach_knowledge([sample for sample in samples if sample.language == "en"], settings,
                               real_data / "slake").report["knowledge"]
    assert (english["questions"], english["not_yes_no"]) == (885, 630)
    assert english["with_facts"] == 825  # all but the 60 that ask what damage the picture does: the graph says nothing
    assert english["answers_covered"] >= 546
