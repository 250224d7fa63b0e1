"""Commands that run at once: one writes a row file, the other says so; both may put numbers into metrics.json."""

from __future__ import annotations

import pytest

from medvqa_cli.errors import RunError
from medvqa_cli.runs import Run
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.evaluate import merge_metrics
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.locks import hold_rows, take_turns
from tests.workflows.conftest import FORK, held_elsewhere


@pytest.mark.parametrize(("name", "call", "hint"), [
    ("predictions.jsonl", infer_split, "Other answers are kept apart by --tag NAME."),
    ("samples.jsonl", evaluate_calibration, "it does what is left."),
], ids=["answers", "samples"])
def test_a_row_file_is_written_by_one_process_at_a_time(own_run, name, call, hint):
    settings, run = own_run
    path = run.path / name
    with held_elsewhere(hold_rows, path):
        for overwrite in (False, True):
            with pytest.raises(RunError, match=f"Another process is writing '.*small/{name}'") as caught:
                call(settings, run="small", overwrite=overwrite)
        assert caught.value.hint.startswith("Wait until it has ended, then run the same command again")
        assert caught.value.hint.endswith(hint)
        assert not path.exists()
        assert not path.with_suffix(".meta.json").exists()
    call(settings, run="small")
    assert path.exists()


def test_answers_under_another_tag_are_not_held_up(own_run):
    settings, run = own_run
    with held_elsewhere(hold_rows, run.path / "predictions.jsonl"):
        infer_split(settings, run="small", tag="other")
    assert (run.path / "predictions-other.jsonl").exists()


def test_numbers_of_commands_that_end_at_once_are_all_kept(tmp_path):
    run = Run(tmp_path)

    def put(who):
        for number in range(40):
            merge_metrics(run, f"{who}-{number}", {"n": number})

    others = [FORK.Process(target=put, args=(who,)) for who in "abc"]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert len(run.read_json("metrics.json")) == 120


def test_whose_turn_it_is_not_waits(tmp_path):
    path = tmp_path / "metrics.json"
    taken = FORK.Event()

    def wait():
        with take_turns(path):
            taken.set()

    with held_elsewhere(take_turns, path):
        late = FORK.Process(target=wait)
        late.start()
        assert not taken.wait(0.3)
    assert taken.wait(60)
    late.join()
