"""The report's section on results published elsewhere, each with its source, its protocol, and what keeps it apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import SettingsError
from medvqa_cli.reporting.answers import meter_estimate
from medvqa_cli.reporting.blocks import Facts, Meter, Note, Plots, Section, Table
from medvqa_cli.reporting.charts import About, draw_shares
from medvqa_cli.reporting.estimates import CONFIDENCE_TERMS, Estimate, find_gaps, read_estimate
from medvqa_cli.reporting.formatting import format_value, name_key
from medvqa_cli.reporting.protocol import describe_shortly

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block
    from medvqa_cli.reporting.figures import Figure

LEAD = "Numbers that others published, none of them measured here; what keeps them from being compared is said."
HERE = "This run (measured here)"
STATED = ("split", "languages", "prompt", "decoding", "closed_definition", "scoring")
"""What a study has to state before its numbers can be held against others; the first two are compared with ours."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a study: its heading, the place of ours ("closed.accuracy") or empty, what a whole is (100 or 1)."""

    label: str
    ours: str = ""
    whole: float = 100.0


@dataclass(frozen=True, slots=True)
class Study:
    """One published table.

    `results` maps data sets (several, pooled, with commas between) to rows {"system", measure: number or None}.
    """

    name: str
    source: str
    protocol: Mapping[str, str]
    differs: Sequence[str]
    measures: Mapping[str, Measure]
    results: Mapping[str, Sequence[Mapping[str, Any]]]


def read_studies(content: Any, where: str) -> list[Study]:
    """Return the studies of a document {"studies": [...]}; see examples/published.yaml.

    Args:
        content: The document as plain values.
        where: Its name, for errors.

    Raises:
        SettingsError: If it has another shape: place and value are named.
    """
    if not isinstance(content, dict) or not isinstance(content.get("studies"), list):
        raise _refuse(where, "the document", "a mapping with a list 'studies'", content)
    return [_read_study(item, f"{where}, study {number}") for number, item in enumerate(content["studies"], start=1)]


def _read_study(item: Any, where: str) -> Study:
    if not isinstance(item, dict):
        raise _refuse(where, "a study", "a mapping", item)
    for key, kind in (("name", str), ("source", str), ("protocol", dict), ("measures", dict), ("results", dict)):
        if not item.get(key) or not isinstance(item[key], kind):
            raise _refuse(where, f"'{key}'", "text" if kind is str else "a mapping that is not empty", item.get(key))
    differs = item.get("differs") or []
    measures = {key: _read_measure(part, f"{where}, measure '{key}'") for key, part in item["measures"].items()}
    results = {str(name): _read_rows(rows, measures, f"{where}, results of '{name}'")
               for name, rows in item["results"].items()}
    return Study(item["name"], item["source"], {str(key): str(text) for key, text in item["protocol"].items()},
                 [differs] if isinstance(differs, str) else [str(text) for text in differs], measures, results)


def _read_measure(part: Any, where: str) -> Measure:
    if not isinstance(part, dict) or not part.get("label"):
        raise _refuse(where, "a measure", "a mapping with a 'label'", part)
    if part.get("whole", 100) not in (1, 100):
        raise _refuse(where, "'whole'", "100 (percent) or 1 (share)", part["whole"])
    return Measure(str(part["label"]), str(part.get("ours") or ""), float(part.get("whole", 100)))


def _read_rows(rows: Any, measures: Mapping[str, Measure], where: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(rows, list):
        raise _refuse(where, "they", "a list", rows)
    for row in rows:
        if not isinstance(row, dict) or not row.get("system"):
            raise _refuse(where, "a row", "a mapping with a 'system'", row)
        for key, value in row.items():
            if key != "system" and key not in measures:
                raise _refuse(where, f"'{key}'", f"one of the measures {', '.join(measures)}", value)
            if key != "system" and not _fits(value, measures[key].whole):
                raise _refuse(where, f"'{key}' of '{row['system']}'", f"a number in 0-{measures[key].whole:g}", value)
    return rows


def _fits(value: Any, whole: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and 0 <= value <= whole)


def _refuse(where: str, what: str, wanted: str, found: Any) -> SettingsError:
    return SettingsError(f"{where}: {what} should be {wanted}, not '{str(found)[:80]}'.",
                         "See examples/published.yaml for the form.")


def build_published(studies: Sequence[Study], answers: Mapping[str, Any], calibration: Mapping[str, Any]) -> Section:
    """Return the section: the studies on the run's data, with the run's own numbers above theirs.

    Args:
        studies: Of a file.
        answers: The metrics of the run's main answers; empty, or without a whole protocol: all studies are shown alone.
        calibration: Its calibration metrics.

    Raises:
        RunError: If the metrics have another shape.
    """
    protocol = answers["protocol"] if answers and not find_gaps(answers) else {}
    own = _split_names(str(protocol.get("dataset", "")))
    found = [(study, data) for study in studies for data in study.results if not own or own & _split_names(data)]
    metrics = {"answers": answers if protocol else {}, "calibration": calibration}
    shown = [_Shown(study, data, protocol, _list_own(study, metrics) if protocol else {}) for study, data in found]
    blocks: list[Block] = [block for item in shown for block in _show(item)]
    figures = [_draw(item, f"published-{number}") for number, item in enumerate(shown, start=1) if item.has_own]
    if figures:
        blocks.append(Plots(figures))
    absent = Note(f"The file holds no published result on {', '.join(sorted(own))}.")
    return Section("published", "Published elsewhere", LEAD, blocks or [absent])


@dataclass(frozen=True, slots=True)
class _Shown:
    """A study on one data set (or several pooled), with the run's protocol and its own numbers by measure."""

    study: Study
    data: str
    protocol: Mapping[str, Any]
    own: Mapping[str, Estimate]

    @property
    def has_own(self) -> bool:
        """Whether the run has a number for one of the study's columns."""
        return any(score.value is not None for score in self.own.values())

    @property
    def note(self) -> str:
        """Where the numbers are from, and whether they may be compared."""
        note = (f"Published elsewhere, not measured here. Source: {self.study.source}. "
                f"{describe_verdict(list_obstacles(self.study, self.data, self.protocol))}")
        return f"{note} This run: {describe_shortly(self.protocol)}" if self.protocol else note


def _split_names(text: str) -> set[str]:
    return {name.strip().replace("-", "_") for name in text.split(",") if name.strip()}


def _show(item: _Shown) -> Iterator[Block]:
    study = item.study
    rows: list[list[str | Meter]] = [
        [row["system"], *(_meter(row.get(key), measure) for key, measure in study.measures.items())]
        for row in study.results[item.data]]
    if item.has_own:
        rows.insert(0, [HERE, *(meter_estimate(score) for score in item.own.values())])
    yield Table(f"{study.name}: {item.data}", ["System", *(measure.label for measure in study.measures.values())], rows,
                item.note)
    yield Facts(f"Protocol as published: {study.name}, {item.data}",
                [(name_key(key), text) for key, text in study.protocol.items()], folded=True)


def _list_own(study: Study, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    return {key: _find_own(measure, metrics) for key, measure in study.measures.items()}


def _find_own(measure: Measure, metrics: Mapping[str, Mapping[str, Any]]) -> Estimate:
    part, _, metric = measure.ours.partition(".")
    if part == "calibration":
        block = metrics["calibration"]
        if not block or find_gaps(block, CONFIDENCE_TERMS):
            return Estimate(None)
        interval = block.get("intervals", {}).get(metric, {})
        return Estimate(block.get(metric), interval.get("low"), interval.get("high"))
    block = metrics["answers"].get(part) or {}
    return read_estimate(block, metric) if block and metric else Estimate(None)


def list_obstacles(study: Study, data: str, protocol: Mapping[str, Any]) -> list[str]:
    """Return why a study's numbers must not be held against a run's; none if nothing known keeps them apart."""
    found = list(study.differs)
    own = _split_names(str(protocol.get("dataset", "")))
    if own and own != _split_names(data):
        found.append(f"its numbers are over {data} together")
    found += [f"its {key} is {study.protocol[key]}, ours {protocol[key]}" for key in ("split", "languages")
              if protocol.get(key) and key in study.protocol and study.protocol[key] != protocol[key]]
    unstated = [key.replace("_", " ") for key in STATED if key not in study.protocol]
    return [*found, *([f"it does not state its {', '.join(unstated)}"] if unstated else [])]


def describe_verdict(obstacles: Sequence[str]) -> str:
    """Return one sentence: whether numbers may be compared, and why not."""
    return f"Not comparable: {'; '.join(obstacles)}." if obstacles else "Comparable as far as both protocols say."


def _meter(value: float | None, measure: Measure) -> Meter:
    share = None if value is None else value / measure.whole
    return Meter(format_value(share), share)


def _draw(item: _Shown, name: str) -> Figure:
    rows = item.study.results[item.data]
    series = {measure.label: [item.own[key].value, *(None if row.get(key) is None else row[key] / measure.whole
                                                     for row in rows)]
              for key, measure in item.study.measures.items()}
    return draw_shares(About(name, f"{item.study.name}: {item.data}", item.note),
                       [HERE, *(row["system"] for row in rows)], series,
                       label="as published; this run as measured here", inline_only=False)
