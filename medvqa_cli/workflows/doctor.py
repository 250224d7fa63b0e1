"""`medvqa doctor`: what this machine has, what is missing, and what can be done with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.machine.accelerators import examine_accelerators
from medvqa_cli.workflows.machine.capacity import (
    RULE,
    Device,
    Standing,
    Verdict,
    choose_device,
    compare_hardware,
    judge_jobs,
)
from medvqa_cli.workflows.machine.findings import Finding, State, UnusableMachineError
from medvqa_cli.workflows.machine.places import examine_computer, examine_folders, examine_hub
from medvqa_cli.workflows.machine.probe_runner import Outcome, run_probes
from medvqa_cli.workflows.machine.software import examine_extras, examine_packages, find_version

if TYPE_CHECKING:
    from collections.abc import Mapping

ALWAYS = ("requirements", "memory", "hub settings", "torch")
WHERE_INSTALLED = ("torchvision", "transformers", "peft", "datasets", "bitsandbytes", "flash-attn")
SECTIONS = ("software", "hardware", "folders", "hub")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found about a machine.

    Args:
        findings: One for each part, in the order of `SECTIONS`.
        hardware: What it has against what fine-tuning a real model wants.
        device: Where models run; None where that is not known, such as without torch.
        verdicts: Which job fits for which size of model.
    """

    findings: tuple[Finding, ...]
    hardware: tuple[Standing, ...]
    device: Device | None
    verdicts: tuple[Verdict, ...]

    @property
    def problems(self) -> list[Finding]:
        """What makes medvqa unusable, missing packages first."""
        return sorted((finding for finding in self.findings if finding.state == "problem"),
                      key=lambda finding: finding.exit_code)

    @property
    def state(self) -> State:
        """The worst state of all findings."""
        states = {finding.state for finding in self.findings}
        return "problem" if "problem" in states else "note" if "note" in states else "ok"

    def raise_problems(self) -> None:
        """Raise what makes medvqa unusable.

        Raises:
            UnusableMachineError: If there is a problem; its exit code is 6 for a package, 7 for a folder.
        """
        if problems := self.problems:
            raise UnusableMachineError(problems)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values; memory in bytes."""
        return {"state": self.state, "findings": [dataclasses.asdict(finding) for finding in self.findings],
                "hardware": [dataclasses.asdict(item) for item in self.hardware],
                "device": dataclasses.asdict(self.device) if self.device else None, "rule": RULE,
                "verdicts": [dataclasses.asdict(verdict) for verdict in self.verdicts]}


def diagnose_machine(runs: Path = Path("runs"), prepared: Path = Path("prepared"), *, network: bool = True,
                     progress: Progress = SILENT) -> Diagnosis:
    """Look at packages, GPUs, memory, folders and hub, and judge what is possible.

    Packages are imported in another process, so that a broken one is a finding and not the end. Nothing is written but
    a file that is removed at once, in each folder, to see that it can be.

    Args:
        runs: Folder of runs.
        prepared: Folder of prepared data.
        network: Ask whether the hub answers, for 3 seconds at most; HF_HUB_OFFLINE keeps it from asking, too.
        progress: Counts the parts looked at.
    """
    names = [*ALWAYS, *filter(find_version, WHERE_INSTALLED), *(["hub"] if network else [])]
    outcomes = run_probes(names, progress)
    hub = outcomes["hub settings"]
    folders = examine_folders(runs, prepared, hub)
    found = [*examine_packages(outcomes), *examine_accelerators(outcomes), *examine_extras(outcomes),
             *examine_computer(outcomes["memory"]), *folders, *examine_hub(hub, outcomes.get("hub"))]
    torch, memory = outcomes["torch"].facts, outcomes["memory"].facts
    device = choose_device(torch, memory, runs_4bit=_runs_4bit(outcomes))
    return Diagnosis(tuple(sorted(found, key=lambda finding: SECTIONS.index(finding.section))),
                     tuple(compare_hardware(torch, memory, int(folders[-1].facts.get("free", 0)))), device,
                     tuple(judge_jobs(device)) if device else ())


def _runs_4bit(outcomes: Mapping[str, Outcome]) -> bool:
    return "bitsandbytes" in outcomes and not outcomes["bitsandbytes"].failure
