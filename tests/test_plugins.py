"""The example plugins: installed as packages, found through their entry points, and used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medvqa_cli import plugins
from medvqa_cli.errors import DataError
from medvqa_cli.registry import load_file
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows import SanityScope, check_sanity

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Install the example packages, offline, into a folder of their own."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
                    "--no-deps", "--no-build-isolation", "--target", str(target), str(EXAMPLES / "plugin_dataset"),
                    str(EXAMPLES / "plugin_model"), str(EXAMPLES / "plugin_reward")],
                   check=True, capture_output=True, timeout=120)
    return target


@pytest.fixture
def medvqa(installed, tmp_path):
    """Run the command line in a process that sees the installed plugins; returns the JSON document."""
    def run(*arguments: str) -> Any:
        paths = [str(installed), str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                       "MEDVQA_CONFIG_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", "medvqa_cli", *arguments, "--json"], capture_output=True,
                              text=True, cwd=tmp_path, env=environment, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_installed_plugins_are_listed_beside_the_built_in_ones(medvqa):
    rows = {row["name"]: row for row in medvqa("plugins", "list", "--check")}
    assert (rows["two_discs"]["kind"], rows["two_discs"]["origin"]) == ("data set", "medvqa-two-discs")
    assert rows["two_discs"]["summary"].startswith("Twelve pictures of two discs")
    assert (rows["brief_llava"]["kind"], rows["brief_llava"]["origin"]) == ("model family", "medvqa-brief-llava")
    assert (rows["laterality"]["kind"], rows["laterality"]["origin"]) == ("reward", "medvqa-laterality")
    assert rows["accuracy"]["origin"] == rows["slake"]["origin"] == rows["llava"]["origin"] == "built-in"
    assert {row["problem"] for row in rows.values()} == {""}


def test_an_installed_data_set_is_found_by_its_alias_and_finds_its_files(medvqa, installed):
    card = medvqa("data", "list", "discs")
    assert (card["name"], card["found"]) == ("two_discs", str(installed / "two_discs"))


def test_an_installed_data_set_is_read(medvqa):
    samples = medvqa("data", "show", "two-discs", "--split", "test", "--count", "9", "--prepared-dir", "prepared")
    assert len(samples) == 9
    assert {sample["dataset"] for sample in samples} == {"two_discs"}
    assert {sample["answer"] for sample in samples} == {"yes", "no", "left", "right"}
    assert all(Path(sample["images"][0]).is_file() for sample in samples)


def test_an_installed_family_encodes_learns_and_answers(installed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    for registry in plugins.REGISTRIES.values():
        monkeypatch.setattr(registry, "_loaded", {})
    settings = make_settings({"data": {"dataset": "two_discs"}, "model": {"family": "brief_llava"},
                              "paths": {"prepared": str(tmp_path)}})
    checks = {check.name: check for check in check_sanity(settings, SanityScope(tiny=True)).checks}
    assert [check for check in checks.values() if not check.passed] == []
    assert checks["load"].detail.startswith("brief_llava from a tiny random checkpoint")
    assert checks["data"].detail.startswith("two_discs: 9 test questions")


def test_the_example_data_set_names_file_row_and_value_of_a_fault(tmp_path):
    plugin = load_file(EXAMPLES / "plugin_dataset" / "two_discs" / "__init__.py")
    path = tmp_path / "questions.csv"
    path.write_text("split,picture,question,answer,answer_type,question_type\ntest,a.png,Q?,yes,perhaps,side\n")
    with pytest.raises(DataError) as caught:
        list(plugin.read(plugin.find_root(tmp_path), None))
    assert caught.value.message == f"{path}, row 1: 'answer_type' should be one of open, closed, but is \"perhaps\"."
    with pytest.raises(DataError, match="is not laid out like Two discs: there is no questions.csv"):
        plugin.find_root(EXAMPLES)


def test_the_example_family_asks_for_one_word_and_adapts_attention_only(monkeypatch):
    monkeypatch.setattr(plugins.models, "_loose", {})
    plugins.add_files([EXAMPLES / "plugin_model" / "brief_llava.py"])
    family = plugins.models.get("brief-llava")
    assert plugins.models.origin("brief_llava") == "file"
    assert set(family.layout.lora_targets) < set(plugins.models.get("llava").layout.lora_targets)
    assert family.card.model_types == (), "it takes no checkpoint away from the built-in family"


def test_the_built_in_protocols_have_what_the_registries_require():
    from medvqa_cli.data.protocol import Dataset
    from medvqa_cli.models.protocol import ModelFamily

    for registry, protocol in ((plugins.datasets, Dataset), (plugins.models, ModelFamily)):
        stated = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
        assert set(registry.required) == stated


@pytest.mark.parametrize(("answer", "gold", "reward"), [
    ("left lung", "left lung", 1.0), ("lung", "left lung", 0.0), ("right lung", "left lung", -1.0),
    ("left and right", "left", -1.0), ("bilateral", "both lungs", 1.0), ("left", "no", None),
    ("brightest", "right", 0.0)])
def test_the_example_of_a_reward(answer, gold, reward):
    from medvqa_cli.records import VQASample
    from medvqa_cli.training.attempts import Attempt

    sample = VQASample(dataset="d", split="train", question_id="1", image_id="1", question="Where?", answer=gold,
                       answer_type="open")
    assert load_file(EXAMPLES / "plugin_reward" / "laterality.py").rate([Attempt(sample, answer, answer)]) == [reward]
