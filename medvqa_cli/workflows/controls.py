"""Trust controls of a run's answers: asked where they are missing, told from files alone where they are there.

The answers to a control lie beside the others, `predictions-CONTROL.jsonl` (`predictions-CONTROL-TAG.jsonl`), made in
the same way but for what the model sees; whatever else differs, they are not compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from medvqa_cli.errors import RunError, SettingsError
from medvqa_cli.settings.inference import InferenceSettings
from medvqa_cli.settings.schema import make_settings, to_tree
from medvqa_cli.workflows.asking import identify
from medvqa_cli.workflows.evaluate import read_predictions
from medvqa_cli.workflows.own_weights import name_own_weights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import Prediction
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings

CONTROLS = tuple(name for name in get_args(InferenceSettings.model_fields["control"].annotation) if name != "off")
MAY_DIFFER = frozenset({
    "control", "blank_images", "option_rotation", "created", "expected", "too_long", "baselines", "data_warnings",
    "presentation", "calibrator", "abstain_below"})
NEEDED = ("split", "model", "decoding", "prompt", "seed")
MOST_ORDERS = 26


def read_controls(text: str | None) -> list[str]:
    """Return the controls that a list with commas names.

    Raises:
        SettingsError: If one is unknown.
    """
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    if unknown := [name for name in names if name not in CONTROLS]:
        raise SettingsError(f"'{unknown[0]}' is no control.", f"Choose from {', '.join(CONTROLS)}.")
    return list(dict.fromkeys(names))


def answer_controls(run: Run, settings: Settings, controls: Sequence[str], *, orders: int = 1, tag: str = "",
                    progress: Progress) -> list[str]:
    """Ask a run's model again for what has no answers yet; return the tags under which controls have answers.

    The model, prompt, decoding, seed and questions are those of the answers under `tag`, whatever the settings say now.
    A control that the model's family cannot be asked in is left out, and that is said.

    Args:
        run: Holds the answers that the controls are compared with.
        settings: Where data and runs are, and how the engine is reached.
        controls: Names.
        orders: Orders in which options are shown, their own counted in; 1 asks nothing.
        tag: Of the answers.
        progress: Where to report.

    Raises:
        RunError: If there are no answers, they do not tell how they were made, or a control's were made in another way.
        SettingsError: If there are more orders than letters.
        MedVQAError: On bad data or model.
    """
    if orders > MOST_ORDERS:
        raise SettingsError(f"--option-orders is {orders}: it should be at most {MOST_ORDERS}.")
    read_predictions(run.path / f"{_name_file(tag)}.jsonl")  # without answers there is nothing to compare with
    meta = read_meta(run, tag)
    if is_control(meta):
        raise SettingsError(f"The answers under --tag {tag} are those of a control, which has none of its own.",
                            "Name the answers to compare with, or leave --tag out.")
    wanted: list[tuple[dict[str, Any], str]] = [({"control": name}, name) for name in controls]
    wanted += [({"option_rotation": places}, f"options-{places}") for places in range(1, orders)]
    missing = [(change, name) for change, name in wanted if not _is_whole(run, meta, _join(name, tag))]
    if missing:
        _check_told(run, meta, tag)
        if meta.get("engine") == "vllm" and len(missing) > 1:
            raise SettingsError("vLLM loads a model once a process, but several controls have no answers yet.",
                                "Name one control at a time; those answered before are not asked again.")
        model = _Model(run, restore_settings(settings, meta), progress)
        for change, name in missing:
            model.answer(change, name, meta, tag)
    return [_join(name, tag) for name in controls if (run.path / f"predictions-{_join(name, tag)}.jsonl").exists()]


@dataclass(frozen=True)
class _Model:
    """A run's model, loaded once, that answers one control after another."""

    run: Run
    settings: Settings
    progress: Progress

    @cached_property
    def _loaded(self) -> Any:
        from medvqa_cli.workflows.models import choose_model, choose_trained, load_choice

        choice = choose_trained(self.run) if self.run.weights else choose_model(self.settings)
        return load_choice(choice, self.settings, self.progress)

    def _open(self, settings: Settings) -> Engine:
        from medvqa_cli.workflows.engines import build_engine, open_server, open_vllm

        if settings.infer.engine == "openai":
            return open_server(settings, self.progress)
        if settings.infer.engine == "vllm":
            return open_vllm(settings, str(self.run.path) if self.run.weights else None, self.progress, create=False)[1]
        return build_engine(self._loaded, settings)

    def answer(self, change: Mapping[str, Any], name: str, meta: Mapping[str, Any], tag: str) -> None:
        """Ask one control's questions that have no answer yet."""
        from medvqa_cli.workflows.closed_questions import describe_router, open_router
        from medvqa_cli.workflows.infer import answer_split, describe_job, reads_questions

        places = change.get("option_rotation", 0)
        if places and not self._shows_options(places, meta["split"]):
            self.progress.warn(f"No question shows more than {places} options: there is no order to ask for.")
            return
        tree = to_tree(self.settings)
        settings = make_settings(tree | {"infer": {**tree["infer"], **change}})
        engine = self._open(settings)
        if not reads_questions(engine, settings):
            self.progress.warn(f"Control '{name}' is left out: models of this family answer nothing without an image.")
            return
        job = describe_job(settings, meta["split"], engine) | describe_router(
            open_router(settings, self.run, engine, self.progress))
        job = name_own_weights(job, self.run)
        _check_alike(meta, job, f"the answers of '{self.run.name}'", "the control asked now")
        self.progress.say(f"Control '{name}':")
        answer_split(settings, self.run, engine, split=meta["split"], tag=_join(name, tag), progress=self.progress)

    def _shows_options(self, places: int, split: str) -> bool:
        from medvqa_cli.data.controls import rotate_options
        from medvqa_cli.workflows.data import load_samples

        return bool(rotate_options(load_samples(self.settings, split), places, self.settings.prompt))


def measure_controls(run: Run, predictions: Sequence[Prediction], settings: Settings, *, tag: str = "",
                     progress: Progress) -> dict[str, Any]:
    """Return what the controls that lie beside a run's answers tell of them, with what the answers tell by themselves.

    Controls made in another way are left out, and that is said.

    Returns:
        {"images": {control: see `evaluation.controls.compare_control`, with "tag" and "shown"}; "question_text":
        {"closed" | "open": accuracy from the questions' texts alone}; "collapse", "generic", "frequent": see
        `measure_habits`; "option_order": see `measure_option_order`, None where it was not asked; "rules": what all
        that means}.
    """
    from medvqa_cli.evaluation.controls import RULES, SHOWN, compare_control, measure_habits, measure_option_order

    meta = read_meta(run, tag)
    baselines = meta.get("baselines") or {}
    found: dict[str, Any] = {"images": {}, "question_text": {
        kind: baselines[kind]["same_question_text"] for kind in ("closed", "open") if baselines.get(kind)}}
    known = {identify(prediction.sample) for prediction in predictions}
    for name in CONTROLS:
        if rows := _read_alike(run, meta, _join(name, tag), known, progress):
            found["images"][name] = {"tag": _join(name, tag), "shown": SHOWN[name]} | compare_control(
                predictions, rows, settings.evaluation, seed=settings.seed)
    found |= measure_habits(predictions, settings.evaluation, frequent=baselines.get("frequent_answers"),
                            seed=settings.seed)
    orders = list(_read_orders(run, meta, tag, known, progress))
    found["option_order"] = measure_option_order([predictions, *orders], settings.evaluation, seed=settings.seed) \
        if orders else None
    return found | {"rules": RULES}


def _read_orders(run: Run, meta: Mapping[str, Any], tag: str, known: Collection[tuple[str, str, str]],
                 progress: Progress) -> Iterator[list[Prediction]]:
    for places in range(1, MOST_ORDERS):
        rows = _read_alike(run, meta, _join(f"options-{places}", tag), known, progress)
        if not rows:
            return
        yield rows


def _name_file(tag: str) -> str:
    return f"predictions-{tag}" if tag else "predictions"


def _join(name: str, tag: str) -> str:
    return f"{name}-{tag}" if tag else name


def is_control(meta: Mapping[str, Any]) -> bool:
    """Tell whether answers with these facts beside them are those of a control."""
    return bool(meta.get("control", "off") != "off" or meta.get("blank_images") or meta.get("option_rotation"))


def read_meta(run: Run, tag: str) -> dict[str, Any]:
    """Return what stands beside the answers under a tag; empty if nothing does."""
    path = run.path / f"{_name_file(tag)}.meta.json"
    return name_own_weights(run.read_json(path.name), run) if path.exists() else {}


def _read_alike(run: Run, meta: Mapping[str, Any], tag: str, known: Collection[tuple[str, str, str]],
                progress: Progress) -> list[Prediction]:
    """Return a control's answers to the known questions; none where they were made in another way."""
    path = run.path / f"{_name_file(tag)}.jsonl"
    if not path.exists() or not path.stat().st_size:
        return []
    side = read_meta(run, tag)
    if different := _list_differences(meta, side):
        progress.warn(f"{path.name} was made in another way than the answers it would be compared with "
                      f"({', '.join(different)}): it is left out.")
        return []
    rows = read_predictions(path)
    if len(rows) < side.get("expected", 0):
        progress.warn(f"{path.name} holds {len(rows)} of {side['expected']} answers: ask for the control again.")
    return [prediction for prediction in rows if identify(prediction.sample) in known]


def _is_whole(run: Run, meta: Mapping[str, Any], tag: str) -> bool:
    """Tell whether a control's file holds all its answers.

    Raises:
        RunError: If they were made in another way than the answers they are compared with.
    """
    path, known = run.path / f"predictions-{tag}.jsonl", read_meta(run, tag)
    if not path.exists():
        return False
    _check_alike(meta, known, f"the answers of '{run.name}'", path.name)
    with path.open("rb") as stream:
        return sum(line.endswith(b"\n") for line in stream) >= int(known.get("expected", 0))


def _check_told(run: Run, meta: Mapping[str, Any], tag: str) -> None:
    if untold := [key for key in NEEDED if key not in meta]:
        path = run.path / f"{_name_file(tag)}.jsonl"
        raise RunError(f"'{path}' does not tell how its answers were made ({', '.join(untold)}): the same model cannot "
                       "be asked in the same way.", "Answer with `medvqa infer`, then ask for controls.")


def _check_alike(meta: Mapping[str, Any], other: Mapping[str, Any], first: str, second: str) -> None:
    if different := _list_differences(meta, other):
        key = different[0]
        raise RunError(f"{first[0].upper()}{first[1:]} and {second} differ in more than the control: {key} is "
                       f"{meta.get(key)!r} and {other.get(key)!r}.",
                       "Answer the control anew: `medvqa infer --control NAME --overwrite` with the answers' options.")


def _list_differences(meta: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    untold = [key for key in NEEDED if key in other and key not in meta]
    first, second = ({key: json.dumps(value, sort_keys=True, default=str) for key, value in facts.items()}
                     for facts in (meta, other))
    return untold + [key for key in first if key in second and key not in MAY_DIFFER and first[key] != second[key]]


def restore_settings(settings: Settings, meta: Mapping[str, Any]) -> Settings:
    """Return settings that answer in the way that a side file tells, the image as it is; it holds all of `NEEDED`."""
    tree = to_tree(settings)
    candidates = meta.get("closed_candidates") or {}
    told = {
        "data": {"language": meta.get("language"), "question_type": meta.get("question_type", "all"),
                 "limit": meta.get("limit"), "options": meta.get("data_options", settings.data.options)},
        "mask": meta.get("mask", {}),
        "infer": {"top_k": 0, "top_p": 1.0} | meta["decoding"] | {
            "engine": meta.get("engine", "transformers"), "closed_candidates": candidates.get("mode", "off"),
            "calibrator": None, "abstain_below": None, "blank_images": False, "control": "off", "option_rotation": 0}}
    changed = {section: {**tree[section], **values} for section, values in told.items()}
    whole = {"prompt": meta["prompt"], "seed": meta["seed"]} | (
        {"knowledge": meta["knowledge"]} if "knowledge" in meta else {})
    return make_settings(tree | changed | whole)
