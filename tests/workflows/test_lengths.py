"""Questions longer than a model reads, or than a pack: found before training, refused or left out, never cut off."""

from __future__ import annotations

import dataclasses

import pytest

from medvqa_cli.errors import DataError
from medvqa_cli.models.lengths import LengthFinder
from medvqa_cli.plugins import models
from medvqa_cli.progress import SILENT
from medvqa_cli.records import VQASample
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.lengths import find_answer_bound, find_training_bound, keep_readable, keep_trainable
from medvqa_cli.workflows.models import build_encoder
from medvqa_cli.workflows.training_data import TrainingData
from tests.models.conftest import QUESTIONS, draw_picture, load_tiny, tiny_directory  # noqa: F401

LONG = "Where is it? " * 40


@pytest.fixture
def samples(tmp_path):
    draw_picture(0).save(tmp_path / "0.png")
    short = [VQASample(dataset="d", split="train", question_id=str(number), image_id="0", question=question,
                       answer=answer, answer_type="open", images=(str(tmp_path / "0.png"),))
             for number, (question, answer) in enumerate(QUESTIONS)]
    return [*short, dataclasses.replace(short[0], question_id="long", question=LONG)]


def prepare(tiny_directory, limit=None, **tree):  # noqa: F811
    loaded = load_tiny(tiny_directory)
    if limit:
        loaded.model.config.get_text_config().max_position_embeddings = limit
    settings = make_settings(tree)
    return settings, loaded, build_encoder(loaded, settings)


def measure(encoder, sample):
    encoded = encoder.encode_text(sample, encoder.encode_images(sample))
    return len(encoded.prompt) + len(encoded.answer)


@pytest.mark.parametrize("name", models.names())
def test_lengths_known_from_headers_are_those_of_the_decoded_pictures(name, tmp_path):
    family = models.get(name)
    family.build_tiny(tmp_path / name, texts=[text for pair in QUESTIONS for text in pair], seed=5)
    from medvqa_cli.data.images import measure_image, read_image
    from medvqa_cli.models.encoding import SampleEncoder

    encoder = SampleEncoder(family, family.load_processor(str(tmp_path / name)), read_image)
    finder = LengthFinder(encoder, measure_image)
    for number, size in enumerate(((60, 44), (40, 100), (200, 31))):
        path = tmp_path / f"{number}.png"
        draw_picture(number, size).save(path)
        sample = VQASample(dataset="d", split="train", question_id="q", image_id="i", question=QUESTIONS[0][0],
                           answer="yes", answer_type="closed", images=(str(path),))
        images = encoder.encode_images(sample)
        assert finder.encode(sample) == encoder.encode_text(sample, images)
        assert finder.count_image_tokens(sample) == sum(images.num_tokens)


def test_a_question_longer_than_the_model_reads_is_refused_by_name(tiny_directory, samples):  # noqa: F811
    settings, loaded, encoder = prepare(tiny_directory, 100)
    length = measure(encoder, samples[-1])
    with pytest.raises(DataError) as caught:
        keep_readable(samples, find_training_bound(settings, loaded), encoder, settings, SILENT, with_answer=True)
    assert caught.value.message == (f"Question 'long' of d/train is {length} tokens long, 16 of them for its pictures; "
                                    "the model reads 100 (max_position_embeddings).")
    assert caught.value.hint == ("Take a model that reads more, make its pictures smaller, or leave such questions out "
                                 "with --too-long skip.")


def test_it_is_left_out_and_counted_if_that_is_asked_for(tiny_directory, samples):  # noqa: F811
    settings, loaded, encoder = prepare(tiny_directory, 100, model={"too_long": "skip"})
    data, facts = keep_trainable(settings, loaded, TrainingData(samples, samples[3:]), encoder, SILENT)
    assert data.train == samples[:-1]
    assert data.validation == samples[3:-1]
    assert facts == {"bound": 100, "train_skipped": 1, "validation_skipped": 1}
    with pytest.raises(DataError, match="All 1 questions are too long: up to"):
        keep_trainable(settings, loaded, TrainingData(samples[-1:], []), encoder, SILENT)
    with pytest.raises(DataError, match="would shift its mandatory batches"):
        keep_trainable(settings, loaded, TrainingData(samples, [], block=2), encoder, SILENT)


def test_the_bound_itself_still_fits(tiny_directory, samples):  # noqa: F811
    _, _, encoder = prepare(tiny_directory)
    length = measure(encoder, samples[-1])
    settings, loaded, encoder = prepare(tiny_directory, length)
    assert keep_trainable(settings, loaded, TrainingData(samples, []), encoder, SILENT)[0].train == samples
    settings, loaded, encoder = prepare(tiny_directory, length - 1)
    with pytest.raises(DataError, match="'long'"):
        keep_trainable(settings, loaded, TrainingData(samples, []), encoder, SILENT)


def test_a_set_pack_length_bounds_a_question_only_where_questions_are_packed(tiny_directory, samples):  # noqa: F811
    settings, loaded, encoder = prepare(tiny_directory, train={"pack_length": 60})
    with pytest.raises(DataError, match=r"a pack holds 60 \(train.pack_length\)") as caught:
        keep_trainable(settings, loaded, TrainingData(samples, []), encoder, SILENT)
    assert caught.value.hint.startswith("Raise --pack-length, or leave")
    for train in ({"pack_length": 60, "packing": "off"}, {}):
        settings, loaded, encoder = prepare(tiny_directory, train=train)
        assert keep_trainable(settings, loaded, TrainingData(samples, []), encoder, SILENT)[0].train == samples


def test_an_answer_needs_room_too(tiny_directory, samples):  # noqa: F811
    _, _, encoder = prepare(tiny_directory)
    prompt = len(encoder.encode_text(samples[-1], encoder.encode_images(samples[-1])).prompt)
    settings, loaded, encoder = prepare(tiny_directory, prompt + 8, infer={"max_new_tokens": 8})
    assert keep_readable(samples, find_answer_bound(settings, loaded), encoder, settings, SILENT,
                         with_answer=False) == samples
    with pytest.raises(DataError, match=r", 9 of them for the answer\.") as caught:
        keep_readable(samples, find_answer_bound(settings, loaded, 9), encoder, settings, SILENT, with_answer=False)
    assert caught.value.hint.startswith("Lower --max-new-tokens")
