"""A run's weights and a model card to a repository of the hub; nothing else of the run leaves the machine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import MedVQAError, RunError, SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.reporting.model_card import CardFacts, hide_folders, write_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from medvqa_cli.runs import Run

CONFIGURATION = ("config.json", "adapter_config.json", "tokenizer_config.json", "processor_config.json",
                 "preprocessor_config.json", "generation_config.json")
"""Files that libraries write names of folders into."""
UPLOADED = (*CONFIGURATION, "*.safetensors", "*.safetensors.index.json", "*.jinja", "tokenizer.json",
            "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "*.model", "chat_template.json",
            "video_preprocessor_config.json")
CARD = "README.md"


def check_target(target: str) -> None:
    """Refuse a hub id that cannot be pushed to, before anything is trained. No network is asked.

    Raises:
        SettingsError: If the id is none, the hub may not be asked, or there is no token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(target)
    except HFValidationError as error:
        raise SettingsError(f"'{target}' is no id of the hub.", "Write --push-to-hub NAME/MODEL.") from error
    if constants.HF_HUB_OFFLINE:
        raise SettingsError(f"Nothing can be pushed to '{target}': offline mode is on (HF_HUB_OFFLINE).",
                            "Unset it, or leave --push-to-hub out and push the run later.")
    if not get_token():
        raise SettingsError(f"There is no token to push to '{target}' with.",
                            "Log in with `hf auth login` and a token that may write, or set HF_TOKEN.")


def push_run(run: Run, target: str, *, public: bool = False, progress: Progress = SILENT) -> str:
    """Upload a finished run's weights, processor and model card in one commit; return the repository's address.

    The repository is private unless `public`. No image, question, answer or path of this machine is uploaded.

    Raises:
        RunError: If the run has no weights, or the hub refuses or cannot be reached; the run stays as it is.
        SettingsError: If the id is none, offline mode is on, or there is no token.
    """
    if run.weights is None:
        raise RunError(f"Run '{run.name}' has no trained weights to push.", "Finish it first: medvqa train sft "
                       f"--resume {run.name}")
    check_target(target)
    files = collect_files(run, target)
    progress.say(f"Pushing {len(files)} files to {target} ({'public' if public else 'private'})")
    try:
        return _upload(files, target, public=public)
    except MedVQAError:
        raise
    except _list_failures() as error:
        again = f"medvqa runs push {run.name} {target}{' --public' if public else ''}"
        message, hint = _explain(target, error)
        raise RunError(f"{message} Run '{run.name}' is finished and stays as it is.",
                       f"{hint} Then: {again}") from error


def collect_files(run: Run, target: str) -> dict[str, Path | bytes]:
    """Return what is uploaded: name -> a file, or the content that takes its place.

    Raises:
        RunError: If a document of the run is missing or damaged.
    """
    weights = run.weights
    assert weights is not None
    manifest = run.read_json("manifest.json")
    base = find_hub_id(str(manifest.get("model", {}).get("checkpoint", "")))
    files: dict[str, Path | bytes] = {path.name: path for pattern in UPLOADED for path in sorted(weights.glob(pattern))}
    for name in CONFIGURATION:
        if name in files:
            files[name] = _clean(weights / name, base)
    metrics = run.read_json("metrics.json") if (run.path / "metrics.json").is_file() else {}
    settings = run.read_json("settings.json")
    library = "peft" if weights.name == "adapter" else "transformers"
    card = CardFacts(target, base, library, hide_folders(manifest), hide_folders(settings), hide_folders(metrics),
                     find_licence(settings))
    return files | {CARD: write_card(card).encode()}


def find_hub_id(checkpoint: str) -> str:
    """Return the hub id of a checkpoint's name or cache folder; empty for another folder."""
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]", checkpoint)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    return checkpoint if re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint) and not Path(checkpoint).exists() else ""


def find_licence(settings: Mapping[str, Any]) -> str:
    """Return the licence of a run's data set as its card states it; empty if it is not known."""
    from medvqa_cli import plugins

    data = settings.get("data", {})
    if data.get("mixture"):
        return ""
    name = settings.get("datasets", {}).get(data.get("dataset"), {}).get("reader") or data.get("dataset")
    known = plugins.datasets.loadable()
    return known[name].card.licence if name in known else ""


def _clean(path: Path, base: str) -> bytes:
    """Return a JSON document without folders of this machine: the base model by its hub id, others by their name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}.") from error
    if base and "base_model_name_or_path" in content:
        content["base_model_name_or_path"] = base
    return json.dumps(hide_folders(content), indent=2, ensure_ascii=False).encode()


def _upload(files: Mapping[str, Path | bytes], target: str, *, public: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    address = api.create_repo(target, private=not public, exist_ok=True)
    if not public and api.model_info(address.repo_id).private is not True:
        raise RunError(f"The repository '{address.repo_id}' is there already, and everyone can read it.",
                       "Make it private on the hub, name another one, or add --public.")
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    api.create_commit(address.repo_id, operations, commit_message="Weights and model card of a medvqa run")
    return str(address)


def _list_failures() -> tuple[type[Exception], ...]:
    """Return what the hub's client and its HTTP library raise."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, *HfHubHTTPError.__bases__)


def _explain(target: str, error: BaseException) -> tuple[str, str]:
    """Return what a failure means, and what to do."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (f"The hub does not accept the token for '{target}' (401).",
                "Log in anew with `hf auth login`, or set HF_TOKEN.")
    if status == 403:
        return (f"The token may not write to '{target}' (403).",
                "Use a token with the right to write, and a name that is yours.")
    if status is not None:
        return f"The hub refused '{target}' ({status}).", "Try again later."
    if isinstance(error, OfflineModeIsEnabled):
        return f"'{target}' was not pushed: offline mode is on (HF_HUB_OFFLINE).", "Unset it."
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    where = os.environ.get("HF_ENDPOINT", "the hub")
    return f"'{target}' was not pushed: {where} cannot be reached, or the upload broke off ({text}).", \
        "Check the network."
