"""However branches are walked, alone or merged, in parts or as rows, they are the branches of separate decoding."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from medvqa_cli.inference import branches
from medvqa_cli.inference.branches import decode_branches
from medvqa_cli.inference.choosing import choose_greedily, draw_counts, draw_with_noise, warp_logits
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.batches import join_images
from medvqa_cli.plugins import models
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder, make_samples

WARM = Decoding(max_new_tokens=6, temperature=1.2, top_k=40, top_p=0.9)


@pytest.fixture(params=["llava", "qwen2_5_vl", "gemma3"])
def engine(request, tmp_path):
    """Positions on one axis and on three, and layers with a sliding window; weights scaled so that answers differ."""
    from medvqa_cli.models.loading import load_checkpoint
    from medvqa_cli.settings.model import ModelSettings

    family = models.get(request.param)
    family.build_tiny(tmp_path, texts=["Is there a lesion? yes no upper left lung"], seed=1)
    loaded = load_checkpoint(family, request.param, str(tmp_path), ModelSettings(dtype="float32", device="cpu"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return TransformersEngine(loaded, make_encoder(loaded), shared_prefix=True)


def find_noise(path):
    """Gumbel noise that depends on whose token it is and nothing else."""
    key = hash((path.question, path.branch, len(path.tokens))) % 2**32
    uniform = torch.rand(find_noise.size, generator=torch.Generator().manual_seed(key))
    return -torch.log(-torch.log(uniform))


def decode(engine, samples, count, choose, steps=6, merge=True):
    prompts = engine._prompts(samples)
    with torch.inference_mode():
        tree, shared = engine._plant(samples, prompts)
    return decode_branches(tree, [prompt[shared:] for prompt in prompts], count, choose, max_new_tokens=steps,
                           end_ids=engine.end_ids, merge=merge)


def decode_alone(engine, sample, question, branch, decoding):
    """Return the answer of one branch by the model's own generate with the branch's noise as a logits processor."""
    inputs = engine.encoder.encode_images(sample)
    prompt = torch.tensor([engine.encoder.encode_text(sample, inputs).prompt])

    class Noise(LogitsProcessor):
        def __call__(self, input_ids, scores):
            done = tuple(input_ids[0, prompt.shape[1]:].tolist())
            path = branches.Path(question, done, 1, 0.0, branch)
            return warp_logits(scores.float(), decoding) + find_noise(path)

    padding = torch.zeros_like(prompt, dtype=torch.bool)
    marks = engine.loaded.family.mark_tokens(engine.loaded.processor, prompt, padding)
    found = engine.loaded.model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), **marks, **join_images([inputs]),
        generation_config=engine._configure(Decoding(decoding.max_new_tokens)),
        logits_processor=LogitsProcessorList([Noise()]))
    return tuple(engine._cut_at_end(found)[0][0])


@pytest.mark.parametrize(("nodes", "spread"), [(1024, 4), (3, 4), (1024, 0)], ids=["tree", "parts", "rows"])
def test_the_same_noise_draws_what_separate_decoding_draws(engine, picture_paths, monkeypatch, nodes, spread):
    monkeypatch.setattr(branches, "MAX_NODES", nodes)
    monkeypatch.setattr(branches, "SPREAD", spread)
    find_noise.size = engine.loaded.model.get_output_embeddings().weight.shape[0]
    samples = make_samples(picture_paths)[:2]
    paths = decode(engine, samples, 3, draw_with_noise(WARM, find_noise), merge=False)
    assert [(path.question, path.branch) for path in paths] == [(q, b) for q in range(2) for b in range(3)]
    assert {path.count for path in paths} == {1}
    expected = [decode_alone(engine, samples[path.question], path.question, path.branch, WARM) for path in paths]
    assert [path.tokens for path in paths] == expected
    assert len(set(expected)) > 3


def test_parts_and_rows_give_the_greedy_answers_of_the_tree(engine, picture_paths, monkeypatch):
    samples = make_samples(picture_paths)
    whole = decode(engine, samples, 5, choose_greedily, steps=12)
    for name, value in (("MAX_NODES", 2), ("SPREAD", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(branches, name, value)
            found = decode(engine, samples, 5, choose_greedily, steps=12)
        assert [(path.question, path.tokens, path.count) for path in found] == [
            (path.question, path.tokens, path.count) for path in whole]
        assert [path.logprob for path in found] == pytest.approx([path.logprob for path in whole], abs=1e-4)


def test_rows_that_memory_forbids_wait(tiny, picture_paths, monkeypatch):
    """With room for three rows at a time, eight samples of a question take turns and are all there."""
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    samples = make_samples(picture_paths)[:2]
    monkeypatch.setattr(branches, "SPREAD", 0)
    decoding = Decoding(max_new_tokens=5, temperature=1.0)
    with torch.inference_mode():
        tree, _ = engine._plant(samples, engine._prompts(samples))
    monkeypatch.setattr(branches, "ROW_BYTES", 3 * tree.bytes_per_token * (max(map(len, engine._prompts(samples))) + 5))
    most = []
    monkeypatch.setattr(branches.TreeFrontier, "spread", lambda self, made=branches.TreeFrontier.spread: (
        most.append(len(self.logits)), made(self))[1])
    paths = decode(engine, samples, 8, draw_counts(decoding, torch.Generator().manual_seed(0)), steps=5)
    assert [sum(path.count for path in paths if path.question == number) for number in range(2)] == [8, 8]
    assert max(most) <= 3
    assert len(most) > 2


def test_warping_is_that_of_generate(tiny_directory, picture_paths):
    """The law of the next token is what transformers' own sampler would draw from."""
    from transformers import GenerationConfig

    loaded = load_tiny(tiny_directory)
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    decoding = Decoding(4, temperature=0.7, top_k=12, top_p=0.8)
    processors = loaded.model._get_logits_processor(
        GenerationConfig(do_sample=True, temperature=0.7, top_k=12, top_p=0.8, num_beams=1))
    theirs = processors(torch.zeros(4, 1, dtype=torch.long), logits.clone())
    assert torch.equal(warp_logits(logits, decoding), theirs)
    assert (theirs.isinf().sum(dim=1) >= 38).all()
