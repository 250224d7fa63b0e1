"""`medvqa bench`: how fast this machine is with one image and many questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import MODEL, SEED, Option
from medvqa_cli.cli.run_choice import typed_model
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.cli.command import Call
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.bench.shapes import BenchShape

app = make_group("How fast this machine is with one image and many questions: train, infer, sample.")
WORK, RANDOM = "Work", "Random weights"
QUESTIONS = Option("--questions", "Questions about an image; 11, of bench sample 1.", metavar="N", panel=WORK)
ROUNDS = Option("--rounds", "Times each way is measured, in turn; 3.", metavar="N", panel=WORK)
IMAGES = Option("--images", "Images at once; 1.", metavar="N", panel=WORK)
ROWS = Option("--rows", "Rows of the batched way; one a question.", metavar="N", panel=WORK)
NEW_TOKENS = Option("--max-new-tokens", "Most tokens of an answer; 8.", metavar="N", panel=WORK)
SAMPLES = Option("--samples", "Answers drawn for each question; 100.", metavar="N", panel=WORK)
TEMPERATURE = Option("--temperature", "Temperature of the draws; 1. A low one makes random weights agree as trained "
                     "ones do.", metavar="T", panel=WORK)
LIKE = Option("--like", "Checkpoint whose sizes they have, such as llava_1.5_7b, or a folder with its config.json.",
              metavar="NAME", panel=RANDOM)
SHAPE = tuple(Option(f"--{name}", f"{text}.", metavar="N", panel=RANDOM) for name, text in (
    ("image-tokens", "Tokens of an image; 576"), ("hidden", "Width of vision tower and language model; 512"),
    ("layers", "Layers of the language model; 8"), ("vision-layers", "Layers of the vision tower; 6"),
    ("heads", "Attention heads of both; 8"), ("vocabulary", "Tokens of the vocabulary; 32000")))
GIB, GIGA = 2**30, 1e9


@command(app, "train", QUESTIONS, IMAGES, ROWS, ROUNDS, LIKE, *SHAPE, *MODEL, SEED)
def measure_training(call: Call) -> None:
    """Measure a LoRA step: rows one by one, in a batch, packed. --model takes real weights, --family and --like random.

    Losses and gradients of all ways must be equal; if they are not, that is an error and no benchmark.
    """
    from medvqa_cli.workflows.bench.train import bench_train

    rows = call.count("rows", 1) if call.text("rows") else None
    report = bench_train(_read_settings(call), _read_shape(call), rounds=call.count("rounds", 3), rows=rows,
                         progress=call.progress)
    if call.answer_json(report):
        return
    columns = ["way", "seconds", "spread", "times faster", "samples/s", "tokens/s", "peak memory", "estimated",
               "of peak", "loss"]
    call.terminal.print_table(columns, map(_describe_step, report["ways"]), _title(report, "an optimiser step"))
    call.terminal.print()
    call.terminal.print(f"Peak {report['peak_flops_per_second'] / GIGA:,.0f} GFLOP/s ({report['peak_source']}). "
                        "Of it: operations as torch counts them while they are done, 2 m n k for a product of "
                        "matrices. Tokens are those of separate rows, whichever way they went. Estimated: memory by "
                        "the formula of `medvqa models info`, without what the process holds besides.")


@command(app, "infer", QUESTIONS, IMAGES, NEW_TOKENS, ROUNDS, LIKE, *SHAPE, *MODEL, SEED)
def measure_answers(call: Call) -> None:
    """Measure greedy answers: transformers' generate for each question, against one prefix for all of an image."""
    from medvqa_cli.workflows.bench.answers import Wanted, bench_infer

    wanted = Wanted(max_new_tokens=call.count("max_new_tokens", 8), rounds=call.count("rounds", 3))
    report = bench_infer(_read_settings(call), _read_shape(call), wanted, call.progress)
    if call.answer_json(report):
        return
    call.terminal.print_table(["way", "seconds", "spread", "times faster", "questions/s", "peak memory"],
                              ([*_describe_time(way), _number(way.get("questions_per_second")), _memory(way)]
                               for way in report["ways"]),
                              _title(report, f"greedy answers of at most {wanted.max_new_tokens} tokens"))
    call.terminal.print()
    call.terminal.print(f"{report['equal_answers']} of {report['samples']} answers are equal.")


@command(app, "sample", SAMPLES, TEMPERATURE, QUESTIONS, IMAGES, NEW_TOKENS, ROUNDS, LIKE, *SHAPE, *MODEL, SEED)
def measure_samples(call: Call) -> None:
    """Measure many answers drawn for a question: separate generates, num_return_sequences, the sample tree."""
    from medvqa_cli.workflows.bench.answers import Wanted, bench_sample

    wanted = Wanted(samples=call.count("samples", 100), max_new_tokens=call.count("max_new_tokens", 8),
                    temperature=_read_temperature(call), rounds=call.count("rounds", 3))
    report = bench_sample(_read_settings(call), _read_shape(call, questions=1), wanted, call.progress)
    if call.answer_json(report):
        return
    call.terminal.print_table(["way", "seconds", "spread", "times faster", "distinct", "peak memory"],
                              ([*_describe_time(way), way.get("distinct"), _memory(way)] for way in report["ways"]),
                              _title(report, f"{wanted.samples} samples of at most {wanted.max_new_tokens} tokens"))
    for way in report["ways"]:
        if "measured_share" in way:
            call.terminal.print()
            call.terminal.print(f"{way['name']}: extrapolated from {way['measured_share']:.0%} of the samples.")


def _read_settings(call: Call) -> Settings:
    """Return the settings; a family or sizes typed without a model mean random weights, whatever a file names."""
    settings = call.settings
    if (call.text("family") or call.text("like")) and not typed_model(call):
        return settings.model_copy(update={"model": settings.model.model_copy(update={"name": None})})
    return settings


def _read_shape(call: Call, questions: int = 11) -> BenchShape:
    from medvqa_cli.workflows.bench.shapes import BenchShape

    _refuse_both(call)
    default = BenchShape(questions=questions)
    names = [option.name for option in (QUESTIONS, IMAGES, *SHAPE)]
    counts = {name: call.count(name, getattr(default, name)) for name in names}
    return BenchShape(**counts, like=call.text("like") or "")


def _refuse_both(call: Call) -> None:
    """Refuse sizes that are given twice."""
    if typed_model(call):
        given, refused = "--model names a model", (LIKE, *SHAPE)
    elif call.text("like"):
        given, refused = "--like names a checkpoint that has its own", SHAPE
        if call.text("family"):
            raise SettingsError("--family and --like both say what is built.", "Leave one of them out.")
    else:
        return
    for option in refused:
        if call.text(option.name):
            raise SettingsError(f"{option.flag} is of random weights, but {given}.", "Leave one of them out.")


def _read_temperature(call: Call) -> float:
    typed = call.text("temperature") or "1"
    try:
        value = float(typed)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SettingsError(f"--temperature is '{typed}': it should be a number above 0.")
    return value


def _title(report: Mapping[str, Any], what: str) -> str:
    subject = report["subject"]
    name = f"{subject['family']} like {subject['like']}" if "like" in subject else subject["family"]
    return (f"{name}, {subject['weights']} weights, {_number(subject['parameters'] / 1e6)} M parameters, "
            f"{subject['dtype']} on {subject['device']}: {what}, {subject['questions']} x {subject['images']} "
            f"questions, {subject['image_tokens']} image tokens")


def _describe_step(way: Mapping[str, Any]) -> list[Any]:
    return [*_describe_time(way), _number(way.get("samples_per_second")), _number(way.get("tokens_per_second")),
            _memory(way), _memory(way, "estimated_bytes"),
            f"{way['share_of_peak']:.0%}" if "share_of_peak" in way else None,
            f"{way['loss']:.5f}" if "loss" in way else None]


def _describe_time(way: Mapping[str, Any]) -> list[Any]:
    if "failure" in way:
        return [way["name"], way["failure"], None, None]
    ratio = f"{way['ratio']:.2f} ({way['ratio_low']:.2f} to {way['ratio_high']:.2f})" if "ratio" in way else None
    return [way["name"], f"{way['seconds']:.3f}", f"{way['seconds_low']:.3f} to {way['seconds_high']:.3f}", ratio]


def _memory(way: Mapping[str, Any], key: str = "peak_bytes") -> str | None:
    return f"{way[key] / GIB:.2f} GiB" if way.get(key) else None


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"
