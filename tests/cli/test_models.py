"""`medvqa models list` and `medvqa models info`."""

from __future__ import annotations

import json
import shutil

import pytest

from medvqa_cli import plugins
from medvqa_cli.cli.models import show_bytes

MEMORY = {"checkpoint", "parts", "files", "picture", "memory"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    plugins.models.get("llava").build_tiny(folder, seed=1)
    return folder


@pytest.fixture
def info(document, tiny):
    """Facts of the tiny checkpoint: `info("--batch-size", "2")`."""
    return lambda *arguments: document("models", "info", str(tiny), *arguments)


def test_list_names_families_and_own_names(document, tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text('[aliases.models]\nmy-llava = "/models/mine"\n')
    rows = {row["name"]: row for row in document("models", "list")}
    assert rows["llava"] == {"name": "llava", "origin": "built-in", "summary": plugins.models.summary("llava"),
                             "checkpoint": "llava-hf/llava-1.5-7b-hf", "shares_images": True,
                             "licence": plugins.models.get("llava").card.licence}
    assert rows["my-llava"] == {"name": "my-llava", "origin": str(tmp_path / "user" / "config.toml"),
                                "summary": "/models/mine"}


def test_list_as_a_table(medvqa, tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text('[aliases.models]\nmine = "/models/mine"\n')
    result = medvqa("models", "list")
    head, *rows = [line.split("  ") for line in result.stdout.splitlines()]
    assert [cell.strip() for cell in head if cell.strip()] == ["name", "model", "default checkpoint",
                                                             "shares images"]
    assert max(map(len, result.stdout.splitlines())) <= 100
    lines = {row[0].strip(): [cell.strip() for cell in row if cell.strip()] for row in rows}
    assert "yes" in lines["llava"]
    assert "no" in lines["blip2"]
    assert lines["mine"] == ["mine", "/models/mine", "-", "-"]


def test_a_family_that_does_not_load_is_listed_with_its_problem(medvqa, monkeypatch):
    failure = plugins.models.failure
    monkeypatch.setattr(plugins.models, "failure", lambda name: "oh dear" if name == "llava" else failure(name))
    lines = medvqa("models", "list").stdout.splitlines()
    assert any(line.startswith("llava ") and "does not load: oh dear" in line for line in lines)
    assert any(line.startswith("qwen2_vl ") and "does not load" not in line for line in lines)


@pytest.mark.parametrize("name", ["llava", "LLaVA", "llava_1.5_7b", "llava-hf/llava-1.5-7b-hf"])
def test_info_takes_families_and_checkpoints(document, name):
    card = document("models", "info", name)
    assert (card["name"], card["packs"]) == ("llava", True)
    assert card["checkpoint"]["checkpoint"] == "llava-hf/llava-1.5-7b-hf"
    assert "image_size" in card["options"]


def test_info_of_what_is_elsewhere_says_what_to_do(medvqa):
    result = medvqa("models", "info", "llava")
    assert "folder: not on this machine" in result.stdout
    assert "shares images: yes\n" in result.stdout
    for internal in ("id_patterns", "task_type", "bidirectional_images", "vision_tower:"):
        assert internal not in result.stdout
    assert "Its parts and memory are not guessed" in result.stderr
    assert "hf download llava-hf/llava-1.5-7b-hf --include '*.json'" in result.stderr


def test_info_suggests(medvqa):
    result = medvqa("models", "info", "lava")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        5, "error: Unknown model 'lava'. Did you mean 'llava'?")


def test_info_of_a_folder(medvqa, tiny):
    result = medvqa("models", "info", str(tiny), "--resolution", "640x480", "--batch-size", "2", "--tokens", "50",
                    "--questions", "3", "--answer-tokens", "8", "--dtype", "float32", "--gradient-checkpointing")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert any(line.split() == ["vision", "tower", "96,000", "43.3%"] for line in lines)
    assert "a picture of 640x480: 16 tokens in the prompt, 16 patches in the vision tower" in lines
    head = next(number for number, line in enumerate(lines) if line.startswith("memory, estimated"))
    assert lines[head].split("  ")[-1].strip() == "full training"
    assert lines[head + 1].startswith("weights  ")
    assert any(line.startswith("total  ") for line in lines[head:])
    assert lines[-1].startswith("For 2 rows of 166 tokens (3 questions of 50 text tokens, 8 of them answer, about one "
                                "picture), float32 on a GPU, LoRA r=16, gradient checkpointing on.")


def test_flags_reach_the_estimate(info):
    facts = info("--lora-r", "8", "--batch-size", "1", "--device", "cpu")
    assert set(facts) >= MEMORY
    assert (facts["load"]["lora_r"], facts["load"]["batch_size"], facts["load"]["dtype"]) == (8, 1, "float32")
    assert info("--lora-r", "16")["memory"]["LoRA"]["adapters"] == 2 * facts["memory"]["LoRA"]["adapters"]


def test_info_of_a_run(document, medvqa, make_run, tiny):
    run = make_run("small", trained=False)
    result = medvqa("models", "info", "small")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (5, "error: Run 'small' has no trained model yet.")
    shutil.copytree(tiny, run.path / "model")
    assert document("models", "info", "small")["checkpoint"]["folder"] == str(run.path / "model")
    shutil.rmtree(run.path / "model")
    (run.path / "adapter").mkdir()
    (run.path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny)}))
    assert document("models", "info", "small")["checkpoint"] == {
        "checkpoint": str(tiny), "adapter": str(run.path / "adapter"), "folder": str(tiny)}


def test_findings_are_warnings(medvqa, tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    result = medvqa("models", "info", str(copy))
    assert "warning: There are no weight files here" in result.stderr
    assert "weight files: -" in result.stdout


@pytest.mark.parametrize(("arguments", "message"), [
    (("--resolution", "big"), "--resolution is 'big': it should be width x height in pixels, such as 336x336."),
    (("--resolution", "0x10"), "--resolution is '0x10': it should be"),
    (("--resolution", "99999x99999"), "--resolution is '99999x99999': at most 10,000 x 10,000"),
    (("--tokens", "0"), "--tokens is '0': it should be a whole number of at least 1."),
    (("--answer-tokens", "x"), "--answer-tokens is 'x': it should be a whole number of at least 1."),
    (("--questions", "-1"), "--questions is '-1': it should be a whole number of at least 1."),
    (("--dtype", "int3"), "model.dtype"),
    (("--batch-size", "0"), "train.batch_size"),
    (("--unfreeze-last-layers", "9"), "train.unfreeze_last_layers is 9, but the language model has 2 layers."),
    (("--lora-targets", "nothing"), "No linear layer of the language model is called 'nothing'."),
])
def test_wrong_input(medvqa, tiny, arguments, message):
    result = medvqa("models", "info", str(tiny), *arguments)
    assert result.exit_code in {2, 5}
    assert result.stderr.startswith("error: ")
    assert message in result.stderr.splitlines()[0]


@pytest.mark.parametrize(("size", "text"), [(0, "-"), (999, "999 B"), (1024, "1 KiB"), (1536, "1.5 KiB"),
                                            (1023 * 1024, "1023 KiB"), (15 * 2**30, "15 GiB"), (2**52, "4096 TiB")])
def test_bytes_for_people(size, text):
    assert show_bytes(size) == text
