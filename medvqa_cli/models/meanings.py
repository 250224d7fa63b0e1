"""Whether two answers mean the same, by a model that its user names: one of entailment, or an encoder of sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from medvqa_cli.errors import ModelError
from medvqa_cli.models.text_encoders import load_text_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from medvqa_cli.models.text_encoders import Embedded


@dataclass
class EmbeddingMeaning:
    """Answers mean the same whose vectors lie close: the mean of the last layer's token vectors, by cosine.

    Answers stand alone, without their question, whose words would make all of them alike. Cosines know sides and
    negations badly: of all-MiniLM-L6-v2, "left lung" and "right lung" have 0.92, "x-ray" and "x ray image" 0.87.

    Args:
        encode: Texts to the vectors of their tokens.
        threshold: Least cosine of two texts of one meaning, in 0-1.
    """

    encode: Callable[[Sequence[str]], list[Embedded]]
    threshold: float
    kind: Literal["embedding"] = "embedding"
    _vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def compare(self, question: str) -> Callable[[str, str], bool]:
        """Return whether two answers to a question mean the same."""
        del question
        return lambda first, second: float(self._find(first) @ self._find(second)) >= self.threshold

    def _find(self, text: str) -> NDArray[np.float32]:
        if text not in self._vectors:
            (tokens, _marks), = self.encode([text])
            mean = tokens.mean(axis=0)
            self._vectors[text] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return self._vectors[text]


@dataclass
class EntailmentMeaning:
    """An answer means what another means if a model of entailment says that, after the question, it entails it.

    Args:
        model: A classifier of pairs of texts.
        tokenizer: Its tokenizer.
        entails: The number of its class "entailment".

    Source:
        Kuhn et al. 2023, arXiv:2302.09664, section 4.2: question and answer are premise and hypothesis.
    """

    model: Any
    tokenizer: Any
    entails: int
    kind: Literal["entailment"] = "entailment"
    _verdicts: dict[tuple[str, str, str], bool] = field(default_factory=dict)

    def compare(self, question: str) -> Callable[[str, str], bool]:
        """Return whether one answer to a question entails another."""

        def judge(first: str, second: str) -> bool:
            key = question, first, second
            if key not in self._verdicts:
                self._verdicts[key] = self._ask(f"{question} {first}", f"{question} {second}")
            return self._verdicts[key]

        return judge

    @torch.inference_mode()
    def _ask(self, premise: str, hypothesis: str) -> bool:
        rows = self.tokenizer(premise, hypothesis, return_tensors="pt", truncation=True)
        logits = self.model(**rows.to(next(self.model.parameters()).device)).logits[0]
        return int(logits.argmax()) == self.entails


Meaning = EmbeddingMeaning | EntailmentMeaning


def load_meaning(checkpoint: str, threshold: float, device: str = "cpu") -> Meaning:
    """Return a checkpoint's judgement of meaning: of entailment if that is one of its classes, else of closeness.

    Args:
        checkpoint: Folder or hub id.
        threshold: Of encoders: least cosine of two texts of one meaning.
        device: Where it runs.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    try:
        labels = AutoConfig.from_pretrained(checkpoint).id2label
        entails = next((number for number, label in labels.items() if str(label).lower() == "entailment"), None)
        if entails is not None:
            model = AutoModelForSequenceClassification.from_pretrained(checkpoint).to(device).eval()
            return EntailmentMeaning(model, AutoTokenizer.from_pretrained(checkpoint), int(entails))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"The model '{checkpoint}' to compare answers by cannot be loaded: "
                         f"{str(error).splitlines()[0]}",
                         "Name a folder or a hub id of an entailment model or a sentence encoder with "
                         "calibration.cluster_model (--cluster-model).") from error
    return EmbeddingMeaning(load_text_encoder(checkpoint, device=device), threshold)
