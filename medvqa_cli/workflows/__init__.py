"""The Python API: one function per command, the same jobs from a notebook.

    from medvqa_cli import workflows as medvqa

    medvqa.choose_gpu("0")                                   # before anything imports torch
    settings = medvqa.make_settings({"data": {"dataset": "demo"}, "model": {"name": "llava", "scratch": True}})
    run = medvqa.train_sft(settings)
    medvqa.infer_split(settings, run=run.name)
    print(medvqa.evaluate_answers(run, settings))

Names load when they are first used, so that importing this module imports no framework.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "medvqa_cli.workflows.data": ("prepare_data", "open_data", "load_samples"),
    "medvqa_cli.workflows.viewing": ("show_samples", "draw_sample"),
    "medvqa_cli.workflows.analysis": ("analyze_data", "check_data"),
    "medvqa_cli.workflows.export": ("export_data",),
    "medvqa_cli.workflows.mixtures": ("load_mixture",),
    "medvqa_cli.workflows.model_facts": ("describe_model", "list_families"),
    "medvqa_cli.workflows.train": ("train_sft",),
    "medvqa_cli.workflows.grpo": ("train_grpo",),
    "medvqa_cli.workflows.merge": ("merge_adapter",),
    "medvqa_cli.workflows.infer": ("infer_split", "infer_image"),
    "medvqa_cli.workflows.evaluate": ("evaluate_answers",),
    "medvqa_cli.workflows.calibrate": ("evaluate_calibration",),
    "medvqa_cli.workflows.compare": ("compare_runs",),
    "medvqa_cli.workflows.report": ("write_report",),
    "medvqa_cli.workflows.sanity": ("check_sanity", "SanityScope"),
    "medvqa_cli.workflows.convert": ("convert_checkpoint",),
    "medvqa_cli.workflows.quickstart": ("run_quickstart",),
    "medvqa_cli.workflows.hardware": ("choose_gpu",),
    "medvqa_cli.workflows.doctor": ("diagnose_machine",),
    "medvqa_cli.settings.schema": ("make_settings", "Settings"),
    "medvqa_cli.runs": ("open_run", "latest_run", "list_runs"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
