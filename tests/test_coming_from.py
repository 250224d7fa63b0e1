"""examples/coming_from.md: what it calls ours is there, what it calls theirs is all of theirs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

from medvqa_cli import plugins, workflows
from medvqa_cli.cli import command
from medvqa_cli.cli.app import UsageError, app
from medvqa_cli.cli.groups import Stub
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.data.mixing.types import TYPE_KEYS
from medvqa_cli.errors import MedVQAError
from medvqa_cli.settings.layers import resolve_settings
from medvqa_cli.settings.schema import Settings

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "examples" / "coming_from.md").read_text(encoding="utf-8")
COLUMNS = ["theirs", "ours", "remark"]
STAGES = ("models", "training", "evaluation", "calibration", "GRPO", "scene graphs", "editing")
NOT_YET = re.compile(rf"not yet \(({'|'.join(STAGES)})\)")
CODE = re.compile(r"`([^`]+)`")
FENCE = re.compile(r"```bash\n(.*?)```", re.DOTALL)
FILE = re.compile(r"[\w./-]+(\.(json|jsonl|html|txt|csv|png)|/)")

FRAMEWORK, TOOLKIT, GUIDE, SCENE_GRAPHS, UNIMEDVL = (
    "The VLM fine-tuning and calibration framework", "The LLaVA-Med SLAKE toolkit", "The BLIP-2 on VQA-RAD guide",
    "The MIMIC-CXR scene-graph pipeline", "UniMedVL")

THEIRS = {
    FRAMEWORK: {
        "quick_test.py": """quick_test.py --gpu --dataset --slake_path --test_all_models --model_families
            --inference_only --keep_outputs --output_dir --model_id --num_train_samples --num_test_samples
            --num_calibration_samples --skip_training --skip_calibration --seed""",
        "test_framework.py": "test_framework.py --basic --test --all --gpu",
        "train_sft.py": """train_sft.py --gpu --model_id --output_dir --dataset --slake_path --question_type --epochs
            --subsample_size --seed --split --batch_size --grad_accum --learning_rate --warmup_ratio --max_length
            --lr_scheduler --lora_r --lora_alpha --lora_dropout --save_strategy --save_steps --save_total_limit
            --use_4bit --no_4bit --optim""",
        "run_inference.py": """run_inference.py --model_id --adapter_path --dataset --slake_path --split --output_path
            --question_type --max_examples --num_samples --max_new_tokens --temperature --top_p --seed --use_4bit""",
        "evaluate_calibration.py": """evaluate_calibration.py --model_id --adapter_path --dataset --num_samples
            --output_dir --method --samples_per_batch --num_bins --temperature --prompt_mode --max_examples --split
            --seed""",
        "run_experiments.py": """run_experiments.py --models --question_types --gpus --epochs --datasets
            --subsample_sizes --output_base --seed --dry_run""",
        "train_grpo.py": """train_grpo.py --num_generations --temperature --beta --max_completion_length --loss_type
            --epochs --batch_size --grad_accum --learning_rate --accuracy_weight --format_weight --max_samples
            --report_to --save_steps""",
        "Config fields": """ModelConfig.model_id ModelConfig.use_4bit ModelConfig.use_flash_attention
            ModelConfig.model_family ModelConfig.torch_dtype ModelConfig.device_map ModelConfig.trust_remote_code
            DataConfig.dataset_name DataConfig.data_path DataConfig.question_type DataConfig.subsample_size
            DataConfig.seed DataConfig.split DataConfig.image_dir SFTConfig.output_dir SFTConfig.num_epochs
            SFTConfig.per_device_batch_size SFTConfig.gradient_accumulation_steps SFTConfig.learning_rate SFTConfig.lora
            ExperimentConfig EvaluationConfig InferenceConfig GRPOConfig run_sft_training get_dataset BaseVQADataset
            register_dataset VQA_FEATURES list_available_datasets get_statistics ModelFamily _detect_family set_gpu""",
        "Output files": """metrics.json detailed_results.json summary.txt adapter_config.json adapter_model.safetensors
            experiment_metadata.json checkpoint-N/""",
    },
    TOOLKIT: {
        "train_llava_med.py": """train_llava_med.py --data_source --slake_root --output_dir --mask_mode --use_lora
            --lora_target_modules --freeze_vision_tower --tune_mm_projector --tb --fallback_model_id --split
            --eval_split --num_epochs --batch_size --grad_accum --lr --weight_decay --warmup_ratio --max_prompt_len
            --max_answer_len --use_triple_context --triple_k --max_triples --triples_mode --open_prompt_style
            --closed_prompt_style --mask_pad_ratio --mask_threshold --mask_union_mode --mask_debug_dir --mask_debug_n
            --mask_require_hit_rate --mask_pixel_diff_check --lora_r --lora_alpha --lora_dropout
            --gradient_checkpointing --unfreeze_last_llm_layers --logging_steps --save_steps --eval_steps
            --save_total_limit --resume_from_checkpoint --dry_run --tb_logdir --tb_log_images_every --tb_log_text_every
            --tb_probe_size --tb_eval_generate_size --tb_hist_every --closed_train_objective --closed_mc_weight
            --closed_mc_max_options --closed_mc_vocab_k --closed_mc_neg_seed --closed_mc_routes --run_final_eval
            --final_eval_split""",
        "eval_llava_med.py": """eval_llava_med.py --model_id_or_ckpt --data_source --slake_root --output_dir
            --closed_candidate_mode --closed_vocab_path --mode --allow_build_vocab --topk_vocab_candidates
            --closed_vocab_topk --closed_use_vocab_fallback --closed_yesno_variants --closed_length_norm
            --max_new_tokens_open_default --max_new_tokens_open_abnormality --max_new_tokens_closed --temperature
            --do_sample --probe_size --probe_seed --probe_split --diagnose_out_dir --diagnose_examples
            --diagnose_generic_set --diagnose_yes_variants --diagnose_no_variants --smoke_test --batch_size --seed""",
        "slake_to_llava_sft.py": "slake_to_llava_sft.py --data_root --output_dir",
        "test.py": """test.py --model_id --device_map --device --dtype --use_flash_attention --skip_generate
            --max_new_tokens --image --question""",
        "Output files": """gt.jsonl preds.jsonl metrics.json run_config.json closed_vocab.json mask_debug/
            diagnostics.json open_top_preds.csv closed_yesno_report.csv examples_open_image.jsonl
            examples_closed_yesno.jsonl""",
    },
    GUIDE: {
        "04_train_vqa.py": """--dataset --epochs --batch_size --lr --lora_rank --grad_accum --quantize --use_exemplar
            --no_exemplar --multitask""",
        "Scripts and steps": """data/download.py experiments/04_train_vqa.py evaluation/compare_to_paper.py
            models/blip2_wrapper.py compute_bleu1 compute_f1_token results/figures/ results/tables/""",
    },
    SCENE_GRAPHS: {
        "analyze_data.py": """analyze_data.py --mimic_cxr_path --mimic_qa_path --config --chexpert_path --output_dir
            analysis_report.json distribution_plots.png""",
        "train_mimic_cxr.py": """train_mimic_cxr.py --config --mimic_cxr_path --mimic_qa_path --output_dir --batch_size
            --epochs --learning_rate --wandb_project --hub_model_id --max_samples --disable_wandb --skip_data_check
            --deepspeed""",
        "evaluate.py": "evaluate.py --model_path --config --compute_attention --test_data --output_dir --batch_size",
        "Config fields": """visual_backbone text_encoder visual_feature_dim scene_graph_dim hidden_size
            num_hidden_layers num_attention_heads sim_layers batch_size_per_gpu gradient_accumulation_steps
            learning_rate weight_decay warmup_ratio num_epochs fp16 gradient_checkpointing vqa_loss_weight
            chexpert_loss_weight dataloader_num_workers dataloader_pin_memory mimic_cxr_jpg_path
            mimic_ext_cxr_qba_path quality_grade view_filter""",
        "Output files": """config.json checkpoint-5000/pytorch_model.bin training_metadata.json
            best_model/pytorch_model.bin hub_upload/ evaluation_report.json""",
    },
    UNIMEDVL: {
        "train_sft_generic.sh": """train_sft_generic.sh pretrain_unified_navit_simple_ver6.py environment.yaml
            --nproc_per_node --master_addr --master_port --dataset_config_file --resume_from_ema path2user_bashrc
            path2project_root path2model_checkpoint""",
        "Mixture file": """finetuned_example.yaml radiology_config.yaml DATASET_REGISTRY DATASET_INFO t2i_pretrain
            vlm_sft unified_edit data_dir jsonl_path dataset_names image_transform_args vit_image_transform_args weight
            num_used_data is_mandatory shuffle_lines shuffle_seed""",
        "JSONL rows": "main_task_type input_img output_img message",
        "interactive_vqa_inferencer.py": """interactive_vqa_inferencer.py model_path target_gpu_device max_mem_per_gpu
            temperature max_new_tokens do_sample seed image_path prompt show_image""",
        "interactive_image_generator.py": """interactive_image_generator.py cfg_text_scale cfg_img_scale num_timesteps
            timestep_shift vae_transform_size text_do_sample text_temperature use_thinking""",
    },
}
"""Every script, flag, field and file of the five systems, by the start of the heading it stands under."""

AWAITED = ("medvqa train grpo", "medvqa train watch", "medvqa experiments run", "medvqa eval compare", "medvqa edit",
           "medvqa generate", "medvqa doctor", "medvqa merge", "medvqa convert llava-med",
           "medvqa train sft --quantization", "medvqa infer --max-memory-per-gpu",
           "medvqa train sft --unfreeze-last-layers", "medvqa train sft --tensorboard", "medvqa train sft --report-to",
           "medvqa train sft --num-processes", "medvqa train sft --deepspeed", "medvqa train sft --push-to-hub",
           "medvqa train sft --closed-objective", "medvqa train sft --resume-from-ema", "medvqa train sft --optimizer",
           "medvqa infer --top-p", "medvqa infer --show-image", "medvqa infer --closed-candidates",
           "medvqa eval answers --diagnose", "medvqa eval calibration --method", "medvqa sanity-check --all-families",
           "medvqa sanity-check --families", "medvqa sanity-check --inference-only",
           "medvqa sanity-check --keep-outputs", "medvqa sanity-check --output-dir", "medvqa sanity-check --only",
           "llava_next", "llava_onevision", "llava_med", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "blip2",
           "phi4_multimodal", "mimic_cxr_qba")
"""What the issues promise: the page must name it from the day it is there."""


@dataclass(frozen=True)
class Row:
    """One row of a table: its system, its heading and cells."""

    system: str
    heading: str
    cells: list[str]


class Parsed(Exception):
    """A command line was accepted: nothing of it is run."""


# --- the page ---------------------------------------------------------------------------------------------------------

def read_rows(page: str) -> Iterator[Row]:
    """Yield the rows of all tables, headers and rules left out."""
    system = heading = ""
    lines = page.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("## "):
            system = heading = line[3:]
        elif line.startswith("### "):
            heading = line[4:]
        elif line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            is_head = not lines[number - 1].startswith("|")
            if is_head:
                assert cells == COLUMNS, f"line {number + 1}: {cells}"
            elif not set(line) <= set("|-"):
                yield Row(system, heading, cells)


ROWS = list(read_rows(PAGE))


def find_command(text: str) -> str:
    """Return the first command in a heading or a cell, or nothing: options named alone belong to it."""
    return next((code for code in CODE.findall(text) if code.startswith("medvqa ")), "")


def find_fault(row: Row) -> str:
    """Return what is wrong with a row, or nothing."""
    if len(row.cells) != len(COLUMNS):
        return f"has {len(row.cells)} cells"
    _, ours, remark = row.cells
    codes = CODE.findall(ours)
    if not codes and not NOT_YET.fullmatch(ours):
        return "names nothing of ours and does not say 'not yet (stage)'"
    if "not yet" in NOT_YET.sub("", f"{ours} {remark}"):
        return "says 'not yet' without a known stage"
    said = [code for code in CODE.findall(remark)
            if code.startswith(("medvqa", "--", "examples/")) or is_setting(code) or is_file(code)]
    homes = [home for home in (find_command(ours), find_command(row.heading)) if home]
    return next((fault for code in (*codes, *said) if (fault := explain(code, homes))), "")


# --- what is there ----------------------------------------------------------------------------------------------------

def explain(code: str, homes: list[str]) -> str:
    """Return why a piece of code names nothing of ours, or nothing; `homes` are the commands it may be an option of."""
    if code.startswith("medvqa "):
        return explain_command(code)
    if code.startswith("-"):
        faults = [explain_command(f"{strip_options(home)} {code}") for home in homes]
        return "" if "" in faults else (faults or [f"'{code}' stands in a table without a command"])[0]
    if code.startswith("medvqa."):
        return "" if code.removeprefix("medvqa.") in workflows.__all__ else f"the Python API has no '{code}'"
    if code.startswith("examples/"):
        return "" if (REPOSITORY / code).exists() else f"there is no '{code}'"
    if is_setting(code):
        return explain_setting(code)
    if FILE.fullmatch(code):
        missing = set(code.strip("/").split("/")) - constants("runs", "workflows", "training", "data/masking")
        return f"nothing writes '{code}' (no {', '.join(missing)})" if missing else ""
    known = {*plugins.datasets.names(), *plugins.models.names(), *constants("evaluation")}
    return "" if code in known else f"'{code}' is no command, option, setting, file, data set, family or metric"


def strip_options(line: str) -> str:
    """Return a command's words up to its first option."""
    words = line.split()
    return " ".join(words[: next((n for n, word in enumerate(words) if word.startswith("-")), len(words))])


def explain_command(line: str) -> str:
    """Return why a command line would be refused as it is typed, or nothing; what it names need not exist.

    A command without anything behind it, and an option at the end without its value, need only be there.
    """
    try:
        leaf, words = find_leaf(shlex.split(line)[1:])
        takes_value = any(words[-1:] == [name] for option in leaf.params for name in option.opts
                          if name.startswith("-") and not option.is_flag)
        if words and not takes_value:
            call(leaf, words)
    except (UsageError, MedVQAError) as error:
        return f"`{line}`: {getattr(error, 'message', error)}"
    return ""


def find_leaf(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words begin with, and the words after it.

    Raises:
        MedVQAError: If there is no such command.
    """
    here = load(None)
    while hasattr(here, "commands"):
        name = words[0] if words else ""
        if name not in here.commands:
            raise MedVQAError(f"there is no command '{name}'")
        here, words = load(here.commands[name]), words[1:]
    return here, words


@cache
def load(part: Any) -> Any:
    """Return a part of the command line with its sub-commands imported; None stands for the whole."""
    return get_command(app) if part is None else part.load() if isinstance(part, Stub) else part


def call(leaf: Any, words: list[str]) -> None:
    """Parse words and check the settings they give, as the command does before it begins."""
    with pytest.raises(Parsed):
        leaf.main(words, standalone_mode=False, obj=Terminal())


def is_file(code: str) -> bool:
    """Return whether something looks like a file or a folder, and not like one that a data set has."""
    return bool(FILE.fullmatch(code)) and code.strip("/") not in constants("data/sources")


def is_setting(code: str) -> bool:
    """Return whether something looks like a setting: its first part is one, and it is no file such as mask.png."""
    return re.split(r"[.=]", code, maxsplit=1)[0] in Settings.model_fields and not FILE.fullmatch(code)


def explain_setting(code: str) -> str:
    """Return why a setting, with or without a value, is none, or nothing."""
    key, _, value = code.partition("=")
    if value:
        try:
            resolve_settings(sets=[code], environment={})
        except MedVQAError as error:
            return error.message
        return ""
    model: Any = Settings
    for part in key.split("."):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if part not in fields:
            return "" if str(model).startswith("dict") else f"there is no setting '{key}'"
        kind = fields[part].annotation
        model = next((kind for kind in get_args(kind) if kind is not type(None)), kind) if isinstance(
            kind, UnionType) else kind
    return ""


@cache
def constants(*packages: str) -> set[str]:
    """Return the texts that stand in the source of some packages, documentation left out."""
    found: set[str] = set()
    for package in packages:
        base = REPOSITORY / "medvqa_cli" / package
        for path in base.rglob("*.py") if base.is_dir() else [base.with_suffix(".py")]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            spoken = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            found |= {node.value for node in ast.walk(tree)
                      if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken}
    return found


@pytest.fixture(autouse=True)
def _only_parse(monkeypatch, tmp_path):
    """Let a command stop once its options and settings are accepted, away from the user's settings."""
    class Recorder(command.Call):
        def __init__(self, terminal, options, values):
            super().__init__(terminal, options, {**values, "gpu": None, "log_file": None})
            self.settings  # noqa: B018 - reading them checks them
            raise Parsed

    monkeypatch.setattr(command, "Call", Recorder)
    monkeypatch.setenv("MEDVQA_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)  # the page's paths start from here


# --- the tests --------------------------------------------------------------------------------------------------------

def test_the_page_has_a_section_for_each_system_with_an_example_and_tables():
    assert list(dict.fromkeys(row.system for row in ROWS)) == list(THEIRS)
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    for part, system in zip(parts, THEIRS, strict=True):
        assert part.startswith(system)
        lines = FENCE.search(part).group(1).strip().splitlines()
        assert 3 <= len(lines) <= 5


@pytest.mark.parametrize("system", THEIRS)
def test_every_row_names_what_is_there_or_says_not_yet(system):
    faults = {" | ".join(row.cells[:2]): fault for row in ROWS if row.system == system and (fault := find_fault(row))}
    assert not faults


def test_the_examples_can_be_typed():
    lines = [part.strip() for block in FENCE.findall(PAGE) for line in block.splitlines() for part in line.split("&&")]
    assert len(lines) > 20
    assert all(line.startswith("medvqa ") for line in lines)
    assert not [fault for line in lines if (fault := explain_command(line))]


@pytest.mark.parametrize("system", THEIRS)
def test_everything_of_theirs_is_in_its_table(system):
    missing = [f"{heading}: {name}" for heading, names in THEIRS[system].items() for name in names.split()
               if name not in list_theirs(system, heading)]
    assert not missing


def list_theirs(system: str, heading: str) -> set[str]:
    """Return what the first column names under the headings that begin so, and under that of the scripts."""
    rows = [row for row in ROWS if row.system == system
            and (row.heading.replace("`", "").startswith((heading, "Scripts")) or f"`{heading}`" in row.heading)]
    codes = [code for row in rows for code in CODE.findall(row.cells[0])]
    return {name for code in codes for name in (code, code.split("(")[0], code.split(".")[0])}


def test_what_the_issues_promise_is_named_once_it_is_there():
    codes = [code for row in ROWS for cell in row.cells[1:] for code in CODE.findall(cell)]
    unnamed = [name for name in AWAITED if not explain(name, []) and not is_named(name, codes)]
    assert not unnamed, "these are there now: name them in examples/coming_from.md in place of 'not yet'"


def is_named(name: str, codes: list[str]) -> bool:
    """Return whether some code is this name or begins with it; an option may stand without its command."""
    option = name.rsplit(maxsplit=1)[-1]
    return any(f"{code} ".startswith(f"{name} ") or (option.startswith("--") and option in code.split())
               for code in codes)


def test_the_keys_of_a_unimedvl_mixture_are_read():
    named = {code for row in ROWS if row.heading.startswith("Mixture file") for code in CODE.findall(row.cells[0])}
    assert set(TYPE_KEYS) <= named


@pytest.mark.parametrize(("code", "fault"), [
    ("medvqa trian sft", "there is no command 'trian'"),
    ("medvqa train rlhf", "there is no command 'rlhf'"),
    ("medvqa train sft --epoch 3", "No such option: --epoch"),
    ("medvqa train sft --epochs three", "'train.epochs' is \"three\""),
    ("medvqa train sft --scheduler cosin", "'train.scheduler' is \"cosin\""),
    ("--bins", "No such option: --bins"),
    ("--lora-r", "No such option: --lora-r"),
    ("train.epoch", "there is no setting 'train.epoch'"),
    ("train.lora.rank", "there is no setting 'train.lora.rank'"),
    ("model.dtype=fp16", "'model.dtype' is \"fp16\""),
    ("answers.jsonl", "nothing writes 'answers.jsonl'"),
    ("calibration/plots.json", "nothing writes 'calibration/plots.json' (no plots.json)"),
    ("examples/none", "there is no 'examples/none'"),
    ("medvqa.train_rl", "the Python API has no 'medvqa.train_rl'"),
    ("slakes", "'slakes' is no command, option, setting, file, data set, family or metric"),
])
def test_what_is_not_there_is_found(code, fault):
    assert fault in explain(code, ["medvqa infer"])


@pytest.mark.parametrize("cells", [
    ["`--old`", "", ""], ["`--old`", "soon", ""], ["`--old`", "not yet", ""], ["`--old`", "not yet (later)", ""],
    ["`--old`", "`--limit 5`"], ["`--old`", "`--limit 5`", "", ""], ["`--old`", "`--limit five`", ""],
    ["`--old`", "`--limit 5`", "see `medvqa nothing`"], ["`--old`", "`--limit 5`", "more: not yet (soon)"],
])
def test_a_wrong_row_is_found(cells):
    assert find_fault(Row("", "`old.py` → `medvqa infer`", cells))
    assert not find_fault(Row("", "`old.py` → `medvqa infer`", ["`--old`", "`--limit 5`", "or `--split`"]))
