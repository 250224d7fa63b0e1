"""The page in a real browser: filters work, nothing runs that should not, nothing is logged as an error."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0",
         "--virtual-time-budget=4000", "--dump-dom"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@pytest.fixture
def open_page(tmp_path):
    """Opens a page and returns (the document as the browser has it, what its console said)."""

    def opened(path: Path, fragment: str = "") -> tuple[str, list[str]]:
        done = subprocess.run([BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri() + fragment],
                              capture_output=True, text=True, timeout=60, check=True)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return opened


def read_cards(document: str) -> list[tuple[str, str]]:
    """(class, question) of every card drawn."""
    return [(kind, unescape(question))
            for kind, question in re.findall(r'<li class="(card [^"]*)">.*?<h3>(.*?)</h3>', document, re.DOTALL)]


def read_status(document: str) -> str:
    return re.search(r'<p class="status"[^>]*>(.*?)</p>', document)[1]


def test_console_errors_would_be_seen(open_page, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<script>throw new Error('seen')</script>", encoding="utf-8")
    assert any("seen" in line for line in open_page(page)[1])


def test_filters_from_the_address_are_applied(open_page, full_run):
    document, console = open_page(full_run.report, "#questions?outcome=wrong&modality=MRI&text=lesion")
    cards = read_cards(document)
    assert cards
    assert {kind for kind, _ in cards} == {"card wrong"}
    assert all("lesion" in question for _, question in cards)
    assert set(re.findall(r'class="tag">(CT|MRI|X-ray)<', document)) == {"MRI"}
    assert read_status(document) == f"{len(cards)} of 210 questions match."
    assert not console


DRIVER = """
const log = [];
const form = document.querySelector("#gallery form");
const cards = () => [...document.querySelectorAll(".cards > li")];
const status = () => document.querySelector(".status").textContent;
const change = (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
};
const confidence = (card) => Number(/[\\d.]+/.exec(card.querySelector(".confidence").textContent)[0]);
const confidences = () => cards().map(confidence);
log.push(["start", cards().length, status()]);
document.querySelector(".more").click();
log.push(["more", cards().length, document.activeElement === cards()[48]]);
change("order", "confident");
log.push(["confident", confidences(), location.hash]);
change("order", "unsure");
log.push(["unsure", confidences(), location.hash]);
change("type", "count");
log.push(["count", [...new Set(cards().map((card) => card.querySelector("h3").textContent))], location.hash]);
change("text", "no such words");
log.push(["none", cards().length, status()]);
form.reset();
setTimeout(() => {
  log.push(["reset", cards().length, status(), location.hash]);
  const urls = new Set(cards().map((card) => card.querySelector("img").src));
  const described = cards().every((card) => card.querySelector("img").alt);
  log.push(["pictures", [...urls].every((url) => url.startsWith("data:")), described]);
  document.body.dataset.log = JSON.stringify(log);
}, 50);
"""


def test_controls_filter_sort_and_reset(open_page, full_run, tmp_path):
    page = tmp_path / "driven.html"
    html = re.sub(r"<meta http-equiv=[^>]*>", "", full_run.report.read_text(encoding="utf-8"))
    page.write_text(html.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    document, console = open_page(page)
    log = {name: rest for name, *rest in json.loads(unescape(re.search(r'data-log="([^"]*)"', document)[1]))}
    assert log["start"] == [48, "210 of 210 questions match."]
    assert log["more"] == [96, True]
    for name, sign in (("confident", -1), ("unsure", 1)):
        values, address = log[name]
        assert values == sorted(values, key=lambda value: sign * value)
        assert values[0] != values[-1]
        assert address == f"#questions?order={name}"
    assert log["count"] == [["How many lesions can be seen?"], "#questions?type=count&order=unsure"]
    assert log["none"] == [0, "No question matches: widen the search or clear the filters."]
    assert log["reset"] == [48, "210 of 210 questions match.", "#questions"]
    assert log["pictures"] == [True, True]
    assert not console


def test_script_in_a_question_is_shown_and_not_run(open_page, nasty_run):
    run, nasty = nasty_run
    document, console = open_page(run.report)
    assert nasty in [question for _, question in read_cards(document)]
    assert "<title>example · medvqa report</title>" in document
    assert not console


def test_policy_stops_a_script_that_slipped_in(open_page, full_run, tmp_path):
    page = tmp_path / "slipped.html"
    html = full_run.report.read_text(encoding="utf-8")
    page.write_text(html.replace("</h1>", "</h1><script>document.title = 'pwned'</script>"), encoding="utf-8")
    document, console = open_page(page)
    assert "<title>example · medvqa report</title>" in document
    assert any("Content Security Policy" in line for line in console)


LARGE_DRIVER = """
const form = document.querySelector("#gallery form");
const time = (action) => { const start = performance.now(); action(); return performance.now() - start; };
const change = (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
};
const log = {};
log.cards = document.querySelectorAll(".cards > li").length;
log.sort = time(() => change("order", "question"));
log.search = time(() => change("text", "question 49"));
log.status = document.querySelector(".status").textContent;
log.filter = time(() => { change("text", ""); change("outcome", "wrong"); });
log.shown = document.querySelectorAll(".cards > li").length;
log.lazy = [...document.querySelectorAll(".cards img")].every((image) => image.loading === "lazy");
document.body.dataset.log = JSON.stringify(log);
"""


@pytest.mark.slow
def test_five_thousand_questions_stay_smooth(open_page, tmp_path):
    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.reporting.blocks import Section
    from medvqa_cli.reporting.gallery import Entry, build_gallery
    from medvqa_cli.reporting.page import Page, render_page

    entries = [Entry(Prediction(sample=VQASample(
        dataset="d", split="test", question_id=f"q{number}", image_id=f"i{number % 700}", answer="yes",
        question=f"Is this question {number}?", answer_type="closed", modality="CT", images=(f"{number % 700}.png",)),
        answer="no"), "wrong" if number % 3 else "right", 0.5) for number in range(5000)]
    thumbnails = {f"{number}.png": b"\xff\xd8" + bytes([number % 256]) * 6000 for number in range(700)}
    gallery = build_gallery(entries, entries, thumbnails)
    html = render_page(Page("Large", "", "2026-01-01T00:00:00", [Section("questions", "Questions", "", [gallery])]))
    page = tmp_path / "large.html"
    page.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", html).replace(
        "</body>", f"<script>{LARGE_DRIVER}</script></body>"), encoding="utf-8")
    assert page.stat().st_size < 10_000_000
    document, console = open_page(page)
    log = json.loads(unescape(re.search(r'data-log="([^"]*)"', document)[1]))
    assert (log["cards"], log["shown"], log["lazy"]) == (48, 48, True)  # a page of cards at a time, never all
    assert log["status"] == f"{sum('49' in str(number) for number in range(5000))} of 5,000 questions match."
    for action in ("sort", "search", "filter"):
        assert log[action] < 1000, (action, log[action])
    assert not console


@pytest.mark.slow
def test_a_page_with_everything_logs_no_error(open_page, full_run, tmp_path):
    from medvqa_cli.settings.schema import make_settings
    from medvqa_cli.workflows.report import write_report
    from medvqa_cli.workflows.report_extras import Extras

    published = Path(__file__).parents[2] / "examples" / "published.yaml"
    page = write_report(full_run, settings=make_settings({"paths": {"runs": str(full_run.path.parent)}}),
                        extras=Extras(others=["example:blank"], published=published, output=tmp_path / "page.html"))
    document, console = open_page(page)
    for key in ("comparison", "published", "closed", "calibration"):
        assert f'<section id="{key}"' in document
    assert not console
