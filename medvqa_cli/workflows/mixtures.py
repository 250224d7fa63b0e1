"""Several data sets in one training: the questions of a mixture file, loaded, checked and drawn."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.mixing.mixture import GroupSamples, Mixture, MixtureGroup, collect_group, draw_mixture
from medvqa_cli.errors import SettingsError
from medvqa_cli.progress import SILENT, Progress
from medvqa_cli.workflows.analysis import DataCheck, check_data
from medvqa_cli.workflows.data import choose_dataset, load_presented, load_samples, open_data

if TYPE_CHECKING:
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class MixedData:
    """Questions drawn from several data sets.

    Attributes:
        samples: The questions, in the order drawn.
        report: The draw, see `draw_mixture`, and "datasets": name, fingerprint, and what was done to images and
            questions of each.
        warnings: What belongs beside every later number.
        has_mandatory: Whether every block of questions starts with some that must be there.
    """

    samples: list[VQASample]
    report: dict[str, Any]
    warnings: tuple[str, ...]
    has_mandatory: bool


def load_mixture(settings: Settings, progress: Progress = SILENT, *, block: int = 1) -> MixedData:
    """Return the questions that `data.mixture` draws from its data sets.

    Args:
        settings: `data.mixture`, and what else is selected; `data.limit` bounds each split of each data set.
        progress: Where to report.
        block: Questions of a batch: each begins with one of every mandatory group. 1 where there is no such group.

    Raises:
        SettingsError: If the file is wrong.
        MedVQAError: As `load_samples`, for each data set.
    """
    mixture, settings = read_settings_mixture(settings)
    for note in mixture.notes:
        progress.say(note)
    loaded = [_load_group(group, settings, progress) for group in mixture.groups]
    has_mandatory = any(group.mandatory for group in mixture.groups)
    block = max(block, sum(group.mandatory for group in mixture.groups), 1)
    drawn = draw_mixture([group for group, _, _ in loaded], mixture.size,
                         settings.seed if mixture.seed is None else mixture.seed, block=block, by_image=True)
    sources = [source for _, described, _ in loaded for source in described]
    warnings = dict.fromkeys(warning for _, _, found in loaded for warning in found)
    return MixedData(drawn.samples, drawn.report | {"file": str(mixture.path), "datasets": sources}, tuple(warnings),
                     has_mandatory)


def load_mixed_validation(settings: Settings, progress: Progress = SILENT) -> list[VQASample]:
    """Return validation questions of a mixture's data sets, `train.eval_questions` in all, the same number of each."""
    parts = [load_samples(one, one.data.validation_split, progress) for one in list_datasets(settings)
             if one.data.validation_split in open_data(one, progress).counts]
    if not parts:
        progress.say(f"No data set of the mixture has a split '{settings.data.validation_split}': no validation loss.")
    each = -(-settings.train.eval_questions // max(len(parts), 1))
    return [sample for part in parts for sample in part[:each]]


def check_mixture(settings: Settings, progress: Progress = SILENT) -> DataCheck:
    """Let a mixture through to training if each of its data sets passes `check_data`.

    Raises:
        DataError: As `check_data`.
    """
    checks = [(one.data.dataset, check_data(one, progress)) for one in list_datasets(settings)]
    state = "skipped" if settings.data.skip_check else "passed"
    return DataCheck(state, tuple(f"{name}: {warning}" for name, check in checks for warning in check.warnings))


def list_datasets(settings: Settings) -> list[Settings]:
    """Return the settings of each data set of a mixture, each once."""
    mixture, settings = read_settings_mixture(settings)
    found = {(member.dataset, group.language, group.question_type): _choose_member(settings, group, member.dataset)
             for group in mixture.groups for member in group.members}
    return list(found.values())


def fingerprint_mixture(report: dict[str, Any]) -> str:
    """Return a hash of what was drawn: the data sets' fingerprints, the groups and their numbers, the seed."""
    identity = [[(source["dataset"], source["fingerprint"]) for source in report["datasets"]], report["groups"],
                report["seed"], report["block"]]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def read_settings_mixture(settings: Settings) -> tuple[Mixture, Settings]:
    """Return the mixture that the settings name, and the settings with the data sets that it declares.

    Raises:
        SettingsError: If none is named, the file is wrong, or it declares a data set that the settings declare too.
    """
    from medvqa_cli.data.mixing.file import read_mixture

    if settings.data.mixture is None:
        raise SettingsError("No mixture is named.", "Name a YAML file with --mixture.")
    mixture = read_mixture(settings.data.mixture)
    twice = settings.datasets.keys() & mixture.datasets.keys()
    if twice:
        raise SettingsError(f"{mixture.path} declares the data set '{min(twice)}', which the settings declare too.",
                            "Give it another name.")
    return mixture, settings.model_copy(update={"datasets": settings.datasets | dict(mixture.datasets)})


def _choose_member(settings: Settings, group: MixtureGroup, name: str) -> Settings:
    own = {key: value for key in ("language", "question_type") if (value := getattr(group, key)) is not None}
    return choose_dataset(settings, name, subsample=None, **own)


def _load_group(group: MixtureGroup, settings: Settings,
                progress: Progress) -> tuple[GroupSamples, list[dict[str, Any]], list[str]]:
    found, described, warnings = [], [], []
    for member in group.members:
        own = _choose_member(settings, group, member.dataset)
        presented = load_presented(own, group.split or own.data.train_split, progress, require_hits=True)
        prepared = open_data(own, SILENT)
        found.append((prepared.name, presented.samples))
        described.append({"dataset": prepared.name, "fingerprint": prepared.fingerprint, **presented.notes})
        warnings += [f"{member.dataset}: {warning}" for warning in presented.warnings]
    return collect_group(group, found, seed=settings.seed), described, warnings
