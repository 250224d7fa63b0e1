"""Settings of the data stage: which questions, which part of an image, which facts, and how a question is put."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from medvqa_cli.settings.section import Fraction, Section


class DatasetDeclaration(Section):
    """A data set of your own, read by a registered reader."""

    reader: str
    """Name of a registered data set, such as table or conversations."""
    root: Path | None = None
    """Folder or file of its original files."""
    options: dict[str, Any] = Field(default={})
    """The reader's options."""


class DataSettings(Section):
    """Which questions are used."""

    dataset: str = "demo"
    """Name of a data set (`medvqa data list`)."""
    root: Path | None = None
    """Folder or archive of its original files; searched for when not given."""
    source: Literal["auto", "local", "hf"] = "auto"
    """Where the original files come from: hf fetches the hub copy; auto takes files that are there already."""
    revision: str | None = None
    """Revision of the hub copy."""
    language: str | None = None
    """Keep questions in this language; "all" keeps every language; not given: the data set's own default."""
    question_type: Literal["all", "closed", "open"] = "all"
    """Keep all, only closed or only open questions."""
    subsample: PositiveInt | None = None
    """Train on this many questions, drawn with the run's seed; the drawn set does not depend on their order."""
    limit: PositiveInt | None = None
    """Use only the first N questions of each split."""
    train_split: str = "train"
    """Split to train on."""
    validation_split: str = "validation"
    """Split to watch while training."""
    test_split: str = "test"
    """Split to answer and to score."""
    missing_images: Literal["error", "skip"] = "error"
    """What to do with a question whose image is missing or unreadable: stop, or leave it out and count it."""
    max_pixels: PositiveInt = 64_000_000
    """Refuse images with more pixels than this."""
    text_only: bool = False
    """The data set is meant to have no images; else it is a fault if no question has one."""
    embed_images: bool = False
    """Copy every image into the prepared folder, which can then be moved to another machine."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Images looked at side by side; 0 takes one a core."""
    mixture: Path | None = None
    """Train on several data sets, mixed as this YAML file says."""
    analyze: Literal["auto", "never"] = "auto"
    """Analyse data before training: auto does so by itself where it is cheap (50,000 questions, 5,000 images)."""
    skip_check: bool = False
    """Train on data that have no passing analysis; every result carries a warning."""
    options: dict[str, Any] = Field(default={})
    """The data set's own options (`medvqa data list NAME`)."""


class MaskSettings(Section):
    """Show the model only the segmented part of an image."""

    mode: Literal["none", "crop", "masked"] = "none"
    """none: the whole image; crop: the box around the mask; masked: black outside the mask."""
    classes: Literal["all", "disease", "question"] = "all"
    """Which classes count: all, diseases for questions about abnormality, or those the question names."""
    pad_ratio: Fraction = 0.1
    """Margin of a crop on each side, as a share of the box."""
    require_hit_rate: Fraction = 0.2
    """Training stops if fewer questions than this share have a mask."""
    debug: Annotated[int, Field(ge=0)] = 0
    """Keep pictures of this many masked images to look at."""


class KnowledgeSettings(Section):
    """Facts from a knowledge graph, put before the question: privileged information."""

    mode: Literal["off", "record", "graph"] = "off"
    """record: the triple that the data set keeps with the question; graph: looked up in the data set's graph."""
    max_triples: PositiveInt = 3
    """Most facts for a question."""


class Exemplar(Section):
    """A worked example shown before the question."""

    question: str
    """Its question."""
    answer: str
    """Its answer."""
    image: Path | None = None
    """Its image; not given: the example is text alone."""

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        """Read "QUESTION => ANSWER" or "QUESTION => ANSWER => IMAGE", as typed on the command line."""
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split("=>")]
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError("it should be 'QUESTION => ANSWER' or 'QUESTION => ANSWER => IMAGE'")
        return dict(zip(("question", "answer", "image"), parts, strict=False))


PromptStyle = Literal["plain", "short", "minimal", "chain_of_thought", "think"]


class PromptSettings(Section):
    """How a question is put to the model."""

    style: PromptStyle = "plain"
    """plain: the question alone; short and minimal ask for few words; chain_of_thought and think ask for reasons."""
    open_style: PromptStyle | None = None
    """Style of open questions, where it is another."""
    closed_style: PromptStyle | None = None
    """Style of closed questions, where it is another."""
    options: Literal["auto", "always", "never"] = "auto"
    """Show a question's options: auto does so where the question does not name them itself."""
    exemplars: tuple[Exemplar, ...] = ()
    """Worked examples shown before the question."""
    instruction: str = ""
    """Text added after every question, such as "Answer with a single word or phrase."."""
    template: str = ""
    """Text of a question, with {question}, {options}, {context} and {instruction} filled in; empty: the style's own."""
