"""`medvqa experiments`: flags and files to a grid, the dry run, the tables, what is refused."""

from __future__ import annotations

import pytest

from medvqa_cli.cli.experiments import print_summary
from medvqa_cli.cli.terminal import Terminal
from medvqa_cli.records import write_json
from medvqa_cli.settings.schema import EvaluationSettings
from medvqa_cli.workflows.experiments import experiment
from medvqa_cli.workflows.experiments.executors import Outcome
from medvqa_cli.workflows.experiments.experiment import ExperimentResult
from medvqa_cli.workflows.experiments.results import RunResult
from medvqa_cli.workflows.experiments.summary import summarize

SCRATCH = ("--scratch", "--set", "model.device=cpu")


def make_summary():
    def result(model, seed, score):
        scores = {("d", "test", f"image{number}", str(number)): float(number < score) for number in range(20)}
        return RunResult(f"{model}_{seed}", {"model.name": model, "seed": seed}, "done",
                         {"closed_accuracy": score / 20}, {"closed_accuracy": scores})

    results = [result("a", 0, 4), result("a", 1, 6), result("b", 0, 18),
               RunResult("b_1", {"model.name": "b", "seed": 1}, "not done: train")]
    return {"experiment": "study", **summarize(results, EvaluationSettings())}


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """Let the workflow return this, and note how it was called."""
    calls = []

    def use(*outcomes):
        def fake(grid, base, **options):
            calls.append((grid, base, options))
            return ExperimentResult(tmp_path / "study", make_summary(), outcomes)
        monkeypatch.setattr(experiment, "run_experiment", fake)
        return calls
    return use


def test_flags_make_a_grid(document):
    found = document("experiments", "run", "--models", "llava,qwen2-vl", "--question-types", "closed,all", "--seeds",
                     "0,1", "--subsamples", "10", "--vary", "train.lora.r=8,16", "--name", "flags", "--dry-run",
                     *SCRATCH, "--epochs", "1", "--set", "train.tuning=lora")
    assert len(found["jobs"]) == 16
    assert found["jobs"][1]["name"] == "llava_closed_n10_seed0_r-16"
    assert found["jobs"][0]["values"] == {"model.name": "llava", "data.question_type": "closed", "data.subsample": 10,
                                          "seed": 0, "train.lora.r": 8}
    assert [command.split(" -m medvqa_cli ")[1].split(" --")[0] for command in found["jobs"][0]["commands"]] == [
        "train sft", "infer", "eval answers"]


def test_the_example_file_is_a_valid_grid(document, repository):
    found = document("experiments", "run", repository / "examples" / "experiments.yaml", "--dry-run")
    assert (found["experiment"], len(found["jobs"])) == ("learning-rate", 6)
    assert [len(job["commands"]) for job in found["jobs"]] == [4] * 6


def test_a_dry_run_prints_commands_and_writes_nothing(medvqa, workplace):
    result = medvqa("experiments", "run", "--models", "llava", "--seeds", "3", "--dry-run", *SCRATCH)
    assert result.exit_code == 0, result.stderr
    assert "1 of 1 jobs would run" in result.stdout
    assert "medvqa_cli train sft --name llava_seed3 --config" in result.stdout
    assert not (workplace / "runs").exists()


def test_the_base_stands_below_config_and_flags(ran, medvqa, workplace):
    calls = ran()
    (workplace / "user").mkdir()
    (workplace / "user" / "config.toml").write_text("[train]\nepochs = 9.0\nbatch_size = 9\nwarmup = 0.9\n")
    (workplace / "more.yaml").write_text("train: {batch_size: 2}")
    (workplace / "study.yaml").write_text("base: {train: {epochs: 4, batch_size: 4}, paths: {runs: elsewhere}}\n"
                                          "grid: {seed: [0, 1]}\nstages: [train]")
    result = medvqa("experiments", "run", "study.yaml", "--config", "more.yaml", "--seeds", "5", "--stages",
                    "infer,train", "--jobs", "2")
    assert result.exit_code == 0, result.stderr
    (grid, base, options), = calls
    assert (base.train.epochs, base.train.batch_size, base.train.warmup) == (4, 2, 0.9)
    assert str(base.paths.runs) == "elsewhere"
    assert (grid.name, grid.stages, [axis.values for axis in grid.axes]) == ("study", ("train", "infer"), [("5",)])
    assert [slot.name for slot in options["slots"]] == ["slot 1", "slot 2"]


def test_cluster_options_are_handed_on(ran, medvqa):
    calls = ran()
    medvqa("experiments", "run", "--seeds", "0", "--submit", "slurm", "--submit-option", "slurm_partition=gpu",
           "--submit-option", "timeout_min=60")
    assert calls[0][2]["submit"] == "slurm"
    assert calls[0][2]["submit_options"] == {"slurm_partition": "gpu", "timeout_min": 60}


def test_failed_jobs_come_after_the_table(ran, medvqa):
    ran(Outcome("b_1", 1.0, "train", 5), Outcome("b_0", 1.0))
    result = medvqa("experiments", "run", "--seeds", "0")
    assert result.exit_code == 7
    assert "1 of 2 jobs failed: b_1." in result.stderr
    assert "Closed accuracy" in result.stdout


def test_the_tables(capsys):
    print_summary(Terminal(), make_summary())
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:4] == ["study: Answers", "model Runs Closed accuracy", "a 2 0.250 ± 0.071", "b 2 0.900 (n=1)"]
    (row,) = [line for line in lines if line.startswith("model: a -> b")]
    assert "a -> b - +0.700 [" in row
    assert row.endswith(" 20 20 1")
    assert "1 of 4 runs not done: train: b_1" in err
    assert "Holm: p adjusted by Holm's method" in out


def test_the_tables_for_a_paper(ran, medvqa, workplace):
    ran()
    result = medvqa("experiments", "run", "--seeds", "0", "--markdown", "study.md", "--latex", "study.tex")
    assert result.exit_code == 0, result.stderr
    assert "comparisons.csv, study.md, study.tex" in result.stderr
    assert "| a | 2 | 0.250 ± 0.071 |" in (workplace / "study.md").read_text()
    assert r"a & 2 & 0.250 ± 0.071 \\" in (workplace / "study.tex").read_text()


def test_show_takes_the_latest_experiment(document, medvqa, workplace):
    assert "There are no experiments in 'runs'" in medvqa("experiments", "show").stderr
    write_json(workplace / "runs" / "experiments" / "old" / "experiment.json", {
        "jobs": [{"name": "seed0", "values": {"seed": 0}, "stages": ["train"], "tag": ""}],
        "evaluation": {"confidence_level": 0.9, "resamples": 50}})
    found = document("experiments", "show")
    assert (found["experiment"], found["runs"][0]["state"]) == ("old", "not done: train")
    assert found["protocol"]["level"] == 0.9
    assert "Known: old." in medvqa("experiments", "show", "new").stderr
    assert medvqa("experiments", "show", "old").exit_code == 0, "a table of seeds alone"


@pytest.mark.parametrize(("words", "code", "message"), [
    ((), 2, "The grid is empty"),
    (("none.yaml",), 2, "'none.yaml' does not exist"),
    (("--vary", "seed"), 2, "--vary 'seed' is not of the form key=value,value"),
    (("--vary", "train.epoch=1"), 2, "unknown setting 'train.epoch'"),
    (("--seeds", "0", "--vary", "seed=1"), 2, "'seed' are given twice"),
    (("--seeds", "a"), 2, "etting 'seed' is \"a\""),
    (("--seeds", "0", "--stages", "train,guess"), 2, "no stage 'guess'"),
    (("--methods", "sft,dpo"), 2, "--methods: there is no method 'dpo'"),
    (("--seeds", "0", "--jobs", "0"), 2, "--jobs is '0'"),
    (("--seeds", "0", "--gpus", "x"), 2, "--gpus 'x' is no list"),
    (("--seeds", "0", "--gpus", "0", "--jobs", "2"), 2, "--gpus and --jobs exclude each other"),
    (("--seeds", "0", "--submit", "lsf"), 2, "Use --submit slurm or --submit ray"),
    (("--seeds", "0", "--submit", "slurm", "--gpus", "0"), 2, "have no effect with --submit"),
    (("--seeds", "0", "--submit-option", "a=1"), 2, "has no effect without --submit"),
    (("--seeds", "0", "--submit", "slurm", "--submit-option", "a"), 2, "'a' is not of the form key=value"),
    (("--seeds", "0"), 5, "No model is named"),
    (("--seeds", "0", "--datasets", "slak", *SCRATCH, "--model", "llava"), 3, "slak"),
])
def test_what_is_wrong_is_one_error(medvqa, workplace, words, code, message):
    result = medvqa("experiments", "run", *words)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (workplace / "runs").exists()
