"""`medvqa train watch`: a running or finished training in the terminal."""

from __future__ import annotations

import contextlib
import math
import textwrap
import time
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.chart import draw_chart
from medvqa_cli.cli.options import RUN_ARGUMENT, Option
from medvqa_cli.cli.progress import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medvqa_cli.cli.command import Call
    from medvqa_cli.runs import Run
    from medvqa_cli.workflows.watch import TrainingStatus, TrainingWatch

ONCE = Option("--once", "Print how it stands now, and end.", kind="switch")
OPTIONS = (RUN_ARGUMENT, ONCE)
SECONDS = 1.0
WIDTH, HEIGHT = 100, 10
EXAMPLES = 6
BAR = 30
STATES = {"finished": "finished", "running": "running", "stopped": "stopped before its last step",
          "gone": "its process has ended before its last step", "loading": "loading; training has not begun",
          "untrained": "no training"}


def watch_run(call: Call) -> None:
    """Show how a training stands: its loss, rate, time left, probes and warnings; Ctrl-C ends the look, not the run."""
    from medvqa_cli.workflows.watch import TrainingWatch

    watch = TrainingWatch(_choose_run(call))
    status = watch.look()
    if call.answer_json(status.to_json()):
        return
    if call.is_on("once") or not call.terminal.draws:
        for line in describe_status(status, WIDTH):
            call.terminal.print(line)
        return
    with contextlib.suppress(KeyboardInterrupt):
        _follow(call, watch)


def _choose_run(call: Call) -> Run:
    from medvqa_cli.cli.run_choice import newest_run
    from medvqa_cli.runs import open_run

    typed = call.text("run")
    return open_run(call.runs, typed) if typed else newest_run(call.runs, lambda run: run.events.exists())


def _follow(call: Call, watch: TrainingWatch) -> None:
    """Draw the picture anew until the training is over."""
    from rich.live import Live
    from rich.text import Text

    console = call.terminal.console(stderr=False)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
              vertical_overflow="crop") as live:
        while True:
            status = watch.look()
            width = min(WIDTH, console.width)
            lines = [part for line in describe_status(status, width) for part in _wrap(line, width)]
            live.update(Text("\n".join(lines), no_wrap=True, overflow="ellipsis"), refresh=True)
            if status.is_over:
                return
            time.sleep(SECONDS)


def _wrap(line: str, width: int) -> list[str]:
    """Return a line as several that are no longer than `width`; one that fits keeps its blanks."""
    return [line] if len(line) <= width else textwrap.wrap(line, width, subsequent_indent="  ")


def describe_status(status: TrainingStatus, width: int) -> list[str]:
    """Return the picture of a training as lines of text."""
    return [f"{status.run}: {STATES[status.state]}", *_describe_progress(status), *_describe_losses(status, width),
            *_describe_probe(status.probe, width), *_describe_rest(status)]


def _describe_progress(status: TrainingStatus) -> Iterator[str]:
    if not status.steps:
        return
    done = round(BAR * status.step / status.steps)
    yield f"{'█' * done}{'░' * (BAR - done)} {status.step:,}/{status.steps:,} steps ({status.step / status.steps:.0%})"
    facts = [f"{format_seconds(status.seconds)} since the start"] if status.seconds else []
    if status.rate:
        facts.append(f"{status.rate:.3g} steps/s")
    if status.seconds_left is not None:
        facts.append(f"{format_seconds(status.seconds_left)} left")
    if status.quiet_seconds is not None:
        facts.append(f"last word {format_seconds(status.quiet_seconds)} ago")
    if facts:
        yield ", ".join(facts)


def _describe_losses(status: TrainingStatus, width: int) -> Iterator[str]:
    facts = []
    if status.losses:
        facts.append(f"loss {status.losses[-1][1]:.4g}")
    if status.validation:
        best = min((loss, step) for step, loss in status.validation)
        facts.append(f"validation loss {status.validation[-1][1]:.4g} (best {best[0]:.4g} at step {best[1]:,})")
    if status.learning_rate is not None:
        facts.append(f"learning rate {status.learning_rate:.3g}")
    if status.grad_norm is not None:
        facts.append(f"gradient norm {status.grad_norm:.3g}")
    if facts:
        yield ", ".join(facts)
    curves = [(sign, [point for point in points if math.isfinite(point[1])])
              for sign, points in (("•", status.losses), ("o", status.validation))]
    chart = draw_chart(curves, width, HEIGHT)
    if chart:
        yield ""
        yield f"loss by step (• training{', o validation' if status.validation else ''})"
        yield from chart
        yield ""


def _describe_probe(probe: dict[str, Any] | None, width: int) -> Iterator[str]:
    if not probe:
        return
    metrics = probe.get("metrics", {})
    shown = [("closed/accuracy", "closed right"), ("closed/yes_no_accuracy", "yes/no right"),
             ("open/exact_match", "open exact"), ("open/token_f1", "open F1"), ("stop/cut_off", "cut off")]
    parts = [f"{title} {metrics[name]:.0%}" for name, title in shown if name in metrics]
    if "closed/top_share" in metrics:
        parts.append(f"most frequent closed answer '{probe.get('top_answer')}' {metrics['closed/top_share']:.0%}")
    yield f"probes at step {probe.get('step', 0):,} ({probe.get('questions', 0)} questions): {', '.join(parts)}"
    for example in probe.get("examples", [])[:EXAMPLES]:
        mark = "+" if example.get("correct") else "-"
        line = f"  {mark} {example.get('question')} -> {example.get('answer')!r} (gold {example.get('gold')!r})"
        yield line if len(line) <= width else f"{line[: width - 1]}…"


def _describe_rest(status: TrainingStatus) -> Iterator[str]:
    if status.checkpoint is not None:
        yield f"last checkpoint: step {status.checkpoint:,}"
    if status.state == "untrained":
        yield "It has no events of a training: it may hold answers alone."
    yield from (f"warning: {warning}" for warning in status.warnings)
    if status.state in {"stopped", "gone"}:
        yield f"Continue with: {status.resume}"
