"""`medvqa report` with more than its run."""

from __future__ import annotations

from pathlib import Path


def test_other_runs_and_files_reach_the_workflow(medvqa, workflows, make_run, document):
    make_run("a", answered=True)
    answer = document("report", "a", "b", "c:blank", "--by", "modality, organ", "--published", "p.yaml", "--markdown",
                      "t.md", "--latex", "t.tex", "--questions", "9", "--output", "page.html", "--seed", "3")
    (call,) = workflows
    extras = call.extras
    assert (call.arguments[0].name, call.settings.seed) == ("a", 3)
    assert (extras.others, extras.slices, extras.max_questions) == (["b", "c:blank"], ["modality", "organ"], 9)
    assert (extras.published, extras.markdown, extras.latex, extras.output) == (
        Path("p.yaml"), Path("t.md"), Path("t.tex"), Path("page.html"))
    assert (answer["run"], answer["markdown"], answer["latex"]) == ("a", "t.md", "t.tex")


def test_one_run_needs_no_settings(medvqa, workflows, make_run):
    make_run("a", answered=True)
    assert medvqa("report").exit_code == 0  # the latest with answers
    (call,) = workflows
    assert (call.arguments[0].name, call.settings, call.extras.others) == ("a", None, [])


def test_a_number_that_is_none_is_one_clear_error(medvqa, workflows, make_run):
    make_run("a", answered=True)
    result = medvqa("report", "a", "--questions", "many")
    assert (result.exit_code, result.stderr) == (
        2, "error: --questions is 'many': it should be a whole number of at least 1.\n")
    assert not workflows
