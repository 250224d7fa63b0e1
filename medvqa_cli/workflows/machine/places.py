"""Findings about CPU, memory, the folders medvqa writes to, and the hub with its cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from medvqa_cli.workflows.machine.capacity import WANTED
from medvqa_cli.workflows.machine.findings import GIB, UNUSABLE_FOLDER, Finding, as_gib, count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medvqa_cli.workflows.machine.probe_runner import Outcome

SMALLEST_FREE = 1 * GIB
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def examine_computer(memory: Outcome) -> list[Finding]:
    """Return findings about the CPU cores and the memory this process may use."""
    return [_describe_cores(), _describe_memory(memory)]


def _describe_cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = find_core_quota()
    limit = f", of which this process group may use {quota:.1f}" if quota and quota < cores else ""
    return Finding(section="hardware", name="CPU", detail=f"{count(cores, 'core')}{limit}",
                   facts={"cores": cores, "quota": quota})


def find_core_quota() -> float | None:
    """Return how many cores the control group (a container, a batch job) may keep busy, or None without a limit."""
    shares = [int(quota) / int(period) for quota, period in map(str.split, read_limits("cpu.max")) if quota != "max"]
    return min(shares, default=None)


def find_memory_limit() -> int | None:
    """Return the bytes that the control group (a container, a batch job) may hold, or None without a limit."""
    return min((int(limit) for limit in read_limits("memory.max") if limit != "max"), default=None)


def read_limits(name: str) -> list[str]:
    """Return what a limit's file says in this process's control group (version 2) and in those around it."""
    if not OWN_CGROUP.is_file():
        return []
    lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    inner = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if inner is None:
        return []
    groups = [CGROUPS / inner, *(CGROUPS / inner).parents]
    files = [group / name for group in groups if group.is_relative_to(CGROUPS)]
    return [file.read_text(encoding="utf-8").strip() for file in files if file.is_file()]


def _describe_memory(outcome: Outcome) -> Finding:
    if outcome.failure:
        return Finding(section="hardware", name="memory", detail=f"not known: {outcome.failure}", state="note",
                       next_step="pip install psutil")
    limit = find_memory_limit() or outcome.facts["total"]
    total, free = (min(limit, outcome.facts[key]) for key in ("total", "available"))
    limited = " (a limit of the container or batch job)" if limit < outcome.facts["total"] else ""
    scarce = WANTED["memory"].judge(total) == "too little"
    return Finding(section="hardware", name="memory", state="note" if scarce else "ok",
                   detail=f"{as_gib(free)} available of {as_gib(total)}{limited}",
                   next_step=f"Loading a real model wants {WANTED['memory'].smallest} GiB or more; small ones work."
                   if scarce else "",
                   facts={"total": total, "available": free})


def examine_folders(runs: Path, prepared: Path, hub: Outcome) -> list[Finding]:
    """Return findings about the folders of runs and prepared data, and the hub's cache: room, and leave to write."""
    found = [_examine_folder("runs", runs), _examine_folder("prepared data", prepared)]
    return found if hub.failure else [*found, examine_cache(Path(hub.facts["cache"]))]


def _examine_folder(name: str, folder: Path) -> Finding:
    path, place = folder.absolute(), find_existing(folder)
    refusal = try_writing(place)
    if refusal:
        return Finding(section="folders", name=name, detail=f"{path}: {refusal}", state="problem",
                       next_step="Choose another place with --runs-dir or --prepared-dir, or change its permissions.",
                       facts={"path": str(path)}, exit_code=UNUSABLE_FOLDER)
    free = shutil.disk_usage(place).free
    detail, facts = f"{path}: {as_gib(free)} free", {"path": str(path), "free": free}
    if free < SMALLEST_FREE:
        return Finding(section="folders", name=name, detail=detail, state="problem", facts=facts,
                       next_step="Free some space, or choose another place with --runs-dir or --prepared-dir.",
                       exit_code=UNUSABLE_FOLDER)
    return Finding(section="folders", name=name, detail=detail, facts=facts)


def find_existing(folder: Path) -> Path:
    """Return a folder, or the nearest thing above it that is there."""
    absolute = folder.absolute()
    for path in (absolute, *absolute.parents):
        with contextlib.suppress(PermissionError):
            if path.exists():
                return path
    return absolute


def try_writing(folder: Path) -> str:
    """Return why no file can be written in a folder, or "" after one has been written and removed."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as stream:
            stream.write(b"medvqa")
    except OSError as error:
        return f"no file can be written there ({error.strerror})"
    return ""


def examine_cache(cache: Path) -> Finding:
    """Return a finding about the hub's cache: size, repositories, unfinished downloads, room for a checkpoint."""
    sizes = dict(measure_files(cache))
    unfinished = [size for path, size in sizes.items() if path.endswith(".incomplete")]
    repositories = [path.name for path in cache.glob("*--*") if path.is_dir()]
    place = find_existing(cache)
    free = shutil.disk_usage(place).free
    notes = list(_find_cache_notes(cache, len(unfinished), free))
    size = sum(sizes.values())
    facts = {"path": str(cache), "size": size, "repositories": len(repositories), "unfinished": len(unfinished),
             "free": free}
    held = f"{as_gib(size)} in {count(len(repositories), 'repository')}" if sizes else "empty"
    return Finding(section="folders", name="hub cache", state="note" if notes else "ok", facts=facts,
                   detail="; ".join([f"{cache}: {held}, {as_gib(free)} free", *(what for what, _ in notes if what)]),
                   next_step=" ".join(step for _, step in notes))


def _find_cache_notes(cache: Path, unfinished: int, free: int) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the cache, and what to do."""
    if refusal := try_writing(find_existing(cache)):
        yield refusal, "Let HF_HOME name a folder you may write to."
    if unfinished:
        yield (count(unfinished, "unfinished download"),
               "Run the command that was downloading again: it goes on where it stopped.")
    if WANTED["disk"].judge(free) in {"none", "too little"}:
        yield "", "A checkpoint of 7B takes about 14 GiB: let HF_HOME name a folder on a larger disk."


def measure_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield every file below a folder with its size in bytes; links are not followed, so nothing counts twice."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                with contextlib.suppress(FileNotFoundError, PermissionError):  # a download may just have renamed it
                    yield str(path), path.stat().st_size


def examine_hub(settings: Outcome, reached: Outcome | None) -> list[Finding]:
    """Return findings about the hub: whether it answers (`reached` is None where nobody asked), and the token."""
    if settings.failure:
        return [Finding(section="hub", name="client", state="note", detail=f"does not work: {settings.failure}",
                        next_step="pip install --force-reinstall huggingface_hub")]
    return [_describe_reach(settings, reached), _describe_token(has_token=settings.facts["token"])]


def _describe_reach(settings: Outcome, reached: Outcome | None) -> Finding:
    endpoint = settings.facts["endpoint"]
    facts = {"endpoint": endpoint, "offline": settings.facts["offline"],
             "status": reached.facts.get("status") if reached else None}
    if settings.facts["offline"]:
        return Finding(section="hub", name="network", state="note", facts=facts,
                       detail="offline mode is on (HF_HUB_OFFLINE): only what the cache holds can be loaded",
                       next_step="Unset HF_HUB_OFFLINE where something must be downloaded.")
    if reached is None:
        return Finding(section="hub", name="network", detail="not asked (--no-network)", facts=facts)
    trouble = reached.failure or ("" if facts["status"] < 400 else f"it answers with HTTP {facts['status']}")
    if trouble:
        return Finding(section="hub", name="network", state="note", facts=facts,
                       detail=f"{endpoint} cannot be used: {trouble}",
                       next_step="Check the network, HTTPS_PROXY or HF_ENDPOINT; or work from local folders with "
                                 "HF_HUB_OFFLINE=1.")
    return Finding(section="hub", name="network", detail=f"{endpoint} answers", facts=facts)


def _describe_token(*, has_token: bool) -> Finding:
    if has_token:
        return Finding(section="hub", name="token", detail="there is one", facts={"token": True})
    return Finding(section="hub", name="token", state="note", detail="there is none", facts={"token": False},
                   next_step="Only gated and private models need one: `hf auth login`.")
