"""A server answers a split: side by side, resumable by question, failures kept apart, the protocol beside the rows."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import pytest

from medvqa_cli.errors import ModelError, RunError, SettingsError
from medvqa_cli.inference.protocol import AnswerError, Generation, Intake
from medvqa_cli.progress import SILENT
from medvqa_cli.records import VQASample, read_jsonl
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.asking import Failures, ask, plan_portions, seed_portion
from medvqa_cli.workflows.calibrate import evaluate_calibration
from medvqa_cli.workflows.data import load_samples
from medvqa_cli.workflows.infer import infer_image, infer_split, read_answers
from tests.inference.stand_in_server import Fault, StandIn, find_question, serve
from tests.workflows.conftest import TREE, merge


@pytest.fixture
def server():
    with serve(StandIn(reply=lambda question: "yes")) as running:
        yield running


@pytest.fixture
def configure(server, trained, tmp_path, monkeypatch):
    """Settings that let the server answer the demo's test split."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def build(**infer):
        options = {"retries": 0, "concurrency": 4, "base_url": server.url} | infer.pop("server", {})
        paths = {"prepared": str(trained[0].paths.prepared), "runs": str(tmp_path / "runs")}
        return make_settings(merge(
            TREE, paths=paths, model={"name": "org/Small-VL", "scratch": False}, calibration={"samples": 3},
            infer={"engine": "openai", "server": options, **infer}))
    return build


def read_rows(run, name="predictions.jsonl"):
    return [(row["sample"]["question_id"], row["answer"]) for row in read_jsonl(run.path / name)]


def test_every_question_is_asked_once_several_at_a_time_and_written_in_order(server, configure):
    settings = configure()
    server.seconds = 0.01
    run = infer_split(settings)
    samples = load_samples(settings, "test", SILENT)
    assert read_rows(run) == [(sample.question_id, "yes") for sample in samples]
    assert len(server.requests) == len(samples) == 32
    assert 2 <= server.most_at_once <= 4
    assert run.name == "infer-org-small-vl"


def test_engine_server_and_model_are_stated_and_the_key_is_kept_nowhere(server, configure):
    run = infer_split(configure())
    meta = run.read_json("predictions.meta.json")
    assert (meta["engine"], meta["model"]) == (
        "openai", {"checkpoint": "org/Small-VL", "server": server.url, "image_size": 1024})
    assert run.read_json("manifest.json")["model"] == meta["model"]
    assert run.read_json("predictions.usage.json") == {"requests": 32, "prompt_tokens": 320, "completion_tokens": 64}
    assert all("sk-secret" not in file.read_text() for file in run.path.rglob("*") if file.is_file())


def test_a_killed_run_goes_on_and_asks_nothing_twice(server, configure):
    settings = configure()
    run = infer_split(settings)
    path = run.path / "predictions.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[3:14]) + lines[20][:40])
    asked = len(server.requests)
    assert infer_split(settings) == run
    assert path.read_bytes() == whole
    assert len(server.requests) - asked == 32 - 11
    assert run.read_json("predictions.usage.json")["requests"] == 32 + 21
    infer_split(settings)
    assert len(server.requests) - asked == 21


def test_failed_questions_are_told_kept_apart_and_asked_again(server, configure, listener):
    settings = configure()
    samples = load_samples(settings, "test", SILENT)
    bad = {samples[4].question_id, samples[9].question_id}
    texts = {samples[4].question, samples[9].question}
    refusal = Fault(400, {"error": {"message": "content policy"}})
    server.fault = lambda request, number: (
        refusal if "messages" in request and find_question(request) in texts else None)
    with pytest.raises(AnswerError, match=r"questions have no answer; the reasons are in '.*failures\.j") as failure:
        infer_split(settings, progress=listener)
    assert failure.value.exit_code == 5
    assert "ask them again" in failure.value.hint
    run_folder = settings.paths.runs / "infer-org-small-vl"
    failed = list(read_jsonl(run_folder / "predictions.failures.jsonl"))
    assert bad <= {row["question_id"] for row in failed}
    assert failure.value.message.startswith(f"{len(failed)} questions")
    assert {row["reason"] for row in failed} == {"The server refuses the request (status 400): content policy"}
    assert any("content policy" in line for line in listener.warnings)
    answered = [row["sample"]["question_id"] for row in read_jsonl(run_folder / "predictions.jsonl")]
    assert sorted(answered + [row["question_id"] for row in failed]) == sorted(s.question_id for s in samples)
    server.fault = lambda request, number: None
    asked = len(server.requests)
    run = infer_split(settings)
    assert len(server.requests) - asked == len(failed)
    assert [question for question, _ in read_rows(run)] == [sample.question_id for sample in samples]
    assert not (run_folder / "predictions.failures.jsonl").exists()


def test_a_server_that_answers_nothing_is_not_asked_to_the_end(server, configure):
    server.fault = lambda request, number: Fault(400, {"detail": "no"}) if "messages" in request else None
    with pytest.raises(AnswerError, match="status 400"):
        infer_split(configure())
    assert 20 <= len(server.requests) < 32


def test_a_server_that_dies_keeps_what_it_has_answered(server, configure):
    settings = configure()
    server.fault = lambda request, number: Fault(0) if number >= 10 else None
    with pytest.raises(ModelError, match="cannot be reached") as failure:
        infer_split(settings)
    assert not isinstance(failure.value, AnswerError)
    path = settings.paths.runs / "infer-org-small-vl" / "predictions.jsonl"
    kept = len(list(read_jsonl(path)))
    assert 7 <= kept <= 10
    while any(thread.name == "asking" for thread in threading.enumerate()):
        time.sleep(0.01)
    server.fault = lambda request, number: None
    asked = len(server.requests)
    infer_split(settings)
    assert len(server.requests) - asked == 32 - kept


def test_what_is_not_there_is_told_before_anything_is_written(server, configure):
    settings = configure(server={"base_url": "http://127.0.0.1:9/v1"})
    with pytest.raises(ModelError, match=r"The server at 'http://127\.0\.0\.1:9/v1' cannot be reached"):
        infer_split(settings)
    unnamed = make_settings(merge(settings.model_dump(mode="json"), model={"name": None},
                                  infer={"server": {"base_url": server.url}}))
    with pytest.raises(ModelError, match=r"No model of the server at .* is named") as failure:
        infer_split(unnamed)
    assert failure.value.hint == "Name one with --model; it offers: small, large."
    nowhere = make_settings(merge(settings.model_dump(mode="json"), infer={"server": {}}))
    with pytest.raises(SettingsError, match="needs a server") as failure:
        infer_split(nowhere)
    assert "--base-url" in failure.value.hint
    with pytest.raises(SettingsError, match="exclude each other"):
        infer_split(configure(), run="small")
    assert not settings.paths.runs.exists()


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://me:sk-secret@host/v1",
                                 "https://host/v1?key=sk-secret", "http:///v1"])
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url):
    with pytest.raises(SettingsError, match=r"infer\.server\.base_url"):
        make_settings({"infer": {"server": {"base_url": url}}})
    assert make_settings({"infer": {"server": {"base_url": "http://a/v1/"}}}).infer.server.base_url == "http://a/v1"


def test_answers_of_another_model_or_server_are_not_mixed(server, configure):
    run = infer_split(configure())
    side = run.path / "predictions.meta.json"
    meta = json.loads(side.read_text())
    side.write_text(json.dumps(meta | {"engine": "vllm"}))
    with pytest.raises(RunError, match="another engine: 'vllm', now 'openai'"):
        infer_split(configure())
    side.write_text(json.dumps({key: value for key, value in meta.items() if key != "engine"}))
    with pytest.raises(RunError, match="another engine: 'transformers', now 'openai'"):
        infer_split(configure())


def test_a_picture_of_ones_own(server, configure):
    settings = configure()
    sample = load_samples(settings, "test", SILENT)[0]
    server.reply = lambda question: question.upper()
    questions = [f"question {number}" for number in range(12)]
    answers = infer_image(settings, settings.paths.prepared / sample.images[0], questions)
    assert [answer.answer for answer in answers] == [question.upper() for question in questions]
    assert not settings.paths.runs.exists()


def test_answers_are_read_back_by_picture(server, configure):
    settings = configure()
    run = infer_split(settings)
    groups = read_answers(settings, run)
    assert [len({answer.sample.images for answer in group}) for group in groups] == [1] * 4
    assert sum(map(len, groups)) == 32


def test_a_server_may_be_calibrated(server, configure):
    settings = configure()
    run, metrics = evaluate_calibration(settings)
    rows = list(read_jsonl(run.path / "samples.jsonl"))
    assert metrics["num_questions"] == len(rows) == len(server.requests)
    assert all(sum(answer["count"] for answer in row["samples"]) == 3 for row in rows)
    before = (run.path / "samples.jsonl").read_bytes()
    evaluate_calibration(settings)
    assert (run.path / "samples.jsonl").read_bytes() == before


class Recorder:
    """An engine that notes how it is called; `faults` are raised for these questions."""

    def __init__(self, intake: Intake, faults: dict[str, Exception] | None = None) -> None:
        self.intake = intake
        self.faults = faults or {}
        self.threads: set[int] = set()

    def generate(self, portion):
        self.threads.add(threading.get_ident())
        for sample in portion:
            if sample.question_id in self.faults:
                raise self.faults[sample.question_id]
        return [Generation(sample.question_id, None, None) for sample in portion]


def make_samples(count: int) -> list[VQASample]:
    return [VQASample(dataset="d", split="test", question_id=str(n), image_id="", question="Is it?", answer="yes",
                      answer_type="closed", images=(f"/{n % 2}.png",)) for n in range(count)]


def make_own(name: str) -> VQASample:
    """A sample with a picture of its own."""
    return dataclasses.replace(make_samples(1)[0], question_id=name, images=(f"/{name}.png",))


def test_portions_are_what_the_engine_takes():
    def ids(intake):
        return [[sample.question_id for sample in portion]
                for portion in plan_portions(Recorder(intake), make_samples(5))]

    assert ids(Intake()) == [["0", "2", "4"], ["1", "3"]]
    assert ids(Intake(by_image=False)) == [["0"], ["1"], ["2"], ["3"], ["4"]]
    assert ids(Intake(by_image=False, questions=2)) == [["0", "1"], ["2", "3"], ["4"]]
    samples = [*make_samples(3), *map(make_own, "xyz")]
    joined = plan_portions(Recorder(Intake(questions=4)), samples, greedy=True)
    assert [[sample.question_id for sample in portion] for portion in joined] == [["0", "2", "1", "x"], ["y", "z"]]
    by_image, alone = (seed_portion(Recorder(Intake(by_image=image)), make_samples(1), 3) for image in (True, False))
    assert (by_image == 3, alone == 3) == (False, True)


def test_questions_without_an_image_draw_apart():
    engine = Recorder(Intake())
    samples = [dataclasses.replace(sample, images=()) for sample in make_samples(6)]
    portions = plan_portions(engine, samples)
    assert [len(portion) for portion in portions] == [1] * 6
    seeds = [seed_portion(engine, portion, 3) for portion in portions]
    assert len(set(seeds)) == 6
    assert seeds[::-1] == [seed_portion(engine, portion, 3) for portion in plan_portions(engine, samples[::-1])]


@pytest.mark.parametrize("calls", [1, 3])
def test_programming_mistakes_and_broken_engines_reach_the_caller(calls):
    for fault in (ValueError("mistake"), ModelError("gone")):
        engine = Recorder(Intake(by_image=False, calls=calls), {"7": fault})
        with pytest.raises(type(fault), match=str(fault)):
            list(ask(engine, make_samples(9), engine.generate, Failures()))


@pytest.mark.parametrize("calls", [1, 3])
def test_the_first_failure_ends_all_where_nobody_collects_them(calls):
    engine = Recorder(Intake(by_image=False, calls=calls), {"2": AnswerError("no")})
    failures = Failures()
    assert len(list(ask(engine, make_samples(9), engine.generate, failures))) == 8
    assert [sample.question_id for sample, _ in failures] == ["2"]
    with pytest.raises(AnswerError, match="no"):
        list(ask(engine, make_samples(9), engine.generate))
    assert (threading.get_ident() in engine.threads) == (calls == 1)
