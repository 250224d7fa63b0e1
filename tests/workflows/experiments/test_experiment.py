"""Checks before the first job, what a rerun does, and one small experiment through real processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medvqa_cli.errors import MedVQAError, PluginError, RunError, SettingsError
from medvqa_cli.records import write_json
from medvqa_cli.runs import open_run
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.workflows import grpo
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.experiments import experiment
from medvqa_cli.workflows.experiments.executors import Outcome, Slot
from medvqa_cli.workflows.experiments.experiment import (
    check_gpus,
    list_experiments,
    lock_experiment,
    run_experiment,
    show_experiment,
)
from medvqa_cli.workflows.experiments.grid import Axis, Grid
from medvqa_cli.workflows.experiments.jobs import build_command, find_pending, start_stage
from medvqa_cli.workflows.experiments.planning import plan_experiment
from medvqa_cli.workflows.infer import infer_split


def grid(*axes, stages=("train", "infer", "evaluate"), name="study"):
    return Grid(name, tuple(Axis(key, tuple(values), "grid.yaml") for key, values in axes), stages)


@pytest.fixture
def base(trained, tmp_path):
    settings, _ = trained
    tree = to_tree(settings)
    return make_settings({**tree, "paths": {**tree["paths"], "runs": str(tmp_path / "runs")}})


@pytest.fixture(scope="session")
def answered(trained, tmp_path_factory):
    """A copy of the shared trained run, answered and scored."""
    settings, run = trained
    runs = tmp_path_factory.mktemp("answered")
    shutil.copytree(run.path, runs / run.name)
    tree = to_tree(settings)
    own = make_settings({**tree, "paths": {**tree["paths"], "runs": str(runs)}})
    infer_split(own, run=run.name)
    copy = open_run(runs, run.name)
    evaluate_answers(copy, own)
    return copy


class Player:
    """Stands for the executor: a job's run becomes a copy of a finished one, unless its name is to fail."""

    def __init__(self, source, fail=()):
        self.source, self.fail, self.ran = source, fail, []

    def run(self, tasks, report, progress):
        outcomes = []
        for task in tasks:
            self.ran.append((task.name, [step.label for step in task.steps]))
            command = task.steps[0].command()
            bad = task.name in self.fail
            if not bad and command[3:5] == ["train", "sft"]:
                settings = json.loads(Path(command[command.index("--config") + 1]).read_text())
                shutil.copytree(self.source, f"{settings['paths']['runs']}/{task.name}")
            outcomes.append(Outcome(task.name, 1.0, *(("train", 5, ("error: no memory", "hint: less")) if bad else ())))
            report(outcomes[-1])
        return outcomes


@pytest.fixture
def play(monkeypatch, answered):
    def use(*fail):
        player = Player(answered.path, fail)
        monkeypatch.setattr(experiment, "_make_executor", lambda *arguments: player)
        return player
    return use


SEEDS = ("seed", (0, 1, 2))


def test_a_failed_job_is_reported_and_a_rerun_does_only_that(base, play, listener, tmp_path):
    player = play("seed1")
    result = run_experiment(grid(SEEDS), base, progress=listener)
    assert [name for name, _ in player.ran] == ["seed0", "seed1", "seed2"]
    assert [outcome.name for outcome in result.failed] == ["seed1"]
    warning = next(line for line in listener.warnings if "seed1" in line)
    assert "seed1 failed at 'train' (exit code 5)" in warning
    assert warning.endswith("\n  | error: no memory\n  | hint: less")
    (row,) = result.summary["combinations"]
    assert row["metrics"]["closed_accuracy"]["n"] == 2
    assert result.summary["runs"][1]["state"] == "not done: train, infer, evaluate"

    again = play()
    finished = run_experiment(grid(SEEDS), base, progress=listener)
    assert again.ran == [("seed1", ["train", "infer", "evaluate"])]
    assert any("2 of 3 jobs are done already" in line for line in listener.said)
    assert finished.summary["combinations"][0]["metrics"]["closed_accuracy"]["n"] == 3
    folder = tmp_path / "runs" / "experiments" / "study"
    assert json.loads((folder / "summary.json").read_text())["combinations"] == finished.summary["combinations"]
    assert (folder / "summary.csv").read_text().startswith("closed_accuracy_mean,")
    assert show_experiment(base.paths.runs, "study").summary["runs"] == finished.summary["runs"]
    assert list_experiments(base.paths.runs) == ["study"]


def test_equal_answers_differ_by_nothing(base, play):
    play()
    result = run_experiment(grid(("train.learning_rate", (1e-3, 2e-3)), ("seed", (0, 1))), base)
    rows = result.summary["comparisons"]
    assert {row["metric"] for row in rows} == {"closed_accuracy", "open_exact_match", "open_token_f1"}
    assert all((row["difference"], row["p_holm"], row["left_out"], row["seeds"]) == (0.0, 1.0, 0, 2) for row in rows)
    assert rows[0]["questions"] + rows[1]["questions"] == 32


def test_other_settings_are_refused_and_more_seeds_are_not(base, play, tmp_path):
    play()
    run_experiment(grid(SEEDS), base)
    player = play()
    run_experiment(grid(("seed", (0, 1, 2, 3))), base)
    assert [name for name, _ in player.ran] == ["seed3"]
    changed = make_settings({**to_tree(base), "train": {**to_tree(base)["train"], "max_steps": 13}})
    with pytest.raises(RunError) as caught:
        run_experiment(grid(SEEDS), changed)
    assert caught.value.message == "Run 'seed0' of this experiment was made with train.max_steps = 12, now it is 13."
    assert "--name" in caught.value.hint
    elsewhere = make_settings({**to_tree(base), "paths": {"runs": str(base.paths.runs), "prepared": "other"}})
    assert plan_experiment(grid(SEEDS), elsewhere).pending == ((), (), ())


def test_half_finished_runs_are_resumed(base, play):
    (job,) = plan_experiment(grid(("seed", (0,))), base).jobs
    assert build_command(job, "train")[3:7] == ["train", "sft", "--name", "seed0"]
    write_json(job.run.manifest, {"created": "now"})
    assert build_command(job, "train")[5] == "--name", "killed before the model was loaded"
    start_stage(job, "train")
    assert not job.run.path.exists()
    write_json(job.run.manifest, {"model": {}})
    command = start_stage(job, "train")
    assert command[3:] == ["train", "sft", "--resume", "seed0", "--runs-dir", str(job.run.path.parent),
                           "--prepared-dir", str(base.paths.prepared)]
    assert job.run.manifest.is_file()


def test_what_is_done_is_read_from_the_run(base, play):
    play()
    stages = ("train", "infer", "evaluate", "calibrate", "report")
    (job,) = plan_experiment(grid(("seed", (0,)), stages=stages), base).jobs
    run_experiment(grid(("seed", (0,))), base)
    assert find_pending(job) == ("calibrate", "report")
    rows = (job.run.path / "predictions.jsonl").read_text().splitlines(keepends=True)
    (job.run.path / "predictions.jsonl").write_text("".join(rows[:-2]))
    assert find_pending(job) == ("infer", "evaluate", "calibrate", "report")
    job.run.weights.rename(job.run.path / "gone")
    assert find_pending(job) == stages


def test_what_calibrate_makes_lies_where_its_settings_say(base, answered):
    axes = ("data.question_type", ("open", "closed")), ("calibration.method", ("sampling", "logits", "all"))
    jobs = plan_experiment(grid(*axes, stages=("train", "calibrate")), base).jobs
    assert [job.confidence for job in jobs] == [
        "calibration-open", "calibration-open-logits", "confidence_methods-open",
        "calibration", "calibration-logits", "confidence_methods"]


def test_the_method_may_vary(base, play, monkeypatch):
    player = play()
    monkeypatch.setattr(grpo, "check_trl", lambda: None)
    result = run_experiment(grid(("method", ("sft", "grpo")), ("seed", (0,)), stages=("train",)), base)
    assert player.ran == [("sft_seed0", ["train"]), ("grpo_seed0", ["train"])]
    assert [row["values"] for row in result.summary["combinations"]] == [{"method": "sft"}, {"method": "grpo"}]
    job = plan_experiment(grid(("method", ("grpo",)), name="other"), base).jobs[0]
    assert build_command(job, "train")[3:7] == ["train", "grpo", "--name", "grpo"]
    write_json(job.run.manifest, {"model": {}})
    assert build_command(job, "train")[3:7] == ["train", "grpo", "--resume", "grpo"]
    unheeded = make_settings({**to_tree(base), "train": {**to_tree(base)["train"], "balance": "answer_type"}})
    with pytest.raises(SettingsError) as caught:
        run_experiment(grid(("method", ("sft", "grpo")), ("seed", (0,)), stages=("train",), name="third"), unheeded)
    assert caught.value.message == "Combination 'grpo_seed0': GRPO does not heed train.balance."


def test_settings_of_stages_that_are_not_done_may_change(base, play):
    play()
    run_experiment(grid(SEEDS), base)
    more = make_settings({**to_tree(base), "calibration": {"samples": 5}})
    everything = grid(SEEDS, stages=("train", "infer", "evaluate", "calibrate"))
    assert plan_experiment(everything, more).pending == (("calibrate",),) * 3
    scored = make_settings({**to_tree(base), "evaluation": {"resamples": 7}})
    with pytest.raises(RunError, match="was made with evaluation.resamples = 100, now it is 7"):
        plan_experiment(grid(SEEDS), scored)


def test_runs_of_an_earlier_grid_are_named(base, play, listener):
    play()
    run_experiment(grid(SEEDS), base)
    result = run_experiment(grid(("seed", (1, 3))), base, progress=listener)
    (warning,) = listener.warnings
    assert warning == ("2 runs of an earlier grid will not be in the table, as this grid does not name them: seed0, "
                       "seed2.")
    assert [run["name"] for run in result.summary["runs"]] == ["seed1", "seed3"]


def test_a_finished_job_says_what_it_found(base, play, listener):
    play()
    run_experiment(grid(("seed", (0,))), base, progress=listener)
    assert any(line.startswith("To watch a training: medvqa train watch seed0 --runs-dir ") for line in listener.said)
    (line,) = [line for line in listener.said if line.startswith("seed0: done in 1 s: closed accuracy ")]
    assert ", open exact match " in line


def test_a_damaged_file_of_a_finished_job_does_not_stop_the_others(base, play, answered, monkeypatch, tmp_path):
    player = play()
    broken = shutil.copytree(answered.path, tmp_path / "broken")
    (broken / "scores.jsonl").write_text('{"question_id": "1"}\n')
    player.source = broken
    with pytest.raises(RunError, match="not a score"):
        run_experiment(grid(SEEDS), base)
    assert len(player.ran) == 3


def test_answers_to_blank_images_have_their_tag(base):
    jobs = plan_experiment(grid(("infer.blank_images", (False, True))), base).jobs
    assert "--tag" not in build_command(jobs[0], "infer")
    for stage in ("infer", "evaluate"):
        command = build_command(jobs[1], stage)
        assert command[command.index("--tag") + 1] == "blank"


@pytest.mark.parametrize(("axes", "error", "message"), [
    ([("data.dataset", ("demo", "slak"))], PluginError, "Combination 'slak': Unknown"),
    ([("model.name", ("llava", "lava"))], PluginError, "Combination 'lava': "),
    ([("model.scratch", (True, False)), ("model.name", ("lava",))], MedVQAError, "lava"),
    ([("model.options.depth", (1,))], SettingsError, "Unknown setting 'model.options.depth'"),
    ([("data.options.size", (32, 48))], SettingsError, "read the data set 'demo' in two ways"),
    ([("model.name", ("llava",)), ("model", ({"name": "llava"}, {"name": "LLaVA"}))], SettingsError, "are the same"),
    ([("train.unfreeze_last_layers", (0, 2))], SettingsError, "does not go with full training"),
])
def test_every_combination_is_checked_before_the_first_job(base, play, tmp_path, axes, error, message):
    player = play()
    with pytest.raises(error) as caught:
        run_experiment(grid(*axes), base)
    assert message in caught.value.message
    assert player.ran == []
    assert not (tmp_path / "runs").exists()


def test_faults_of_the_data_are_found_before_the_first_job(base, play):
    player = play()
    with pytest.raises(MedVQAError) as caught:
        run_experiment(grid(("data.train_split", ("train", "trial"))), base)
    assert "Combination 'train_split-trial': " in caught.value.message
    assert player.ran == []


def test_stages_without_their_input_are_refused(base):
    with pytest.raises(SettingsError, match="'infer' needs the stage 'train'") as caught:
        plan_experiment(grid(SEEDS, stages=("infer",)), base)
    assert caught.value.hint == "Add train to the stages."


def test_names_and_lookups_of_experiments(base):
    with pytest.raises(SettingsError, match="'../x' is no name"):
        plan_experiment(grid(SEEDS, name="../x"), base)
    with pytest.raises(RunError, match="no experiment 'none'") as caught:
        show_experiment(base.paths.runs, "none")
    assert "medvqa experiments run" in caught.value.hint


def test_an_experiment_runs_once_at_a_time(base, tmp_path):
    with lock_experiment(tmp_path / "a"), lock_experiment(tmp_path / "b"):  # noqa: SIM117
        with pytest.raises(RunError, match="'a' is running already"), lock_experiment(tmp_path / "a"):
            pass
    with lock_experiment(tmp_path / "a") as descriptor:
        assert isinstance(descriptor, int)


def test_an_absent_gpu_is_no_cpu():
    check_gpus([Slot("slot 1")])
    with pytest.raises(SettingsError, match=r"--gpus names GPU 99, but torch sees"):
        check_gpus([Slot("GPU 99", {"CUDA_VISIBLE_DEVICES": "99"})])


def test_a_damaged_record_and_score_are_one_error(base, play):
    play()
    folder = run_experiment(grid(SEEDS), base).folder
    with (folder / "runs" / "seed1" / "scores.jsonl").open("a") as stream:
        stream.write('{"question_id": "1"}\n')
    with pytest.raises(RunError, match="seed1/scores.jsonl, line 33: not a score"):
        show_experiment(base.paths.runs, "study")
    write_json(folder / "experiment.json", {"jobs": [{}]})
    with pytest.raises(RunError, match="experiment.json is damaged"):
        show_experiment(base.paths.runs, "study")


@pytest.mark.slow
def test_both_methods_through_real_processes(base):
    pytest.importorskip("trl")
    tree = to_tree(base)
    short = make_settings({**tree, "train": {**tree["train"], "max_steps": 1, "eval_fraction": 0.0},
                           "grpo": {"num_generations": 2, "max_completion_length": 4}})
    axes = ("method", ("sft", "grpo")), ("seed", (5,))
    result = run_experiment(grid(*axes, stages=("train", "infer", "evaluate", "calibrate")), short)
    assert [(outcome.name, outcome.tail) for outcome in result.outcomes] == [("sft_seed5", ()), ("grpo_seed5", ())]
    methods = [json.loads((result.folder / "runs" / name / "manifest.json").read_text())["method"]
               for name in ("sft_seed5", "grpo_seed5")]
    assert methods == ["sft", "grpo"]
    assert {row["metric"] for row in result.summary["comparisons"]} == {
        "closed_accuracy", "open_exact_match", "open_token_f1", "brier@sampling"}


@pytest.mark.slow
def test_an_experiment_through_real_processes(base, monkeypatch):
    monkeypatch.setenv("MEDVQA_TRAIN__MAX_STEPS", "999")
    short = make_settings({**to_tree(base), "train": {**to_tree(base)["train"], "max_steps": 2, "eval_fraction": 0.0}})
    result = run_experiment(grid(("seed", (5,))), short)
    assert [(outcome.name, outcome.failed) for outcome in result.outcomes] == [("seed5", "")], result.outcomes
    manifest = json.loads((result.folder / "runs" / "seed5" / "manifest.json").read_text())
    assert manifest["steps"] == 2, "variables of this process do not reach the jobs"
    (row,) = result.summary["combinations"]
    assert 0 <= row["metrics"]["closed_accuracy"]["mean"] <= 1


@pytest.mark.slow
def test_what_is_found_only_in_training_fails_there_with_its_error(base, listener):
    """That the options of a model from scratch fit together is known once it is built."""
    result = run_experiment(grid(("model.options.patch_size", (7,)), stages=("train",)), base, progress=listener)
    assert [(outcome.failed, outcome.code) for outcome in result.failed] == [("train", 2)]
    assert "error: model.options do not fit together" in listener.warnings[-1]
    assert result.summary["combinations"][0]["metrics"] == {}
