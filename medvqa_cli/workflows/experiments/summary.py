"""From the results of runs to a table: mean and spread over seeds, and paired comparisons. Reads no file."""

from __future__ import annotations

import csv
import io
import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.scoring.comparisons import adjust_holm, compare_pairs
from medvqa_cli.workflows.experiments.grid import SEED, iterate_neighbours
from medvqa_cli.workflows.experiments.results import MEASURES, Question, RunResult, name_measured, name_scored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.settings.schema import EvaluationSettings

RESAMPLES = 10_000
PROTOCOL = {
    "spread": "standard deviation (n - 1) over seeds; n counts the runs that are done",
    "paired": "by question: questions that every run of both sides has answered; a question's score is its mean over "
              "the seeds that both sides have",
    "interval": "percentile bootstrap over images: what other test images would change, not what other seeds would",
    "p": "two-sided randomization test that flips the sign of whole images",
    "holm": "p adjusted by Holm's method over all comparisons of answers listed here; those of confidence (Brier "
            "score) are a family of their own",
    "confidence": "each source on the questions in which it has a confidence; of its measures the Brier score alone is "
                  "compared: the others are no means over questions",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but the seed."""

    values: Mapping[str, Any]
    results: tuple[RunResult, ...]


def group_results(results: Sequence[RunResult]) -> list[Group]:
    """Return the results by everything but the seed, in order of appearance."""
    members: dict[str, list[RunResult]] = {}
    for result in results:
        members.setdefault(json.dumps(_without_seed(result.values), default=str), []).append(result)
    return [Group(_without_seed(found[0].values), tuple(found)) for found in members.values()]


def _without_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != SEED}


def summarize(results: Sequence[RunResult], settings: EvaluationSettings) -> dict[str, Any]:
    """Return the summary of an experiment.

    Returns:
        {"metrics": the names of all measured; "combinations": [{"values", "runs", "metrics": {name: {"mean", "sd", "n",
        "values"}}}], "runs": [{"name", "values", "state", "metrics"}], "comparisons": see `compare_groups`,
        "protocol": what the numbers mean}.
    """
    groups = group_results(results)
    comparisons = compare_groups(groups, settings)
    return {
        "metrics": name_measured(results),
        "combinations": [{"values": group.values, "runs": [result.name for result in group.results],
                          "metrics": measure_group(group)} for group in groups],
        "runs": [{"name": result.name, "values": result.values, "state": result.state, "metrics": result.metrics}
                 for result in results],
        "comparisons": comparisons,
        "protocol": {**PROTOCOL, "level": settings.confidence_level, "resamples": RESAMPLES,
                     "comparisons": len(comparisons)},
    }


def measure_group(group: Group) -> dict[str, dict[str, Any]]:
    """Return mean, standard deviation and number of each metric over a group's finished runs."""
    measured: dict[str, dict[str, Any]] = {}
    for metric in name_measured(group.results):
        values = [result.metrics[metric] for result in group.results if metric in result.metrics]
        if values:
            measured[metric] = spread(values) | {"values": values}
    return measured


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (None for one value) and number of values."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values)}


def compare_groups(groups: Sequence[Group], settings: EvaluationSettings) -> list[dict[str, Any]]:
    """Return a paired comparison, for every metric, of every two groups that differ in one key.

    Returns:
        Rows of {"key", "first", "second": its values; "fixed": the other values; "metric"; "difference", "low", "high":
        second minus first; "p", "p_holm"; "questions", "images", "left_out": paired, and answered on one side only;
        "seeds"; "by_seed": mean, sd and n of each seed's difference}. Groups without a common question have no row.
    """
    rows = [row for first, second, key in iterate_neighbours([group.values for group in groups])
            for row in _compare(groups[first], groups[second], key, settings)]
    for family in ([row for row in rows if (row["metric"] in MEASURES) is of_answers] for of_answers in (True, False)):
        for row, adjusted in zip(family, adjust_holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = adjusted
    return rows


def _compare(first: Group, second: Group, key: str, settings: EvaluationSettings) -> Iterator[dict[str, Any]]:
    for metric in name_scored((*first.results, *second.results)):
        sides = [{result.values.get(SEED): result.scores[metric] for result in group.results
                  if metric in result.scores} for group in (first, second)]
        seeds = [seed for seed in sides[0] if seed in sides[1]]
        runs = [side[seed] for side in sides for seed in seeds]
        common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
        if not common:
            continue
        by_seed = [[sides[1][seed][question] - sides[0][seed][question] for question in common] for seed in seeds]
        found = compare_pairs([statistics.fmean(values) for values in zip(*by_seed, strict=True)],
                              [question[:3] for question in common], level=settings.confidence_level,
                              resamples=RESAMPLES)
        yield {"key": key, "first": first.values[key], "second": second.values[key],
               "fixed": {name: value for name, value in first.values.items() if name != key}, "metric": metric,
               "difference": found.interval.estimate, "low": found.interval.low, "high": found.interval.high,
               "p": found.p_value, "questions": len(common), "images": len({question[:3] for question in common}),
               "left_out": _count_others(runs, common), "seeds": len(seeds),
               "by_seed": spread([statistics.fmean(differences) for differences in by_seed])}


def _count_others(runs: Sequence[Mapping[Question, float]], common: Sequence[Question]) -> int:
    """Return how many questions some run has answered that are not common to all."""
    return len(set().union(*runs)) - len(common)


def tabulate(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return a summary as CSV tables, by file name.

    Returns:
        "summary.csv": one line a combination: its values, then mean, standard deviation and number of each metric;
        "runs.csv": one line a run; "comparisons.csv": one line a paired comparison.
    """
    parts, metrics, rows = ("mean", "sd", "n"), summary["metrics"], summary["combinations"]
    combinations = [_write_values(row["values"]) | {
        f"{metric}_{part}": row["metrics"].get(metric, {"n": 0}).get(part) for metric in metrics for part in parts}
        for row in rows]
    runs = [{"name": run["name"], **_write_values(run["values"]), "state": run["state"],
             **{metric: run["metrics"].get(metric) for metric in metrics}} for run in summary["runs"]]
    compared = [{name: as_text(value) if name in {"first", "second", "fixed"} else value for name, value in row.items()
                 if name != "by_seed"} | {f"by_seed_{part}": row["by_seed"][part] for part in parts}
                for row in summary["comparisons"]]
    return {"summary.csv": _write_csv(combinations), "runs.csv": _write_csv(runs),
            "comparisons.csv": _write_csv(compared)}


def _write_values(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: as_text(value) for key, value in values.items()}


def _write_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else (), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().lstrip()


def as_text(value: Any) -> str:
    """Return a setting's value as it stands in a table."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
