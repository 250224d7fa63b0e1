"""A run folder as training, inference and evaluation leave it, made without a model: answers are drawn by chance."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medvqa_cli.records import AnswerSample, Prediction, VQASample, write_json, write_jsonl
from medvqa_cli.runs import Run
from medvqa_cli.settings.schema import make_settings, to_tree

SETTINGS = make_settings({"evaluation": {"resamples": 200}, "calibration": {"samples": 100}, "seed": 7})
TEMPLATES = [
    ("presence", "Is there a lesion?", ("yes", "no"), "closed"),
    ("normality", "Does this scan look normal?", ("yes", "no"), "closed"),
    ("side", "Is the lesion on the left or on the right?", ("left", "right"), "closed"),
    ("ambiguous", "Is there a nodule in the lower half?", ("yes", "no"), "closed"),
    ("modality", "What kind of scan is this?", ("ct", "mri", "x-ray"), "open"),
    ("count", "How many lesions can be seen?", ("0", "1", "2", "3"), "open"),
    ("organ", "Which part of the body is shown?", ("chest", "abdomen", "head"), "open"),
]
MODALITIES = ("CT", "MRI", "X-ray")


def make_picture(path: Path, number: int) -> None:
    """Write a small grey phantom; each number gives another."""
    from PIL import Image, ImageDraw

    draw = random.Random(number)
    image = Image.new("L", (96, 96), 8)
    pen = ImageDraw.Draw(image)
    pen.ellipse((10, 16, 86, 84), fill=70 + number % 60)
    for _ in range(1 + number % 3):
        x, y = draw.randint(24, 66), draw.randint(28, 64)
        pen.ellipse((x, y, x + 9, y + 9), fill=230)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def make_samples(folder: Path, images: int) -> list[VQASample]:
    """Seven questions about each of some pictures; every third question on a nodule is ambiguous."""
    draw = random.Random(1)
    samples = []
    for number in range(images):
        picture = folder / f"phantom-{number:03d}.png"
        make_picture(picture, number)
        for position, (kind, question, answers, answer_type) in enumerate(TEMPLATES):
            true = draw.choice((0.1, 0.3, 0.5, 0.7, 0.9)) if kind == "ambiguous" else float(draw.random() < 0.5)
            answer = draw.choice(answers)
            law = None
            if answers == ("yes", "no"):
                answer = "yes" if draw.random() < true else "no"
                law = {"yes": true, "no": 1 - true}
            samples.append(VQASample(dataset="demo", split="test", question_id=f"demo-test-{number:03d}-{position}",
                                     image_id=f"phantom-{number:03d}", question=question, answer=answer,
                                     answer_type=answer_type, images=(str(picture),),
                                     question_type="presence" if kind == "ambiguous" else kind,
                                     modality=MODALITIES[number % 3], answer_probabilities=law))
    return samples


def answer(samples: list[VQASample], skill: float, seed: int) -> list[Prediction]:
    """Answer each sample rightly with chance `skill`, else with any answer to its kind of question."""
    draw = random.Random(seed)
    choices = {question: answers for _, question, answers, _ in TEMPLATES}
    found = []
    for sample in samples:
        is_right = draw.random() < skill
        text = sample.answer if is_right else draw.choice(choices.get(sample.question, ("yes", "no")))
        found.append(Prediction(sample=sample, answer=text, logprob=math.log(draw.uniform(0.5, 0.99)), num_tokens=2))
    return found


def sample_answers(samples: list[VQASample], seed: int) -> list[Prediction]:
    """Draw 100 answers to each yes/no question from a probability near the truth, a little too sure."""
    draw = random.Random(seed)
    found = []
    for sample in samples:
        if sample.answer_probabilities is None:
            continue
        true = sample.answer_probabilities["yes"]
        chance = min(max(0.5 + 1.1 * (true - 0.5) + draw.gauss(0, 0.07), 0.005), 0.995)
        yes = sum(draw.random() < chance for _ in range(100))
        counts = [AnswerSample(text, count) for text, count in (("Yes", yes), ("No", 100 - yes)) if count]
        found.append(Prediction(sample=sample, answer=counts[0].text, samples=tuple(counts)))
    return found


def write_events(path: Path) -> None:
    draw = random.Random(3)
    events = []
    for step in range(20, 901, 20):
        loss = 0.12 + 3.4 * math.exp(-step / 130) + draw.uniform(-0.03, 0.03)
        events.append({"event": "log", "seconds": step / 10, "step": step, "epoch": step / 125, "loss": loss,
                       "learning_rate": 1e-3, "grad_norm": 1.0})
        if step % 100 == 0:
            events.append({"event": "eval", "seconds": step / 10, "step": step, "epoch": step / 125,
                           "eval_loss": 0.16 + 3.4 * math.exp(-step / 130)})
            events.append({"event": "checkpoint", "seconds": step / 10, "step": step})
    write_jsonl(path, events)


def describe_job(count: int, *, blank: bool = False) -> dict:
    """What `medvqa infer` writes beside its rows."""
    return {"dataset": "demo", "split": "test", "fingerprint": "0123456789abcdef", "language": None,
            "question_type": "all", "limit": None, "model": {"family": "llava", "checkpoint": "runs/example/model",
            "adapter": "", "dtype": "float32", "device": "cpu", "image_processor": "CLIPImageProcessorPil"},
            "decoding": {"max_new_tokens": 8, "temperature": 0.0}, "instruction": "", "blank_images": blank, "seed": 7,
            "expected": count, "created": "2026-11-21T07:15:28+00:00",
            "closed_definition": "the question can be answered with yes or no, or names its options"}


def measure_baselines(samples: list[VQASample]) -> dict:
    """What guessing from the questions alone gives; the samples stand in for the training questions."""
    from medvqa_cli.scoring.baselines import Example, score_baselines

    def score(chosen: list[VQASample]) -> dict:
        asked = [Example(sample.question, sample.question_type, sample.answer) for sample in chosen]
        return score_baselines(asked, asked)

    kinds = {kind: score([sample for sample in samples if sample.answer_type == kind]) for kind in ("closed", "open")}
    types = sorted({sample.question_type for sample in samples})
    return {"train_questions": len(samples), **kinds,
            "question_type": {name: score([s for s in samples if s.question_type == name]) for name in types}}


def build_run(folder: Path, images: int = 30, change: Callable[[list[VQASample]], list[VQASample]] = list) -> Run:
    """Write a run folder; `change` may alter the questions before they are answered."""
    from medvqa_cli.data.analysis.audit import audit_samples, inspect_images
    from medvqa_cli.workflows.evaluate import evaluate_answers, evaluate_samples

    run = Run(folder / "example")
    samples = change(make_samples(folder / "pictures", images))
    for number, (tag, skill) in enumerate((("", 0.9), ("-before", 0.0), ("-blank", 0.2))):
        write_jsonl(run.path / f"predictions{tag}.jsonl", answer(samples, skill, number))
        write_json(run.path / f"predictions{tag}.meta.json",
                   describe_job(len(samples), blank=tag == "-blank") | {"baselines": measure_baselines(samples)})
    sampled = sample_answers(samples, 5)
    write_jsonl(run.path / "samples.jsonl", sampled)
    write_json(run.path / "samples.meta.json", describe_job(len(sampled)) | {
        "samples": 100, "decoding": {"temperature": 1.0, "max_new_tokens": 8}})
    for tag in ("", "before", "blank"):
        evaluate_answers(run, SETTINGS, tag=tag)
    evaluate_samples(run, SETTINGS)
    half = len(samples) // 2
    splits = {"train": [replace(s, split="train") for s in samples[:half]], "test": samples[half:]}
    write_json(run.path / "analysis.json", audit_samples(splits, inspect_images(samples, 10**6)))
    write_events(run.events)
    write_json(run.settings, to_tree(SETTINGS))
    write_json(run.manifest, {
        "created": "2026-11-21T07:13:37+00:00", "medvqa": "0.1.0", "python": "3.11.7", "platform": "Linux", "cpus": 2,
        "packages": {"torch": "2.13.0+cpu", "transformers": "5.23.0", "peft": None},
        "git_commit": "87df4fb0000000000000000000000000000000aa", "command": "medvqa quickstart",
        "data": {"dataset": "demo", "fingerprint": "0123456789abcdef", "train_questions": half, "skipped": []},
        "model": {"family": "llava", "checkpoint": "runs/example/initial"}, "train_seconds": 90.0, "steps": 900})
    return run


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with everything in it and its report written; not to be changed."""
    from medvqa_cli.workflows.report import write_report

    run = build_run(tmp_path_factory.mktemp("full"))
    write_report(run)
    return run


NASTY = ("</script><script>document.title = 'pwned'</script><!-- <script> \u2028 "
         "<img src=x onerror=\"document.title = 'pwned'\">")


@pytest.fixture(scope="session")
def nasty_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run whose texts try to break out of the page, its report written, and the text that tries."""
    from medvqa_cli.workflows.report import write_report

    def change(samples: list[VQASample]) -> list[VQASample]:
        return [replace(samples[0], question=NASTY, answer=NASTY, question_type="<b>odd</b>", question_id=NASTY,
                        modality='"><b>x</b>'), *samples[1:]]

    run = build_run(tmp_path_factory.mktemp("nasty"), images=3, change=change)
    write_json(run.settings, {"prompt": {"instruction": NASTY}})
    write_report(run)
    return run, NASTY


@pytest.fixture
def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures for the page alone: that takes a third of the time."""
    from medvqa_cli.reporting.figures import finish_figure

    for module in ("figures", "charts", "confidence"):
        monkeypatch.setattr(f"medvqa_cli.reporting.{module}.finish_figure", partial(finish_figure, inline_only=True))


@pytest.fixture(scope="session")
def metrics(full_run: Run) -> dict:
    """The full run's metrics.json; not to be changed."""
    return json.loads((full_run.path / "metrics.json").read_text(encoding="utf-8"))


class Element:
    """One element of a parsed page: its tag, attributes, own and inner text, and children."""

    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.children: list[Element] = []
        self.pieces: list[str | Element] = []

    @property
    def text(self) -> str:
        return " ".join("".join(self._all_text()).split())

    def _all_text(self):
        for piece in self.pieces:
            yield from [piece] if isinstance(piece, str) else piece._all_text()

    def find(self, tag: str = "", **attributes: str) -> list[Element]:
        """All descendants with this tag and these attributes; `class_` matches one of the classes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        found = []
        for child in self.children:
            if (not tag or child.tag == tag) and all(
                    value in child.attributes.get(name, "").split() for name, value in wanted.items()):
                found.append(child)
            found += child.find(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Element:
        found = self.find(tag, **attributes)
        assert len(found) == 1, (tag, attributes, len(found))
        return found[0]


class PageParser(HTMLParser):
    """Parses a whole page strictly: every element that is opened must be closed, in order."""

    VOID = frozenset({"meta", "input", "img", "br", "hr", "link"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.open = Element("document", {}, None)

    def handle_starttag(self, tag, attrs):
        child = Element(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.children.append(child)
        self.open.pieces.append(child)
        if tag not in self.VOID:
            self.open = child

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.tag == tag, f"</{tag}> closes <{self.open.tag}> at {self.getpos()}"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.pieces.append(data)


@pytest.fixture(scope="session")
def parse_page() -> Callable[[Path], Element]:
    """Parses a page into elements."""

    def parse(path: Path) -> Element:
        parser = PageParser()
        parser.feed(path.read_text(encoding="utf-8"))
        parser.close()
        assert parser.open is parser.root
        return parser.root

    return parse


@pytest.fixture(scope="session")
def page(full_run: Run, parse_page) -> Element:
    """The full run's report."""
    return parse_page(full_run.report)
