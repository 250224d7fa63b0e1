"""What a run leaves the machine with, and what becomes of a push that fails; the hub's client is real."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.runs import Run
from medvqa_cli.workflows.publish import check_target, find_hub_id, push_run

SECRET = "/home/someone/secret place"
QUESTION = "Is there a nodule in the left lung of patient 17?"


class PlayedRepository(BaseHTTPRequestHandler):
    """One repository of the hub, as much of its HTTP interface as a commit takes."""

    def do_GET(self):
        self._answer({"id": "me/model", "private": self.server.private, "siblings": []})

    def do_PUT(self):
        self.server.stored[self.path] = self._read()
        self._answer({})

    def do_POST(self):
        body = self._read()
        path, server = self.path, self.server
        server.tokens.add(self.headers.get("Authorization"))
        if server.refusal:
            self._answer({"error": "no"}, server.refusal)
        elif path == "/api/repos/create":
            server.created = json.loads(body)
            self._answer({"url": f"{server.address}/me/model"}, 409 if server.exists else 200)
        elif path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [entry["path"] for entry in json.loads(body)["files"]]
            self._answer({"files": [{"path": name, "shouldIgnore": False, "uploadMode": "lfs" if
                                     name.endswith(".safetensors") else "regular"} for name in names]})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer({"transfer": "basic", "objects": [
                {**entry, "actions": {"upload": {"href": f"{server.address}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]]})
        else:
            server.commits.append([json.loads(line) for line in body.splitlines()])
            self._answer({"commitUrl": f"{server.address}/me/model/commit/1", "commitOid": "1" * 40, "success": True})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), PlayedRepository)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.stored, server.commits, server.tokens, server.created = {}, [], set(), None
    server.private, server.refusal, server.exists = True, 0, False
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    monkeypatch.setenv("HF_TOKEN", "hf_played")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "runs" / "mine"
    (path / "adapter").mkdir(parents=True)
    save_file({"layer.lora_A": torch.ones(2, 2)}, path / "adapter" / "adapter_model.safetensors")
    documents = {
        "adapter/adapter_config.json": {"base_model_name_or_path": f"{SECRET}/base", "r": 8,
                                        "target_modules": r"model\.layers\.\d+\.mlp\.down_proj"},
        "adapter/tokenizer_config.json": {"name_or_path": f"{SECRET}/base", "unk_token": "</s>"},
        "manifest.json": {"medvqa": "0.1.0", "command": f"medvqa train sft --model {SECRET}/base", "steps": 8,
                          "packages": {"torch": "2.7"},
                          "model": {"family": "llava", "checkpoint": f"{SECRET}/base", "commit": "c" * 40},
                          "data": {"dataset": "slake", "fingerprint": "abc123", "train_questions": 40,
                                   "train_images": 4, "validation_questions": 8, "check": "passed",
                                   "warnings": ["The file /home/someone/data/x.png was skipped."]}},
        "settings.json": {"seed": 3, "train": {"learning_rate": 1e-4, "deepspeed": f"{SECRET}/zero2.json"},
                          "data": {"dataset": "slake"}, "prompt": {"exemplars": [QUESTION]},
                          "model": {"name": f"{SECRET}/base"}},
        "predictions.meta.json": {"asked": QUESTION},
    }
    for name, content in documents.items():
        (path / name).write_text(json.dumps(content), encoding="utf-8")
    (path / "adapter" / "README.md").write_text(f"base_model: {SECRET}", encoding="utf-8")
    (path / "adapter" / "optimizer.pt").write_text("not weights", encoding="utf-8")
    (path / "predictions.jsonl").write_text(json.dumps({"question": QUESTION}), encoding="utf-8")
    return Run(path)


def read_commit(server) -> dict[str, bytes]:
    """Return what was uploaded, by name."""
    files = {}
    for row in server.commits[-1]:
        if row["key"] == "file":
            files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
        elif row["key"] == "lfsFile":
            files[row["value"]["path"]] = server.stored[f"/lfs/{row['value']['oid']}"]
            assert hashlib.sha256(files[row["value"]["path"]]).hexdigest() == row["value"]["oid"]
    return files


def test_weights_and_card_are_uploaded_and_nothing_else(hub, run):
    assert push_run(run, "me/model") == f"{hub.address}/me/model"
    files = read_commit(hub)
    assert sorted(files) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"]
    assert files["adapter_model.safetensors"] == (run.path / "adapter" / "adapter_model.safetensors").read_bytes()
    everything = b"".join(files.values()).decode("utf-8", "replace")
    for private in ("someone", "secret", str(run.path.parent), QUESTION, "patient"):
        assert private not in everything
    config = json.loads(files["adapter_config.json"])
    assert config == {"base_model_name_or_path": "base", "r": 8,
                      "target_modules": r"model\.layers\.\d+\.mlp\.down_proj"}
    assert json.loads(files["tokenizer_config.json"])["unk_token"] == "</s>"
    assert hub.created["name"] == "model"
    assert hub.created["organization"] == "me"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_played"}


def test_the_card_repeats_what_the_run_holds(hub, run):
    push_run(run, "me/model")
    card = read_commit(hub)["README.md"].decode()
    assert "Research use only; not for clinical decisions." in card
    assert "`base`, a local folder at commit `" + "c" * 40 in card
    assert "- Data set: slake\n- Fingerprint: `abc123`\n- Licence of the data: CC" in card
    assert "- Questions trained on: 40 about 4 images" in card
    assert "> Warning: The file x.png was skipped." in card
    assert "- `train.learning_rate`: 0.0001" in card
    assert "- `train.deepspeed`: zero2.json" in card
    assert "Not evaluated: the run holds no metrics." in card
    assert "license:" not in card
    assert "base_model:" not in card


def test_metrics_stand_with_interval_and_protocol(hub, run):
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    block = {"n": 8, "images": 2, "accuracy": estimate, "exact_match": estimate, "token_f1": {"value": None}}
    protocol = {"dataset": "slake", "split": "test", "n": 8, "images": 2, "rules": {"accuracy": "as parsed"},
                "intervals": {"method": "bootstrap over images", "level": 0.95, "resamples": 200, "seed": 0}}
    (run.path / "metrics.json").write_text(json.dumps({"answers": {
        "main": {"overall": block, "protocol": protocol}, "bare": {"overall": block}}}), encoding="utf-8")
    push_run(run, "me/model")
    card = read_commit(hub)["README.md"].decode()
    assert "| overall | 8 | 2 | 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] | undefined |" in card
    assert "95 % intervals: bootstrap over images, 200 resamples, seed 0" in card
    assert "- Split: test" in card
    assert card.count("| overall |") == 1
    assert "Not evaluated" not in card


def test_a_public_repository_is_not_written_to_unasked(hub, run):
    hub.exists, hub.private = True, False
    with pytest.raises(RunError, match="'me/model' is there already, and everyone can read it"):
        push_run(run, "me/model")
    assert not hub.commits
    push_run(run, "me/model", public=True)
    assert len(hub.commits) == 1


@pytest.mark.parametrize(("status", "message"), [
    (401, "The hub does not accept the token for 'me/model' (401)."),
    (403, "The token may not write to 'me/model' (403)."), (418, "The hub refused 'me/model' (418).")])
def test_a_refused_push_leaves_the_run_and_says_how_to_try_again(hub, run, status, message):
    hub.refusal = status
    with pytest.raises(RunError) as caught:
        push_run(run, "me/model")
    assert caught.value.message == f"{message} Run 'mine' is finished and stays as it is."
    assert caught.value.hint.endswith("Then: medvqa runs push mine me/model")
    assert run.weights


def test_a_hub_that_is_not_there_is_named(hub, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"'me/model' was not pushed: .* cannot be reached"):
        push_run(run, "me/model")


def test_what_cannot_be_tried_is_said_at_once(hub, run, monkeypatch):
    with pytest.raises(SettingsError, match="'a/b/c' is no id of the hub"):
        check_target("a/b/c")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run.path / "none"))
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    with pytest.raises(SettingsError, match="There is no token to push to 'me/model' with"):
        check_target("me/model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match="offline mode is on"):
        push_run(run, "me/model")
    assert not hub.commits


def test_a_run_without_weights_is_refused(tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(RunError, match="Run 'half' has no trained weights to push"):
        push_run(Run(tmp_path / "half"), "me/model")


def test_a_base_in_the_cache_is_named_by_its_id():
    assert find_hub_id("/x/hub/models--org--some-model/snapshots/" + "a" * 40) == "org/some-model"
    assert find_hub_id("org/some-model") == "org/some-model"
    assert find_hub_id("/x/some-model") == find_hub_id("") == ""


def test_the_command_pushes_a_finished_run(hub, run, monkeypatch, capsys):
    from medvqa_cli.__main__ import main

    monkeypatch.setattr(sys, "argv", ["medvqa", "runs", "push", "mine", "me/model", "--runs-dir",
                                      str(run.path.parent), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["address"] == f"{hub.address}/me/model"
