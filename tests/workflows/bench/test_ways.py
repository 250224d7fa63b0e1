"""`medvqa bench`: equal work, measured; a smallest model of random weights."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import ModelError, PluginError, SettingsError
from medvqa_cli.runs import create_run
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.bench import shapes
from medvqa_cli.workflows.bench.answers import Wanted, _count_equal, bench_infer, bench_sample
from medvqa_cli.workflows.bench.shapes import BenchShape, find_side
from medvqa_cli.workflows.bench.timing import Arm
from medvqa_cli.workflows.bench.train import Step, bench_train, check_steps
from tests.workflows.bench.notes import Notes

SHAPE = BenchShape(questions=3, image_tokens=16, hidden=32, layers=1, vision_layers=1, heads=2, vocabulary=400)


def choose(family: str | None = "llava", **more: object):
    return make_settings({"model": {"family": family, "device": "cpu"}, **more})


@pytest.fixture(autouse=True)
def quick_peak(monkeypatch):
    """Measure the machine's peak for a moment only."""
    monkeypatch.setattr("medvqa_cli.workflows.bench.peaks.MEASURE_SECONDS", 0.01)


def test_packed_rows_and_plain_ones_take_the_same_step():
    report = bench_train(choose(), SHAPE, rounds=1)
    single, batched, packed = report["ways"]
    assert [way["name"] for way in report["ways"]] == ["one row at a time", "3 rows in a batch", "packed"]
    assert single["loss"] == pytest.approx(packed["loss"], rel=1e-5)
    assert single["gradient_norm"] == pytest.approx(packed["gradient_norm"], rel=1e-4)
    assert single["gradient_norm"] > 0
    assert packed["flops"] < 0.75 * single["flops"], "one image instead of three"
    assert batched["flops"] >= single["flops"]
    assert report["subject"]["image_tokens"] == 16
    assert report["subject"]["weights"] == "random"
    assert report["packs"]
    for way in report["ways"]:
        assert way["tokens_per_second"] / way["samples_per_second"] == pytest.approx(report["tokens"] / 3)
        assert way["share_of_peak"] == pytest.approx(way["flops"] / way["seconds"] / report["peak_flops_per_second"])


def test_a_family_that_does_not_pack_is_measured_plainly_and_says_so():
    notes = Notes()
    report = bench_train(choose("blip2"), SHAPE, rounds=1, rows=2, progress=notes)
    assert [way["name"] for way in report["ways"]] == ["one row at a time", "2 rows in a batch"]
    assert not report["packs"]
    assert "The family 'blip2' cannot share an image between questions: only plain rows are measured." in notes.said
    assert "An image takes 8 tokens, not 16: the nearest this family comes to it." in notes.said


def test_greedy_answers_are_those_of_generate():
    report = bench_infer(choose(), SHAPE, Wanted(max_new_tokens=4, rounds=1))
    assert report["equal_answers"] == report["samples"] == 3
    assert [way["name"] for way in report["ways"]] == ["generate, one question at a time", "shared prefix"]


def test_samples_are_drawn_in_every_way():
    report = bench_sample(choose(), SHAPE, Wanted(samples=10, max_new_tokens=3, temperature=1.0, rounds=1))
    separate, sequences, tree, greedy = report["ways"]
    assert (separate["name"], separate["measured_share"]) == ("separate generates", 0.5)
    assert sequences["name"] == "num_return_sequences=10"
    assert 3 <= tree["distinct"] <= 30
    assert greedy["distinct"] == 3


def test_unequal_ways_are_an_error():
    one, other = Arm("plain", lambda: None), Arm("packed", lambda: None)
    one.outcomes, other.outcomes = [Step(2.0, 1.0, 5)], [Step(2.1, 1.0, 5)]
    with pytest.raises(ModelError, match=r"not equal: loss 2\.000000 by 'plain', 2\.100000 by 'packed'"):
        check_steps([one, other], "float32")
    other.outcomes = [Step(2.0, float("nan"), 5)]
    with pytest.raises(ModelError, match="gradient norm 1.000000 by 'plain', nan by 'packed'"):
        check_steps([one, other], "bfloat16")
    one.outcomes, other.outcomes = [[["yes"], ["no"]]], [[["yes"], ["liver"]]]
    with pytest.raises(ModelError, match="question 2 gets 'no' one way, 'liver' the other"):
        _count_equal([one, other], strict=True)
    assert _count_equal([one, other], strict=False) == 1


def test_errors_name_what_to_do():
    with pytest.raises(SettingsError, match="No model is named to measure") as caught:
        bench_train(choose(None), SHAPE)
    assert "--family llava" in caught.value.hint
    with pytest.raises(PluginError, match="lava"):
        bench_train(choose("lava"), SHAPE)
    with pytest.raises(SettingsError, match="A llava of this shape cannot be built"):
        bench_train(choose(), BenchShape(questions=1, image_tokens=16, hidden=33, heads=2, vocabulary=300))
    with pytest.raises(SettingsError, match=r"train\.tuning is 'full'"):
        bench_train(choose(train={"tuning": "full"}), SHAPE)


def test_the_picture_is_of_the_size_that_brings_the_tokens(tmp_path, monkeypatch):
    """16 patches of a token each, or for a family that merges four, 64."""
    merged = {"count": lambda family, patches, folder: (patches // 2) ** 2, "square": lambda f, patches, d: patches**2,
              "tiles": lambda f, patches, d: 3 * patches}
    found = {}
    for name, count in merged.items():
        monkeypatch.setattr(shapes, "_count_tokens", count)
        found[name] = find_side(None, 16, tmp_path)
    assert found == {"count": 8, "square": 4, "tiles": 6}


def test_a_run_is_measured_with_the_weights_it_has_trained(tmp_path):
    run = create_run(tmp_path / "runs", "mine")
    run.update_manifest(model={"family": "llava", "checkpoint": "org/base"})
    settings = choose(None, paths={"runs": str(tmp_path / "runs")})
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"name": "mine"})})
    assert shapes._choose(settings).checkpoint == "org/base"
    (run.path / "model").mkdir()
    (run.path / "model" / "config.json").write_text("{}")
    assert shapes._choose(settings).checkpoint == str(run.path / "model")
