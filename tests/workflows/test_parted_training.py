"""Exemplars in two styles, from training to answers: packs, choices, GRPO's trees and packs, inference."""

from __future__ import annotations

import math

import pytest

from medvqa_cli.records import read_jsonl
from medvqa_cli.workflows.grpo import train_grpo
from medvqa_cli.workflows.infer import infer_split
from medvqa_cli.workflows.train import train_sft
from tests.workflows.test_grpo import prepare
from tests.workflows.test_infer import answers_of, change

pytestmark = pytest.mark.slow
STYLES = {"closed_style": "short", "open_style": "plain",
          "exemplars": [{"question": "Is it normal?", "answer": "yes"}]}


def read_losses(run):
    return [row["loss"] for row in read_jsonl(run.events) if row["event"] == "log" and "loss" in row]


def test_sft_packs_and_inference_shares_what_is_alike(trained, tmp_path, listener):
    settings = change(trained[0], prompt=STYLES, paths={"runs": str(tmp_path / "runs")},
                      train={"max_steps": 3, "log_steps": 1, "packing": "on", "closed_objective": "hybrid"})
    run = train_sft(settings, name="parted", progress=listener)
    assert run.read_json("manifest.json")["packed"] is True
    assert all(map(math.isfinite, read_losses(run)))
    infer_split(settings, run="parted")
    infer_split(change(settings, infer={"shared_prefix": "off"}), run="parted", tag="plain")
    tree, plain = answers_of(run), answers_of(run, "predictions-plain.jsonl")
    assert [row[:2] for row in tree] == [row[:2] for row in plain]
    assert [row[2] for row in tree] == pytest.approx([row[2] for row in plain], abs=1e-4)


def test_grpo_draws_and_scores_with_shared_prefixes(trained, tmp_path, listener):
    settings = prepare(trained, tmp_path, prompt=STYLES)
    run = train_grpo(settings, name="parted", progress=listener)
    assert run.weights
    assert not any("Shared prefixes are off" in line for line in listener.warnings)
