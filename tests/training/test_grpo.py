"""Completions behind shared prefixes are worth what TRL's own path says, and are drawn from the same law."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from medvqa_cli import plugins
from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.inference.choosing import draw_counts, draw_with_noise
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.adapters import prepare_training
from medvqa_cli.models.loading import load_checkpoint
from medvqa_cli.models.precision import raise_masters
from medvqa_cli.progress import SILENT
from medvqa_cli.records import JsonlWriter, read_jsonl
from medvqa_cli.settings.grpo import GRPOSettings
from medvqa_cli.settings.model import ModelSettings
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.training import grpo
from medvqa_cli.training.completions import draw_completions, score_completions
from medvqa_cli.training.group_plan import GroupPlan, build_group_trainer, check_options, count_questions
from medvqa_cli.training.sft import TrainingPlan
from tests.data.builders import Notes
from tests.inference.test_branches import WARM, decode_alone, find_noise
from tests.models.test_packing import make_encoder, make_samples

FAMILIES = ("llava_next", "llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "idefics3",
            "smolvlm", "llava_med", "paligemma", "phi4_multimodal")
SMALL = {"rewards": ("exact_match", "length=0.5"), "num_generations": 4, "batch_size": 8, "gradient_accumulation": 2,
         "max_completion_length": 5, "image_questions": 2, "temperature": 0.8, "learning_rate": 1e-3}


def load_family(name, directory):
    family = plugins.models.get(name)
    family.build_tiny(directory, texts=["Is there a lesion? yes no upper left lung"], seed=1)
    loaded = load_checkpoint(family, name, str(directory), ModelSettings(dtype="float32", device="cpu"))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    return loaded


def make_trainer(loaded, paths, directory, events=None, progress=SILENT, lora=False, packed=None, **changes):
    settings = GRPOSettings(**SMALL | changes)
    samples = [*make_samples(paths), *make_samples(paths, 1)]
    if lora:
        loaded.model = prepare_training(loaded.model, loaded.family.layout, TrainSettings(lora=LoRASettings(r=4)),
                                        lora=True)
    packed = loaded.family.capabilities.packs if packed is None else packed
    plan = TrainingPlan(loaded.model, make_encoder(loaded), samples, [], packed,
                        TrainSettings(max_steps=2, log_steps=1, save_fraction=0.0), 0, directory)
    rewards = {name: plugins.rewards.get(name) for name in settings.weights}
    group = GroupPlan(settings, rewards, loaded, lambda path: None, "mine")
    return build_group_trainer(plan, group, events, progress)[0]


def draw_batch(trainer, prompts=4):
    """Completions of some prompts, with advantages of chance and a policy that has moved on since they were drawn."""
    size = trainer.num_generations
    trainer.model.train()
    batch = trainer._generate_and_score_completions([trainer.train_dataset[n // size] for n in range(prompts * size)])
    trainer.current_gradient_accumulation_steps = 2
    chance = torch.Generator().manual_seed(0)
    batch["advantages"] = torch.randn(prompts * size, generator=chance)
    if trainer.mask_truncated_completions:
        batch["completion_mask"][::2] = 1  # of this model's completions all are cut off
    with torch.no_grad():
        trainer._asked = batch["sample"].tolist()
        ids, mask = (torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1)
                     for part in ("ids", "mask"))
        width = batch["completion_ids"].shape[1]
        now = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]
    batch["old_per_token_logps"] = now + 0.3 * torch.randn(now.shape, generator=chance)
    return batch


def find_gradients(trainer, batch, shared):
    trainer.policy.shared = shared
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: weight.grad.clone() for name, weight in trainer.model.named_parameters()
                         if weight.grad is not None}


def check_equal(trainer, batch):
    loss, gradients = find_gradients(trainer, batch, shared=True)
    expected, wanted = find_gradients(trainer, batch, shared=False)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert gradients.keys() == wanted.keys()
    largest = max(gradient.norm() for gradient in wanted.values())
    assert largest > 1e-3
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * max(gradient.norm(), 1e-3 * largest), name


@pytest.mark.parametrize("options", [
    {}, {"loss_type": "grpo", "beta": 0.1, "lora": True},
    pytest.param({"loss_type": "dr_grpo", "mask_truncated_completions": True}, marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_trl(tiny, picture_paths, tmp_path, options):
    trainer = make_trainer(tiny, picture_paths, tmp_path, **options)
    batch = draw_batch(trainer)
    assert trainer.policy.is_checked
    assert trainer.policy.shared
    check_equal(trainer, batch)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, tmp_path, picture_paths):
    trainer = make_trainer(load_family(family, tmp_path / "model"), picture_paths, tmp_path)
    assert trainer.policy.shared == (family != "paligemma")
    batch = draw_batch(trainer)
    if family not in {"paligemma", "phi4_multimodal"}:  # the one packs nothing; TRL's path cannot feed the other
        assert trainer.policy.shared
        check_equal(trainer, batch)
    trainer.train()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "reason"), [("blip2", "encoder-decoder"), ("blip2_opt", "last_hidden_state")])
def test_families_that_trl_cannot_train_are_refused(family, reason, tmp_path, picture_paths):
    loaded = load_family(family, tmp_path / "model")
    with pytest.raises(ModelError, match=f"TRL cannot train the family '{family}' by GRPO: .*{reason}") as caught:
        make_trainer(loaded, picture_paths, tmp_path)
    assert "qwen2_5_vl" in caught.value.hint


def test_equal_completions_are_scored_once_and_count_as_often_as_they_occur(tiny, picture_paths, monkeypatch):
    samples, encoder = make_samples(picture_paths), make_encoder(tiny)
    completions = [(0, (7, 8, 9)), (1, (7, 8)), (0, (7, 8, 9)), (0, (9,))]
    seen = []
    forward = tiny.model.forward
    monkeypatch.setattr(tiny.model, "forward", lambda **inputs: (seen.append(inputs["logits_to_keep"]),
                                                                 forward(**inputs))[1])
    logprobs, entropies = score_completions(tiny.model, encoder, samples, completions, temperature=0.7)
    assert [len(columns) for columns in seen] == [3 + 2 + 1]
    assert logprobs.shape == entropies.shape == (4, 3)
    assert torch.equal(logprobs[0], logprobs[2])
    assert (logprobs == 0).tolist() == [[False] * 3, [False, False, True], [False] * 3, [False, True, True]]
    for row, completion in enumerate(completions):
        alone = score_completions(tiny.model, encoder, samples, [completion], temperature=0.7)
        assert torch.allclose(logprobs[row, :len(completion[1])], alone[0][0], atol=1e-5)
        assert torch.allclose(entropies[row, :len(completion[1])], alone[1][0], atol=1e-4)


def test_the_same_noise_draws_the_tokens_of_separate_decoding(tiny, picture_paths):
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    find_noise.size = tiny.model.get_output_embeddings().weight.shape[0]
    samples = [*make_samples(picture_paths)[:2], *make_samples(picture_paths, 1)[:1]]
    drawn = draw_completions(tiny.model, engine.encoder, samples, [0, 0, 1, 1, 2, 2], draw_with_noise(WARM, find_noise),
                             max_new_tokens=6, end_ids=engine.end_ids, merge=False)
    questions = [0, 0, 1, 1, 0, 0]  # in its own tree
    alone = [decode_alone(engine, samples[place // 2], questions[place], place % 2, WARM) for place in range(6)]
    assert [tokens for tokens, _ in drawn] == alone
    assert len(set(alone)) > 3


def test_merged_draws_have_the_law_of_the_next_token(tiny, picture_paths):
    samples, encoder = make_samples(picture_paths), make_encoder(tiny)
    count, decoding = 4000, Decoding(1, temperature=0.9)
    drawn = draw_completions(tiny.model, encoder, samples, [0] * count + [1] * 3,
                             draw_counts(decoding, torch.Generator().manual_seed(0)), max_new_tokens=1,
                             end_ids=frozenset())
    found = Counter(tokens[0] for tokens, _ in drawn[:count])
    size = tiny.model.get_output_embeddings().weight.shape[0]
    image = tiny.family.find_image_token(tiny.processor)  # as a completion it would want a picture
    scored = [token for token in range(size) if token != image]
    law = torch.zeros(size)
    with torch.no_grad():
        law[scored] = score_completions(tiny.model, encoder, samples, [(0, (token,)) for token in scored],
                                        temperature=0.9)[0][:, 0].exp()
    assert 0.9 < law.sum() <= 1.0001
    common = (law * count > 5).nonzero()[:, 0].tolist()
    rest = count - sum(found[token] for token in common)
    expected = [*(law[common] * count).tolist(), count * (1 - law[common].sum().item())]
    assert len(common) > 5
    assert chisquare([*(found[token] for token in common), rest], [value * count / sum(expected) for value in expected]
                     ).pvalue > 1e-3
    assert all(len(tokens) == 1 for tokens, _ in drawn[count:])


def test_the_image_token_is_never_drawn(tiny, picture_paths, tmp_path):
    trainer = make_trainer(tiny, picture_paths, tmp_path)
    with torch.no_grad():
        tiny.model.get_output_embeddings().weight[trainer.policy.banned] *= 100
    batch = draw_batch(trainer)
    assert (batch["completion_ids"] != trainer.policy.banned).all()


def test_a_difference_is_told_and_trl_takes_over(tiny, picture_paths, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "score_completions", lambda *a, **k: tuple(x + 0.01 for x in score_completions(*a, **k)))
    notes = Notes()
    trainer = make_trainer(tiny, picture_paths, tmp_path, progress=notes)
    draw_batch(trainer)
    assert not trainer.policy.shared
    warning = next(text for text in notes.warnings if "Shared prefixes are off, TRL's slower path is taken" in text)
    assert "by 0.01 in a pack" in warning
    assert trainer.train().global_step == 2


def test_training_moves_weights_and_keeps_rewards_and_completions(tiny, picture_paths, tmp_path):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    with JsonlWriter(tmp_path / "events.jsonl") as events:
        make_trainer(tiny, picture_paths, tmp_path, events, rewards=("length", "exact_match=2")).train()
    assert any(not torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())
    rows = list(read_jsonl(tmp_path / "events.jsonl"))
    rewards = [row for row in rows if row["event"] == "rewards"]
    assert [row["step"] for row in rewards] == [1, 2]
    assert {"rewards/length/mean", "rewards/exact_match/mean", "group_std", "frac_reward_zero_std",
            "completions/mean_length", "completions/clipped_ratio", "entropy"} <= rewards[0].keys()
    shown = next(row for row in rows if row["event"] == "completions")["rows"]
    assert len(shown) == 8
    assert {"question", "completion", "length", "exact_match", "advantage"} == shown[0].keys()


def test_questions_of_an_image_follow_one_another_and_each_comes_once_an_epoch(tiny, picture_paths, tmp_path):
    trainer = make_trainer(tiny, picture_paths, tmp_path, num_generations=2, batch_size=10, image_questions=5)
    order = trainer.train_dataset["sample"]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert {frozenset(order[start: start + 5]) for start in (0, 5)} == {frozenset(range(5)), frozenset(range(5, 10))}
    assert order[:10] != order[10:]


def test_a_model_that_ends_no_answer_is_stopped(tiny, picture_paths, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo, "PATIENCE", 2)
    trainer = make_trainer(tiny, picture_paths, tmp_path)
    object.__setattr__(trainer.policy.examiner, "end_ids", frozenset({10**6}))
    with pytest.raises(ModelError, match="ended none of its completions for 2 steps: each was cut off at 5") as caught:
        trainer.train()
    assert "medvqa train grpo --resume mine" in caught.value.hint


def test_a_model_without_an_end_token_is_refused(tiny, picture_paths, tmp_path, monkeypatch):
    monkeypatch.setattr("medvqa_cli.training.group_plan.find_end_ids", lambda loaded: frozenset({10**6}))
    with pytest.raises(ModelError, match=r"cannot end an answer: its end tokens \[1000000\] are none of the \d+"):
        make_trainer(tiny, picture_paths, tmp_path)


def test_a_step_is_whole_groups():
    assert count_questions(GRPOSettings(batch_size=4, gradient_accumulation=3), 2) == 3
    with pytest.raises(SettingsError, match=r"A step has 36 completions .* not whole groups of 8") as caught:
        count_questions(GRPOSettings(batch_size=12, gradient_accumulation=3), 1)
    assert "such as 40" in caught.value.hint


@pytest.mark.parametrize(("name", "reason"), [("beta", "is set by medvqa"), ("betta", "is no argument of trl")])
def test_options_are_known_to_trl_and_not_ours(name, reason):
    with pytest.raises(SettingsError, match=f"'grpo.options' names '{name}', which {reason}"):
        check_options({name: 1})
    check_options({"epsilon_high": 0.3, "vllm_mode": "server"})


def test_options_reach_trl(tiny, picture_paths, tmp_path):
    trainer = make_trainer(tiny, picture_paths, tmp_path, options={"epsilon_high": 0.28}, scale_rewards="batch")
    assert trainer.epsilon_high == 0.28
    assert trainer.scale_rewards == "batch"
    assert not math.isnan(trainer.reward_weights.sum())


def test_the_largest_of_numbers_is_nan_if_one_is():
    assert grpo.find_largest([1e-5, 2e-5]) == 2e-5
    assert math.isnan(grpo.find_largest([1e-5, math.nan]))
    assert math.isnan(grpo.find_largest([math.nan, 1e-5]))


@pytest.mark.parametrize("differences", [(1e-5, math.nan), (math.nan, 1e-5)])
def test_a_difference_that_is_no_number_is_none_that_may_be(tiny, picture_paths, tmp_path, monkeypatch, differences):
    notes = Notes()
    trainer = make_trainer(tiny, picture_paths, tmp_path, progress=notes)
    monkeypatch.setattr(trainer, "_compare", lambda *_: differences)
    trainer._asked = [0]
    trainer._check([((3, 4), -1.0)])
    assert trainer.policy.shared is False
    assert notes.warnings[0].startswith("Shared prefixes are off")


@pytest.mark.parametrize("packed", [True, False])
def test_a_16_bit_model_is_trained_in_float32(tiny_directory, picture_paths, tmp_path, packed):
    """By trees and packs as by TRL's own path, whose fused head goes past the model's forward pass."""
    settings, notes = ModelSettings(dtype="bfloat16", device="cpu"), Notes()
    loaded = load_checkpoint(plugins.models.get("llava"), "llava", str(tiny_directory), settings)
    raise_masters(loaded.model)
    before = {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()}
    trainer = make_trainer(loaded, picture_paths, tmp_path, progress=notes, packed=packed)
    trainer.train()
    assert trainer.policy.shared is packed
    assert notes.warnings == []
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert any(not torch.equal(before[name], weight) for name, weight in loaded.model.named_parameters())


def test_a_grpo_training_that_diverges_stops(tiny, picture_paths, tmp_path, monkeypatch):
    trainer = make_trainer(tiny, picture_paths, tmp_path)
    monkeypatch.setattr(trainer, "_compute_loss", lambda model, inputs: model.get_output_embeddings().weight.sum()
                        * math.nan)
    with pytest.raises(ModelError, match="The training has diverged at step 1 of 2: the loss is nan"):
        trainer.train()
