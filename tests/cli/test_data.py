"""`medvqa data` on the small example data set, with the real workflows."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from tests.data.builders import build_slake


@pytest.fixture
def plugin(repository, tmp_path) -> str:
    """The example data set as a loose file."""
    folder = tmp_path / "set"
    shutil.copytree(repository / "examples" / "plugin_dataset" / "two_discs", folder,
                    ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "__init__.py").rename(folder / "two_discs.py")
    return str(folder / "two_discs.py")


def test_prepare_says_what_it_found_and_does_nothing_twice(document, medvqa, plugin, tmp_path):
    first = document("data", "prepare", "two-discs", "--plugin", plugin)
    assert (first["name"], first["fresh"], first["skipped"]) == ("two_discs", True, [])
    assert first["counts"] == {"train": 18, "validation": 9, "test": 9}
    assert first["path"] == str(tmp_path / "prepared" / "two_discs")
    again = document("data", "prepare", "two-discs", "--plugin", plugin)
    assert (again["fresh"], again["fingerprint"]) == (False, first["fingerprint"])
    assert document("data", "prepare", "two-discs", "--plugin", plugin, "--force")["fresh"] is True
    shown = medvqa("data", "prepare", "two-discs", "--plugin", plugin)
    assert "counts:\n  train: 18\n  validation: 9\n  test: 9\nimages: 12\nskipped: 0\n" in shown.stdout
    assert "fresh" not in shown.stdout
    assert "'two_discs' is prepared and unchanged: train 18, validation 9, test 9." in shown.stderr


def test_preparing_says_which_language_is_used(medvqa, plugin, tmp_path):
    build_slake(tmp_path / "slake")
    told = medvqa("data", "prepare", "slake", "--root", "slake").stderr
    assert told.endswith("Counted are questions in all languages. Used are those in 'en'; --language all uses all.\n")
    assert "languages" not in medvqa("data", "prepare", "two_discs", "--plugin", plugin).stderr
    assert medvqa("data", "analyze", "slake").stdout.startswith("slake: only questions in 'en'; --language all takes ")


def test_dry_run_of_prepare_writes_nothing(document, plugin, tmp_path):
    plan = document("data", "prepare", "two_discs", "--plugin", plugin, "--dry-run")
    assert (plan["root"], plan["prepared"]) == (str(tmp_path / "set"), "it has not been prepared yet")
    assert not (tmp_path / "prepared").exists()
    document("data", "prepare", "two_discs", "--plugin", plugin)
    assert document("data", "prepare", "two_discs", "--plugin", plugin, "--dry-run")["prepared"] == "ready"


def test_analyze_counts_what_the_filters_leave(document, medvqa, plugin):
    found = document("data", "analyze", "two_discs", "--plugin", plugin, "--question-type", "closed", "--limit", "4")
    assert [part["questions"] for part in found["splits"].values()] == [4, 4, 4]
    assert found["splits"]["train"]["answer_types"] == {"closed": 4}
    shown = medvqa("data", "analyze", "two_discs", "--plugin", plugin)
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.startswith("two_discs\nsplit       questions  images")
    assert ("Verdict: ready for training, with 5 warnings: 3 of 3 images of 'validation' are also in 'train'; "
            "questions asked there about the same image: 9 (and 4 more, above).\n") in shown.stdout


def test_data_that_are_not_ready_end_with_an_exit_code(medvqa, plugin, tmp_path):
    assert medvqa("data", "prepare", "two_discs", "--plugin", plugin).exit_code == 0
    next((tmp_path / "set").rglob("*.png")).unlink()
    for json in ((), ("--json",)):
        found = medvqa("data", "analyze", "two_discs", "--plugin", plugin, *json)
        assert found.exit_code == 4, found.stderr
        assert ("error: The data set 'two_discs' is not ready for training: Missing or unreadable images: 1, such as"
                in found.stderr)
        assert ('"ready": false' if json else "Verdict: not ready for training: Missing") in found.stdout


def test_show_draws_to_files(document, medvqa, plugin, tmp_path):
    samples = document("data", "show", "two_discs", "--plugin", plugin, "--count", "2", "--split", "validation",
                       "--output", "out/x.png")
    assert {sample["split"] for sample in samples} == {"validation"}
    for name in ("x-1.png", "x-2.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.width > 32, "the question stands below the picture"
    shown = medvqa("data", "show", "two_discs", "--plugin", plugin, "--count", "1", "--output", "y.png", "--seed", "1")
    assert (tmp_path / "y.png").is_file()
    assert "  Q: " in shown.stdout
    assert shown.stderr.endswith("Drew y.png\n")


@pytest.mark.parametrize(("typed", "code", "message"), [
    (("show", "two_discs", "--count", "0"), 2, "--count is '0': it should be a whole number of at least 1."),
    (("show", "two_discs", "--count", "many"), 2, "--count is 'many': it should be a whole number of at least 1."),
    (("show", "two_discs", "--output", "x.gif"), 2, "--output is 'x.gif': it should end with .png or .jpg."),
    (("show", "two_discs", "--split", "dev"), 4, "The data set 'two_discs' has no split 'dev'."),
    (("prepare", "two_disks"), 3, "Unknown data set 'two_disks'. Did you mean 'two_discs'?"),
    (("prepare", "two_discs", "--root", "/nowhere"), 4, "The folder '/nowhere' does not exist."),
    (("analyze", "two_discs", "--set", "data.options.size=3"), 2, "This plugin takes no options"),
])
def test_mistakes(medvqa, plugin, typed, code, message):
    result = medvqa("data", *typed, "--plugin", plugin)
    assert result.exit_code == code
    assert f"error: {message}" in result.stderr


def test_an_own_name_for_a_data_set(document, plugin, tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.toml").write_text(f'plugins = ["{plugin}"]\n[aliases.datasets]\nmine = "two_discs"\n')
    assert document("data", "list", "mine")["name"] == "two_discs"
    assert document("data", "prepare", "mine")["counts"]["train"] == 18
