"""How questions were put is stated beside every number."""

from __future__ import annotations

from medvqa_cli.reporting.protocol import list_protocol
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


def test_plain_prompts_and_runs_of_older_versions():
    plain = list_rows(**{key: to_tree(section) for key, section in (
        ("prompt", PromptSettings()), ("mask", MaskSettings()), ("knowledge", KnowledgeSettings()))})
    assert plain["Prompt"] == "style plain, options auto"
    assert plain["Pictures"] == "as they are"
    assert "Knowledge" not in plain
    old = list_rows(instruction="Answer briefly.", blank_images=True)
    assert old["Instruction"] == "Answer briefly."
    assert old["Pictures"].startswith("blank")
    assert "Prompt" not in old


def test_engine_and_server_are_stated():
    served = list_rows(engine="openai", model={"checkpoint": "org/vl", "server": "http://h/v1", "image_size": 1024})
    assert served["Model"] == "org/vl, http://h/v1"
    assert served["Engine"] == "a server's chat completions; its own chat template; pictures of at most 1024 pixels"
    assert list_rows(engine="vllm", model={"checkpoint": "org/vl", "vllm": "0.11.0"})["Engine"] == "vllm 0.11.0"
    assert list_rows(engine="transformers")["Engine"] == "transformers"
    assert "Engine" not in list_rows(model={"checkpoint": "org/vl"})
