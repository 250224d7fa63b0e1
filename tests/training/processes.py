"""Command lines run in processes of their own, which may be killed; the imports are paid for once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from medvqa_cli.records import read_jsonl

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["medvqa_cli.workflows.train", "medvqa_cli.training.sft", "medvqa_cli.workflows.models",
                                "medvqa_cli.training.diagnostics", "tests.training.processes"])
TREE = {
    "data": {"dataset": "demo", "skip_check": True,
             "options": {"train_images": 6, "validation_images": 2, "test_images": 2, "size": 32}},
    "model": {"name": "llava", "scratch": True, "device": "cpu", "dtype": "float32",
              "options": {"image_size": 24, "patch_size": 12, "width": 32, "vision_layers": 1, "text_layers": 1,
                          "vocabulary_size": 320}},
    "train": {"max_steps": 12, "batch_size": 1, "learning_rate": 3e-3, "log_steps": 3, "eval_fraction": 0.5,
              "save_fraction": 0.2},
}


def write_config(home: Path, **train) -> Path:
    """Write a settings file for a tiny training in `home`; return its path."""
    config = home / "config.json"
    paths = {"prepared": str(home / "prepared"), "runs": str(home / "runs")}
    config.write_text(json.dumps({**TREE, "paths": paths, "train": {**TREE["train"], **train}}), encoding="utf-8")
    return config


def run_command(arguments: list[str], home: str, fault: tuple[str, int] | None, environment: dict[str, str]) -> None:
    """Run a command line as `python -m medvqa_cli` would; the target of a process.

    Its messages go to `home`/messages, those of a second process to `home`/messages-1.
    """
    os.environ.update(environment)
    import torch
    from transformers.utils import logging

    from medvqa_cli.__main__ import main

    logging.set_verbosity_error()  # as the command line has it where the library is not imported yet
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not started by another's server
    torch.set_num_threads(1)
    os.chdir(home)
    stream = os.open(name_messages(environment), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    if fault:
        die_at(*fault)
    sys.argv = ["medvqa", *arguments]
    main()


def die_at(name: str, count: int) -> None:
    """Have this process killed as it is about to do something for the `count`-th time."""
    import shutil

    import torch

    owner, attribute = {"write": (torch, "save"), "sync": (os, "fsync"), "rename": (Path, "rename"),
                        "delete": (shutil, "rmtree")}[name]
    real, calls = getattr(owner, attribute), iter(range(1, count + 1))

    def guarded(*args, **kwargs):
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, attribute, guarded)


def start(home: Path, *arguments: str, fault: tuple[str, int] | None = None, environment: dict[str, str] | None = None):
    """Start `medvqa ARGUMENTS` in a process of its own."""
    process = CONTEXT.Process(target=run_command, args=(list(arguments), str(home), fault, environment or {}))
    process.start()
    return process


def start_team(home: Path, *arguments: str, size: int = 2) -> list:
    """Start `medvqa ARGUMENTS` in several processes that train together, as torchrun would."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    return [start(home, *arguments, environment={"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                                                 "MASTER_ADDR": "localhost", "MASTER_PORT": port})
            for rank in range(size)]


def name_messages(environment: dict[str, str]) -> str:
    """Return the file of a process's messages."""
    rank = environment.get("RANK", "0")
    return "messages" if rank == "0" else f"messages-{rank}"


def finish(process, home: Path, code: int = 0) -> str:
    """Wait for a process, check its exit code, return its messages."""
    process.join(120)
    messages = (home / "messages").read_text(encoding="utf-8")
    assert process.exitcode == code, messages
    assert "Traceback" not in messages
    return messages


def kill_at_step(process, run: Path, step: int, draw: random.Random) -> None:
    """Kill a training with SIGKILL at some moment after a step has been logged."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        if any(row.get("step", 0) >= step for row in read_events(run)):
            time.sleep(draw.uniform(0.0, 0.05))
            break
        time.sleep(0.002)
    process.kill()
    process.join(60)


def read_events(run: Path) -> list[dict]:
    """Return a run's events so far."""
    path = run / "events.jsonl"
    return list(read_jsonl(path)) if path.exists() else []


def list_losses(run: Path) -> list[tuple[int, str, float]]:
    """Return step, kind and loss of all losses that a run has recorded."""
    return [(row["step"], row["event"], row["loss" if row["event"] == "log" else "eval_loss"])
            for row in read_events(run) if row["event"] in {"log", "eval"}]


def read_weights(run: Path) -> bytes:
    """Return the bytes of a run's trained weights."""
    found = [path for part in ("adapter", "model") for path in (run / part).glob("*.safetensors")]
    assert len(found) == 1
    return found[0].read_bytes()
