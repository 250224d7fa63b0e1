"""How questions were put is stated beside every number."""

from __future__ import annotations

from medvqa_cli.reporting.protocol import describe_shortly, list_protocol
from medvqa_cli.settings.data import Exemplar, KnowledgeSettings, MaskSettings, PromptSettings
from medvqa_cli.settings.schema import to_tree


def list_rows(**inference) -> dict[str, str]:
    return dict(list_protocol({"dataset": "slake", "split": "test", "n": 3, "inference": {"seed": 1, **inference}}))


def test_prompt_mask_and_knowledge_are_stated():
    prompt = PromptSettings(style="think", closed_style="minimal", instruction="Be brief.", template="{question}!",
                            exemplars=(Exemplar(question="CT?", answer="no"),))
    rows = list_rows(prompt=to_tree(prompt), mask=to_tree(MaskSettings(mode="crop", classes="disease")),
                     knowledge=to_tree(KnowledgeSettings(mode="graph", max_triples=2)))
    assert rows["Prompt"] == "style think, closed questions minimal, options auto, exemplars 1, template '{question}!'"
    assert rows["Instruction"] == "Be brief."
    assert rows["Pictures"] == "crop by segmentation masks (classes: disease)"
    assert rows["Knowledge"] == "graph: at most 2 facts a question, privileged information"


def test_no_folder_of_whoever_measured_is_told():
    model = {"family": "llava", "checkpoint": "/home/ann lee/weights/llava-7b", "adapter": "./adapter",
             "dtype": "float32"}
    assert list_rows(model=model)["Model"] == "llava, weights/llava-7b, ./adapter, float32"
    assert list_rows(model={"checkpoint": "org/llava", "server": "http://localhost:8000/v1"})["Model"] == (
        "org/llava, http://localhost:8000/v1")
    for told, shown in (("minilm (/home/ann/models/minilm)", "minilm (models/minilm)"),
                        ("minilm (org/minilm)", "minilm (org/minilm)"), ("minilm", "minilm")):
        assert dict(list_protocol({"encoder": told}))["BERTScore"].startswith(f"encoder {shown}; no idf")


def say_shortly(protocol=(), **inference) -> str:
    decoding = {"temperature": 0.0, "max_new_tokens": 32}
    return describe_shortly({"dataset": "slake", "split": "test", "inference": {"decoding": decoding, **inference},
                             **dict(protocol)})


def test_the_short_form_tells_how_closed_questions_were_answered():
    asked = {"closed_candidates": {"mode": "auto", "score": "logprob a token"}}
    assert say_shortly() == "Measured on slake, test split; greedy, at most 32 tokens."
    assert say_shortly(**asked) == ("Measured on slake, test split; closed: likeliest of the candidates; open: greedy, "
                                    "at most 32 tokens.")
    assert say_shortly({"n_open": 0}, **asked).endswith("split; closed: likeliest of the candidates.")
    assert say_shortly({"questions": "closed"}, **asked).endswith("split; closed: likeliest of the candidates.")
    assert "candidates" not in say_shortly(samples=100, **asked)  # drawn freely


def test_the_short_form_names_what_the_model_saw():
    shown = {"mask": to_tree(MaskSettings(mode="crop")), "knowledge": to_tree(KnowledgeSettings(mode="graph"))}
    assert "split; mask: crop; knowledge: graph; greedy" in say_shortly(**shown)
    assert "split; control: blank; knowledge: graph; greedy" in say_shortly(blank_images=True, **shown)
    assert "split; control: shuffled; greedy" in say_shortly(control="shuffled")


def test_plain_prompts_and_runs_of_older_versions():
    plain = list_rows(**{key: to_tree(section) for key, section in (
        ("prompt", PromptSettings()), ("mask", MaskSettings()), ("knowledge", KnowledgeSettings()))})
    assert plain["Prompt"] == "style plain, options auto"
    assert plain["Pictures"] == "as they are"
    assert "Knowledge" not in plain
    old = list_rows(instruction="Answer briefly.", blank_images=True)
    assert old["Instruction"] == "Answer briefly."
    assert old["Pictures"].startswith("blank")
    assert list_rows(seed=1, control="text-only")["Pictures"] == "none: the question's text alone"
    assert list_rows(seed=1, control="off", blank_images=False)["Pictures"] == "as they are"
    assert "Prompt" not in old


def test_engine_and_server_are_stated():
    served = list_rows(engine="openai", model={"checkpoint": "org/vl", "server": "http://h/v1", "image_size": 1024})
    assert served["Model"] == "org/vl, http://h/v1"
    assert served["Engine"] == "a server's chat completions; its own chat template; pictures of at most 1024 pixels"
    assert list_rows(engine="vllm", model={"checkpoint": "org/vl", "vllm": "0.11.0"})["Engine"] == "vllm 0.11.0"
    assert list_rows(engine="transformers")["Engine"] == "transformers"
    assert "Engine" not in list_rows(model={"checkpoint": "org/vl"})


def test_what_compared_the_answers_is_stated():
    judge = {"name": "model-x", "agreement": {"n": 20, "share": 0.9, "kappa": 0.75, "without_verdict": 1}}
    rows = dict(list_protocol({"dataset": "d", "profiles": {"squad": "articles dropped"}, "judge": judge,
                               "encoder": "mini:5", "closed_definition": None,
                               "excluded": [{"reason": "no answer in the file", "n": 4}],
                               "inference": {"expected": 7}}))
    assert rows["Text profile squad"] == "articles dropped"
    assert rows["Judge"] == ("model-x, open questions; agrees with exact match on 0.900 of 20 answers (Cohen's kappa "
                             "0.750), 1 without a verdict")
    assert rows["BERTScore"].startswith("encoder mini:5;")
    assert rows["Excluded"] == "4: no answer in the file"
    assert [rows[term] for term in ("Decoding", "Prompt", "Candidates", "Closed definition")] == ["not stated"] * 4
    assert dict(list_protocol({"judge": None}))["Judge"] == "none"
