"""Two systems compared, as people read it."""

from __future__ import annotations

import pytest

from medvqa_cli.records import Prediction, VQASample, write_jsonl
from medvqa_cli.reporting.comparison import list_cells

COMMAND = ("eval", "compare", "a", "b", "--set", "evaluation.resamples=50")


@pytest.fixture
def _answered(make_run):
    for name, right in (("a", 2), ("b", 8)):
        write_jsonl(make_run(name).path / "predictions.jsonl", [Prediction(
            answer="yes" if number % 10 < right else "no", sample=VQASample(
                dataset="d", split="test", question_id=str(number), image_id=str(number // 2), question="Is it?",
                answer="yes", answer_type="closed")) for number in range(40)])


@pytest.mark.usefixtures("_answered")
def test_the_terminal_shows_numbers_as_the_report_does(medvqa, document):
    result = medvqa(*COMMAND)
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    rows = document(*COMMAND)["comparisons"]
    assert [row["difference"] for row in rows] == [pytest.approx(0.6)] * len(rows)
    assert {" ".join(list_cells(row)) for row in rows} <= set(lines)
    shown = next(line for line in lines if line.startswith("closed: Accuracy 40 0.200 0.800 +0.600 [+0."))
    assert " 0 / 24 g +0.50" in shown
    assert "Effect: g, where a question is right or wrong: Cohen's g" in result.stdout
    back = [" ".join(line.split()) for line in medvqa(*COMMAND[:2], "b", "a", *COMMAND[4:]).stdout.splitlines()]
    assert " 24 / 0 g -0.50" in next(line for line in back if line.startswith("closed: Accuracy 40 0.800 0.200 -0.6"))
