"""Errors, exit codes, streams, log file: what every command has in common."""

from __future__ import annotations

import errno
import json
import logging
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from medvqa_cli import __version__
from medvqa_cli.cli.app import COMMANDS
from medvqa_cli.errors import DataError, MissingDependencyError, ModelError, PluginError, RunError, SettingsError


@pytest.fixture
def during_training(monkeypatch):
    """Let `train sft` do something else."""
    def replace(action):
        monkeypatch.setitem(sys.modules, "medvqa_cli.workflows.train", SimpleNamespace(train_sft=action))

    return replace


def raise_(error):
    def action(*_arguments, **_keywords):
        raise error

    return action


def test_version(medvqa):
    assert medvqa("--version").stdout == f"medvqa {__version__}\n"


@pytest.mark.parametrize("line", [(), ("--help",), ("-h",)])
def test_help_names_every_command(medvqa, line):
    result = medvqa(*line)
    assert result.exit_code == 0
    for stub in COMMANDS:
        assert stub.name in result.stdout
    assert "not for clinical decisions" in result.stdout


@pytest.mark.parametrize(("line", "words"), [
    (("data",), ("list", "prepare", "analyze", "show")), (("train",), ("sft",)),
    (("eval",), ("answers", "calibration")), (("runs",), ("list", "show")),
    (("config",), ("init", "show", "schema")), (("models",), ("list", "info")),
    (("train", "sft", "--help"), ("--learning-rate", "--config", "--set", "--plugin", "--log-file", "--runs-dir")),
    (("infer", "-h"), ("--image", "--question", "--max-new-tokens", "--blank-images", "--dry-run")),
    (("eval", "calibration", "-h"), ("--samples", "--bins", "--temperature")),
    (("quickstart", "-h"), ("--quick", "--open", "--seed")), (("sanity-check", "-h"), ("--tiny", "--basic")),
    (("report", "-h"), ("--open",)), (("data", "show", "-h"), ("--count", "--split", "--output")),
])
def test_help_of_a_command(medvqa, line, words):
    result = medvqa(*line)
    assert result.exit_code == 0, result.stderr
    for word in words:
        assert word in result.stdout


@pytest.mark.parametrize(("line", "message", "hint"), [
    (("dat",), "No such command 'dat'. Did you mean 'data'?", "See `medvqa --help`."),
    (("data", "lst"), "No such command 'lst'. Did you mean 'list'?", "See `medvqa data --help`."),
    (("train", "sft", "--epoch", "1"), "No such option", "See `medvqa train sft --help`."),
    (("train", "sft", "--epochs"), "Option '--epochs' requires an argument.", "See `medvqa --help`."),
    (("data", "prepare"), "Missing argument 'NAME'.", "See `medvqa data prepare --help`."),
    (("runs", "list", "extra"), "Got unexpected extra argument", "See `medvqa runs list --help`."),
    (("config", "show", "--config", "none.yaml"), "The configuration file 'none.yaml' does not exist.",
     "`medvqa config init` writes a commented one."),
    (("config", "show", "--epochs", "many"),
     "--epochs: setting 'train.epochs' is \"many\": input should be a valid number.",
     "train.epochs takes a number above 0 (default 3.0): Passes over the training questions."),
])
def test_usage_mistakes(medvqa, line, message, hint):
    result = medvqa(*line)
    assert result.exit_code == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {message}")
    assert second == f"hint: {hint}"


@pytest.mark.parametrize(("error", "code"), [
    (SettingsError("a", "b"), 2), (PluginError("a", "b"), 3), (DataError("a", "b"), 4), (ModelError("a", "b"), 5),
    (RunError("a", "b"), 7)])
def test_every_kind_of_error_has_its_exit_code(medvqa, during_training, error, code):
    during_training(raise_(error))
    result = medvqa("train", "sft")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "error: a\nhint: b\n")


def test_a_missing_package_names_the_extra(medvqa, during_training):
    during_training(raise_(MissingDependencyError("GRPO", "trl", "grpo")))
    result = medvqa("train", "sft")
    assert result.exit_code == 6
    assert result.stderr == ("error: GRPO needs the package 'trl', which is not installed.\n"
                             "hint: Install it with: pip install 'medvqa-cli[grpo]'\n")


def test_error_lines_are_neither_wrapped_nor_read_as_markup(medvqa, during_training):
    message = "[bold]'/a/[red]b[/red].json' :smile: " + "long " * 100 + "end"
    during_training(raise_(DataError(message)))
    assert medvqa("train", "sft").stderr == f"error: {message}\n"


def test_operating_system_errors_are_explained(medvqa, during_training):
    during_training(raise_(OSError(errno.ENOSPC, "No space left on device", "/x/model.safetensors")))
    result = medvqa("train", "sft")
    assert result.exit_code == 7
    assert result.stderr.startswith("error: The disk is full: could not write '/x/model.safetensors'.\nhint: Free some")


class SafetensorError(Exception):
    """As safetensors raises it: no OSError."""


def chain(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[Errno 28] writing"), chain(RuntimeError("failed"), OSError(errno.ENOSPC, "No space left on device")),
])
def test_a_full_disk_is_said_whatever_a_library_makes_of_it(medvqa, during_training, error):
    during_training(raise_(error))
    result = medvqa("train", "sft")
    assert (result.exit_code, result.stderr) == (
        7, ("error: The disk is full.\nhint: Free some space and run the same command again: it resumes where it "
            "stopped.\n"))


def test_no_permission_for_the_runs_folder(medvqa, during_training):
    during_training(raise_(PermissionError(errno.EACCES, "Permission denied", "/runs")))
    result = medvqa("train", "sft")
    assert result.stderr.startswith("error: No permission to write '/runs'.\nhint: Choose another place")


def test_ctrl_c_is_one_line_and_130(medvqa, during_training):
    during_training(raise_(KeyboardInterrupt()))
    result = medvqa("train", "sft")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted. What was finished is kept.\n")


def test_an_unexpected_error_is_one_line_that_says_where_the_traceback_is(medvqa, during_training):
    during_training(raise_(ZeroDivisionError("division [b]by[/b]\nzero")))
    result = medvqa("train", "sft")
    assert result.exit_code == 1
    found = re.fullmatch(r"error: ZeroDivisionError: division \[b\]by\[/b\] zero\. This is a bug in medvqa or in a "
                         r"library under it; the traceback is in '(.+)'\.\n", result.stderr)
    assert found
    text = Path(found[1]).read_text(encoding="utf-8")
    Path(found[1]).unlink()
    assert "Traceback (most recent call last):" in text
    assert "ZeroDivisionError" in text


def test_the_traceback_of_an_unexpected_error_goes_to_the_log_file(medvqa, during_training, tmp_path):
    during_training(raise_(AssertionError()))
    result = medvqa("train", "sft", "--log-file", "deep/log.txt")
    assert result.stderr == ("error: AssertionError: no message. This is a bug in medvqa or in a library under it; "
                             "the traceback is in 'deep/log.txt'.\n")
    assert "Traceback" in (tmp_path / "deep" / "log.txt").read_text()


def test_the_traceback_lies_beside_the_runs_if_there_are_any(medvqa, during_training, make_run, tmp_path):
    make_run("a")
    during_training(raise_(ValueError("x")))
    assert f"'{tmp_path / 'runs'}/medvqa-error-" in medvqa("train", "sft", "--runs-dir", tmp_path / "runs").stderr


def speak(_settings, *, progress, **_keywords):
    print("a library prints")
    progress.say("said")
    progress.start("Training", 2, "step")
    progress.advance(2, note="loss 0.5")
    progress.finish()
    warnings.warn("a library warns", stacklevel=1)
    logging.getLogger("somewhere").warning("a library logs %d", 7)
    logging.getLogger("somewhere").info("a library chats")
    progress.warn("warned")
    raise RunError("failed")


def test_what_is_said_goes_to_stderr(medvqa, during_training):
    during_training(speak)
    result = medvqa("train", "sft")
    assert result.stdout == ""
    assert re.fullmatch(r"a library prints\nsaid\nTraining: 2/2 \(100%\) steps, loss 0\.5 in 0\.\d s\n"
                        r"warning: warned\nerror: failed\n", result.stderr)


def test_quiet_leaves_warnings_and_errors(medvqa, during_training):
    during_training(speak)
    assert medvqa("train", "sft", "--quiet").stderr == "a library prints\nwarning: warned\nerror: failed\n"


def test_verbose_shows_messages_of_libraries(medvqa, during_training):
    during_training(speak)
    result = medvqa("train", "sft", "--verbose")
    assert "somewhere: a library logs 7\n" in result.stderr
    assert "somewhere: a library chats\n" in result.stderr
    assert "a library warns" in result.stderr


def test_the_log_file_has_everything_with_times(medvqa, during_training, tmp_path):
    during_training(speak)
    medvqa("train", "sft", "--quiet", "--log-file", "log.txt")
    medvqa("train", "sft", "--quiet", "--log-file", "log.txt")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    stamped = [line for line in lines if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line)]
    told = [line.partition(" ")[2] for line in stamped]
    for text in ("said", "warning: warned", "error: failed", "somewhere: a library logs 7"):
        assert told.count(text) == 2, "appended, not replaced"
    assert [line for line in told if line.startswith("Training: 2/2 (100%) steps, loss 0.5 in ")]


def test_a_log_file_that_cannot_be_written(medvqa, tmp_path):
    result = medvqa("config", "show", "--log-file", str(tmp_path))
    assert result.exit_code == 7
    assert result.stderr == (f"error: Is a directory: '{tmp_path}'\nhint: Look at the paths of this command: "
                             "--runs-dir, --prepared-dir, --log-file and the like.\n")


def test_json_is_the_only_thing_on_stdout(medvqa, during_training, make_run):
    run = make_run("a")

    def train(*_arguments, progress, **_keywords):
        print("a library prints")
        progress.say("said")
        return run

    during_training(train)
    result = medvqa("train", "sft", "--json")
    assert json.loads(result.stdout)["run"] == "a"
    assert result.stderr == "a library prints\nsaid\n"


def test_json_has_no_nan(medvqa, workflows, make_run, monkeypatch):
    make_run("a", answered=True)
    monkeypatch.setattr(sys.modules["medvqa_cli.workflows.evaluate"], "evaluate_answers",
                        lambda *_arguments, **_keywords: {"x": [float("nan"), {"y": float("inf")}, 1.5]})
    assert json.loads(medvqa("eval", "answers", "--json").stdout)["metrics"] == {"x": [None, {"y": None}, 1.5]}


def start(*arguments, **keywords) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "medvqa_cli", *arguments], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, **keywords)


def test_a_reader_that_leaves_early_is_no_error(repository):
    """`medvqa config schema | head -1`."""
    with start("config", "schema", cwd=repository) as process:
        process.stdout.readline()
        process.stdout.close()
        assert "error" not in process.stderr.read()


def test_ctrl_c_in_a_process_is_one_line_and_130(repository, tmp_path):
    plugin = tmp_path / "sleeper.py"
    plugin.write_text("import time\nprint('ready', flush=True)\ntime.sleep(30)\n")
    with start("data", "list", "--plugin", str(plugin), cwd=repository) as process:
        assert process.stderr.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert (process.stderr.read(), process.stdout.read()) == ("Interrupted. What was finished is kept.\n", "")
