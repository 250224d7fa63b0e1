"""Every registered plugin keeps its contract: a new one is tested without a new test."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from PIL import Image

from medvqa_cli.data.prompts import Turn
from medvqa_cli.data.protocol import Dataset, GeneratedDataset
from medvqa_cli.errors import DataError
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.adapters import (
    WRAPPER,
    attach_lora,
    count_parameters,
    find_part,
    load_adapter,
    prepare_training,
)
from medvqa_cli.models.batches import build_batch, find_token_losses, join_images, stack_plain, sum_answer_loss
from medvqa_cli.models.encoding import EncodedSample, SampleEncoder
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.processors import to_messages
from medvqa_cli.models.protocol import ModelFamily
from medvqa_cli.plugins import datasets, models
from medvqa_cli.records import VQASample
from medvqa_cli.registry import normalize_name
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from tests.models.conftest import QUESTIONS, draw_picture


@pytest.mark.parametrize("name", datasets.names())
def test_data_set(name, tmp_path):
    plugin = datasets.get(name)
    assert isinstance(plugin, Dataset)
    for field in ("title", "summary", "licence", "citation", "homepage", "obtain", "closed_definition"):
        assert getattr(plugin.card, field), f"the card of {name} lacks {field}"
    assert not plugin.card.default_language or plugin.card.default_language in plugin.card.languages
    if plugin.Options is not None:
        assert plugin.Options.model_config["extra"] == "forbid"
        assert all(info.description for info in plugin.Options.model_fields.values())
    assert isinstance(plugin, GeneratedDataset) == plugin.card.generated
    with pytest.raises(DataError) as failure:
        plugin.find_root(tmp_path / "nowhere")
    assert "nowhere" in failure.value.message
    assert failure.value.hint


def test_aliases_are_unambiguous():
    for registry in (datasets, models):
        for alias, name in registry.aliases().items():
            assert alias == normalize_name(alias)
            assert alias not in registry.names()
            assert registry.resolve(alias) == name


SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<image>")
"""The first ids of a tiny tokenizer of a family without a chat template."""
WITH_OWN_DROPOUT = {"blip2", "blip2_opt"}
"""Families whose models drop out by function, whatever their modules say."""


PROJECTORS = ("merger", "projector", "connector", "img_projection", "language_projection")
"""What models call whatever brings features of the tower to the language model."""


def make_sample(path: str | None, number: int) -> VQASample:
    question, answer = QUESTIONS[number]
    return VQASample(dataset="d", split="test", question_id=str(number), image_id="0", question=question, answer=answer,
                     answer_type="open", images=(path,) if path else ())


def make_encoder(loaded):
    return SampleEncoder(loaded.family, loaded.processor, lambda path: Image.open(path).convert("RGB"))


def load(name, directory):
    return load_checkpoint(models.get(name), name, str(directory), ModelSettings(device="cpu", dtype="float32"))


@pytest.fixture(scope="module", params=models.names())
def built(request, tmp_path_factory):
    """A family's name, a tiny checkpoint of it, two pictures of different shape."""
    directory = tmp_path_factory.mktemp(request.param)
    texts = [text for pair in QUESTIONS for text in pair]
    models.get(request.param).build_tiny(directory / "tiny", texts=texts, seed=3)
    for number, size in enumerate(((60, 44), (40, 100))):
        draw_picture(number, size).save(directory / f"{number}.png")
    return request.param, directory


@pytest.fixture
def tiny(built):
    """The family's tiny checkpoint, loaded, its weights scaled up so that answers are not near uniform."""
    name, directory = built
    loaded = load(name, directory / "tiny")
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    for part in (loaded.model, getattr(loaded.model, "language_model", loaded.model)):
        if hasattr(part, "generation_config"):
            part.generation_config.repetition_penalty = 3.0  # Qwen's checkpoints have one; a tree would not know of it
            part.generation_config.do_sample = True
            part.generation_config.top_k = 2
    return loaded


def test_card_layout_and_processor(built):
    name, directory = built
    family = models.get(name)
    assert isinstance(family, ModelFamily)
    for field in ("title", "summary", "licence", "citation", "homepage", "checkpoints"):
        assert getattr(family.card, field), f"the card of {name} lacks {field}"
    loaded = load(name, directory / "tiny")
    config = loaded.model.config.to_dict()
    assert [other for other in models.names() if models.get(other).loads(config)] == [name] or not family.loads(config)
    for part in (family.layout.vision_tower, family.layout.projector, family.layout.language_model):
        assert sum(p.numel() for p in find_part(loaded.model, part).parameters()) > 0
    assert pickle.loads(pickle.dumps(family)).Options is family.Options, "data-loader workers may be sent it"
    answer = family.encode_answer(loaded.processor, "upper left lung")
    assert loaded.tokenizer.decode(answer[:-1]).strip() == "upper left lung"
    assert answer[-1] in loaded.tokenizer.get_added_vocab().values()


def test_image_tokens_match_the_features(built, tiny):
    _, directory = built
    most = tiny.family.capabilities.max_images or 2
    for chosen in ([0], [1], [0, 1][:most]):
        images = tiny.family.encode_images(tiny.processor, [Image.open(directory / f"{n}.png") for n in chosen])
        turns = [Turn("user", "Is it?", len(chosen))]
        prompt = tiny.family.encode_prompt(tiny.processor, turns, images)
        placed = prompt.count(tiny.family.find_image_token(tiny.processor))
        assert placed == sum(images.num_tokens) > 0
        inputs = {**images.tensors, "input_ids": torch.tensor([prompt])}
        inputs |= tiny.family.mark_tokens(tiny.processor, inputs["input_ids"], torch.zeros(1, len(prompt)).bool())
        if tiny.family.layout.task_type == "SEQ_2_SEQ_LM":
            inputs["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
        with torch.no_grad():
            assert tiny.model(**inputs).logits.isfinite().all(), "the model counts image tokens itself, and refuses"


def test_prompts_are_what_the_processor_makes_of_the_conversation(built, tiny):
    """Pictures are processed once and prompts put together by us; the ids are those of the processor's own call."""
    _, directory = built
    most = tiny.family.capabilities.max_images or 2
    pictures = [Image.open(directory / f"{number}.png") for number in (1, 0)][:most]
    placeholder = str(tiny.processor.image_token)
    turns = [Turn("user", "Is it?", len(pictures)), Turn("assistant", "no"), Turn("user", "Where is it, then?")]
    images = tiny.family.encode_images(tiny.processor, pictures)
    prompt = tiny.family.encode_prompt(tiny.processor, turns, images)
    template = tiny.family.find_template(tiny.processor)
    if template:
        text = tiny.tokenizer.apply_chat_template(to_messages(turns), chat_template=template, tokenize=False,
                                                  add_generation_prompt=True)
        wanted = tiny.processor(text=[text], images=[pictures], add_special_tokens=False)["input_ids"][0]
    else:
        text = tiny.tokenizer.decode([token for token in prompt if token >= len(SPECIAL_TOKENS)])
        text = text if tiny.family.card.title.startswith("BLIP") else placeholder * len(pictures) + text.strip()
        wanted = tiny.processor(text=[text], images=[pictures])["input_ids"][0]
    assert list(wanted) == prompt


def test_the_picture_is_seen(built, tiny):
    _, directory = built
    encoder = make_encoder(tiny)
    with torch.no_grad():
        losses = [sum_answer_loss(tiny.model, build_batch(encoder, [[sample]], packed=False))[0].item()
                  for sample in (make_sample(str(directory / f"{number}.png"), 3) for number in (0, 1))]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_a_question_that_names_the_placeholder_is_refused(built, tiny):
    _, directory = built
    placeholder = str(getattr(tiny.processor, "image_token", ""))
    sample = dataclasses.replace(make_sample(str(directory / "0.png"), 0), question=f"What is {placeholder}?")
    encoder = make_encoder(tiny)
    with pytest.raises(DataError, match="cannot be put to this model"):
        encoder.encode_text(sample, encoder.encode_images(sample))


def test_lora_is_learned_saved_reloaded_and_merged(built, tiny, tmp_path):
    name, directory = built
    family, encoder = tiny.family, make_encoder(tiny)
    tiny.model.save_pretrained(tmp_path / "base")
    tiny.processor.save_pretrained(tmp_path / "base")
    group = [make_sample(str(directory / "0.png"), number) for number in range(3)]
    batches = [build_batch(encoder, [group], packed=False)]
    if family.capabilities.reads_text_alone:
        batches.append(build_batch(encoder, [[make_sample(None, 0)]], packed=False))
    torch.manual_seed(0)
    model = attach_lora(tiny.model, family.layout, TrainSettings(lora=LoRASettings(r=4, dropout=0.0)))
    counts = count_parameters(model, family.layout)
    assert counts["language model"][0] > 0
    assert counts["vision tower"][0] == counts["projector"][0] == 0
    before = [sum_answer_loss(model, item)[0].item() for item in batches]
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if name not in WITH_OWN_DROPOUT:
        assert [sum_answer_loss(model, item)[0].item() for item in batches] == pytest.approx(before, rel=1e-5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(10):
        sum_answer_loss(model, batches[0])[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    after = [sum_answer_loss(model, item)[0].item() for item in batches]
    assert after[0] < before[0]
    assert all(one != other for one, other in zip(before, after, strict=True))

    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = find_token_losses(model, batches[0])[0]
        again = load(name, tmp_path / "base")
        reloaded = load_adapter(again.model, tmp_path / "adapter", trainable=False).eval()
        assert torch.allclose(find_token_losses(reloaded, batches[0])[0], expected, atol=1e-5)
        merged = reloaded.merge_and_unload()
        assert torch.allclose(find_token_losses(merged, batches[0])[0], expected, atol=1e-3)
        merged.save_pretrained(tmp_path / "merged")
        again.processor.save_pretrained(tmp_path / "merged")
        saved = load(name, tmp_path / "merged")
        assert torch.allclose(find_token_losses(saved.model, batches[0])[0], expected, atol=1e-3)


def test_the_projector_in_full_is_every_way_from_the_tower_to_the_language_model(built, tiny):
    _, directory = built
    named = {name for name, _ in tiny.model.named_parameters() if any(word in name for word in PROJECTORS)}
    settings = TrainSettings(lora=LoRASettings(r=2, dropout=0.0), tune_projector=True)
    model = prepare_training(tiny.model, tiny.family.layout, settings, lora=True)
    trained = {name: parameter for name, parameter in model.named_parameters()
               if parameter.requires_grad and ".lora_" not in name}
    assert {name.removeprefix(WRAPPER).replace(".modules_to_save.default", "") for name in trained} == named != set()
    group = [make_sample(str(directory / "0.png"), number) for number in range(2)]
    sum_answer_loss(model, build_batch(make_encoder(tiny), [group], packed=False))[0].backward()
    assert not [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    projector = count_parameters(model, tiny.family.layout)["projector"]
    assert projector[0] == projector[1] == sum(parameter.numel() for parameter in trained.values())


@pytest.mark.parametrize("picture", ["0.png", "1.png"])
def test_answers_do_not_depend_on_how_they_are_computed(built, tiny, picture):
    """One by one, batched with padding on the left, as a tree: the same answers, the same scores."""
    _, directory = built
    group = [make_sample(str(directory / picture), number) for number in range(4)]
    decoding = Decoding(max_new_tokens=6)
    engines = [TransformersEngine(tiny, make_encoder(tiny), shared_prefix=False, batch_size=size) for size in (1, 4)]
    if tiny.family.capabilities.packs:
        engines.append(TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True))
    found = [engine.generate(group, decoding) for engine in engines]
    for answers in found:
        assert [answer.text for answer in answers] == [answer.text for answer in found[0]]
        assert [answer.logprob for answer in answers] == pytest.approx([one.logprob for one in found[0]], abs=2e-3)
    candidates = [["yes", "no"], ["left lung"], ["MRI"], ["yes", "upper left lung"]]
    drawn = [engine.sample(group[:2], 6, Decoding(max_new_tokens=2, temperature=1.0, seed=1)) for engine in engines[1:]]
    assert all(sum(answer.count for answer in answers) == 6 for way in drawn for answers in way)
    scores = [[list(scored.values()) for scored in engine.score_candidates(group, candidates)] for engine in engines]
    for ours in scores[1:]:
        assert [pytest.approx(row, abs=2e-3) for row in ours] == scores[0]


def test_batches_over_images_answer_as_one_image_alone(built, tiny):
    """Questions about different pictures in one batch: each is answered, and scored, about its own."""
    _, directory = built
    samples = [make_sample(str(directory / f"{number % 2}.png"), number) for number in range(4)]
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=False, batch_size=4)
    decoding = Decoding(max_new_tokens=4)
    together, alone = engine.generate(samples, decoding), [engine.generate([one], decoding)[0] for one in samples]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.logprob for answer in together] == pytest.approx([one.logprob for one in alone], abs=2e-3)
    offered = [["yes", "no"]] * 4
    scores = [list(found.values()) for found in engine.score_candidates(samples, offered)]
    assert scores == [pytest.approx(list(engine.score_candidates([one], offered[:1])[0].values()), abs=2e-3)
                      for one in samples]


def test_what_is_written_is_what_teacher_forcing_scores(built, tiny):
    """The log-probability of a written answer is the one that training's loss gives it."""
    _, directory = built
    encoder = make_encoder(tiny)
    engine = TransformersEngine(tiny, encoder, shared_prefix=False, batch_size=2)
    image_token = tiny.family.find_image_token(tiny.processor)
    samples = [make_sample(str(directory / "0.png"), number) for number in range(5)]
    written = [(sample, engine._decode([sample], 1, Decoding(max_new_tokens=5))[0]) for sample in samples]
    sample, path = next(pair for pair in written if image_token not in pair[1].tokens)  # a random model writes that too
    images = encoder.encode_images(sample)
    prompt = encoder.encode_text(sample, images).prompt
    batch = {**stack_plain(encoder, [EncodedSample(prompt, path.tokens)]), **join_images([images])}
    with torch.no_grad():
        loss, tokens = sum_answer_loss(tiny.model, batch)
    assert int(tokens) == len(path.tokens)
    assert -loss.item() == pytest.approx(path.logprob, abs=1e-3)
