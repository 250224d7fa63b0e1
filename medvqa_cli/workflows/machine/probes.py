"""Looks at packages and devices from inside a process of its own: `python -P probes.py NAME...`.

Importing a framework can fail in ways nobody can catch: a library built for another CUDA ends the process, a hung
driver never answers. So each look prints one JSON line and catches nothing; `probe_runner` starts this file, reads the
lines, and takes what stops a look as its finding. Only the standard library is imported before a look asks for more.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import threading
import warnings
from typing import Any

HUB_SECONDS = 3.0
NO_ANSWER = 75
MARK = "--- next probe ---\n"
"""Written to stderr before each look: what stands behind the last one belongs to the look that failed."""


def describe_requirements() -> dict[str, Any]:
    """Return medvqa's requirements on this platform: name, range, installed version, extra, and how they fit."""
    from packaging.requirements import Requirement

    rows = []
    for text in importlib.metadata.requires("medvqa-cli") or ():
        requirement = Requirement(text)
        extra = _find_extra(requirement)
        if extra is not None:
            version = _find_version(requirement.name)
            rows.append({"name": requirement.name, "range": str(requirement.specifier), "version": version,
                         "extra": extra, "fit": _compare(version, requirement.specifier)})
    return {"rows": rows}


def _find_extra(requirement: Any) -> str | None:
    """Return the extra a requirement belongs to ("" for none), or None where this platform does not need it."""
    extras = importlib.metadata.metadata("medvqa-cli").get_all("Provides-Extra") or []
    return next((extra for extra in ("", *extras)
                 if requirement.marker is None or requirement.marker.evaluate({"extra": extra})), None)


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compare(version: str | None, wanted: Any) -> str:
    from packaging.version import Version

    if version is None:
        return "missing"
    if wanted.contains(version, prereleases=True):
        return "fits"
    lowest = [Version(part.version) for part in wanted if part.operator == ">="]
    return "older" if lowest and Version(version) < max(lowest) else "newer"


def describe_torch() -> dict[str, Any]:
    """Return torch's version, what it was built for, and the GPUs it can use, memory in bytes."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cuda = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    return {"version": torch.__version__, "cuda_build": torch.version.cuda, "hip_build": torch.version.hip,
            "warning": " ".join(str(said[-1].message).split()) if said else "",
            "gpus": [_describe_gpu(index) for index in range(torch.cuda.device_count() if cuda else 0)],
            "mps": mps, "mps_memory": torch.mps.recommended_max_memory() if mps else 0}


def _describe_gpu(index: int) -> dict[str, Any]:
    """Return a GPU's facts; `free` is taken after this process has made its own context there."""
    import torch

    facts = torch.cuda.get_device_properties(index)
    found = {"index": index, "name": facts.name, "total": facts.total_memory, "free": 0, "bf16": False,
             "capability": f"{facts.major}.{facts.minor}", "error": ""}
    try:
        with torch.cuda.device(index):
            found["free"] = torch.cuda.mem_get_info(index)[0]
            found["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError as error:  # a GPU without room for one more context; the others are still worth a look
        found["error"] = str(error).strip().splitlines()[0]
    return found


def use_bitsandbytes() -> dict[str, Any]:
    """Bring a matrix to 4 bit and back, and multiply in 8 bit, on the device models would run on."""
    import bitsandbytes
    import torch
    from bitsandbytes import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.linspace(-1, 1, 64 * 64, device=device, dtype=torch.float16).reshape(64, 64)
    packed, state = functional.quantize_4bit(matrix, quant_type="nf4", compress_statistics=True)
    error = (functional.dequantize_4bit(packed, state) - matrix).abs().max().item()
    layer = bitsandbytes.nn.Linear8bitLt(64, 64, has_fp16_weights=False).to(device)
    finite = bool(torch.isfinite(layer(matrix)).all())
    return {"version": bitsandbytes.__version__, "device": device, "error_4bit": error, "finite_8bit": finite}


def use_flash_attention() -> dict[str, Any]:
    """Run flash attention once on the first GPU, where there is one."""
    import torch

    if not torch.cuda.is_available():
        return {"device": "", "version": importlib.metadata.version("flash-attn")}
    flash_attn = importlib.import_module("flash_attn")
    query = torch.ones(1, 16, 2, 64, device="cuda", dtype=torch.float16)
    finite = bool(torch.isfinite(flash_attn.flash_attn_func(query, query, query, causal=True)).all())
    return {"device": "cuda", "version": flash_attn.__version__, "finite": finite}


def use_torchvision() -> dict[str, Any]:
    """Call one compiled operator of torchvision: it fails where its build is for another torch."""
    import torch

    torchvision = importlib.import_module("torchvision")
    kept = torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    return {"version": torchvision.__version__, "kept": len(kept)}


def use_transformers() -> dict[str, Any]:
    """Import what every model is loaded with."""
    from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

    return {"classes": [AutoModelForImageTextToText.__name__, LlavaForConditionalGeneration.__name__]}


def use_peft() -> dict[str, Any]:
    """Import what adapters are made with."""
    from peft import LoraConfig

    return {"rank": LoraConfig(r=8).r}


def use_datasets() -> dict[str, Any]:
    """Make a table of one row, as prepared data are kept."""
    from datasets import Dataset

    return {"rows": len(Dataset.from_dict({"question": ["?"]}))}


def measure_memory() -> dict[str, Any]:
    """Return the machine's memory in bytes, all and available."""
    memory = importlib.import_module("psutil").virtual_memory()
    return {"total": memory.total, "available": memory.available}


def describe_hub() -> dict[str, Any]:
    """Return what the hub's own client is set to: address, cache, offline mode, and whether it has a token."""
    from huggingface_hub import constants, get_token

    return {"endpoint": constants.ENDPOINT, "cache": constants.HF_HUB_CACHE, "offline": constants.HF_HUB_OFFLINE,
            "token": bool(get_token())}


def reach_hub() -> dict[str, Any]:
    """Ask for the hub's first page, through the hub's own client; give up after 3 s whatever hangs."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return {"endpoint": constants.ENDPOINT, "status": None}
    watch = threading.Timer(HUB_SECONDS, _give_up)  # a client's own limit does not cover the look-up of the name
    watch.daemon = True
    watch.start()
    answer = get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS, follow_redirects=True)
    watch.cancel()
    return {"endpoint": constants.ENDPOINT, "status": answer.status_code}


def _give_up() -> None:
    sys.stderr.write(f"TimeoutError: no answer within {HUB_SECONDS:.0f} s\n")
    sys.stderr.flush()
    os._exit(NO_ANSWER)


PROBES = {
    "requirements": describe_requirements,
    "memory": measure_memory,
    "hub settings": describe_hub,
    "hub": reach_hub,
    "torch": describe_torch,
    "torchvision": use_torchvision,
    "transformers": use_transformers,
    "peft": use_peft,
    "datasets": use_datasets,
    "bitsandbytes": use_bitsandbytes,
    "flash-attn": use_flash_attention,
}


def main(names: list[str]) -> None:
    """Print one line for each probe, in this order; the first that fails ends the process."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)  # what a library prints, from Python or from C, is no answer
        for name in names:
            sys.stderr.write(MARK)
            sys.stderr.flush()
            facts = PROBES[name]()
            answers.write(json.dumps({"probe": name, "facts": facts}) + "\n")
            answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
