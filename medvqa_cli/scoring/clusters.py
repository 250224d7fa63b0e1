"""Sampled answers in clusters of one meaning: how sure, and how uncertain, they leave the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvqa_cli.errors import DataError
from medvqa_cli.scoring.answers import normalize_answer
from medvqa_cli.scoring.confidence import check_logprob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.records import AnswerSample

    # Whether the first text means what the second means, or entails it.
    Comparison = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Answers of one meaning: the most frequent first, how many samples gave them, their joint log-probability.

    `count` adds up the samples; `logprob` is the log of the distinct answers' summed probability, None if unknown.
    """

    answers: tuple[str, ...]
    count: int
    logprob: float | None


def cluster_answers(samples: Sequence[AnswerSample], means: Comparison | None = None) -> list[Cluster]:
    """Return the clusters of sampled answers, that of most samples first.

    Args:
        samples: Distinct answers with their counts; those without a text mean nothing and are left out.
        means: `means(a, b)` says whether a entails b, such as an NLI model's verdict, or whether two embeddings lie
            close. An answer joins the first cluster whose first answer it entails and is entailed by; each comparison
            is asked both ways. Without it, answers are the same that are equal once normalized.

    Source:
        Kuhn et al. 2023, arXiv:2302.09664, algorithm 1 (bidirectional entailment, against a cluster's first answer).
    """
    groups: list[list[AnswerSample]] = []
    for sample in sorted(samples, key=lambda sample: -sample.count):
        if sample.count > 0 and sample.text.strip():
            home = next((group for group in groups if _is_same(group[0].text, sample.text, means)), None)
            groups.append([sample]) if home is None else home.append(sample)
    clusters = [Cluster(tuple(sample.text for sample in group), sum(sample.count for sample in group),
                        _add_logprobs([sample.logprob for sample in group])) for group in groups]
    return sorted(clusters, key=lambda cluster: -cluster.count)


def _is_same(first: str, second: str, means: Comparison | None) -> bool:
    if normalize_answer(first) == normalize_answer(second):
        return True
    return means is not None and means(first, second) and means(second, first)


def _add_logprobs(logprobs: Sequence[float | None]) -> float | None:
    """Return log(sum(exp)); None if one is unknown.

    Raises:
        DataError: If one is no number, or above 0.
    """
    known = [check_logprob(value, "of a sampled answer") for value in logprobs if value is not None]
    if len(known) < len(logprobs):
        return None
    highest = max(known)
    return highest if highest == -math.inf else highest + math.log(sum(math.exp(value - highest) for value in known))


def measure_agreement(clusters: Sequence[Cluster]) -> float:
    """Return the share of samples in the largest cluster, in 0-1: the confidence in its first answer.

    Raises:
        ValueError: If there is no cluster.
    """
    if not clusters:
        raise ValueError("agreement needs at least one answer")
    return max(cluster.count for cluster in clusters) / sum(cluster.count for cluster in clusters)


def measure_entropy(clusters: Sequence[Cluster]) -> float:
    """Return the discrete semantic entropy, -sum p log p over clusters with p their shares of the samples; nats.

    Source:
        Farquhar et al. 2024, Nature 630, 625-630 (the discrete form of semantic entropy).

    Raises:
        ValueError: If there is no cluster.
    """
    if not clusters:
        raise ValueError("an entropy needs at least one answer")
    total = sum(cluster.count for cluster in clusters)
    return _entropy([cluster.count / total for cluster in clusters])


def measure_weighted_entropy(clusters: Sequence[Cluster]) -> float:
    """Return the semantic entropy with the clusters' probabilities in place of their shares; nats.

    Each distinct answer weighs its own log-probability once, however often it was drawn, and what was drawn is taken as
    all there is: the probabilities are normalized to sum to 1.

    Source:
        Farquhar et al. 2024, Nature 630, 625-630 (the entropy over cluster probabilities that sum to 1).

    Raises:
        ValueError: If there is no cluster.
        DataError: If a log-probability is unknown, or all are minus infinity.
    """
    if not clusters:
        raise ValueError("an entropy needs at least one answer")
    logprobs = [cluster.logprob for cluster in clusters if cluster.logprob is not None]
    if len(logprobs) < len(clusters) or max(logprobs) == -math.inf:
        raise DataError("Sampled answers carry no log-probabilities.",
                        "Sample anew with an engine that returns them, or take the discrete entropy.")
    weights = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    return _entropy([weight / sum(weights) for weight in weights])


def _entropy(shares: Sequence[float]) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0) or 0.0
