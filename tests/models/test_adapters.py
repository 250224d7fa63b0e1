"""What is trained, exactly; and that it is the same after saving, loading and merging."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvqa_cli.errors import ModelError, SettingsError
from medvqa_cli.models.adapters import (
    check_continuation,
    check_tuning,
    count_parameters,
    describe_parameters,
    find_layers,
    load_adapter,
    prepare_training,
)
from medvqa_cli.models.protocol import ModelLayout
from medvqa_cli.plugins import models
from medvqa_cli.settings.train import LoRASettings, TrainSettings

LAYOUT = ModelLayout(vision_tower="model.vision_tower", projector="model.multi_modal_projector",
                     language_model="model.language_model",
                     lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
FULL_COPY = ".modules_to_save.default"


def load_base(directory):
    return models.get("llava").load_model(str(directory), dtype=torch.float32).eval()


def lora(**values) -> LoRASettings:
    return LoRASettings(r=4, dropout=0.0, **values)


def prepare(directory, train: TrainSettings, *, adapters: bool = True):
    """Prepare a fresh tiny LLaVA, and move everything trainable away from where it starts (B starts at zero)."""
    torch.manual_seed(0)
    model = prepare_training(load_base(directory), LAYOUT, train, lora=adapters)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def name_trained(model) -> set[str]:
    """Return the modules that learn: "...q_proj" for an adapter, "...q_proj!" for weights in full."""
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = name.removeprefix("base_model.model.")
            module, _, rest = plain.partition(".lora_")
            found.add(module if rest else plain.replace(FULL_COPY, "").rpartition(".")[0] + "!")
    return found


@pytest.fixture(scope="module")
def feed(tiny_directory):
    """Token ids with one picture in them, and its pixels."""
    config = load_base(tiny_directory).config
    ids = torch.tensor([[5, 6, *[config.image_token_id] * 16, 7, 8, 9, 10, 11]])
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@torch.no_grad()
def compute(model, feed):
    return model(**feed).logits


def differ(left, right) -> float:
    return (left - right).abs().max().item()


TEXT = "model.language_model.layers"
TOWER = "model.vision_tower.encoder.layers"
PROJECTOR = {"model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"}
ATTENTION = {f"{TEXT}.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qkvo"}
MLP = {f"{TEXT}.{n}.mlp.{p}_proj" for n in (0, 1) for p in ("gate", "up", "down")}
QUERY_VALUE = {f"{TEXT}.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"}
VISION = {f"{TOWER}.{n}.{p}" for n in (0, 1) for p in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")}
LAST = {f"{TEXT}.1.{p}!" for p in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                   "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm",
                                   "post_attention_layernorm")}
FIRST = {name for name in ATTENTION | MLP if ".0." in name}
TRAINED = {
    "family preset": (TrainSettings(lora=lora()), ATTENTION | MLP),
    "attention": (TrainSettings(lora=lora(targets=("attention",))), ATTENTION),
    "mlp": (TrainSettings(lora=lora(targets=("mlp",))), MLP),
    "query-value": (TrainSettings(lora=lora(targets=("query_value",))), QUERY_VALUE),
    "all-linear": (TrainSettings(lora=lora(targets=("all-linear",))), ATTENTION | MLP),
    "names": (TrainSettings(lora=lora(targets=("q_proj", "self_attn.v_proj"))), QUERY_VALUE),
    "preset and name": (TrainSettings(lora=lora(targets=("query-value", "down_proj"))),
                        QUERY_VALUE | {f"{TEXT}.{n}.mlp.down_proj" for n in (0, 1)}),
    "list": (TrainSettings(lora=lora(targets=("list:q_proj", "v_proj"))), QUERY_VALUE),
    "regex": (TrainSettings(lora=lora(targets=(r"re:.*layers\.1\.(self_attn\.q_proj|mlp\.fc[1", "2])"))),
              {f"{part}.1.self_attn.q_proj" for part in (TEXT, TOWER)} | {f"{TOWER}.1.mlp.fc{n}" for n in (1, 2)}),
    "regex by its marks": (TrainSettings(lora=lora(targets=(r".*language_model.*layers\.1\..*(q|v)_proj",))),
                           {name for name in QUERY_VALUE if ".1." in name}),
    "output embedding": (TrainSettings(lora=lora(targets=("re:lm_head",))), {"lm_head"}),
    "vision and projector": (TrainSettings(lora=lora(parts=("vision_tower", "projector"))), VISION | PROJECTOR),
    "attention everywhere": (TrainSettings(lora=lora(targets=("attention",), parts=("language_model", "vision_tower"))),
                             ATTENTION | {name for name in VISION if "attn" in name}),
    "DoRA": (TrainSettings(lora=lora(dora=True)), ATTENTION | MLP),
    "rsLoRA": (TrainSettings(lora=lora(rslora=True)), ATTENTION | MLP),
    "projector beside": (TrainSettings(lora=lora(), tune_projector=True),
                         ATTENTION | MLP | {f"{name}!" for name in PROJECTOR}),
    "last layer beside": (TrainSettings(lora=lora(), unfreeze_last_layers=1), FIRST | LAST),
    "both beside DoRA": (TrainSettings(lora=lora(dora=True), unfreeze_last_layers=1, tune_projector=True),
                         FIRST | LAST | {f"{name}!" for name in PROJECTOR}),
    "parts without adapters": (TrainSettings(lora=lora(targets=("none",)), unfreeze_last_layers=1, tune_projector=True),
                               LAST | {f"{name}!" for name in PROJECTOR}),
}


@pytest.mark.parametrize("case", TRAINED)
def test_what_is_trained_stays_the_same_saved_loaded_and_merged(case, tiny_directory, feed, tmp_path):
    train, expected = TRAINED[case]
    model = prepare(tiny_directory, train)
    assert name_trained(model) == expected
    logits = compute(model, feed)
    assert differ(logits, compute(load_base(tiny_directory), feed)) > 1e-2
    model.save_pretrained(tmp_path / "saved")
    if case == "parts without adapters":
        assert torch.equal(compute(load_base(tmp_path / "saved"), feed), logits)
        return
    again = load_adapter(load_base(tiny_directory), tmp_path / "saved", trainable=True)
    assert name_trained(again) == expected
    assert torch.equal(compute(again.eval(), feed), logits)
    frozen = load_adapter(load_base(tiny_directory), tmp_path / "saved", trainable=False)
    assert name_trained(frozen) == set()
    merged = frozen.merge_and_unload()
    assert differ(compute(merged, feed), logits) < 2e-5
    merged.save_pretrained(tmp_path / "merged")
    assert differ(compute(load_base(tmp_path / "merged"), feed), logits) < 2e-5


def test_full_training_spares_the_tower_only_where_asked(tiny_directory):
    everything = name_trained(prepare(tiny_directory, TrainSettings(), adapters=False))
    kept = name_trained(prepare(tiny_directory, TrainSettings(freeze_vision_tower=True), adapters=False))
    assert {name for name in everything if name.startswith("model.vision_tower")}
    assert kept == {name for name in everything if not name.startswith("model.vision_tower")}


def test_a_projector_inside_the_tower_is_a_part_of_its_own(tiny_directory):
    """As in Qwen-VL, whose merger lies in the tower: freezing the tower leaves it free, and it is counted once."""
    inside = ModelLayout(vision_tower="model.vision_tower", projector="model.vision_tower.encoder.layers.1",
                         language_model="model.language_model", lora_targets=("q_proj",))
    model = load_base(tiny_directory)
    prepare_training(model, inside, TrainSettings(freeze_vision_tower=True), lora=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad and "vision" in name}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(f"{TOWER}.1.")}
    counts = count_parameters(model, inside)
    assert counts["projector"][0] == counts["projector"][1] > 0
    assert counts["vision tower"][0] == 0
    assert sum(total for _, total in counts.values()) == sum(p.numel() for p in model.parameters())


def test_parameters_are_counted_by_part_and_said_in_one_line(tiny_directory):
    base = {name: total for name, (_, total) in count_parameters(load_base(tiny_directory), LAYOUT).items()}
    train = TrainSettings(lora=lora(targets=("query-value",)), tune_projector=True)
    counts = count_parameters(prepare(tiny_directory, train), LAYOUT)
    adapters = 2 * 2 * 4 * (64 + 64)  # 2 layers, q and v, rank 4, two matrices of 64 columns or rows
    assert counts == {"vision tower": (0, base["vision tower"]), "projector": (base["projector"], base["projector"]),
                      "language model": (adapters, base["language model"] + adapters), "other": (0, base["other"])}
    assert describe_parameters({"vision tower": (0, 30_000_000), "projector": (1_200, 1_200),
                                "language model": (1_200_000, 46_000_000), "other": (0, 0)}) == (
        "Trained: 1.2 M of 76.0 M parameters (1.6 %): projector 1.2 K (all of it), language model 1.2 M")
    assert describe_parameters({"other": (0, 0)}) == "Trained: 0 of 0 parameters (0 %): nothing"
    assert describe_parameters({"other": (7, 7)}) == "Trained: 7 of 7 parameters (100 %): other 7 (all of it)"


def test_weights_packed_by_quantisation_count_as_what_they_stand_for():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(64, 32, bias=False, quant_type="nf4").to("cpu")
    layer(torch.randn(2, 64))  # quantised at the latest when used
    assert layer.weight.numel() == 64 * 32 // 2
    holder = torch.nn.ModuleDict({"text": layer})
    layout = ModelLayout(vision_tower="eye", projector="bridge", language_model="text", lora_targets=())
    assert count_parameters(holder, layout)["language model"] == (0, 64 * 32)


def test_rslora_scales_by_the_root_of_the_rank(tiny_directory):
    scales = []
    for rslora in (False, True):
        model = prepare(tiny_directory, TrainSettings(lora=lora(alpha=8, rslora=rslora)))
        scales.append(model.get_submodule(f"base_model.model.{TEXT}.0.self_attn.q_proj").scaling["default"])
    assert scales == [2.0, 4.0]


@pytest.mark.parametrize(("train", "adapters", "message"), [
    (TrainSettings(unfreeze_last_layers=1), False,
     "train.unfreeze_last_layers does not go with full training, which trains every layer."),
    (TrainSettings(lora=lora(targets=("none",))), True,
     "train.lora.targets is 'none', so nothing would be trained."),
    (TrainSettings(lora=lora(targets=("none",), dora=True), tune_projector=True), True,
     "train.lora.dora and train.lora.rslora need adapters, but train.lora.targets is 'none'."),
    (TrainSettings(lora=lora(parts=("vision_tower",)), freeze_vision_tower=True), True,
     "train.freeze_vision_tower contradicts train.lora.parts, which names vision_tower."),
    (TrainSettings(lora=lora(targets=("re:.*fc1",)), freeze_vision_tower=True), True,
     "train.freeze_vision_tower contradicts train.lora.targets, which match layers of the vision tower."),
    (TrainSettings(lora=lora(parts=("projector",)), tune_projector=True), True,
     "train.tune_projector trains the projector in full, but train.lora.parts would put adapters on it."),
    (TrainSettings(lora=lora(), unfreeze_last_layers=3), True,
     "train.unfreeze_last_layers is 3, but the language model has 2 layers."),
    (TrainSettings(lora=lora(), unfreeze_last_layers=2), True,
     "Every layer that would get an adapter lies in a part that is trained in full."),
    (TrainSettings(lora=lora(targets=("re:(", "q"))), True,
     "train.lora.targets is no regular expression: '(,q' (missing ), unterminated subpattern at position 0)."),
    (TrainSettings(lora=lora(targets=("none", "q_proj"))), True,
     "train.lora.targets is 'none,q_proj': 'none' stands alone."),
])
def test_contradictions_are_one_error(train, adapters, message, tiny_directory):
    with pytest.raises(SettingsError) as failure:
        prepare(tiny_directory, train, adapters=adapters)
    assert failure.value.message == message
    assert failure.value.hint


def test_contradictions_among_settings_need_no_model():
    with pytest.raises(SettingsError, match="nothing would be trained"):
        check_tuning(TrainSettings(lora=lora(targets=("none",))), lora=True)
    check_tuning(TrainSettings(lora=lora(targets=("none",))), lora=False)


@pytest.mark.parametrize(("train", "what"), [
    (TrainSettings(tune_projector=True), "'model.multi_modal_projector' in full"),
    (TrainSettings(unfreeze_last_layers=1), "'model.language_model.layers.1' in full"),
    (TrainSettings(tuning="full"), "full training"),
])
def test_quantised_weights_are_not_trained_in_full(train, what, tiny_directory):
    model = load_base(tiny_directory)
    for part in (model.model.multi_modal_projector.linear_1, model.model.language_model.layers[1].mlp.up_proj):
        part.weight = torch.nn.Parameter(part.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(SettingsError) as failure:
        prepare_training(model, LAYOUT, train, lora=train.tuning != "full")
    assert failure.value.message == f"Quantised weights cannot be trained: {what} needs them as numbers."


@pytest.mark.parametrize(("change", "refused"), [
    ({"tuning": "full"}, "train.tuning 'full'"), ({"tune_projector": True}, "train.tune_projector"),
    ({"unfreeze_last_layers": 2}, "train.unfreeze_last_layers"), ({"lora": lora(dora=True)}, "train.lora.dora"),
])
def test_going_on_with_an_adapter_keeps_its_shape(change, refused, tiny_directory):
    model = prepare(tiny_directory, TrainSettings(lora=lora(), unfreeze_last_layers=1))
    check_continuation(model, LAYOUT, TrainSettings())
    check_continuation(model, LAYOUT, TrainSettings(unfreeze_last_layers=1))
    with pytest.raises(SettingsError) as failure:
        check_continuation(model, LAYOUT, TrainSettings(**change))
    assert failure.value.message == f"Training goes on with an adapter that was made without {refused}."


def test_an_adapter_that_does_not_fit_is_refused(tiny_directory, tmp_path):
    prepare(tiny_directory, TrainSettings(lora=lora(), tune_projector=True)).save_pretrained(tmp_path / "good")

    def refuse(name: str, reason: str, **changes) -> None:
        with pytest.raises(ModelError) as failure:
            load_adapter(load_base(tiny_directory), tmp_path / name, trainable=False, **changes)
        assert reason in failure.value.message, failure.value.message
        assert str(tmp_path / name) in failure.value.message

    def copy(name: str):
        return shutil.copytree(tmp_path / "good", tmp_path / name)

    config = json.loads((tmp_path / "good" / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(tmp_path / "good" / "adapter_model.safetensors")
    query = "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    (copy("rank") / "adapter_config.json").write_text(json.dumps(config | {"r": 8}), encoding="utf-8")
    refuse("rank", "does not fit the model: size mismatch for base_model")
    deeper = {**tensors, f"base_model.model.{query.replace('layers.0', 'layers.2')}": torch.zeros(4, 64)}
    save_file(deeper, copy("deeper") / "adapter_model.safetensors")
    refuse("deeper", "the model has no place for 'model.language_model.layers.2.self_attn.q_proj.lora_A")
    fewer = {name: value for name, value in tensors.items() if query not in name}
    save_file(fewer, copy("fewer") / "adapter_model.safetensors")
    refuse("fewer", "its file lacks 'model.language_model.layers.0.self_attn.q_proj.lora_A")
    without = {name: value for name, value in tensors.items() if "projector.linear_1.weight" not in name}
    save_file(without, copy("without") / "adapter_model.safetensors")
    refuse("without", "its file lacks 'base_model.model.model.multi_modal_projector.linear_1.weight'")
    (copy("damaged") / "adapter_config.json").write_text("{", encoding="utf-8")
    refuse("damaged", "adapter_config.json is damaged")
    (copy("empty") / "adapter_model.safetensors").unlink()
    refuse("empty", "is incomplete: adapter_model.safetensors is missing")
    refuse("none", "adapter_config.json is missing")
    torch.save(tensors, tmp_path / "empty" / "adapter_model.bin")
    refuse("empty", "a pickle, which may run code")
    assert load_adapter(load_base(tiny_directory), tmp_path / "empty", trainable=False, allow_pickle=True)


def test_the_last_layers_of_an_encoder_decoder_are_the_decoders():
    from transformers import T5Config, T5ForConditionalGeneration

    t5 = T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2,
                                             num_decoder_layers=2, num_heads=2))
    holder = torch.nn.ModuleDict({"language_model": t5})
    layout = ModelLayout(vision_tower="eye", projector="bridge", language_model="language_model",
                         lora_targets=("q", "v"), task_type="SEQ_2_SEQ_LM")
    assert find_layers(holder, layout) == ["language_model.decoder.block.0", "language_model.decoder.block.1"]
