"""Does GRPO learn, and does a reward for calibration calibrate? On the demo data, on a CPU, in minutes.

    python examples/benchmarks/grpo_learns.py FOLDER [--seeds 0,1,2] [--weak-steps 120] [--steps 150]

1. `sighted`: the quickstart's small LLaVA (random weights, 1,500 steps on the demo) has learned to see.
2. `weak`: it goes on for a short while on poor labels of the demo's yes/no questions: 40 in 100 are right, 20 wrong,
   40 "unclear", and each states a confidence of chance, 10 to 90 %: "yes 30%". That is the weak model.
3. From there GRPO goes on with the true answers: for each seed once with `accuracy`, once with `calibration` (RLCR).
   The same steps, the same questions. By `accuracy` alone the model soon states no confidence at all, so both arms get
   half a point for stating one, whatever it is. Both get `length` too: a confidence is read from a text that goes on
   and on just as well, and without it the model forgets how to end.
4. Held-out questions are answered greedily: accuracy, and the expected calibration error (ten bins) of the stated
   confidences; an answer that states none counts as stating 100 %. A fifth of the pictures are ambiguous: there no
   answer can be known, and a lower confidence is due.

Last figures: TRL 1.16, torch 2.13, one thread of 2 cores that other jobs used too; 600 test questions, 150 steps of 64
completions, 32 to 76 s each. The weak model: accuracy 0.573, ECE 0.516.

| seed | `accuracy`: accuracy, ECE | `calibration`: accuracy, ECE |
|---|---|---|
| 0 | 0.880, 0.480 | 0.862, 0.162 |
| 1 | 0.870, 0.270 | 0.873, 0.273 |
| 2 | 0.865, 0.865 | 0.852, 0.152 |
| mean (sd) | 0.872 (0.008), 0.538 (0.302) | 0.862 (0.011), 0.196 (0.068) |

| `calibration` less `accuracy`, 95 % over images | accuracy | ECE |
|---|---|---|
| seed 0 | -0.018 [-0.039, +0.002] | -0.318 [-0.339, -0.298] |
| seed 1 | +0.003 [-0.020, +0.026] | +0.003 [-0.020, +0.026] |
| seed 2 | -0.013 [-0.032, +0.003] | -0.713 [-0.732, -0.697] |
| mean | -0.009 [-0.022, +0.003] | -0.343 [-0.355, -0.331] |

Both learn to answer. By `accuracy` the stated confidence ends anywhere: a single number, another for each seed. By
`calibration` it moves towards the share of right answers, but in so few steps it is still a single number too (60 or
70 %), no lower for ambiguous pictures, and for seed 1 no better: three seeds do not make a difference of means certain.

Runs lie below FOLDER; finished ones are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvqa_cli import plugins
from medvqa_cli.scoring.calibration import measure_error
from medvqa_cli.scoring.confidence import parse_verbalized
from medvqa_cli.training.attempts import RewardCard

if TYPE_CHECKING:
    from numpy.typing import NDArray

REWARDS = {"accuracy": ["accuracy", "stated=0.5", "length"], "calibration": ["calibration", "stated=0.5", "length"]}
TESTED = 600
BINS = 10


class Stated:
    """The reward of both arms for stating a confidence."""

    card = RewardCard("1 for a text that states a confidence.")

    def rate(self, attempts: list[Any]) -> list[float]:
        """Return 1.0 or 0.0."""
        return [float(parse_verbalized(attempt.text) is not None) for attempt in attempts]


def configure(folder: Path, table: str = "", **sections: Any) -> Any:
    """Return settings of one stage: the quickstart's, on the demo or on a table below the folder."""
    from medvqa_cli.settings.schema import make_settings
    from medvqa_cli.workflows.quickstart import RECIPE

    paths = {"prepared": str(folder / "prepared"), "runs": str(folder / "runs")}
    data = {"dataset": "demo"}
    if table:
        data = {"dataset": "table", "root": str(folder / f"{table}.csv"), "skip_check": True}
    return make_settings({"paths": paths, "model": RECIPE["model"], "data": data} | sections)


def write_tables(folder: Path) -> None:
    """Write the demo's yes/no questions: with poor labels and confidences of chance, and as they are."""
    from medvqa_cli.workflows import load_samples

    chance, rows = random.Random(0), {"poor": [], "true": []}
    for split, most in (("train", None), ("test", TESTED)):
        samples = [one for one in load_samples(configure(folder), split) if one.answer in {"yes", "no"}]
        for sample in samples[:most]:
            image = Path(sample.images[0]).resolve().relative_to(folder.resolve())
            clear = "ambiguous" if sample.extra.get("ambiguous") else "clear"
            other = {"yes": "no", "no": "yes"}[sample.answer]
            said = chance.choices([sample.answer, other, "unclear"], [40, 20, 40])[0]
            rows["poor"].append([sample.question, f"{said} {10 * chance.randint(1, 9)}%", image, split, "open", clear])
            rows["true"].append([sample.question, sample.answer, image, split, "closed", clear])
    for name, lines in rows.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["question", "answer", "image", "split", "answer_type", "question_type"],
                                          *lines])


def fine_tune(folder: Path, steps: int) -> Any:
    """Return the weak model that everything starts from."""
    from medvqa_cli.workflows import open_run, train_sft
    from medvqa_cli.workflows.quickstart import RECIPE

    if not (folder / "runs" / "sighted" / "model").exists():
        train_sft(configure(folder, train=RECIPE["train"]), name="sighted")
    if not (folder / "true.csv").exists():
        write_tables(folder)
    if not (folder / "runs" / "weak" / "model").exists():
        train_sft(configure(folder, "poor", train={
            "tuning": "full", "max_steps": steps, "batch_size": 8, "learning_rate": 5e-4, "eval_fraction": 0.0}),
            name="weak", init_from="sighted")
    return open_run(folder / "runs", "weak")


def reinforce(folder: Path, reward: str, seed: int, options: argparse.Namespace) -> tuple[Any, float]:
    """Return a run of GRPO from the weak model, and the seconds that its training took."""
    from medvqa_cli.workflows import open_run, train_grpo

    name = f"{reward}-{seed}"
    if not (folder / "runs" / name / "model").exists():
        train_grpo(configure(folder, "true", seed=seed, train={
            "tuning": "full", "max_steps": options.steps, "log_steps": 10, "save_fraction": 0.0},
            grpo={"rewards": REWARDS[reward], "num_generations": 8, "batch_size": 64, "max_completion_length": 8,
                  "learning_rate": options.learning_rate}), name=name, init_from="weak")
    run = open_run(folder / "runs", name)
    return run, run.read_json("manifest.json")["train_seconds"]


@dataclass(frozen=True)
class Answers:
    """A run's answers to the test questions: stated confidence (none counts as 1), whether right, and which image."""

    stated: NDArray[np.float64]
    right: NDArray[np.float64]
    images: list[str]
    share_stated: float
    ambiguous: NDArray[np.bool_]

    def measure(self) -> dict[str, float]:
        """Return closed accuracy, calibration error, and what confidences are stated."""
        return {"accuracy": float(self.right.mean()), "ece": measure_error(self.stated, self.right, BINS),
                "stated": self.share_stated, "confidence": float(self.stated.mean()),
                "confidence_ambiguous": float(self.stated[self.ambiguous].mean()), "questions": len(self.right)}


def answer(folder: Path, run: Any) -> Answers:
    """Return a run's answers to the test split, asked once."""
    from medvqa_cli.records import prediction_from_json, read_jsonl
    from medvqa_cli.scoring.rewards import is_right
    from medvqa_cli.workflows import infer_split

    if not (run.path / "predictions.jsonl").exists():
        infer_split(configure(folder, "true", infer={"max_new_tokens": 8}), run=run.name)
    rows = [prediction_from_json(row) for row in read_jsonl(run.path / "predictions.jsonl")]
    right = [is_right(row.answer, row.sample.answer, row.sample.alternatives, is_closed=True) for row in rows]
    said = [parse_verbalized(row.text or row.answer) for row in rows]
    return Answers(np.asarray([1.0 if value is None else value for value in said]), np.asarray(right, float),
                   [row.sample.image_id for row in rows], statistics.mean(value is not None for value in said),
                   np.asarray([row.sample.question_type == "ambiguous" for row in rows]))


def compare(by_reward: dict[str, list[Answers]]) -> dict[str, Any]:
    """Return, for accuracy and calibration error, `calibration` less `accuracy` with 95 % intervals over images.

    For each seed, and for the mean over seeds: the intervals say what other images would change, not other seeds.
    """
    from medvqa_cli.scoring.intervals import bootstrap_statistic

    pairs = list(zip(by_reward["accuracy"], by_reward["calibration"], strict=True))

    def differ(rows: NDArray[np.intp], chosen: list[tuple[Answers, Answers]], key: str) -> float:
        def value(one: Answers) -> float:
            return (float(one.right[rows].mean()) if key == "accuracy"
                    else measure_error(one.stated[rows], one.right[rows], BINS))

        return statistics.mean(value(second) - value(first) for first, second in chosen)

    found = {}
    for key in ("accuracy", "ece"):
        for name, chosen in [*((f"seed {n}", [pair]) for n, pair in enumerate(pairs)), ("mean", pairs)]:
            interval = bootstrap_statistic(lambda rows, c=chosen, k=key: differ(rows, c, k), pairs[0][0].images)
            found[f"{key}, {name}"] = [interval.estimate, interval.low, interval.high]
    return found


def main() -> None:
    """Run what is missing, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--weak-steps", type=int, default=120)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    options = parser.parse_args()
    plugins.rewards.add("stated", Stated())
    options.folder.mkdir(parents=True, exist_ok=True)
    start = answer(options.folder, fine_tune(options.folder, options.weak_steps)).measure()
    print("weak", json.dumps(start))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in REWARDS}
    answers: dict[str, list[Answers]] = {name: [] for name in REWARDS}
    for seed in map(int, options.seeds.split(",")):
        for reward, rows in found.items():
            begun = time.process_time()
            run, seconds = reinforce(options.folder, reward, seed, options)
            answers[reward].append(answer(options.folder, run))
            rows.append(answers[reward][-1].measure() | {"seconds": seconds, "cpu": time.process_time() - begun})
            print(reward, seed, json.dumps(rows[-1]), flush=True)
    for name, rows in found.items():
        for key in ("accuracy", "ece"):
            values = [row[key] for row in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{name}: {key} {statistics.mean(values):.3f} (sd {spread:.3f}, {min(values):.3f} to "
                  f"{max(values):.3f}); {start[key]:.3f} before")
    for name, (value, low, high) in compare(answers).items():
        print(f"calibration less accuracy: {name} {value:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
