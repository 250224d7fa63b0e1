"""The tree gives what separate calls give: tokens, log-probabilities, and the law of the samples."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chi2
from torch.utils._python_dispatch import TorchDispatchMode

from medvqa_cli.inference.branches import decode_branches
from medvqa_cli.inference.choosing import choose_greedily, draw_counts
from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.inference.transformers_engine import TransformersEngine
from medvqa_cli.models.batches import build_batch, sum_answer_loss
from tests.models.conftest import load_tiny
from tests.models.test_packing import make_encoder, make_samples


@pytest.fixture(params=["sdpa", "eager"])
def engines(request, tiny_directory):
    """The same scaled tiny model behind a shared-prefix engine and a plain one."""
    loaded = load_tiny(tiny_directory, request.param)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.5)
    encoder = make_encoder(loaded)
    return (TransformersEngine(loaded, encoder, shared_prefix=True),
            TransformersEngine(loaded, encoder, shared_prefix=False, batch_size=1),
            TransformersEngine(loaded, encoder, shared_prefix=False, batch_size=3))


def test_greedy_answers_equal_one_by_one_and_batched(engines, picture_paths):
    tree, single, batched = engines
    for image in range(2):
        samples = make_samples(picture_paths, image)
        answers = [engine.generate(samples, Decoding(max_new_tokens=12)) for engine in engines]
        assert [a.text for a in answers[0]] == [a.text for a in answers[1]] == [a.text for a in answers[2]]
        for found, expected in zip(answers[0], answers[1], strict=True):
            assert found.logprob == pytest.approx(expected.logprob, abs=1e-4)
            assert found.num_tokens == expected.num_tokens
    assert len({a.text for a in answers[0]}) > 1, "the tiny model must not give one answer to everything"


def test_candidate_scores_equal_teacher_forcing(engines, picture_paths):
    tree = engines[0]
    samples = make_samples(picture_paths)
    candidates = [["yes", "no", "left lung"]] * len(samples)
    scores = tree.score_candidates(samples, candidates)
    for sample, found in zip(samples, scores, strict=True):
        for text, score in found.items():
            forced = dataclasses.replace(sample, answer=text)
            with torch.no_grad():
                loss, _ = sum_answer_loss(tree.loaded.model, build_batch(tree.encoder, [[forced]], packed=False))
            assert score == pytest.approx(-loss.item(), abs=1e-4)


def test_sampled_answers_carry_their_log_probability(engines, picture_paths):
    tree = engines[0]
    samples = make_samples(picture_paths)[:2]
    drawn = tree.sample(samples, 20, Decoding(max_new_tokens=3, temperature=1.0, seed=5))
    assert [sum(answer.count for answer in answers) for answers in drawn] == [20, 20]
    again = tree.sample(samples, 20, Decoding(max_new_tokens=3, temperature=1.0, seed=5))
    assert drawn == again
    assert drawn != tree.sample(samples, 20, Decoding(max_new_tokens=3, temperature=1.0, seed=6))


def _restrict(tree, allowed: list[int]) -> None:
    """Leave the model only a few tokens, so that all its answers can be enumerated."""
    plain = tree._append

    def append(*args, **kwargs):
        logits = plain(*args, **kwargs)
        masked = torch.full_like(logits, -torch.inf)
        masked[:, allowed] = logits[:, allowed]
        return masked

    tree._append = append


def _enumerate(tree, question, allowed, end, steps, temperature):
    """Return the exact law of answers of at most `steps` tokens by walking every branch."""
    law = {}
    frontier = tree.ask([question])
    stack = [((), 1.0, frontier)]
    while stack:
        tokens, mass, at = stack.pop()
        p = (at.logits[0] / temperature).softmax(-1)
        for token in allowed:
            path, weight = (*tokens, token), mass * float(p[token])
            if token == end or len(path) == steps:
                law[path] = weight
            else:
                stack.append((path, weight, _clone_grow(tree, question, path)))
    return law


def _clone_grow(tree, question, path):
    frontier = tree.ask([question])
    for token in path:
        frontier = tree.grow(frontier, [0], [token])
    return frontier


def test_the_law_of_merged_samples_is_exact(tiny, picture_paths):
    """Chi-square of merged draws against the enumerated law, for two questions decoded together."""
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    samples = make_samples(picture_paths)[:2]
    prompts = engine._prompts(samples)
    with torch.inference_mode():
        tree, shared = engine._plant(samples, prompts)
        end = next(iter(engine.end_ids))
        allowed = [end, 300, 301, 302]
        _restrict(tree, allowed)
        questions = [prompt[shared:] for prompt in prompts]
        laws = [_enumerate(tree, question, allowed, end, 3, 1.3) for question in questions]
        assert [sum(law.values()) for law in laws] == pytest.approx([1, 1], abs=1e-5)
        draws = 20_000
        choose = draw_counts(Decoding(3, 1.3), torch.Generator().manual_seed(0))
        paths = decode_branches(tree, questions, draws, choose, max_new_tokens=3, end_ids=frozenset([end]))
    for number, law in enumerate(laws):
        counts = Counter({path.tokens: path.count for path in paths if path.question == number})
        assert counts.total() == draws
        cells = [tokens for tokens, mass in law.items() if mass * draws >= 5]
        statistic = sum((counts[tokens] - draws * law[tokens]) ** 2 / (draws * law[tokens]) for tokens in cells)
        assert len(cells) > 5
        assert statistic < chi2.ppf(0.9999, len(cells) - 1)


def test_merging_decodes_each_distinct_prefix_once(tiny, picture_paths):
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=True)
    samples = make_samples(picture_paths)[:1]
    prompts = engine._prompts(samples)
    with torch.inference_mode():
        tree, shared = engine._plant(samples, prompts)
        decoded = []
        grow = tree.grow
        tree.grow = lambda frontier, parents, tokens: decoded.append(len(tokens)) or grow(frontier, parents, tokens)
        paths = decode_branches(tree, [prompts[0][shared:]], 1000, choose_greedily, max_new_tokens=5,
                                end_ids=frozenset())
    assert [path.count for path in paths] == [1000]
    assert decoded == [1] * 4


def test_plain_sampling_follows_the_same_law(tiny, picture_paths):
    """First tokens of the batched engine against the tree's: a two-sample chi-square."""
    encoder = make_encoder(tiny)
    sample = make_samples(picture_paths)[:1]
    decoding = Decoding(max_new_tokens=1, temperature=0.8, seed=1)
    found = []
    for shared in (True, False):
        engine = TransformersEngine(tiny, encoder, shared_prefix=shared, batch_size=1000)
        found.append({a.text: a.count for a in engine.sample(sample, 3000, decoding)[0]})
    texts = [t for t in set(itertools.chain(*found)) if sum(f.get(t, 0) for f in found) >= 10]
    statistic = sum((found[0].get(t, 0) - found[1].get(t, 0)) ** 2 / sum(f.get(t, 0) for f in found) for t in texts)
    assert len(texts) > 3
    assert statistic < chi2.ppf(0.9999, len(texts) - 1)


def test_many_samples_without_a_shared_prefix_are_drawn_in_batches(tiny, picture_paths, monkeypatch):
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=False, batch_size=4)
    sizes = []
    plain = engine._decode_as_batch
    monkeypatch.setattr(engine, "_decode_as_batch", lambda rows, how: sizes.append(len(rows)) or plain(rows, how))
    drawn = engine.sample(make_samples(picture_paths)[:2], 5, Decoding(max_new_tokens=2, temperature=1.0, seed=3))
    assert sizes == [4, 4, 2]
    assert [sum(answer.count for answer in answers) for answers in drawn] == [5, 5]
    assert len(drawn[0]) > 1, "each batch draws by a seed of its own"


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor made has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


def test_log_probabilities_of_rows_are_picked_step_by_step(tiny, picture_paths):
    engine = TransformersEngine(tiny, make_encoder(tiny), shared_prefix=False)
    rows, steps, size, end = 3, 6, 500, next(iter(engine.end_ids))
    generator = torch.Generator().manual_seed(0)
    logits = tuple(torch.randn(rows, size, generator=generator) for _ in range(steps))
    answers = torch.randint(300, size, (rows, steps), generator=generator)
    answers[1, 2] = end
    output = SimpleNamespace(logits=logits, sequences=torch.cat([torch.ones(rows, 4, dtype=torch.long), answers], 1))
    with Largest() as largest:
        found = engine._cut_at_end(output)
    assert largest.numbers == rows * size
    for row, (tokens, logprob) in enumerate(found):
        length = 3 if row == 1 else steps
        assert tokens == tuple(answers[row, :length].tolist())
        assert logprob == pytest.approx(sum(
            float(logits[n][row, token] - logits[n][row].logsumexp(0)) for n, token in enumerate(tokens)), abs=1e-5)
