"""Looking at packages that fail, crash, hang or print: each in a real process of its own."""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medvqa_cli.progress import SilentProgress
from medvqa_cli.workflows.machine.probe_runner import Outcome, run_probes

FAKE_TORCH = """
import warnings
__version__ = "9.9+cu1"
class version: cuda, hip = "13.1", None
class AcceleratorError(RuntimeError): pass
class cuda:
    @staticmethod
    def is_available():
        warnings.warn("the driver is older\\n  than this build")
        return {cuda}
    def device_count(): return 2
    def get_device_properties(index):
        class facts:
            name, total_memory = ("Small", "Large")[index], 16 * 2**30 * (index + 1)
            major, minor = 7 + index, 5
        return facts
    class device:
        def __init__(self, index): self.index = index
        def __enter__(self): cuda.current = self.index
        def __exit__(self, *error): pass
    def mem_get_info(index):
        if index == {full}:
            raise AcceleratorError("CUDA error: out of memory\\nCompile with more")
        return 5 * 2**30, 16 * 2**30
    def is_bf16_supported(including_emulation): return including_emulation or cuda.current == 1
class backends:
    class mps:
        def is_available(): return False
"""


def test_real_probes_tell_what_is_here():
    import importlib.metadata

    found = run_probes(["requirements", "memory", "hub settings", "torch"])
    rows = {row["name"]: row for row in found["requirements"].facts["rows"] if not row["extra"]}
    assert rows["torch"] == {"name": "torch", "range": "<2.14,>=2.7", "extra": "", "fit": "fits",
                             "version": importlib.metadata.version("torch")}
    assert {row["extra"] for row in found["requirements"].facts["rows"]} >= {"", "dicom", "flash", "grpo", "tracking"}
    assert 0 < found["memory"].facts["available"] <= found["memory"].facts["total"]
    assert found["hub settings"].facts["offline"] is True, "the tests set HF_HUB_OFFLINE"
    assert found["torch"].facts["version"] == importlib.metadata.version("torch")


def test_requirements_compare_versions(install):
    install("peft", "", version="0.1")
    install("accelerate", "", version="1.99rc1")
    install("transformers", "", version="6.1")
    rows = run_probes(["requirements"])["requirements"].facts["rows"]
    fits = {row["name"]: row["fit"] for row in rows if not row["extra"]}
    assert [fits[name] for name in ("peft", "accelerate", "transformers")] == ["older", "fits", "newer"]


@pytest.mark.parametrize(("code", "failure"), [
    ("raise ImportError('libcudart.so.13: cannot open shared object file')",
     "ImportError: libcudart.so.13: cannot open shared object file"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it crashed (SIGSEGV)"),
    ("import os; os._exit(3)", "it ended with code 3"),
    ("import sys; sys.exit('no licence file')", "no licence file"),
    ("try:\n    import missing_part\nexcept ImportError as error:\n    raise RuntimeError('see the manual') from error",
     "ModuleNotFoundError: No module named 'missing_part'"),
])
def test_a_broken_torch_is_a_finding_and_what_needs_it_is_left_out(install, code, failure):
    install("torch", code)
    found = run_probes(["torch", "torchvision", "transformers", "peft", "bitsandbytes", "flash-attn", "memory"])
    assert found["torch"] == Outcome(failure=failure)
    assert list(found) == ["torch", "memory"]
    assert found["memory"].facts["total"] > 0, "the look after the crash still happened"


def test_what_was_said_before_is_not_blamed(install):
    install("psutil", "import sys\nprint('RuntimeError: nothing to worry about', file=sys.stderr)\n"
            "def virtual_memory():\n    class memory: total, available = 1, 1\n    return memory")
    install("torch", "raise OSError('the true reason')")
    assert run_probes(["memory", "torch"])["torch"].failure == "OSError: the true reason"


class Counter(SilentProgress):
    total = steps = 0

    def start(self, stage, total, unit="it"):
        self.total = total

    def advance(self, steps=1, note=""):
        self.steps += steps


def test_progress_reaches_its_end_also_where_probes_are_left_out(install):
    install("torch", "raise ImportError('x')")
    counter = Counter()
    run_probes(["memory", "torch", "peft", "bitsandbytes"], counter)
    assert (counter.steps, counter.total) == (4, 4)


def test_what_hangs_is_ended(install):
    install("torch", "import time; time.sleep(60)")
    started = time.monotonic()
    found = run_probes(["memory", "torch"], timeout=3.0)
    assert time.monotonic() - started < 10
    assert found["torch"].failure == "no answer within 3 s, or no memory left"
    assert found["memory"].facts


def test_what_a_package_prints_is_no_answer(install):
    install("psutil", "import os\nprint('welcome')\nos.system('echo to all')\n"
            "def virtual_memory():\n    class memory: total, available = 7, 5\n    return memory")
    assert run_probes(["memory"])["memory"] == Outcome({"total": 7, "available": 5})


def test_gpus_with_a_full_one_and_a_warning(install):
    install("torch", FAKE_TORCH.format(cuda=True, full=0))
    facts = run_probes(["torch"])["torch"].facts
    assert (facts["version"], facts["cuda_build"], facts["warning"]) == (
        "9.9+cu1", "13.1", "the driver is older than this build")
    assert facts["gpus"] == [
        {"index": 0, "name": "Small", "total": 16 * 2**30, "free": 0, "bf16": False, "capability": "7.5",
         "error": "CUDA error: out of memory"},
        {"index": 1, "name": "Large", "total": 32 * 2**30, "free": 5 * 2**30, "bf16": True, "capability": "8.5",
         "error": ""}]


def test_bfloat16_that_is_emulated_does_not_count(install):
    install("torch", FAKE_TORCH.format(cuda=True, full=7))
    gpus = run_probes(["torch"])["torch"].facts["gpus"]
    assert [gpu["bf16"] for gpu in gpus] == [False, True]


def test_no_gpu_is_counted_where_cuda_does_not_start(install):
    install("torch", FAKE_TORCH.format(cuda=False, full=7))
    assert run_probes(["torch"])["torch"].facts["gpus"] == []


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine: `hub(status, wait)` serves it and lets the hub's client go there."""
    servers = []
    over = threading.Event()

    def serve(status: int, wait: float = 0.0) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                over.wait(wait)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        return address

    yield serve
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [200, 503])
def test_the_hub_answers(hub, status):
    address = hub(status)
    assert run_probes(["hub"])["hub"].facts == {"endpoint": address, "status": status}


def test_a_hub_that_hangs_is_given_up_after_three_seconds(hub):
    hub(200, wait=20)
    started = time.monotonic()
    failure = run_probes(["hub"])["hub"].failure
    assert 2.5 < time.monotonic() - started < 6
    assert "within 3 s" in failure or "timed out" in failure


def test_a_hub_that_is_not_there(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert run_probes(["hub"])["hub"].failure.startswith("ConnectError: ")


def test_offline_mode_asks_nobody(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_probes(["hub"])["hub"].facts == {"endpoint": "http://127.0.0.1:9", "status": None}


def test_a_token_is_seen_and_never_told(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_a_test")
    found = run_probes(["hub settings"])["hub settings"]
    assert found.facts["token"] is True
    assert "hf_secret_of_a_test" not in repr(found)


def test_the_folder_of_the_probes_hides_no_module(install):
    """`medvqa_cli/workflows/machine` is not on the path of the process: its modules are nobody's `software`."""
    install("psutil", "import importlib.util\nassert importlib.util.find_spec('software') is None\n"
            "def virtual_memory():\n    class memory: total, available = 1, 1\n    return memory")
    assert run_probes(["memory"])["memory"].failure == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bitsandbytes is required on Linux only")
def test_every_real_package_works_here():
    found = run_probes(["torch", "transformers", "peft", "datasets", "bitsandbytes"])
    assert {name: outcome.failure for name, outcome in found.items() if outcome.failure} == {}
    assert found["bitsandbytes"].facts["error_4bit"] < 0.2
