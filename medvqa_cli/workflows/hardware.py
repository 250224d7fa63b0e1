"""Which GPUs this process may see."""

from __future__ import annotations

import os
import re
import sys

from medvqa_cli.errors import SettingsError


def choose_gpu(gpus: str) -> None:
    """Let this process see only some GPUs, such as "0" or "0,1"; must be called before torch is imported.

    Raises:
        SettingsError: If the value is no list of numbers, or torch is already imported.
    """
    if not re.fullmatch(r"\d+(,\d+)*", gpus):
        raise SettingsError(f"'{gpus}' is no list of GPU numbers.", "Write --gpu 0 or --gpu 0,1.")
    if "torch" in sys.modules and os.environ.get("CUDA_VISIBLE_DEVICES") != gpus:
        raise SettingsError("The GPU must be chosen before torch is imported.",
                            "Call choose_gpu first, or restart the notebook's kernel.")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus
