"""A line typed is the call it seems to be."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from medvqa_cli import plugins
from medvqa_cli.cli.plans import describe_training
from medvqa_cli.records import write_json
from medvqa_cli.settings.schema import make_settings


def only(calls):
    assert len(calls) == 1, calls
    return calls[0]


def test_the_cards_training_line(medvqa, workflows):
    result = medvqa("train", "sft", "--model", "llava-med", "--dataset", "slake")
    assert result.exit_code == 0, result.stderr
    call = only(workflows)
    settings = call.arguments[0]
    assert (call.job, settings.model.name, settings.data.dataset) == ("train_sft", "llava-med", "slake")
    assert (call.job, call.resume, call.init_from, call.dry_run) == ("train_sft", None, None, False)
    assert "Next: medvqa infer --run fake" in result.stderr


@pytest.mark.parametrize(("words", "shown"), [((), "off"), (("--blank-images",), "blank"),
                                              (("--control", "shuffled"), "shuffled")])
def test_calibration_of_a_control(medvqa, workflows, make_run, words, shown):
    make_run("small", dataset="slake")
    result = medvqa("eval", "calibration", "--run", "small", *words)
    assert result.exit_code == 0, result.stderr
    assert only(workflows).arguments[0].infer.shown == shown


def test_the_cards_calibration_line_takes_the_latest_run(medvqa, workflows, make_run):
    make_run("older", dataset="vqa_rad")
    latest = make_run("latest", dataset="slake", seed=7)
    result = medvqa("eval", "calibration", "--samples", "100")
    assert result.exit_code == 0, result.stderr
    call = only(workflows)
    settings = call.arguments[0]
    assert (call.job, call.run, call.split) == ("evaluate_calibration", str(latest.path), None)
    assert (settings.calibration.samples, settings.data.dataset, settings.seed) == (100, "slake", 7)
    assert "taking the latest trained run, 'latest' (data set 'slake')" in result.stderr
    assert ["Calibration", "error", "(ECE)", "0.125"] in [line.split() for line in result.stdout.splitlines()]


def test_every_training_flag_reaches_its_setting(medvqa, workflows):
    result = medvqa(
        "train", "sft", "--dataset", "slake", "--root", "/d", "--language", "zh", "--question-type", "closed",
        "--subsample", "10", "--limit", "20", "--missing-images", "skip", "--model", "m", "--family", "llava",
        "--dtype", "bfloat16", "--device", "cpu", "--attention", "eager", "--scratch", "--tuning", "lora",
        "--lora-r", "4", "--lora-alpha", "8", "--lora-dropout", "0.1", "--lora-targets", "q_proj,v_proj",
        "--freeze-vision-tower", "--tune-projector", "--lora-parts", "language_model,projector", "--dora", "--rslora",
        "--unfreeze-last-layers", "2", "--epochs", "2", "--max-steps", "9", "--batch-size", "3",
        "--grad-accum", "5", "--learning-rate", "1e-3", "--warmup", "0.1", "--scheduler", "linear", "--packing", "off",
        "--gradient-checkpointing", "--workers", "2", "--seed", "3", "--runs-dir", "r", "--prepared-dir", "p",
        "--name", "n", "--set", "train.log_steps=1", "--set", "data.options.count=4")
    assert result.exit_code == 0, result.stderr
    call = only(workflows)
    s = call.arguments[0]
    assert (s.data.dataset, s.data.root, s.data.language, s.data.question_type, s.data.subsample, s.data.limit,
            s.data.missing_images) == ("slake", Path("/d"), "zh", "closed", 10, 20, "skip")
    assert (s.model.name, s.model.family, s.model.dtype, s.model.device, s.model.attention, s.model.scratch) == (
        "m", "llava", "bfloat16", "cpu", "eager", True)
    t = s.train
    assert (t.tuning, t.lora.r, t.lora.alpha, t.lora.dropout, t.lora.targets, t.freeze_vision_tower, t.tune_projector,
            t.epochs, t.max_steps, t.batch_size, t.gradient_accumulation, t.learning_rate, t.warmup, t.scheduler,
            t.packing, t.gradient_checkpointing, t.workers, t.log_steps) == (
        "lora", 4, 8, 0.1, ("q_proj", "v_proj"), True, True, 2, 9, 3, 5, 1e-3, 0.1, "linear", "off", True, 2, 1)
    assert (t.lora.parts, t.lora.dora, t.lora.rslora, t.unfreeze_last_layers) == (
        ("language_model", "projector"), True, True, 2)
    assert (s.seed, s.paths.runs, s.paths.prepared, call.name, s.data.options) == (
        3, Path("r"), Path("p"), "n", {"count": 4})


def test_init_from_may_be_said_by_naming_a_run_as_model(medvqa, workflows, make_run):
    make_run("first")
    assert medvqa("train", "sft", "--init-from", "first").exit_code == 0
    assert medvqa("train", "sft", "--model", "first").exit_code == 0
    assert [call.init_from for call in workflows] == ["first", "first"]


def test_resume_takes_no_other_settings(medvqa, workflows):
    assert medvqa("train", "sft", "--resume", "a", "--runs-dir", "r").exit_code == 0
    assert only(workflows).resume == "a"
    result = medvqa("train", "sft", "--resume", "a", "--epochs", "3", "--set", "seed=1", "--name", "b")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --resume goes on with the run's own settings: --set seed, --epochs, --name "
                                    "would have no effect.\nhint: ")
    assert len(workflows) == 1


def test_infer_continues_from_a_named_run(medvqa, workflows, make_run):
    run = make_run("a", dataset="slake", infer={"max_new_tokens": 7, "batch_size": 2})
    make_run("newer")
    result = medvqa("infer", "--run", "a", "--split", "validation", "--tag", "t", "--max-new-tokens", "9",
                    "--blank-images", "--overwrite")
    assert result.exit_code == 0, result.stderr
    call = only(workflows)
    settings = call.arguments[0]
    assert (call.job, call.run, call.split, call.tag, call.overwrite) == (
        "infer_split", str(run.path), "validation", "t", True)
    assert (settings.data.dataset, settings.infer.max_new_tokens, settings.infer.batch_size,
            settings.infer.blank_images) == ("slake", 9, 2, True)
    assert "latest" not in result.stderr


@pytest.mark.parametrize("typed", [("--model", "llava-med"), ("--set", "model.name=llava-med")])
def test_a_named_model_needs_no_run(medvqa, workflows, make_run, typed):
    make_run("a", dataset="slake")
    assert medvqa("infer", *typed).exit_code == 0
    call = only(workflows)
    assert call.run is None
    assert (call.arguments[0].model.name, call.arguments[0].data.dataset) == ("llava-med", "demo")


def test_a_run_may_be_named_as_model(medvqa, workflows, make_run):
    run = make_run("a", dataset="slake")
    make_run("b")
    assert medvqa("infer", "--model", "a").exit_code == 0
    assert only(workflows).run == str(run.path)


def test_a_model_in_a_settings_file_does_not_hide_the_latest_run(medvqa, workflows, make_run, tmp_path):
    run = make_run("a")
    (tmp_path / "c.yaml").write_text("model: {name: llava, scratch: true}\ninfer: {max_new_tokens: 5}\n")
    assert medvqa("infer", "--config", "c.yaml").exit_code == 0
    call = only(workflows)
    assert (call.run, call.arguments[0].infer.max_new_tokens) == (str(run.path), 5)


def test_questions_about_one_image(medvqa, workflows, make_run):
    make_run("a")
    assert medvqa("infer", "--image", "x.png", "--question", "Is it?", "--question", "What?").exit_code == 0
    call = only(workflows)
    assert (call.job, call.arguments[1], call.arguments[2]) == ("infer_image", Path("x.png"), ["Is it?", "What?"])


@pytest.mark.parametrize(("typed", "message"), [
    (("--question", "Q"), "error: --question needs a picture.\nhint: Name one with --image.\n"),
    (("--image", "x.png"), "error: --image needs a question.\n"),
    (("--image", "x.png", "--question", "Q", "--split", "test"),
     "error: --image and --split or --tag exclude each other.\n"),
])
def test_half_an_image_question_is_refused(medvqa, workflows, make_run, typed, message):
    make_run("a")
    result = medvqa("infer", *typed)
    assert (result.exit_code, workflows) == (2, [])
    assert result.stderr.startswith(message)


@pytest.mark.parametrize("line", [("infer",), ("eval", "calibration"), ("eval", "answers"), ("report",),
                                  ("runs", "show")])
def test_without_any_run_the_error_says_what_to_do(medvqa, line):
    result = medvqa(*line, "--runs-dir", "empty")
    assert result.exit_code == 7
    assert result.stderr.startswith("error: ")
    assert "in 'empty'." in result.stderr.splitlines()[0]
    assert "medvqa quickstart" in result.stderr.splitlines()[1]


def test_an_unknown_run_lists_the_known(medvqa, workflows, make_run):
    make_run("a")
    result = medvqa("infer", "--run", "b")
    assert (result.exit_code, result.stderr) == (7, "error: There is no run 'b' in 'runs'.\nhint: Known: a.\n")


def test_answers_are_scored_for_the_latest_run_that_has_some(medvqa, workflows, make_run, document):
    make_run("answered", answered=True, dataset="slake")
    make_run("newer")
    answer = document("eval", "answers", "--tag", "t", "--resamples", "9")
    call = only(workflows)
    assert (call.arguments[0].name, call.tag, call.arguments[1].evaluation.resamples) == ("answered", "t", 9)
    assert answer == {"run": "answered", "metrics": {"accuracy": 0.5}}


def test_report_prints_its_path(medvqa, workflows, make_run):
    make_run("a", answered=True)
    result = medvqa("report", "a")
    assert only(workflows).arguments[0].name == "a"
    assert result.stdout.strip().endswith("report.html")


def test_quickstart_ends_with_a_table_and_the_reports_path(medvqa, workflows):
    result = medvqa("quickstart", "--quick", "--seed", "5", "--runs-dir", "r")
    call = only(workflows)
    assert (call.job, call.quick, call.arguments[0].seed, call.arguments[0].paths.runs) == (
        "run_quickstart", True, 5, Path("r"))
    assert [line.split() for line in result.stdout.splitlines()[1:2]] == [["Closed", "0.95", "0.5", "guessed"]]
    assert result.stdout.endswith("report.html (1 min 5 s)\n")


def test_quickstart_as_json(document, workflows):
    answer = document("quickstart")
    assert (answer["run"], answer["seconds"], answer["table"]) == ("fake", 65.0, [["Closed", "0.95", "0.5 guessed"]])
    assert answer["report"].endswith("elsewhere/fake/report.html")


@pytest.mark.parametrize("line", [("quickstart", "--open"), ("report", "a", "--open")])
def test_open_shows_the_report(medvqa, workflows, make_run, monkeypatch, line):
    opened = []
    monkeypatch.setattr("typer.launch", opened.append)
    make_run("a")
    assert medvqa(*line).exit_code == 0
    assert len(opened) == 1
    assert opened[0].startswith("file:///")
    assert opened[0].endswith("/elsewhere/fake/report.html")


@pytest.mark.parametrize("line", [("quickstart",), ("report", "a")])
def test_dry_run_of_the_rest_calls_no_workflow(medvqa, workflows, make_run, line):
    make_run("a")
    result = medvqa(*line, "--dry-run")
    assert (result.exit_code, workflows) == (0, [])
    assert result.stderr.startswith("Would write ")


def test_gpu_is_chosen_before_the_workflow_runs(medvqa, workflows, monkeypatch):
    import os
    import sys

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert medvqa("train", "sft", "--gpu", "1,2", "--num-processes", "1").exit_code == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2"
    result = medvqa("train", "sft", "--gpu", "first")
    assert (result.exit_code, len(workflows)) == (2, 1)
    assert "'first' is no list of GPU numbers." in result.stderr


def test_dry_run_of_training_names_data_model_and_settings_and_writes_nothing(medvqa, workflows, document, tmp_path):
    plugin = _write_dataset(tmp_path)
    before = sorted(tmp_path.rglob("*.*"))
    plan = document("train", "sft", "--dataset", "stand_in", "--model", "llava", "--epochs", "2", "--dry-run",
                    "--plugin", str(plugin))
    assert workflows == [], "questions cannot be counted before they are prepared"
    assert plan["prepared"] == "it has not been prepared yet"
    assert (plan["dry_run"], plan["dataset"], plan["root"], plan["model"]) == (True, "stand_in", "/data/here", "llava")
    assert plan["settings"]["train.epochs"] == 2
    assert "seed" not in plan["settings"], "only what is not at its default"
    assert [path for path in sorted(tmp_path.rglob("*.*")) if path.suffix != ".pyc"] == before


@pytest.mark.parametrize(("typed", "training"), [
    (("--batch-size", "2", "--grad-accum", "3", "--learning-rate", "1e-3"),
     {"learning rate": 1e-3, "epochs": 3.0, "rows a step": "6 (2 x 3)", "tuning": "LoRA r=16, alpha=32",
      "trained": "adapters in the language model"}),
    (("--max-steps", "9", "--scratch", "--freeze-vision-tower"),
     {"learning rate": 1e-4, "steps": 9, "rows a step": "4 (4 x 1)", "tuning": "full",
      "trained": "language model, projector"}),
    (("--tune-projector", "--unfreeze-last-layers", "2", "--lora-parts", "vision_tower"),
     {"learning rate": 1e-4, "epochs": 3.0, "rows a step": "4 (4 x 1)", "tuning": "LoRA r=16, alpha=32",
      "trained": "adapters in the vision tower, projector in full, last 2 layers in full"}),
])
def test_dry_run_of_training_says_how_and_what_is_trained(workflows, document, tmp_path, typed, training):
    plan = document("train", "sft", "--dataset", "stand_in", "--model", "llava", "--dry-run", "--plugin",
                    str(_write_dataset(tmp_path)), *typed)
    assert plan["training"] == training


@pytest.mark.parametrize(("packing", "steps"), [("off", 75), ("auto", "75 at most: packs hold several questions")])
def test_the_steps_of_a_training_are_counted_where_the_questions_are(packing, steps):
    settings = make_settings({"train": {"packing": packing, "batch_size": 4}})
    found = describe_training(settings, by_reward=False, questions=100, start=None)
    assert (found["steps"], found["questions"]) == (steps, 100)
    found = describe_training(settings, by_reward=True, questions=100, start="q")
    assert (found["learning rate"], found["tuning"]) == (5e-6, "that of run q")
    assert "trained" not in found


def test_dry_run_names_a_damaged_store(medvqa, workflows, make_run, tmp_path):
    make_run("a")
    (tmp_path / "prepared" / "stand_in").mkdir(parents=True)
    (tmp_path / "prepared" / "stand_in" / "store.json").write_text("{")
    result = medvqa("train", "sft", "--dataset", "stand_in", "--dry-run", "--plugin", str(_write_dataset(tmp_path)))
    assert result.exit_code == 4
    assert "stand_in/store.json' is damaged: " in result.stderr
    assert "hint: Run `medvqa data prepare stand_in --force`." in result.stderr


def test_dry_run_of_inference_calls_no_workflow(medvqa, workflows, make_run):
    make_run("a", dataset="nowhere_set")
    result = medvqa("infer", "--dry-run", "--run", "a")
    assert (result.exit_code, workflows) == (3, [])
    assert "Unknown data set 'nowhere_set'." in result.stderr, "a plan that cannot work is an error"


def _write_dataset(folder: Path) -> Path:
    path = folder / "stand_in.py"
    path.write_text(
        "from pathlib import Path\nfrom medvqa_cli.data.protocol import DatasetCard\n"
        "class Plugin:\n    card = DatasetCard(title='t', summary='s', licence='l', citation='c', homepage='h',"
        " obtain='o', closed_definition='d', aliases=('standing-in',))\n    Options = None\n"
        "    def find_root(self, root): return root or Path('/data/here')\n"
        "    def read(self, root, options): return iter(())\nPLUGIN = Plugin()\n")
    return path


def test_a_loose_plugin_is_listed_and_shown(medvqa, document, tmp_path):
    path = _write_dataset(tmp_path)
    rows = document("data", "list", "--plugin", str(path))
    assert {"name": "stand_in", "origin": "file", "summary": f"from {path}"} in rows
    card = document("data", "list", "standing-in", "--plugin", str(path))
    assert (card["name"], card["title"], card["options"], card["found"]) == ("stand_in", "t", {}, "/data/here")
    rows = document("plugins", "list", "--check", "--plugin", str(path))
    assert {"kind": "data set", "name": "stand_in", "origin": "file", "summary": f"from {path}", "problem": ""} in rows


def test_a_loose_plugin_of_the_user_file_is_listed(document, tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text(f"plugins = ['{_write_dataset(tmp_path)}']\n")
    assert "stand_in" in [row["name"] for row in document("data", "list")]


@pytest.mark.parametrize("line", [("data", "list"), ("models", "list"), ("plugins", "list"), ("config", "show")])
def test_a_broken_loose_plugin_is_named(medvqa, tmp_path, line):
    path = tmp_path / "bad.py"
    path.write_text("import nothing_like_this\n")
    result = medvqa(*line, "--plugin", str(path))
    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: The plugin file '{path}' cannot be loaded: ModuleNotFoundError: ")


def test_plugins_list_check_fails_aloud_and_shows_all(medvqa, monkeypatch):
    monkeypatch.setattr(plugins.models, "failure", lambda name: "it is broken" * (name == "llava"))
    result = medvqa("plugins", "list", "--check")
    assert result.exit_code == 3
    assert "it is broken" in result.stdout
    assert "plugins do not work: llava" in result.stderr


def test_runs_are_listed_newest_first_and_a_damaged_one_hides_none(medvqa, make_run, document):
    make_run("a", dataset="slake", answered=True)
    bad = make_run("b")
    bad.manifest.write_text("{")
    rows = document("runs", "list")
    assert [row["run"] for row in rows] == ["a", "b"]
    assert (rows[0]["dataset"], rows[0]["model"], rows[0]["has"]) == ("slake", "llava", ["model", "predictions"])
    assert "is damaged" in rows[1]["problem"]
    result = medvqa("runs", "list")
    assert result.stdout.splitlines()[0].split() == ["run", "created", "(UTC)", "data", "set", "model", "has"]
    assert "warning: " in result.stderr


@pytest.mark.parametrize(("name", "hint"), [
    ("settings.json", "Put a copy of it back, or train anew: the run cannot be used without it."),
    ("metrics.json", "Delete it and measure anew: medvqa eval answers --run a"),
])
def test_a_damaged_file_is_listed_and_has_a_hint(medvqa, make_run, document, name, hint):
    run = make_run("a")
    (run.path / name).write_text("{")
    assert f"{name} is damaged" in document("runs", "list")[0]["problem"]
    result = medvqa("runs", "show", "a")
    assert result.exit_code == 7
    assert f"{name} is damaged: " in result.stderr
    assert result.stderr.endswith(f"\nhint: {hint}\n")


def test_no_runs_is_no_error(medvqa):
    result = medvqa("runs", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "There are no runs in 'runs'. Start with `medvqa quickstart`.\n"


def test_a_run_is_shown(document, make_run):
    make_run("a", answered=True)
    shown = document("runs", "show", "a")
    assert (shown["run"], shown["manifest"]["model"]) == ("a", {"family": "llava"})
    assert shown["files"] == ["manifest.json", "model", "predictions.jsonl", "settings.json"]


def test_a_run_is_shown_on_one_screen(medvqa, make_run):
    def score(value):
        return {"n": 4, "images": 2, **{f"{metric}@medvqa": {"value": value, "low": 0.25, "high": 0.875}
                                        for metric in ("accuracy", "exact_match", "token_f1")}}

    run = make_run("a", dataset="slake", answered=True, train={"epochs": 7})
    run.update_manifest(method="sft", steps=1, train_seconds=61, finished="2000-01-01", data={
        "dataset": "slake", "train_questions": 12800, "train_images": 1, "warnings": ["twins", "more", "most"]})
    block = {"overall": score(0.5), "closed": score(0.75), "open": score(0.625)}
    write_json(run.path / "metrics.json", {
        "answers": {"main": block, "blank": block},
        "calibration": {"num_questions": 3, "ece": 0.125, "intervals": {"ece": {"low": 0.1, "high": 0.2}},
                        "bin_data": [{"bin_lower": 0.1 * n} for n in range(500)]}})
    result = medvqa("runs", "show", "a")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.stderr
    assert len(lines) < 25
    text = "\n".join(" ".join(line.split()) for line in lines)
    for part in ("data slake: 12,800 training questions, 1 image", "training sft, 1 step, in 1 min 1 s",
                 "settings data.dataset=slake, train.epochs=7", "holds manifest.json, metrics.json, model, predictions",
                 "blank 4 0.500 [0.250, 0.875] 0.750 [0.250, 0.875] 0.625 [0.250, 0.875] 0.625 [0.250, 0.875]",
                 "calibration 3 - 0.125 [0.100, 0.200] - -"):
        assert part in text
    assert result.stderr == "warning: the data: twins (2 more warnings: --all)\n"
    assert len(medvqa("runs", "show", "a", "--all").stdout.splitlines()) > 40


def test_flags_of_loading_reach_their_settings(medvqa, workflows):
    result = medvqa("infer", "--model", "org/m", "--dataset", "slake", "--quantization", "4bit", "--max-memory-per-gpu",
                    "40GiB", "--trust-remote-code", "org/m", "--allow-pickle", "--attention", "flash")
    assert result.exit_code == 0, result.stderr
    model = only(workflows).arguments[0].model
    assert (model.quantization, model.max_memory_per_gpu, model.trust_remote_code, model.allow_pickle,
            model.attention) == ("4bit", "40GiB", "org/m", True, "flash")
    result = medvqa("infer", "--model", "org/m", "--max-memory-per-gpu", "40")
    assert result.exit_code == 2
    assert "should be a size above zero with its unit, such as 40GiB" in result.stderr


@pytest.mark.parametrize("typed", [("--engine", "openai"), ("--set", "infer.engine=openai")])
def test_a_servers_model_needs_no_run(medvqa, workflows, make_run, typed):
    make_run("a", dataset="slake")
    result = medvqa("infer", *typed, "--base-url", "http://localhost:8000/v1/", "--model", "NAME", "--concurrency", "3")
    assert result.exit_code == 0, result.stderr
    call = only(workflows)
    assert call.run is None
    infer = call.arguments[0].infer
    assert (infer.engine, infer.server.base_url, infer.server.concurrency) == ("openai", "http://localhost:8000/v1", 3)
    assert "latest" not in result.stderr
    refused = medvqa("infer", *typed, "--run", "a")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: --run and --engine openai exclude each other")


def test_pictures_and_json_exclude_each_other(medvqa, workflows, make_run):
    make_run("a")
    result = medvqa("infer", "--image", "x.png", "--question", "Q", "--show-image", "--json")
    assert (result.exit_code, workflows) == (2, [])
    assert result.stderr.startswith("error: --show-image and --json exclude each other.")


def test_the_picture_stands_beside_its_answers(tmp_path):
    from PIL import Image
    from rich.console import Console

    from medvqa_cli.cli.pictures import UPPER_HALF, print_beside

    Image.new("RGB", (10, 10), (255, 0, 0)).save(tmp_path / "red.png")
    console = Console(record=True, width=40, force_terminal=True, color_system="truecolor", file=io.StringIO())
    print_beside(console, tmp_path / "red.png", 10_000, ["Is it red? [yes]", "What is it? a square"])
    lines = console.export_text(styles=True).splitlines()
    assert len(lines) == 10
    assert all(line.count(UPPER_HALF) == 20 for line in lines)
    assert "38;2;255;0;0" in lines[0]
    assert "Is it red? [yes]" in lines[0]
    assert "What is it? a" in lines[1]
    assert "square" in lines[2]


def test_a_training_may_start_from_an_average(medvqa, workflows, make_run):
    make_run("first")
    assert medvqa("train", "sft", "--resume-from-ema", "first").exit_code == 0
    assert medvqa("train", "sft", "--init-from", "first", "--init-weights", "raw").exit_code == 0
    assert medvqa("train", "sft", "--init-from", "first").exit_code == 0
    assert [(call.init_from, call.init_weights) for call in workflows] == [
        ("first", "average"), ("first", "raw"), ("first", "kept")]
    result = medvqa("train", "sft", "--resume-from-ema", "first", "--init-from", "second")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --resume-from-ema first does not go with --init-from: it names the run and "
                                    "its weights.\n")
    result = medvqa("train", "sft", "--resume", "first", "--resume-from-ema", "first")
    assert "--resume-from-ema would have no effect" in result.stderr


def test_what_a_training_aims_at(medvqa, workflows):
    assert medvqa("train", "sft", "--ema", "0.99", "--balance", "answer", "--loss-weights",
                  '{"answer_type=closed": 2, "modality=CT": 0.5}', "--closed-share", "0.4", "--best-metric",
                  "probe_accuracy", "--early-stopping", "3", "--min-delta", "0.01", "--keep", "best").exit_code == 0
    train = only(workflows).arguments[0].train
    assert (train.ema, train.balance, train.loss_weights, train.closed_share, train.best_metric, train.early_stopping,
            train.min_delta, train.keep) == (0.99, "answer", {"answer_type=closed": 2.0, "modality=CT": 0.5}, 0.4,
                                             "probe_accuracy", 3, 0.01, "best")
    for flag, value, said in (("--ema", "1", "less than 1"), ("--closed-share", "0", "greater than 0"),
                              ("--keep", "first", "'auto', 'last' or 'best'"),
                              ("--loss-weights", "answer_type=closed", "is a group of settings")):
        result = medvqa("train", "sft", flag, value)
        assert result.exit_code == 2
        assert flag in result.stderr
        assert said in result.stderr
