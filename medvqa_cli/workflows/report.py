"""`medvqa report`: a run's files to one HTML page, its figures, and its tables as text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import DataError, SettingsError, explain_os_error
from medvqa_cli.progress import SILENT, Progress, track
from medvqa_cli.records import write_atomically
from medvqa_cli.runs import now, open_run
from medvqa_cli.workflows.report_extras import NOTHING, Extras
from medvqa_cli.workflows.run_contents import read_contents, read_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from medvqa_cli.reporting.blocks import Gallery, Section
    from medvqa_cli.reporting.contents import Contents
    from medvqa_cli.reporting.figures import Figure
    from medvqa_cli.reporting.gallery import Entry
    from medvqa_cli.runs import Run
    from medvqa_cli.settings.schema import Settings

MANY_PICTURES = 1000
THUMBNAIL_PIXELS, SMALL_PIXELS = 192, 112
PICTURE_BYTES = 24_000_000
"""Pictures of a page, all together: what a browser still opens at once."""


def write_report(run: Run, *, settings: Settings | None = None, extras: Extras = NOTHING,
                 progress: Progress = SILENT) -> Path:
    """Write `report.html` and `figures/` of a run from its other files and return the page's path.

    Needs no model. What the run does not hold yet is named in the page. Only pictures of the questions shown are read.

    Args:
        run: Any of its files may be absent.
        settings: `evaluation`, `seed` and `paths` are used where systems are compared; defaults if not given.
        extras: What else belongs into the page, and other files to write.
        progress: Where to report.

    Raises:
        RunError: If a file is damaged or of another version, or a file cannot be written.
        SettingsError: If the file of published results has another form.
        DataError: If systems to compare have no question in common.
    """
    from medvqa_cli.reporting.contents import build_sections, describe_run
    from medvqa_cli.reporting.page import Page, render_page

    contents = read_contents(run)
    beside = list(_build_beside(run, contents, settings, extras, progress))
    gallery = _make_gallery(contents, extras.max_questions, progress)
    progress.start("Writing the report", 1, "page")
    sections = build_sections(contents, gallery, beside)
    html = render_page(Page(run.name, describe_run(contents), now(), sections))
    page = extras.output or run.report
    try:
        _write_figures(run, sections, progress)
        _write_tables(run, sections, extras)
        write_atomically(page, html)
    except OSError as error:
        raise explain_os_error(error) from error
    progress.advance()
    progress.finish()
    return page


def _build_beside(run: Run, contents: Contents, settings: Settings | None, extras: Extras,
                  progress: Progress) -> Iterable[Section]:
    """Yield the sections on other systems: those compared with, and those published elsewhere."""
    from medvqa_cli.reporting.contents import choose_calibration
    from medvqa_cli.reporting.published import build_published, read_studies

    if extras.others:
        yield _compare(run, contents, settings, extras, progress)
    if extras.published:
        studies = read_studies(_read_yaml(extras.published), str(extras.published))
        yield build_published(studies, contents.metrics.get("answers", {}).get("main", {}),
                              choose_calibration(contents.metrics)[1])


def _compare(run: Run, contents: Contents, settings: Settings | None, extras: Extras, progress: Progress) -> Section:
    from medvqa_cli.reporting.comparison import build_comparison
    from medvqa_cli.settings.schema import make_settings
    from medvqa_cli.workflows.compare import compare_runs

    chosen = settings or make_settings({})
    runs = chosen.paths.runs
    own = run.name if (runs / run.name).resolve() == run.path else str(run.path)
    progress.say(f"Comparing {', '.join([run.name, *extras.others])}")
    result = compare_runs(chosen, [own, *extras.others], slices=extras.slices, progress=progress)
    metrics = {own: _choose_metrics(contents.metrics, "main")}
    for name in extras.others:
        other, _, tag = name.partition(":")
        is_file = Path(name).suffix == ".jsonl"
        found = {} if is_file else read_object(open_run(runs, other), "metrics.json")
        metrics[name] = _choose_metrics(found, tag or "main")
    return build_comparison(result, metrics)


def _choose_metrics(metrics: Mapping[str, Any], tag: str) -> dict[str, Any]:
    """Return what a system's own metrics say of one set of answers; calibration is about the main ones."""
    return {"answers": metrics.get("answers", {}).get(tag, {}),
            "calibration": metrics.get("calibration", {}) if tag == "main" else {}}


def _read_yaml(path: Path) -> Any:
    from medvqa_cli.settings.yaml_reading import parse_yaml

    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The file of published results '{path}' cannot be read: {error}.",
                            "Name a YAML file such as examples/published.yaml.") from error
    return parse_yaml(text, str(path))


def _make_gallery(contents: Contents, max_questions: int, progress: Progress) -> Gallery | None:
    from medvqa_cli.reporting.contents import list_entries
    from medvqa_cli.reporting.gallery import build_gallery, choose_entries

    entries = list_entries(contents)
    shown = choose_entries(entries, max_questions)
    return build_gallery(shown, entries, make_thumbnails(shown, progress)) if entries else None


def make_thumbnails(entries: Sequence[Entry], progress: Progress) -> dict[str, bytes]:
    """Return image path -> small JPEG for every distinct picture; one that cannot be read is left out, said aloud.

    Many pictures are made smaller; one that no longer fits into the page is empty bytes.
    """
    from medvqa_cli.data.images import make_thumbnail

    paths = list(dict.fromkeys(entry.picture for entry in entries if entry.picture))
    size = THUMBNAIL_PIXELS if len(paths) <= MANY_PICTURES else SMALL_PIXELS
    thumbnails: dict[str, bytes] = {}
    faults: list[str] = []
    room = PICTURE_BYTES
    for path in track(paths, progress, "Shrinking pictures", len(paths), "picture"):
        try:
            picture = make_thumbnail(path, size) if room > 0 else b""
        except DataError as error:
            faults.append(error.message)
            continue
        thumbnails[path] = picture
        room -= len(picture)
    if faults:
        progress.warn(f"{len(faults)} of {len(paths)} pictures are missing in the report; the first: {faults[0]}")
    return thumbnails


def _write_figures(run: Run, sections: Iterable[Section], progress: Progress) -> None:
    from medvqa_cli.reporting.blocks import Plots

    run.figures.mkdir(exist_ok=True)
    for section in sections:
        for block in section.blocks:
            for figure in block.figures if isinstance(block, Plots) else ():
                if figure.png:
                    _write_figure(run, figure, progress)


def _write_figure(run: Run, figure: Figure, progress: Progress) -> None:
    write_atomically(run.figures / f"{figure.name}.svg", figure.svg)
    part = run.figures / f"{figure.name}.png.part"
    part.write_bytes(figure.png)
    part.replace(run.figures / f"{figure.name}.png")
    if figure.unshown:
        marks = ", ".join(f"{mark} is {text}" for mark, text in figure.unshown.items())
        progress.warn(f"No font here has all characters of {run.figures.name}/{figure.name}: in its files {marks} (the "
                      "page shows them). Install one that has, such as Noto Sans CJK, and write the report again.")


def _write_tables(run: Run, sections: Sequence[Section], extras: Extras) -> None:
    from medvqa_cli.reporting.exports import render_latex, render_markdown

    for path, render in ((extras.markdown, render_markdown), (extras.latex, render_latex)):
        if path:
            folder = Path(os.path.relpath(run.figures, path.resolve().parent)).as_posix()
            write_atomically(path, render(run.name, sections, folder))
