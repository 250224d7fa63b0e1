"""A merged model answers as the adapted one, or is not written."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from medvqa_cli.errors import MissingDependencyError, ModelError, RunError, SettingsError
from medvqa_cli.models import merging
from medvqa_cli.models.adapters import load_adapter, prepare_training
from medvqa_cli.models.merging import Difference, compare_logits, find_fault
from medvqa_cli.plugins import models
from medvqa_cli.runs import create_run
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.settings.train import LoRASettings, TrainSettings
from medvqa_cli.workflows import merge as workflow
from medvqa_cli.workflows.adapters import find_source
from medvqa_cli.workflows.merge import merge_adapter

FAMILY = models.get("llava")


def load_model(directory, dtype=torch.float32):
    return FAMILY.load_model(str(directory), dtype=dtype).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny LLaVA in float32."""
    directory = tmp_path_factory.mktemp("base")
    FAMILY.build_tiny(directory, seed=1)
    return directory


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """An adapter on it with the projector in full beside, all moved away from where training begins."""
    directory = tmp_path_factory.mktemp("adapted") / "adapter"
    torch.manual_seed(2)
    model = prepare_training(load_model(base), FAMILY.layout, TrainSettings(
        lora=LoRASettings(r=4, dropout=0.0, dora=True), tune_projector=True), lora=True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def settings(tmp_path):
    return make_settings({"paths": {"runs": str(tmp_path / "runs")}, "model": {"device": "cpu"}})


@pytest.fixture
def make_run(settings, base, adapter):
    """Make a finished run that has trained the adapter."""
    def make(name="tuned", **facts):
        run = create_run(settings.paths.runs, name)
        shutil.copytree(adapter, run.path / "adapter")
        run.settings.write_text(json.dumps(to_tree(settings)), encoding="utf-8")
        run.update_manifest(model={"family": "llava", "checkpoint": str(base), "adapter": "", "dtype": "float32",
                                   **facts})
        return run

    return make


@torch.no_grad()
def compute(model):
    ids = torch.tensor([[5, 6, *[model.config.image_token_id] * 16, 7, 8, 9]])
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels.to(model.dtype)).logits.float()


def test_a_run_becomes_a_model_that_answers_as_it(settings, make_run, base, adapter, tmp_path, listener):
    record = merge_adapter(settings, make_run().name, tmp_path / "out", progress=listener)
    adapted = compute(load_adapter(load_model(base), adapter, trainable=False))
    assert (compute(load_model(tmp_path / "out")) - adapted).abs().max() < 1e-5
    assert (compute(load_model(base)) - adapted).abs().max() > 0.05
    assert not list((tmp_path / "out").glob("adapter*"))
    written = json.loads((tmp_path / "out" / "merge.json").read_text(encoding="utf-8"))
    assert record == {"output": str(tmp_path / "out"), **written}
    assert (written["base"], written["dtype"], written["tolerance"], written["quantization_in_training"]) == (
        str(base), "float32", 1e-4, "none")
    for what in ("merged", "reloaded"):
        assert 0 <= written[what]["largest"] < 1e-5 < 0.05 < written["adapter_effect"]["largest"]
        assert written[what]["changed_tokens"] == 0 < written["adapter_effect"]["changed_tokens"]
    assert [line.split(":")[0] for line in listener.said if "next tokens agree" in line] == ["Merged", "Reloaded"]
    assert listener.warnings == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]


def test_the_merged_folder_is_a_model_for_every_command(settings, adapter, tmp_path, picture):
    from medvqa_cli.workflows.infer import infer_image

    merge_adapter(settings, adapter, tmp_path / "out")
    named = make_settings({**to_tree(settings), "model": {"name": str(tmp_path / "out"), "device": "cpu"},
                           "infer": {"max_new_tokens": 4}})
    alone = infer_image(named, picture, ["Is there a lesion?"])
    beside = make_settings({**to_tree(named), "model": {"name": str(adapter), "device": "cpu"}})
    assert [answer.text for answer in alone] == [answer.text for answer in
                                                 infer_image(beside, picture, ["Is there a lesion?"])]


@pytest.fixture
def picture(tmp_path):
    from PIL import Image

    Image.radial_gradient("L").convert("RGB").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(("typed", "trained", "expected"), [
    ("bfloat16", "float32", "bfloat16"), ("auto", "bfloat16", "bfloat16"), ("auto", "float64", "float32"),
])
def test_the_number_format(typed, trained, expected, settings, make_run, tmp_path):
    settings = make_settings({**to_tree(settings), "model": {"device": "cpu", "dtype": typed}})
    record = merge_adapter(settings, make_run(dtype=trained).path, tmp_path / "out")
    assert record["dtype"] == expected
    assert load_model(tmp_path / "out", dtype="auto").dtype == getattr(torch, expected)
    if expected == "bfloat16":
        assert 1e-5 < record["merged"]["share"] < record["tolerance"] == 5e-2


def test_a_merge_that_changes_the_answers_writes_nothing(settings, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "merge_weights", lambda model: model.unload())
    with pytest.raises(ModelError) as failure:
        merge_adapter(settings, adapter, tmp_path / "out")
    assert failure.value.message.startswith("The merged model does not answer as the adapted one: its logits differ by")
    assert "allowed 0.0001 in float32" in failure.value.message
    assert failure.value.message.endswith("Nothing was written.")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_changes_on_disk_is_not_kept(settings, adapter, tmp_path, monkeypatch):
    real = workflow.load_choice

    def load(choice, *arguments, **keywords):
        loaded = real(choice, *arguments, **keywords)
        if not choice.adapter:
            loaded.model.lm_head.weight.data[7] += 1
        return loaded

    monkeypatch.setattr(workflow, "load_choice", load)
    with pytest.raises(ModelError, match="The reloaded model does not answer as the adapted one"):
        merge_adapter(settings, adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_processor_that_changes_on_disk_is_not_kept(settings, adapter, tmp_path, monkeypatch):
    real = workflow.load_choice

    def load(choice, *arguments, **keywords):
        loaded = real(choice, *arguments, **keywords)
        if not choice.adapter:
            loaded.processor.image_processor.image_mean = [0.4] * 3
        return loaded

    monkeypatch.setattr(workflow, "load_choice", load)
    with pytest.raises(ModelError, match=r"encodes a question otherwise \('pixel_values' changes\)"):
        merge_adapter(settings, adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_rounding_swallows_is_told():
    torch.manual_seed(0)
    before = torch.randn(20, 50)
    effect = compare_logits(before, before + 1e-2 * torch.randn(20, 50))
    none, half, all_of_it = (Difference(0.0, 0.0, share * effect.typical, 0, 20) for share in (0.0, 0.2, 1.0))
    assert find_fault(none, effect, "bfloat16") == find_fault(half, effect, "bfloat16") == ""
    assert find_fault(all_of_it, effect, "bfloat16") == (
        "it loses 100% of what the adapter changes (allowed 25%): in bfloat16 it drowns in rounding")
    nothing = Difference(0.0, 0.0, 0.0, 0, 20)
    assert find_fault(nothing, nothing, "float32") == ""
    broken = compare_logits(before, torch.full_like(before, float("nan")))
    assert "its logits differ by up to nan" in find_fault(broken, effect, "bfloat16")


def test_differences_by_hand():
    expected = torch.tensor([[1.0, 2.0], [0.0, -4.0]])
    found = torch.tensor([[1.0, 2.0], [-3.0, 0.0]])
    assert compare_logits(expected, found) == Difference(4.0, share=1.0, typical=2.5, changed_tokens=1, tokens=2)
    with pytest.raises(ModelError, match="shape"):
        compare_logits(expected, found[:1])


def test_an_untrained_adapter_is_told(settings, base, tmp_path, listener):
    prepare_training(load_model(base), FAMILY.layout, TrainSettings(), lora=True).save_pretrained(tmp_path / "new")
    merge_adapter(settings, tmp_path / "new", tmp_path / "out", progress=listener)
    assert "The adapter changes no logit of the test sample: has it been trained?" in listener.warnings


def test_an_adapter_with_a_broken_weight_is_refused(settings, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(adapter, tmp_path / "broken") / "adapter_model.safetensors"
    tensors = load_file(broken)
    next(value for name, value in tensors.items() if "lora_B" in name).fill_(float("nan"))
    save_file(tensors, broken)
    with pytest.raises(ModelError, match="The adapter cannot be merged: NaNs detected"):
        merge_adapter(settings, tmp_path / "broken", tmp_path / "out")


def test_an_adapter_of_quantised_weights_is_merged_into_the_others_and_says_so(settings, make_run, base, adapter,
                                                                               tmp_path, listener):
    pytest.importorskip("bitsandbytes")
    run = make_run(quantization="4bit", dtype="float32")
    record = merge_adapter(settings, run.name, tmp_path / "out", progress=listener)
    assert record["quantization_in_training"] == "4bit"
    assert record["against_quantized"]["largest"] > 1e-3
    assert record["merged"]["largest"] < 1e-5
    assert listener.warnings[0].startswith("The adapter was trained on 4bit weights. It is merged into the weights")
    assert any(line.startswith("Against the 4bit base the adapter was trained on, logits differ by at most")
               for line in listener.warnings)
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    adapted = compute(load_adapter(load_model(base), adapter, trainable=False))
    assert (compute(load_model(tmp_path / "out")) - adapted).abs().max() < 1e-5


def test_without_bitsandbytes_the_difference_is_not_measured_and_that_is_said(settings, make_run, tmp_path, listener,
                                                                             monkeypatch):
    real = workflow.load_choice

    def load(choice, settings, progress):
        if settings.model.quantization != "none":
            raise MissingDependencyError("Quantisation ('4bit')", "bitsandbytes", "quantization")
        return real(choice, settings, progress)

    monkeypatch.setattr(workflow, "load_choice", load)
    record = merge_adapter(settings, make_run(quantization="4bit").name, tmp_path / "out", progress=listener)
    assert "against_quantized" not in record
    assert ("By how much could not be measured: Quantisation ('4bit') needs the package 'bitsandbytes', which is not "
            "installed.") in listener.warnings


def test_only_an_earlier_merge_is_replaced(settings, make_run, adapter, tmp_path):
    run = make_run()
    merge_adapter(settings, run.name, tmp_path / "out")
    (tmp_path / "out" / "trace").write_text("of the first", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"'.*out' exists already\.") as failure:
        merge_adapter(settings, run.name, tmp_path / "out")
    assert "--overwrite" in failure.value.hint
    merge_adapter(settings, run.name, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "trace").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(SettingsError, match="was not written by medvqa merge"):
        merge_adapter(settings, run.name, tmp_path / "mine", overwrite=True)
    (tmp_path / "file").write_text("text", encoding="utf-8")
    with pytest.raises(SettingsError, match="was not written by medvqa merge"):
        merge_adapter(settings, run.name, tmp_path / "file", overwrite=True)
    for inside in (run.path / "adapter", run.path, run.path / "adapter" / "merged"):
        with pytest.raises(SettingsError, match="is merged from"):
            merge_adapter(settings, run.name, inside, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "out", "runs"]


def test_a_failed_merge_leaves_the_earlier_one(settings, adapter, tmp_path, monkeypatch):
    merge_adapter(settings, adapter, tmp_path / "out")
    before = (tmp_path / "out" / "merge.json").read_text(encoding="utf-8")
    monkeypatch.setattr(merging, "merge_weights", lambda model: model.unload())
    with pytest.raises(ModelError):
        merge_adapter(settings, adapter, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "merge.json").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_sources(settings, make_run, base, adapter, tmp_path):
    run = make_run(commit="abc", quantization="8bit")
    found = find_source(settings, run.name)
    assert found == find_source(settings, run.path / "adapter")
    assert (found.choice.checkpoint, found.choice.adapter, found.choice.commit, found.quantization) == (
        str(base), str(run.path / "adapter"), "abc", "8bit")
    state = shutil.copytree(run.path / "adapter", run.path / "checkpoints" / "checkpoint-4")
    assert find_source(settings, state) == dataclasses.replace(
        found, choice=dataclasses.replace(found.choice, adapter=str(state)))
    alone = find_source(settings, adapter)
    assert (alone.choice.checkpoint, alone.facts, alone.quantization) == (str(base), {}, "none")
    moved = find_source(settings, run.name, str(shutil.copytree(base, tmp_path / "moved")))
    assert (moved.choice.checkpoint, moved.choice.commit) == (str(tmp_path / "moved"), "")


def test_what_cannot_be_merged(settings, make_run, adapter, tmp_path):
    def refuse(error, name, message, hint, **options):
        with pytest.raises(error) as failure:
            merge_adapter(settings, name, tmp_path / "out", **options)
        assert message in failure.value.message
        assert hint in failure.value.hint

    refuse(RunError, "nothing", "There is no run 'nothing'", "no runs yet")
    run = make_run("full")
    (run.path / "adapter").rename(run.path / "model")
    refuse(ModelError, "full", "Run 'full' has trained the weights themselves", str(run.path / "model"))
    (run.path / "model").rename(run.path / "elsewhere")
    refuse(ModelError, "full", "Run 'full' has no trained model yet.", "--resume full")
    make_run("lost", checkpoint="/models/lost")
    refuse(ModelError, "lost", "The base model '/models/lost' of the adapter", "--base")
    nameless = shutil.copytree(adapter, tmp_path / "nameless") / "adapter_config.json"
    config = json.loads(nameless.read_text(encoding="utf-8"))
    nameless.write_text(json.dumps({**config, "base_model_name_or_path": None}), encoding="utf-8")
    refuse(ModelError, tmp_path / "nameless", "names no base model", "")
    other = tmp_path / "other"
    FAMILY.build_tiny(other, options=FAMILY.Options(width=32, heads=2))
    refuse(ModelError, adapter, "does not fit the model", "base model it was trained on", base=str(other))
    packed = tmp_path / "packed"
    shutil.copytree(other, packed)
    config = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}),
                                        encoding="utf-8")
    refuse(ModelError, adapter, "is stored quantised", "--base", base=str(packed))
    assert not (tmp_path / "out").exists()
