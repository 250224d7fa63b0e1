"""Checkpoints of the hub come from one commit, hold no code and no pickles, and each failure is one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.models.hub import fetch_checkpoint, find_commit
from medvqa_cli.models.loading import load_checkpoint, read_config
from medvqa_cli.plugins import models
from medvqa_cli.settings.model import ModelSettings
from tests.models.conftest import load_tiny
from tests.models.played_hub import COMMITS, PlayedHub, http, play, read_files, refuse  # noqa: F401 - a fixture

OLD, NEW = COMMITS
CPU = {"device": "cpu", "dtype": "float32"}
EXTRAS = {"README.md": b"# Model", "modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"pickle",
          "onnx/model.onnx": b"big", "original/consolidated.safetensors": b"big", "training_args.bin": b"pickle",
          "speech-lora/adapter_model.safetensors": b"big", "vision-lora/adapter_model.safetensors": b"big"}


@pytest.fixture
def hub(play, tiny_directory) -> PlayedHub:  # noqa: F811
    files = read_files(tiny_directory)
    config = json.loads(files["config.json"])
    hub = PlayedHub({OLD: files | EXTRAS, NEW: files | {"config.json": json.dumps(config | {"mark": 1}).encode()}},
                    {"v1": OLD})
    play(hub.answer)
    return hub


def load(**settings):
    return load_checkpoint(models.get("llava"), "llava", "org/model", ModelSettings(**CPU, **settings))


def test_everything_comes_from_one_commit_which_is_remembered(hub):
    loaded = load()
    assert {commit for commit, _ in hub.fetched} == {NEW}
    assert loaded.checkpoint == loaded.model.name_or_path == loaded.model.config.name_or_path == "org/model"
    assert (loaded.model.config._commit_hash, loaded.model.config.mark) == (NEW, 1)
    before = len(hub.fetched)
    for revision in (OLD, "v1"):
        old = load(revision=revision)
        assert {commit for commit, _ in hub.fetched[before:]} == {OLD}
        assert old.model.config._commit_hash == OLD
        assert not hasattr(old.model.config, "mark")
    with pytest.raises(ModelError, match=r"^The model 'org/model' has no revision 'v2' on the hub\.$") as failure:
        load(revision="v2")
    assert failure.value.hint.startswith("Name a branch, tag or commit that it has with --model-revision")


def test_only_what_loading_needs_is_fetched(hub):
    source = fetch_checkpoint("org/model", OLD)
    names = {name for _, name in hub.fetched}
    assert names.isdisjoint(EXTRAS)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert source.commit == Path(source.folder).name == OLD
    fetch_checkpoint("org/model", OLD, allow_code=True)
    assert {name for _, name in hub.fetched} - names == {"modeling_evil.py"}
    fetch_checkpoint("org/model", OLD, beside=models.get("phi4_multimodal").card.files_beside)
    assert {name for _, name in hub.fetched} - names == {"modeling_evil.py", "vision-lora/adapter_model.safetensors"}


def test_what_is_cached_loads_offline(hub, monkeypatch):
    load()
    count = len(hub.fetched)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load().model.config._commit_hash == NEW
    assert len(hub.fetched) == count
    with pytest.raises(ModelError, match="not on this machine and offline mode is on") as failure:
        load(revision="other")
    assert "hf download org/model" in failure.value.hint


def test_parts_are_fetched_by_their_index(hub, tiny_directory, tmp_path):
    load_tiny(tiny_directory).model.save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    del hub.commits[NEW]["model.safetensors"]
    hub.commits[NEW] |= read_files(tmp_path / "parts") | {"model-00009-of-00009.safetensors": b"not in the index"}
    wanted = [path.name for path in (tmp_path / "parts").glob("model-*.safetensors")]
    assert len(wanted) > 2
    load()
    assert sorted(name for _, name in hub.fetched if name.startswith("model-")) == sorted(wanted)


def test_pickles_are_refused_unless_allowed(hub):
    hub.commits[NEW] = {name: content for name, content in hub.commits[NEW].items() if name != "model.safetensors"}
    hub.commits[NEW]["pytorch_model.bin"] = b"pickle"
    with pytest.raises(ModelError, match="'org/model' are pickle files .'pytorch_model.bin'.") as failure:
        load()
    assert "--allow-pickle" in failure.value.hint
    assert "pytorch_model.bin" not in {name for _, name in hub.fetched}
    source = fetch_checkpoint("org/model", allow_pickle=True)
    assert (Path(source.folder) / "pytorch_model.bin").read_bytes() == b"pickle"
    del hub.commits[OLD]["model.safetensors"], hub.commits[OLD]["pytorch_model.bin"]
    with pytest.raises(ModelError, match="'org/model' holds no weights"):
        load(revision=OLD)


@pytest.mark.parametrize(("status", "code", "message", "hint"), [
    (403, "GatedRepo", "The model 'org/model' is gated: its licence must be accepted first.",
     "Accept it at https://huggingface.co/org/model, then log in to the same account: `hf auth login`, or HF_TOKEN "),
    (401, "GatedRepo", "The model 'org/model' is gated: its licence must be accepted first.", "Accept it at "),
    (404, "RepoNotFound", "There is no model 'org/model' on the hub, nor a folder of that name.", "Check the spelling"),
    (404, "RevisionNotFound", "The model 'org/model' has no revision 'v9' on the hub.", "Name a branch"),
    (500, "", "The model 'org/model' is not on this machine and the hub cannot be reached.", "Where there is a "),
])
@pytest.mark.parametrize("call", [read_config, fetch_checkpoint])
def test_refusals_of_the_hub(play, call, status, code, message, hint):  # noqa: F811
    play(lambda request: refuse(request, status, code))
    with pytest.raises(ModelError) as failure:
        call("org/model", "v9")
    assert failure.value.message == message
    assert failure.value.hint.startswith(hint)


def test_a_repository_without_a_config(hub):
    del hub.commits[NEW]["config.json"]
    with pytest.raises(ModelError, match="'org/model' is not a checkpoint: config.json is missing"):
        read_config("org/model")


@pytest.mark.parametrize("call", [read_config, fetch_checkpoint])
def test_no_network(play, call):  # noqa: F811
    def fail(request):
        raise http.ConnectError("refused")

    play(fail)
    with pytest.raises(ModelError, match="'org/model' is not on this machine and the hub cannot be reached"):
        call("org/model")


def test_a_connection_that_breaks_while_weights_come(hub, play):  # noqa: F811
    def fail(request):
        if request.method == "GET" and request.url.path.endswith("model.safetensors"):
            raise http.RemoteProtocolError("peer closed connection")
        return hub.answer(request)

    play(fail)
    with pytest.raises(ModelError, match="'org/model' (is not on this machine|cannot be fetched)"):
        load()


def test_a_full_disk_is_one_error(hub, monkeypatch):
    def fill(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fill)
    with pytest.raises(ModelError, match="The disk is full: 'org/model' could not be fetched"):
        load()


def test_a_name_that_is_none():
    with pytest.raises(ModelError, match="There is no model 'a/b/c' on the hub"):
        fetch_checkpoint("a/b/c")


def test_a_folder_of_the_cache_tells_its_commit(tmp_path):
    assert find_commit(tmp_path / "snapshots" / OLD) == OLD
    assert find_commit(tmp_path / "snapshots" / "main") == ""
    assert find_commit(tmp_path / OLD) == ""
