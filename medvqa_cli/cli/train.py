"""`medvqa train`: from questions and a model to a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from medvqa_cli.cli.command import command
from medvqa_cli.cli.completion import complete_choice, complete_run
from medvqa_cli.cli.group_options import GRPO
from medvqa_cli.cli.groups import make_group
from medvqa_cli.cli.options import (
    CHECKS,
    DATA,
    DRY_RUN,
    MODEL,
    PRESENTATION,
    SEED,
    TRACKING,
    TRAINING,
    Option,
    put_first,
)
from medvqa_cli.cli.watch import OPTIONS, watch_run
from medvqa_cli.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from medvqa_cli.cli.command import Call
    from medvqa_cli.runs import Run

app = make_group("Train a model.")
NAME = Option("--name", "Name of the run.", metavar="NAME")
RESUME = Option("--resume", "Go on with this run from its last checkpoint.", metavar="RUN", complete=complete_run)
INIT_FROM = Option("--init-from", "Start from this finished run's weights.", metavar="RUN", complete=complete_run)
ADAPTER = Option("--adapter", "Start from this finished run's weights: another name of --init-from.", metavar="RUN",
                 complete=complete_run)
INIT_WEIGHTS = Option("--init-weights", "Which of that run's weights: kept, average (--ema) or raw.", metavar="NAME",
                      complete=complete_choice(("kept", "average", "raw")))
FROM_EMA = Option("--resume-from-ema", "Start from the average of this finished run's weights.", metavar="RUN",
                  complete=complete_run)

OF_ONE_DATA_SET = ("data.dataset", "data.root", "data.source", "data.subsample")

command(app, "watch", *OPTIONS)(watch_run)

PUSH = Option("--push-to-hub", "When done, upload weights and a model card to this private repository.",
              metavar="NAME/MODEL")
PROCESSES = Option("--num-processes", "Train in N processes on this machine; each takes a GPU where there are any.",
                   metavar="N", panel="Training")


MOST_USED = ("--model", "--dataset", "--name", "--epochs", "--max-steps", "--learning-rate", "--batch-size",
             "--grad-accum", "--lora-r", "--tuning", "--limit", "--subsample", "--seed", "--resume", "--dry-run")


@command(app, "sft", *put_first((*DATA, *CHECKS, *PRESENTATION, *MODEL, *TRAINING, *TRACKING, PROCESSES, SEED, NAME,
                                 RESUME, INIT_FROM, INIT_WEIGHTS, FROM_EMA, PUSH, DRY_RUN), *MOST_USED))
def train_sft(call: Call) -> None:
    """Fine-tune a model by supervised learning: LoRA for a checkpoint, everything for a model from scratch."""
    from medvqa_cli.workflows.train import train_sft as train

    _carry_out(call, train, by_reward=False)


@command(app, "grpo", *put_first((*DATA, *CHECKS, *PRESENTATION, *MODEL, ADAPTER, *GRPO, *TRACKING, PROCESSES, SEED,
                                  NAME, RESUME, INIT_FROM, INIT_WEIGHTS, FROM_EMA, PUSH, DRY_RUN),
                                 "--adapter", "--rewards", "--num-generations", *MOST_USED))
def train_grpo(call: Call) -> None:
    """Train a model by reinforcement learning: GRPO with rewards that can be verified."""
    from medvqa_cli.workflows.grpo import check_trl
    from medvqa_cli.workflows.grpo import train_grpo as train

    check_trl()
    _carry_out(call, train, by_reward=True)


def _carry_out(call: Call, train: Callable[..., Run], *, by_reward: bool) -> None:
    """Plan, launch or train, as the command line says."""
    from medvqa_cli.cli.runs import describe_run

    _check_resume(call)
    _check_mixture(call)
    target = _check_push(call)
    if call.is_on("dry_run"):
        _plan(call, train, by_reward=by_reward)
        return
    if _launch(call):
        return
    run = _train(call, train)
    if not call.answer_json(describe_run(run)):
        call.progress.say(f"Trained: {run.weights}. Next: medvqa infer --run {run.name}")
    if target:
        _push(call, run, target)


def _check_push(call: Call) -> str | None:
    """Return where to push to, once it is known that it can be tried: that is better said before hours of training."""
    from medvqa_cli.workflows.launch import process_number

    target = call.text("push_to_hub")
    if target is None or process_number():
        return None
    from medvqa_cli.workflows.publish import check_target

    check_target(target)
    return target


def _push(call: Call, run: Run, target: str) -> None:
    from medvqa_cli.workflows.publish import push_run

    call.progress.say(f"Pushed: {push_run(run, target, progress=call.progress)}")


def _launch(call: Call) -> bool:
    """Hand the same command to several processes if they are asked for; return whether that was done."""
    from medvqa_cli.workflows.launch import count_wanted, is_launched, launch

    processes = count_wanted(call.count("num_processes", 0), call.text("gpu"))
    launches = processes > 1 or (not is_launched() and _needs_launch(call))
    if launches:
        _ = call.settings  # what is wrong with them is said once
        launch(sys.argv[1:], processes)
    return launches


def _needs_launch(call: Call) -> bool:
    """Return whether even a single process must be started by a launcher: DeepSpeed expects one."""
    from medvqa_cli.workflows.sharding import needs_launch

    resume = call.text("resume")
    return needs_launch(call.runs, resume) if resume else call.settings.train.deepspeed is not None


def _train(call: Call, train: Callable[..., Run]) -> Run:
    return train(call.settings, name=call.text("name"), resume=call.text("resume"), init_from=_find_source(call),
                 init_weights=_find_kind(call), dry_run=call.is_on("dry_run"), progress=call.progress)


def _find_source(call: Call) -> str | None:
    """Return the run to start from: named as such, or as the model."""
    from medvqa_cli.cli.run_choice import is_run, typed_model

    model = typed_model(call)
    if call.text("init_from") and call.text("adapter"):
        raise SettingsError("--adapter and --init-from are two names of one thing.", "Leave one out.")
    for name in ("init_from", "adapter", "resume_from_ema"):
        if source := call.text(name):
            if model:
                raise SettingsError(f"--{name.replace('_', '-')} {source} and --model {model} exclude each other: the "
                                    "run's own model is trained on.", "Leave one out.")
            return source
    return model if model and is_run(call.runs, model) else None


def _check_mixture(call: Call) -> None:
    """Refuse what a mixture would not heed: its file names the data sets, and each has its own files."""
    if call.settings.data.mixture is None:
        return
    others = [assignment.origin for assignment in call.typed if assignment.key in OF_ONE_DATA_SET]
    if others:
        raise SettingsError(f"A mixture names its data sets itself: {', '.join(others)} would have no effect.",
                            f"Leave it out, or write it into '{call.settings.data.mixture}'.")


def _find_kind(call: Call) -> Any:
    """Return which weights of that run to start from; the workflow refuses those that there are not."""
    average, named = call.text("resume_from_ema"), [f"--{name.replace('_', '-')}" for name in (
        "init_from", "init_weights") if call.text(name)]
    if average and named:
        raise SettingsError(f"--resume-from-ema {average} does not go with {' and '.join(named)}: it names the run and "
                            "its weights.", "Leave them out.")
    return "average" if average else call.text("init_weights") or "kept"


def _plan(call: Call, train: Callable[..., Run], *, by_reward: bool) -> None:
    """Show what would be done; the questions and the model are checked too if the data are prepared."""
    from medvqa_cli.cli.plans import READY, describe_training, find_data, show_plan

    run = _train(call, train) if find_data(call.settings).state == READY else None
    if run is None and _find_source(call) is None and not call.settings.model.scratch:
        from medvqa_cli.workflows.models import choose_model

        choose_model(call.settings)
    start, settings, questions = _find_source(call), call.settings, None
    if run and settings.data.mixture is None:
        from medvqa_cli.workflows.data import choose_samples

        questions = len(choose_samples(settings, settings.data.train_split))
    show_plan(call, run=str(run.path) if run else None, start=start,
              training=describe_training(settings, by_reward=by_reward, questions=questions, start=start))


def _check_resume(call: Call) -> None:
    """Refuse what a resumed run would not heed: it goes on with its own settings."""
    resume = call.text("resume")
    if resume is None:
        return
    if call.is_on("dry_run"):
        raise SettingsError("--dry-run shows what a new run would do, but --resume names one that has begun.",
                            f"See how far it is: medvqa train watch {resume}")
    others = [assignment.origin for assignment in call.typed if assignment.path[0] not in {"paths", "plugins"}]
    others += [f"--{name.replace('_', '-')}" for name in ("name", "init_from", "adapter", "init_weights",
               "resume_from_ema", "config") if call.text(name)]
    if others:
        raise SettingsError(f"--resume goes on with the run's own settings: {', '.join(others)} would have no effect.",
                            "Leave them out, or start a new run with --init-from.")
