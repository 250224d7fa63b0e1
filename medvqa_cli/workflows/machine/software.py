"""Findings about Python, medvqa's packages and its extras."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from medvqa_cli import __version__
from medvqa_cli.workflows.machine.findings import MISSING_PACKAGE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.workflows.machine.probe_runner import Outcome

LEFT_OUT = frozenset({"test", "dev", "flash"})
EXTRA_USES = {"dicom": "to read DICOM files", "grpo": "for training with rewards",
              "tracking": "for TensorBoard and W&B"}
STILL_TO_COME = frozenset({"grpo", "tracking"})
"""Extras of stages that are not built yet: take one out when its stage comes."""
WORKING = {"transformers": "loading a model", "peft": "making an adapter", "datasets": "preparing data"}
LOOKED_AT_ALONE = frozenset({"torch", "bitsandbytes"})
SHOWN = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy")


def examine_packages(outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Return findings about Python, the packages medvqa requires, and what is wrong with any of them."""
    required = [row for row in _list_rows(outcomes) if not row["extra"]]
    return [_describe_python(), _describe_packages(outcomes["requirements"], required), *_find_misfits(required),
            *_find_broken(outcomes)]


def examine_extras(outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """Return one finding for each of medvqa's extras but flash, which `accelerators` tries out, and one for vllm."""
    rows = [row for row in _list_rows(outcomes) if row["extra"] and row["extra"] not in LEFT_OUT]
    extras = [_describe_extra(extra, [row for row in rows if row["extra"] == extra])
              for extra in dict.fromkeys(row["extra"] for row in rows)]
    return [*extras, _describe_vllm()]


def _list_rows(outcomes: Mapping[str, Outcome]) -> list[Mapping[str, Any]]:
    return list(outcomes["requirements"].facts.get("rows", ()))


def _describe_python() -> Finding:
    system = f"{platform.system()} {platform.machine()}"
    return Finding(section="software", name="medvqa", detail=f"{__version__}, Python {platform.python_version()}, "
                   f"{system}, {sys.prefix}", facts={"medvqa": __version__, "python": platform.python_version(),
                                                     "platform": platform.platform(), "prefix": sys.prefix})


def _describe_packages(outcome: Outcome, required: Sequence[Mapping[str, Any]]) -> Finding:
    if outcome.failure:
        return Finding(section="software", name="packages", state="note",
                       detail=f"their versions cannot be compared with what medvqa needs ({outcome.failure})",
                       next_step="Install medvqa with its packages: pip install medvqa-cli, or pip install -e . in a "
                                 "checkout.")
    versions = {row["name"]: row["version"] for row in required}
    fitting = sum(row["fit"] == "fits" for row in required)
    named = ", ".join(f"{name} {versions[name]}" for name in SHOWN if versions.get(name))
    return Finding(section="software", name="packages", facts=versions,
                   detail=f"{fitting} of {len(required)} in the range medvqa needs: {named}")


def _find_misfits(required: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for row in required:
        name, wanted = row["name"], row["range"]
        step = f"pip install '{name}{wanted}'"
        if row["fit"] == "missing" and name in LOOKED_AT_ALONE:
            continue
        if row["fit"] == "missing":
            yield Finding(section="software", name=name, detail="not installed", state="problem", next_step=step,
                          exit_code=MISSING_PACKAGE)
        elif row["fit"] == "older":
            yield Finding(section="software", name=name, detail=f"{row['version']} is too old: {wanted} is needed",
                          state="problem", next_step=step, exit_code=MISSING_PACKAGE)
        elif row["fit"] == "newer":
            yield Finding(section="software", name=name, state="note", next_step=f"Where something breaks: {step}",
                          detail=f"{row['version']} is newer than medvqa was tested with ({wanted})")


def _find_broken(outcomes: Mapping[str, Outcome]) -> Iterator[Finding]:
    """Find packages that are installed and do not work, but for those `accelerators` looks at."""
    missing = {row["name"] for row in _list_rows(outcomes) if row["fit"] == "missing"}
    for name, use in WORKING.items():
        if name in outcomes and outcomes[name].failure and name not in missing:
            yield Finding(section="software", name=name, state="problem", exit_code=MISSING_PACKAGE,
                          detail=f"{use} fails: {outcomes[name].failure}",
                          next_step=f"pip install --force-reinstall {name}, or start with a fresh environment.")


def _describe_extra(extra: str, parts: Sequence[Mapping[str, Any]]) -> Finding:
    versions = {part["name"]: part["version"] for part in parts}
    wrong = [part["name"] for part in parts if part["fit"] in {"missing", "older"}]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if not wrong:
        return Finding(section="software", name=f"[{extra}]", detail=found, facts=versions)
    detail = " ".join(["not installed:", ", ".join(wrong), EXTRA_USES.get(extra, "")]).strip()
    if extra in STILL_TO_COME:
        return Finding(section="software", name=f"[{extra}]", detail=f"{detail}, still to come", facts=versions)
    return Finding(section="software", name=f"[{extra}]", detail=detail + (f" (there: {found})" if found else ""),
                   state="note", facts=versions, next_step=f"If you need it: pip install 'medvqa-cli[{extra}]'")


def _describe_vllm() -> Finding:
    return Finding(section="software", name="vllm", detail=find_version("vllm") or "not installed; not used yet")


def find_version(name: str) -> str | None:
    """Return an installed package's version, or None; the package is not imported."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
