"""What is read from a run: its numbers and those of its questions agree with each other."""

from __future__ import annotations

import statistics

import pytest

from medvqa_cli.errors import RunError
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.evaluate import evaluate_answers
from medvqa_cli.workflows.experiments.grid import Combination
from medvqa_cli.workflows.experiments.jobs import find_pending, make_job
from medvqa_cli.workflows.experiments.results import name_measured, name_scored, read_result
from medvqa_cli.workflows.infer import infer_split
from tests.workflows.conftest import merge


@pytest.fixture
def ask(own_run, tmp_path):
    """Let the run be asked how sure it is by some method, and return its job."""
    settings, run = own_run

    def use(method, *stages):
        wanted = make_settings(merge(settings.model_dump(mode="json"), calibration={"method": method}))
        evaluate_calibration(wanted, run=run.name)
        (tmp_path / "runs" / "runs").mkdir(exist_ok=True)
        run.path.rename(tmp_path / "runs" / "runs" / run.name)
        return make_job(Combination(run.name, {}, wanted), tmp_path / "runs", ("train", *stages, "calibrate"))

    return use


def test_all_methods_are_read_and_a_damaged_one_is_an_error(ask):
    job = ask("all")
    assert find_pending(job) == ()
    result = read_result(job, {})
    blocks = job.run.read_json("metrics.json")
    sources = {block["method"]: block for name, block in blocks.items() if name.startswith("calibration")}
    assert {"sampling", "entropy", "logits", "p_true"} <= set(sources)
    for source, block in sources.items():
        assert result.metrics[f"ece@{source}"] == block["ece"]
        scores = result.scores[f"brier@{source}"]
        assert len(scores) == block["num_questions"]
        assert statistics.fmean(scores.values()) == pytest.approx(block["brier"])
    assert name_measured([result])[:3] == ["ece@sampling", "bias_floor@sampling", "brier@sampling"]
    assert name_scored([result])[0] == "brier@sampling"
    (job.run.path / "calibration-logits" / "detailed_results.json").write_text("[{}]")
    with pytest.raises(RunError, match=r"detailed_results.json is no list of confidences \('image_id'\)"):
        read_result(job, {})


def test_numbers_and_scores_of_answers_agree(own_run, ask):
    settings, run = own_run
    infer_split(settings, run=run.name)
    evaluate_answers(run, settings)
    job = ask("likelihood", "infer", "evaluate")
    result = read_result(job, {})
    assert result.state == "done"
    assert [name for name in name_measured([result]) if "@" not in name] == [
        "closed_accuracy", "open_exact_match", "open_token_f1"]
    for name in name_scored([result]):
        assert statistics.fmean(result.scores[name].values()) == pytest.approx(result.metrics[name])
    assert "brier@likelihood" in result.scores
