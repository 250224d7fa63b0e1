"""Every option of every command in one table: its flag, the setting it gives, its help, its completion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal

from medvqa_cli.cli.completion import (
    complete_choice,
    complete_dataset,
    complete_family,
    complete_model,
    complete_run,
    complete_split,
    complete_tag,
)
from medvqa_cli.cli.groups import EVERYWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LONGEST_METAVAR = 15
Kind = Literal["text", "switch", "many", "argument", "required", "several", "any"]


@dataclass(frozen=True, slots=True)
class Option:
    """One option or argument.

    Args:
        flag: As typed, such as "--batch-size"; an argument has a name in capitals.
        help: One line.
        key: The dotted setting it gives; empty: the command reads it itself.
        metavar: What stands for its value in the help.
        kind: Whether it takes text, is a switch, may be given many times, or is given by position (`required`: it
            must be; `several`: at least once; `any`: as often as wanted).
        complete: Returns candidates for its value.
        panel: Heading in the help.
    """

    flag: str
    help: str
    key: str = ""
    metavar: str = "TEXT"
    kind: Kind = "text"
    complete: Callable[..., Any] | None = None
    panel: str = "Options"

    @property
    def name(self) -> str:
        """The name a command reads it by; one that is a word of Python has an underscore behind it."""
        name = self.flag.lstrip("-").replace("-", "_").lower()
        return f"{name}_" if iskeyword(name) else name

    @property
    def is_argument(self) -> bool:
        """Whether it is given by position."""
        return self.kind in {"argument", "required", "several", "any"}


def _panel(title: str, *options: Option) -> tuple[Option, ...]:
    return tuple(replace(option, panel=title) for option in options)


def _choice(flag: str, key: str, choices: str, help: str) -> Option:  # noqa: A002 - the field's name
    """Return an option that takes one of some words, written with `|` between them; many words stand in the help."""
    words = choices.split("|")
    metavar = choices
    if len(choices) > LONGEST_METAVAR:
        help, metavar = f"{help[:-1]}: {', '.join(words[:-1])} or {words[-1]}.", "NAME"  # noqa: A001
    return Option(flag, help, key, metavar, complete=complete_choice(words))


def leave_out(options: Iterable[Option], *flags: str) -> tuple[Option, ...]:
    """Return the options without those that would do nothing in some command."""
    return tuple(option for option in options if option.flag not in flags)


def put_first(options: Iterable[Option], *flags: str) -> tuple[Option, ...]:
    """Return a command's many options with those used most in a panel of their own, before all others."""
    known = {option.flag: option for option in options}
    first = [replace(known.pop(flag), panel="Most used") for flag in flags]
    return (*first, *(replace(option, panel="Run") if option.panel == "Options" else option
                      for option in known.values()))


GENERAL = _panel(
    EVERYWHERE,
    Option("--config", "Settings file (TOML, YAML or JSON).", metavar="FILE"),
    Option("--set", "One setting, such as --set train.epochs=1; repeatable.", metavar="KEY=VALUE", kind="many"),
    Option("--plugin", "Loose plugin file; repeatable.", "plugins", "FILE", "many"),
    Option("--runs-dir", "Folder of runs.", "paths.runs", "DIR"),
    Option("--prepared-dir", "Folder of prepared data sets.", "paths.prepared", "DIR"),
    Option("--json", "Print one JSON document on stdout.", kind="switch"),
    Option("--quiet", "Say only what is wrong.", kind="switch"),
    Option("--verbose", "Say more; show messages of libraries.", kind="switch"),
    Option("--log-file", "Also write all messages, with times, to this file.", metavar="FILE"),
)
NAME = Option("NAME", "Data set.", "data.dataset", "NAME", "argument", complete_dataset)
DATASET = Option("--dataset", "Data set (medvqa data list).", "data.dataset", "NAME", complete=complete_dataset)
SEED = Option("--seed", "Seed of everything random.", "seed", "N")
LIMIT = Option("--limit", "Use only the first N questions of each split.", "data.limit", "N")
FILES = _panel(
    "Data",
    Option("--root", "Folder or archive of the data set's original files.", "data.root", "PATH"),
    _choice("--source", "data.source", "auto|local|hf", "Local files, or the hub copy."),
    _choice("--missing-images", "data.missing_images", "error|skip", "Stop at a missing image, or leave it out."),
)
CHOICE = _panel(
    "Data",
    Option("--language", "Keep questions in this language, or all.", "data.language", "CODE"),
    _choice("--question-type", "data.question_type", "all|closed|open", "Keep all, closed or open questions."),
    Option("--subsample", "Train on N questions drawn with the seed.", "data.subsample", "N"),
    LIMIT,
)
SELECTION = (*FILES, *CHOICE)
DATA = (*_panel("Data", DATASET), *SELECTION)
OWN_DATA = _panel(
    "Data",
    Option("--columns", "Columns of your own table, such as question=Q,answer=A,image=file.", "data.options.columns",
           "FIELD=COLUMN,..."),
    Option("--image-root", "Folder that image paths in your own files start from.", metavar="DIR"),
)
WORKERS = Option("--workers", "Images looked at side by side; 0 takes one a core.", "data.workers", "N", panel="Data")
PRESENTATION = _panel(
    "Prompt and image",
    _choice("--prompt-style", "prompt.style", "plain|short|minimal|chain_of_thought|think", "How a question is put."),
    _choice("--show-options", "prompt.options", "auto|always|never", "Show a question's options."),
    Option("--exemplar", "Worked example shown first; repeatable.", "prompt.exemplars", "'Q => A'", "many"),
    Option("--instruction", "Text added after every question.", "prompt.instruction", "TEXT"),
    _choice("--mask-mode", "mask.mode", "none|crop|masked", "Show only the segmented part of an image."),
    _choice("--mask-classes", "mask.classes", "all|disease|question", "Which classes of a mask count."),
    Option("--mask-debug", "Keep pictures of N masked images to look at.", "mask.debug", "N"),
    _choice("--knowledge", "knowledge.mode", "off|record|graph", "Put facts of a knowledge graph before the question."),
    Option("--max-triples", "Most facts for a question.", "knowledge.max_triples", "N"),
)
CHECKS = _panel(
    "Data",
    Option("--mixture", "Train on several data sets, mixed as this YAML file says.", "data.mixture", "FILE"),
    _choice("--analyze", "data.analyze", "auto|never", "Analyse data that have no analysis yet, where it is cheap."),
    Option("--skip-data-check", "Train on data without a passing analysis.", "data.skip_check", kind="switch"),
)
MODEL = _panel(
    "Model",
    Option("--model", "Alias, family, hub id, path, or a run.", "model.name", "NAME", complete=complete_model),
    Option("--family", "Model family; detected if not given.", "model.family", "NAME", complete=complete_family),
    Option("--model-revision", "Branch, tag or commit of a hub checkpoint.", "model.revision", "NAME"),
    _choice("--dtype", "model.dtype", "auto|float32|bfloat16|float16", "Number format."),
    _choice("--quantization", "model.quantization", "auto|none|8bit|4bit", "Language model in few bits."),
    _choice("--device", "model.device", "auto|cpu|cuda|mps", "Where the model runs."),
    _choice("--attention", "model.attention", "auto|sdpa|eager|flash", "Attention implementation."),
    _choice("--too-long", "model.too_long", "error|skip", "Stop at a question longer than the model reads, or leave "
            "it out."),
    Option("--gpu", "GPUs to use, such as 0 or 0,1.", metavar="IDS"),
    Option("--max-memory-per-gpu", "Most memory of a GPU for weights, such as 40GiB.", "model.max_memory_per_gpu",
           "SIZE"),
    Option("--trust-remote-code", "Let this checkpoint's own Python code run.", "model.trust_remote_code", "ORG/NAME"),
    Option("--allow-pickle", "Also load weights that are pickled (.bin).", "model.allow_pickle", kind="switch"),
)
TRAINING = _panel(
    "Training",
    Option("--scratch", "Train a small model of the family from random weights.", "model.scratch", kind="switch"),
    _choice("--tuning", "train.tuning", "auto|lora|full", "Train adapters or everything."),
    Option("--lora-r", "Rank of the adapters.", "train.lora.r", "N"),
    Option("--lora-alpha", "Scale of the adapters.", "train.lora.alpha", "N"),
    Option("--lora-dropout", "Dropout before the adapters.", "train.lora.dropout", "P"),
    Option("--lora-targets", "Preset, module names with commas between, re:PATTERN, or none.", "train.lora.targets",
           "NAMES"),
    Option("--lora-parts", "Parts to adapt: language_model, vision_tower, projector.", "train.lora.parts", "NAMES"),
    Option("--dora", "Learn length and direction of weights apart (DoRA).", "train.lora.dora", kind="switch"),
    Option("--rslora", "Scale adapters by alpha / sqrt(r) (rsLoRA).", "train.lora.rslora", kind="switch"),
    Option("--freeze-vision-tower", "Keep the vision tower as it is.", "train.freeze_vision_tower", kind="switch"),
    Option("--tune-projector", "Train the projector in full beside LoRA.", "train.tune_projector", kind="switch"),
    Option("--unfreeze-last-layers", "Train the last N layers in full beside LoRA.", "train.unfreeze_last_layers",
           "N"),
    Option("--epochs", "Passes over the training questions.", "train.epochs", "N"),
    Option("--max-steps", "Stop after N optimiser steps.", "train.max_steps", "N"),
    Option("--batch-size", "Rows per forward pass; packed, a row is an image with its questions.", "train.batch_size",
           "N"),
    Option("--grad-accum", "Forward passes per optimiser step.", "train.gradient_accumulation", "N"),
    Option("--learning-rate", "Peak learning rate.", "train.learning_rate", "RATE"),
    Option("--warmup", "Share of the steps over which the learning rate rises.", "train.warmup", "P"),
    _choice("--scheduler", "train.scheduler", "cosine|linear|constant", "How the learning rate falls."),
    _choice("--packing", "train.packing", "auto|on|off", "One image prefix for several questions."),
    Option("--pack-questions", "Most questions in one pack; fewer mix more images into a step.",
           "train.pack_questions", "N"),
    Option("--pack-length", "Most tokens in one pack.", "train.pack_length", "N"),
    _choice("--vision-cache", "train.vision_cache", "off|memory|disk", "Keep what a frozen vision tower computes."),
    _choice("--augment", "train.augment.mode", "none|light", "Vary training pictures a little; never flips by itself."),
    Option("--gradient-checkpointing", "Trade time for memory.", "train.gradient_checkpointing", kind="switch"),
    Option("--workers", "Processes that load images.", "train.workers", "N"),
    Option("--deepspeed", "DeepSpeed's settings (JSON), such as examples/deepspeed/zero2.json.", "train.deepspeed",
           "FILE"),
    Option("--fsdp", "FSDP's settings (JSON), such as examples/fsdp/fsdp2.json.", "train.fsdp", "FILE"),
    Option("--save-total-limit", "Checkpoints kept.", "train.save_total_limit", "N"),
    Option("--ema", "Decay of the weights' moving average, such as 0.999; it is validated and kept.", "train.ema",
           "DECAY"),
    _choice("--balance", "train.balance", "none|answer_type|question_type|answer", "Let rare classes count more."),
    Option("--loss-weights", "How much groups count, such as '{\"answer_type=closed\": 2}'.", "train.loss_weights",
           "JSON"),
    Option("--closed-share", "Share of closed questions in every epoch.", "train.closed_share", "P"),
    _choice("--closed-objective", "train.closed_objective", "sft|mc|hybrid",
            "Teach closed questions as text, as a choice among candidates, or as both."),
    Option("--choice-weight", "What the loss of the choices is multiplied with.", "train.choice_weight", "W"),
    _choice("--best-metric", "train.best_metric", "eval_loss|probe_accuracy", "What the best weights are best in."),
    Option("--early-stopping", "Stop after N measurements of it without a gain; 0 never.", "train.early_stopping",
           "N"),
    Option("--min-delta", "A gain is more than this.", "train.min_delta", "D"),
    _choice("--keep", "train.keep", "auto|last|best", "Which weights become the run's."),
)
TRACKING = _panel(
    "Tracking",
    Option("--report-to", "Also write to these trackers: tensorboard, wandb.", "tracking.report_to", "NAMES"),
    Option("--probe-questions", "Validation questions answered while training; 0 none.", "tracking.probe_questions",
           "N"),
    Option("--probe-every", "Answer them after so many optimiser steps.", "tracking.probe_steps", "N"),
    Option("--histogram-every", "Optimiser steps between histograms; 0 never.", "tracking.histogram_steps", "N"),
    Option("--images-every", "Optimiser steps between image grids; 0 never.", "tracking.image_steps", "N"),
    Option("--text-previews", "Training questions shown as the model sees them.", "tracking.text_previews", "N"),
)
RUN = Option("--run", "Run to use; the latest if neither a run nor a model is named.", metavar="RUN",
             complete=complete_run)
RUN_ARGUMENT = Option("RUN", "Run; the latest if not given.", kind="argument", complete=complete_run)
SPLIT = Option("--split", "Split of the data set.", metavar="SPLIT", complete=complete_split)
TAG = Option("--tag", "Keep these answers beside others, under this name.", metavar="NAME", complete=complete_tag)
ANSWERED_RUN = Option("--run", "Run whose answers are scored; the latest that has some if none is named.",
                      metavar="RUN", complete=complete_run)
ANSWERS_TAG = Option("--tag", "Score the answers kept under this name; with --from, keep the file's under it.",
                     metavar="NAME", complete=complete_tag)
ENGINE = _panel(
    "Engine",
    _choice("--engine", "infer.engine", "transformers|openai|vllm", "What runs the model; openai is any server of that "
            "interface."),
    Option("--base-url", "Where the server is, such as http://localhost:8000/v1.", "infer.server.base_url", "URL"),
    Option("--concurrency", "Questions under way at the server at the same time.", "infer.server.concurrency", "N"),
)
INFERENCE = _panel(
    "Inference",
    Option("--max-new-tokens", "Most tokens of an answer.", "infer.max_new_tokens", "N"),
    Option("--temperature", "0 is greedy; else answers are sampled.", "infer.temperature", "T"),
    Option("--top-k", "Sample among the K likeliest tokens.", "infer.top_k", "K"),
    Option("--top-p", "Sample among the likeliest tokens that together have probability P.", "infer.top_p", "P"),
    Option("--batch-size", "Rows per forward pass where no image is shared.", "infer.batch_size", "N"),
    _choice("--shared-prefix", "infer.shared_prefix", "auto|on|off", "Encode an image once for all its questions."),
    Option("--blank-images", "Show a grey picture instead of every image.", "infer.blank_images", kind="switch"),
    _choice("--control", "infer.control", "off|blank|shuffled|shuffled-modality|text-only",
            "What the model sees in place of the image."),
    Option("--option-rotation", "Ask questions that show options with these moved on by N places.",
           "infer.option_rotation", "N"),
    _choice("--closed-candidates", "infer.closed_candidates", "off|auto|yesno|options|vocab",
            "Answer closed questions by the likeliest candidate."),
    Option("--closed-vocab", "Vocabulary file of closed answers to use.", "infer.closed_vocab", "FILE"),
)
CALIBRATION = _panel(
    "Calibration",
    Option("--samples", "Answers drawn for each question.", "calibration.samples", "N"),
    Option("--temperature", "Sampling temperature.", "calibration.temperature", "T"),
    Option("--top-k", "Sample among the K likeliest tokens.", "calibration.top_k", "K"),
    Option("--top-p", "Sample among the likeliest tokens that together have probability P.", "calibration.top_p", "P"),
    Option("--max-new-tokens", "Most tokens of a sampled answer.", "calibration.max_new_tokens", "N"),
    Option("--bins", "Equal-width confidence bins.", "calibration.bins", "N"),
)
DRY_RUN = Option("--dry-run", "Print what would be done and write nothing.", kind="switch")
OPEN = Option("--open", "Open the report in a browser.", kind="switch")
