"""What `medvqa sanity-check` passes on and prints."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from medvqa_cli.cli.sanity import OPTIONS, print_matrix, print_report
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.workflows.checks.outcome import Check
from medvqa_cli.workflows.checks.scope import BASICS, PRESETS
from medvqa_cli.workflows.sanity import SanityReport, SanityScope

STEPS = ("load", "image tokens", "packing", "inference", "parameters", "training", "adapter", "calibration")


def make_report(*checks: Check, **facts) -> SanityReport:
    return SanityReport(checks=checks, **{"seconds": 75.0, "peak_memory": 2**29, **facts})


DATA = Check(name="data", state="passed", detail="fine")
GONE = Check(name="load", state="failed", detail="No such file.", hint="Look again.", model="a")
REST = Check(name="packing", state="not run", detail="load failed", model="a")
GOOD = (Check(name="load", state="passed", detail="b from b", model="b", warnings=("It is old.",)),
        Check(name="packing", state="skipped", detail="not shared", model="b"))


@pytest.fixture
def checked(monkeypatch):
    """Replace the check itself: it notes its calls and gives `calls.report`."""
    calls = SimpleNamespace(report=make_report(DATA), all=[])

    def check(*arguments, progress):
        calls.all.append(arguments)
        return calls.report

    fake = SimpleNamespace(check_sanity=check, SanityScope=SanityScope)
    monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.sanity", fake)
    return calls


def test_what_is_typed_becomes_the_scope(medvqa, checked, tmp_path):
    result = medvqa("sanity-check", "--tiny", "--families", "llava, qwen2-vl", "--inference-only",
                    "--train-samples", "3", "--test-samples", "4", "--calibration-samples", "6", "--output-dir",
                    tmp_path / "out", "--keep-outputs", "--lora-r", "4", "--batch-size", "1", "--dataset", "slake")
    assert result.exit_code == 0, result.stderr
    ((settings, scope),) = checked.all
    assert scope == SanityScope(tiny=True, families=("llava", "qwen2-vl"), inference_only=True, train_samples=3,
                                test_samples=4, calibration_samples=6, output=tmp_path / "out", keep_outputs=True)
    assert (settings.train.lora.r, settings.train.batch_size, settings.data.dataset) == (4, 1, "slake")
    medvqa("sanity-check", "--basic", "--only", "configs,data")
    assert checked.all[1][1] == SanityScope(basic=True, only=("configs", "data"))


def test_a_run_stands_for_what_it_has_trained(medvqa, checked, make_run):
    run = make_run("own")
    assert medvqa("sanity-check", "--model", "own").exit_code == 0
    assert checked.all[0][0].model.name == str(run.path / "model")
    make_run("empty", trained=False)
    result = medvqa("sanity-check", "--model", "empty")
    assert (result.exit_code, len(checked.all)) == (7, 1)
    assert result.stderr.startswith("error: Run 'empty' has no trained model yet.\n")


@pytest.mark.parametrize(("arguments", "message"), [
    (("--families", "llava", "--model", "llava"), "--families and --model both say which models to check."),
    (("--preset", "seeds", "--model", "llava"), "--preset and --model both say which models to check."),
    (("--all-families", "--tiny", "--model", "llava"), "--all-families and --model both say which models to check."),
    (("--families", ","), "--families is ',', which names nothing."),
    (("--basic", "--only", ""), "--only is '', which names nothing."),
    (("--test-samples", "0"), "--test-samples is '0': it should be a whole number of at least 1."),
])
def test_contradictions_are_refused(medvqa, checked, arguments, message):
    result = medvqa("sanity-check", *arguments)
    assert (result.exit_code, checked.all) == (2, [])
    assert result.stderr.startswith(f"error: {message}\n")


def test_one_model_is_shown_step_by_step_and_a_failure_fails(medvqa, checked):
    checked.report = make_report(DATA, GONE, REST)
    result = medvqa("sanity-check", "--tiny")
    assert result.exit_code == 1
    assert [line.split(maxsplit=2) for line in result.stdout.splitlines()[:4]] == [
        ["check", "result", "detail"], ["data", "ok", "fine"], ["load", "FAILED", "No such file."],
        ["packing", "not", "run  load failed"]]
    assert result.stdout.endswith("\n\na: load: Look again.\n1 passed, 1 failed, 1 not run in 1 min 15 s, at most "
                                  "0.5 GiB of memory.\n")
    assert result.stderr == "error: 1 of 3 checks failed: a: load.\n"


def test_several_models_are_a_table_and_their_faults_follow(medvqa, checked):
    checked.report = make_report(DATA, GONE, REST, *GOOD, replace(GONE, model="c"), replace(REST, model="c"))
    result = medvqa("sanity-check", "--tiny")
    assert result.stdout.splitlines() == [
        "check  result  detail", "data   ok      fine", "", "model  load  packing", "a      FAIL  -", "b      ok    -",
        "c      FAIL  -", "", "a: load failed: No such file.", "  Look again.", "c: load failed: No such file.",
        "2 passed, 2 failed, 1 skipped, 2 not run in 1 min 15 s, at most 0.5 GiB of memory."]
    assert result.stderr == "warning: b: load: It is old.\nerror: 2 of 7 checks failed: a: load; c: load.\n"


def test_json_is_one_document_even_if_a_check_failed(medvqa, checked, tmp_path):
    checked.report = make_report(DATA, GONE, folder=tmp_path)
    result = medvqa("sanity-check", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["passed"], document["folder"], document["seconds"]) == (False, str(tmp_path), 75.0)
    assert document["checks"][1] == {"name": "load", "state": "failed", "detail": "No such file.",
                                     "hint": "Look again.", "model": "a", "warnings": [], "seconds": 0.0}
    assert f"Kept: {tmp_path}\n" in result.stderr


@pytest.mark.parametrize(("width", "head"), [
    (80, "model            load  tokens  pack  infer  params  train  adapter  calib"),
    (160, f"{'model':50}  {'  '.join(STEPS)}")])
def test_the_table_fits_the_terminal(width, head):
    terminal, stream = Terminal(), io.StringIO()
    terminal._consoles[False] = Console(file=stream, width=width, highlight=False)
    models = ["llava_onevision", "a-family-with-a-name-as-long-as-that-of-a-checkpoint"[:50]]
    checks = [Check(name=name, state="failed", model=model) for model in models for name in STEPS]
    print_matrix(terminal, checks, models)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split()[1:] for line in lines[1:]] == [["FAIL"] * 8] * 2
    assert lines[1].index("FAIL") == lines[0].index("load")
    assert lines[0].split() == head.split()
    assert lines[0].startswith(head[: head.index("load")]) or width == 80


def test_nothing_is_said_of_memory_where_no_model_was_looked_at(capsys):
    print_report(Terminal(), make_report(DATA))
    assert capsys.readouterr().out.endswith("\n1 passed in 1 min 15 s.\n")


def test_the_help_names_what_there_is():
    help_of = {option.name: option.help for option in OPTIONS}
    assert help_of["only"] == f"With --basic: some of {', '.join(BASICS)}."
    assert help_of["preset"] == f"Check a choice of models: {', '.join(PRESETS)}."
    assert [help_of[name].rpartition(" ")[2] for name in ("train_samples", "test_samples", "calibration_samples")] == [
        f"{SanityScope().train_samples}.", f"{SanityScope().test_samples}.", f"{SanityScope().calibration_samples}."]
