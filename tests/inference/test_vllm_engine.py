"""The vLLM engine against a stand-in of vLLM's documented interface that computes with our tiny model.

The stand-in takes only the arguments that vLLM documents, expands placeholders as vLLM does, and returns its records.
What it cannot show is vLLM itself: nothing here has run on a GPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from medvqa_cli.data.images import read_image
from medvqa_cli.errors import MissingDependencyError, ModelError, SettingsError
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.inference.vllm_engine import VllmEngine, find_rank, load_llm
from medvqa_cli.models.processors import expand_placeholders
from medvqa_cli.progress import SILENT
from medvqa_cli.settings.data import PromptSettings
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.engines import open_engine
from tests.models.played_hub import COMMITS, PlayedHub, play, read_files  # noqa: F401 - a fixture
from tests.models.test_packing import make_encoder, make_samples


@dataclass
class SamplingParams:
    """As vLLM documents them; all that is not named here is refused."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True


class Llm:
    """Stands for vllm.LLM."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        self.calls: list[SimpleNamespace] = []

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        self.calls.append(SimpleNamespace(prompts=prompts, params=sampling_params, lora=lora_request))
        return [self._run(prompt, params) for prompt, params in zip(prompts, sampling_params, strict=True)]

    @torch.no_grad()
    def _run(self, prompt, params):
        loaded, pictures = self.loaded, prompt.get("multi_modal_data", {"image": []})["image"]
        images = loaded.family.encode_images(loaded.processor, pictures)
        image_token = loaded.family.find_image_token(loaded.processor)
        ids = expand_placeholders(prompt["prompt_token_ids"], image_token, images.num_tokens)
        law = loaded.model(input_ids=torch.tensor([ids]), **images.tensors).logits[0].log_softmax(-1)
        scored = [None] + [{token: SimpleNamespace(logprob=float(law[place, token]))}
                           for place, token in enumerate(ids[1:])]
        return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=None if params.prompt_logprobs is None else scored,
                               outputs=[self._write(ids, images, params, number) for number in range(params.n)])

    def _write(self, ids, images, params, number):
        written, total = [], 0.0
        generator = torch.Generator().manual_seed((params.seed or 0) + number)
        for _ in range(params.max_tokens):
            law = self.loaded.model(input_ids=torch.tensor([ids + written]), **images.tensors).logits[0, -1]
            token = int(law.argmax() if params.temperature == 0
                        else torch.multinomial((law / params.temperature).softmax(-1), 1, generator=generator))
            written.append(token)
            total += float(law.log_softmax(-1)[token])
            if token in params.stop_token_ids:
                break
        ended = written[-1] in params.stop_token_ids
        text = self.loaded.tokenizer.decode(written[: len(written) - ended], skip_special_tokens=True)
        return SimpleNamespace(text=text, token_ids=written, finish_reason="stop" if ended else "length",
                               cumulative_logprob=None if params.logprobs is None else total)


@pytest.fixture
def vllm(monkeypatch, tiny):
    """The stand-in as an installed package."""
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.made = []

    def make_llm(*, model, **options):
        package.made.append({"model": model, **options})
        if options.get("max_model_len") == 1:
            raise ValueError("max_model_len is too small")
        return Llm(tiny)

    @dataclass
    class LoRARequest:
        lora_name: str
        lora_int_id: int
        lora_path: str

    package.LLM, package.SamplingParams, request.LoRARequest = make_llm, SamplingParams, LoRARequest
    package.__spec__ = importlib.util.spec_from_loader("vllm", None)
    for name, module in (("vllm", package), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.11.0")
    return package


@pytest.fixture
def engine(vllm, tiny):
    return VllmEngine(Llm(tiny), tiny.family, tiny.processor, read_image, prompt=PromptSettings(), facts={})


def test_greedy_answers_are_those_of_our_own_engine(engine, tiny, picture_paths):
    ours = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    samples = make_samples(picture_paths)
    decoding = Decoding(max_new_tokens=5)
    found, wanted = engine.generate(samples, decoding), ours.generate(samples, decoding)
    assert [answer.text for answer in found] == [answer.text for answer in wanted]
    assert [answer.logprob for answer in found] == pytest.approx([answer.logprob for answer in wanted], abs=1e-4)
    assert [(answer.num_tokens, answer.is_ended) for answer in found] == [
        (answer.num_tokens, answer.is_ended) for answer in wanted]
    (call,) = engine._llm.calls
    image_token = tiny.family.find_image_token(tiny.processor)
    assert all(prompt["prompt_token_ids"].count(image_token) == 1 for prompt in call.prompts)


def test_candidates_have_the_scores_of_our_own_engine(engine, tiny, picture_paths):
    ours = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    samples = make_samples(picture_paths)[:2]
    candidates = [["yes", "no", "left lung"], ["no"]]
    found, wanted = (one.score_candidates(samples, candidates) for one in (engine, ours))
    assert [list(scores) for scores in found] == candidates
    assert [list(scores.values()) for scores in found] == [
        pytest.approx(list(scores.values()), abs=1e-4) for scores in wanted]
    assert engine.count_answer_tokens("left lung") == ours.count_answer_tokens("left lung")


def test_samples_depend_on_the_question_not_on_its_company(engine, picture_paths):
    samples = make_samples(picture_paths)[:3]
    decoding = Decoding(max_new_tokens=2, temperature=1.0, seed=3)
    together = engine.sample(samples, 6, decoding)
    assert together[1:2] == engine.sample(samples[1:2], 6, decoding)
    assert all(sum(answer.count for answer in answers) == 6 for answers in together)
    seeds = [params.seed for params in engine._llm.calls[0].params]
    assert len(set(seeds)) == 3


def test_blank_pictures_are_grey_and_questions_without_one_go_alone(vllm, tiny, picture_paths):
    engine = VllmEngine(Llm(tiny), tiny.family, tiny.processor, read_image, prompt=PromptSettings(), facts={},
                        blank_images=True)
    sample = make_samples(picture_paths)[0]
    engine.generate([sample, dataclasses.replace(sample, images=())], Decoding(1))
    shown, alone = engine._llm.calls[0].prompts
    assert shown["multi_modal_data"]["image"][0].getpixel((0, 0)) == (127, 127, 127)
    assert "multi_modal_data" not in alone


def test_what_vllm_refuses_is_one_error(engine, picture_paths, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("the prompt is longer than max_model_len")

    monkeypatch.setattr(engine._llm, "generate", refuse)
    with pytest.raises(ModelError, match="vLLM refuses the questions: the prompt is longer") as failure:
        engine.generate(make_samples(picture_paths), Decoding(1))
    assert "infer.vllm.options" in failure.value.hint


def test_scores_of_other_tokens_are_not_taken(engine, picture_paths, monkeypatch):
    run = engine._llm._run
    monkeypatch.setattr(engine._llm, "_run", lambda prompt, params: SimpleNamespace(
        **vars(run(prompt, params)) | {"prompt_logprobs": None}))
    with pytest.raises(ModelError, match="has not scored the tokens"):
        engine.score_candidates(make_samples(picture_paths)[:1], [["yes"]])


def test_it_is_set_up_with_prefixes_kept_and_plain_decoding(vllm):
    load_llm("org/model", rank=12, gpu_memory_utilization=0.5)
    assert vllm.made == [{"model": "org/model", "enable_prefix_caching": True, "generation_config": "vllm",
                          "logprobs_mode": "raw_logprobs", "enable_lora": True, "max_lora_rank": 16,
                          "gpu_memory_utilization": 0.5}]
    with pytest.raises(ModelError, match="vLLM cannot run 'org/model': max_model_len is too small"):
        load_llm("org/model", max_model_len=1)


def test_settings_reach_it_and_the_model_is_stated(vllm, tiny_directory, tmp_path):
    tree = {"model": {"name": str(tiny_directory), "dtype": "float32"}, "paths": {"runs": str(tmp_path / "runs")},
            "infer": {"engine": "vllm", "vllm": {"gpu_memory": 0.4, "options": {"max_model_len": 512}}}}
    run, engine = open_engine(make_settings(tree), None, SILENT)
    (made,) = vllm.made
    assert {key: made[key] for key in ("model", "dtype", "seed", "gpu_memory_utilization", "max_model_len",
                                       "limit_mm_per_prompt", "trust_remote_code")} == {
        "model": str(tiny_directory), "dtype": "float32", "seed": 42, "gpu_memory_utilization": 0.4,
        "max_model_len": 512, "limit_mm_per_prompt": {"image": 1}, "trust_remote_code": False}
    assert run.read_json("manifest.json")["model"] == engine.facts
    assert (engine.facts["vllm"], engine.facts["family"]) == ("0.11.0", "llava")
    tree["model"]["quantization"] = "4bit"
    with pytest.raises(SettingsError, match="'4bit' is not for engine 'vllm'"):
        open_engine(make_settings(tree), None, SILENT)


def test_weights_and_processor_come_from_the_commit_that_is_stated(vllm, play, tiny_directory, tmp_path):  # noqa: F811
    old, new = COMMITS
    hub = PlayedHub({old: read_files(tiny_directory), new: {"config.json": b"{}"}}, {"v1": old})
    play(hub.answer)
    tree = {"model": {"name": "org/model", "family": "llava", "revision": "v1"}, "infer": {"engine": "vllm"},
            "paths": {"runs": str(tmp_path / "runs")}}
    _, engine = open_engine(make_settings(tree), None, SILENT)
    assert {commit for commit, _ in hub.fetched} == {old}
    assert (vllm.made[0]["revision"], engine.facts["commit"]) == (old, old)


def test_a_missing_package_names_its_extra(tiny_directory):
    if importlib.util.find_spec("vllm"):
        pytest.skip("vLLM is installed")
    settings = make_settings({"model": {"name": str(tiny_directory)}, "infer": {"engine": "vllm"}})
    with pytest.raises(MissingDependencyError, match="Engine 'vllm' needs the package 'vllm'") as failure:
        open_engine(settings, None, SILENT)
    assert (failure.value.exit_code, failure.value.hint) == (6, "Install it with: pip install 'medvqa-cli[vllm]'")


@pytest.mark.parametrize(("config", "weight", "rank"), [
    ({}, "base_model.model.model.language_model.layers.0.q_proj.lora_A.weight", 4),
    ({"use_dora": True}, "base_model.model.model.language_model.layers.0.q_proj.lora_A.weight", None),
    ({"modules_to_save": ["multi_modal_projector"]}, "base_model.model.lm_head.weight", None),
    ({}, "base_model.model.model.vision_tower.layers.0.q_proj.lora_A.weight", None),
])
def test_only_plain_adapters_of_the_language_model_are_laid_over(tiny, tmp_path, config, weight, rank):
    from safetensors.torch import save_file

    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4} | config))
    save_file({weight: torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    if rank:
        assert find_rank(str(tmp_path), tiny.family) == rank
        return
    with pytest.raises(ModelError, match="not plain LoRA of the language model alone") as failure:
        find_rank(str(tmp_path), tiny.family)
    assert "medvqa merge" in failure.value.hint


def test_an_adapter_goes_with_every_request(vllm, tiny, picture_paths):
    engine = VllmEngine(Llm(tiny), tiny.family, tiny.processor, read_image, prompt=PromptSettings(), facts={},
                        adapter="/adapters/a")
    engine.generate(make_samples(picture_paths)[:1], Decoding(1))
    assert dataclasses.asdict(engine._llm.calls[0].lora) == {
        "lora_name": "medvqa", "lora_int_id": 1, "lora_path": "/adapters/a"}


def test_questions_are_put_in_another_way_by_the_same_model(engine, tiny, picture_paths):
    samples, candidates = make_samples(picture_paths)[:2], [["True", "False"]] * 2
    prompt = PromptSettings(instruction="Is it true?")
    ours = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    before = engine.score_candidates(samples, candidates)
    found, wanted = (one.with_prompt(prompt).score_candidates(samples, candidates) for one in (engine, ours))
    assert [list(scores.values()) for scores in found] == [
        pytest.approx(list(scores.values()), abs=1e-4) for scores in wanted]
    assert found != before == engine.score_candidates(samples, candidates)
