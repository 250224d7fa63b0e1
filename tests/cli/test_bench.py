"""`medvqa bench` on the command line: what is typed, what is printed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

SUBJECT = {"family": "llava", "weights": "random", "parameters": 67_000_000, "dtype": "float32", "device": "cpu",
           "questions": 11, "images": 1, "image_tokens": 576}
TIME = {"seconds": 2.0, "seconds_low": 1.9, "seconds_high": 2.5, "ratio": 8.0, "ratio_low": 7.5, "ratio_high": 8.5,
        "peak_bytes": 2**31}


@pytest.fixture
def calls(monkeypatch):
    """Replace the workflows by functions that note how they were called."""
    found = []

    def train(settings, shape, **more):
        found.append((settings, shape, more))
        return {"subject": SUBJECT, "peak_flops_per_second": 7e10, "peak_source": "measured: here", "ways": [
            {"name": "packed", **TIME, "samples_per_second": 5.5, "tokens_per_second": 3300.0, "share_of_peak": 0.62,
             "estimated_bytes": 3 * 2**30, "loss": 10.68999},
            {"name": "11 rows in a batch", "failure": "out of memory"}]}

    def sample(settings, shape, wanted, progress):
        found.append((settings, shape, wanted))
        return {"subject": SUBJECT, "ways": [{"name": "separate generates", **TIME, "measured_share": 0.05,
                                              "distinct": 5}]}

    monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.bench.train", SimpleNamespace(bench_train=train))
    answers = SimpleNamespace(bench_sample=sample, Wanted=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.bench.answers", answers)
    return found


def test_the_shape_is_what_is_typed(medvqa, calls):
    result = medvqa("bench", "train", "--family", "qwen2-vl", "--questions", "4", "--image-tokens", "256", "--hidden",
                    "128", "--layers", "2", "--vision-layers", "3", "--heads", "4", "--vocabulary", "999", "--images",
                    "2", "--rows", "5", "--rounds", "7")
    assert result.exit_code == 0, result.stderr
    settings, shape, more = calls[0]
    assert settings.model.family == "qwen2-vl"
    assert (shape.questions, shape.images, shape.image_tokens, shape.hidden, shape.layers, shape.vision_layers,
            shape.heads, shape.vocabulary) == (4, 2, 256, 128, 2, 3, 4, 999)
    assert (more["rows"], more["rounds"]) == (5, 7)
    assert "packed" in result.stdout
    assert "8.00 (7.50 to 8.50)" in result.stdout
    assert "2.00 GiB" in result.stdout
    assert "3.00 GiB" in result.stdout
    assert "62%" in result.stdout
    assert "out of memory" in result.stdout
    assert "Peak 70 GFLOP/s (measured: here)." in result.stdout


def test_one_question_is_sampled_unless_more_are_asked_for(medvqa, calls):
    result = medvqa("bench", "sample", "--family", "llava", "--temperature", "0.5")
    assert result.exit_code == 0, result.stderr
    _, shape, wanted = calls[0]
    assert (shape.questions, wanted.samples, wanted.temperature, wanted.max_new_tokens) == (1, 100, 0.5, 8)
    assert "separate generates: extrapolated from 5% of the samples." in result.stdout


def test_a_family_typed_means_random_weights_whatever_the_settings_file_names(medvqa, calls, workplace):
    (workplace / "mine.toml").write_text('[model]\nname = "org/large"\n')
    assert medvqa("bench", "train", "--config", "mine.toml", "--family", "llava").exit_code == 0
    assert medvqa("bench", "train", "--config", "mine.toml").exit_code == 0
    assert [settings.model.name for settings, _, _ in calls] == [None, "org/large"]


def test_sizes_of_a_checkpoint_mean_random_weights_too(medvqa, calls, workplace):
    (workplace / "mine.toml").write_text('[model]\nname = "org/large"\nfamily = "qwen2_vl"\n')
    result = medvqa("bench", "train", "--config", "mine.toml", "--like", "llava_1.5_7b", "--questions", "4")
    assert result.exit_code == 0, result.stderr
    settings, shape, _ = calls[0]
    assert (settings.model.name, shape.like, shape.questions) == (None, "llava_1.5_7b", 4)
    assert medvqa("bench", "sample", "--like", "llava_1.5_7b").exit_code == 0
    assert calls[1][1].like == "llava_1.5_7b"


@pytest.mark.parametrize(("arguments", "message"), [
    (("train", "--questions", "0"), "--questions is '0': it should be a whole number of at least 1."),
    (("train", "--model", "x", "--layers", "2"), "--layers is of random weights, but --model names a model."),
    (("train", "--model", "x", "--like", "y"), "--like is of random weights, but --model names a model."),
    (("train", "--like", "x", "--hidden", "64"), "--hidden is of random weights, but --like names a checkpoint that"),
    (("train", "--like", "x", "--family", "llava"), "--family and --like both say what is built."),
    (("sample", "--temperature", "nan"), "--temperature is 'nan': it should be a number above 0."),
])
def test_what_cannot_be_meant_is_refused(medvqa, calls, arguments, message):
    result = medvqa("bench", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not calls
