"""Two discs: a large and a small one, which is brighter, which is left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.protocol import DatasetCard
from medvqa_cli.data.reading import find_folder, join_path, read_csv_rows
from medvqa_cli.records import VQASample

if TYPE_CHECKING:
    from collections.abc import Iterator


class TwoDiscs:
    """Reads `questions.csv` beside the folder `pictures`.

    ```
    questions.csv     split,picture,question,answer,answer_type,question_type
    pictures/00.png
    ```
    """

    card = DatasetCard(
        title="Two discs",
        summary="36 questions about 12 small pictures.",
        licence="MIT",
        citation="None: an example of how a data set is added.",
        homepage="https://github.com/medvqa/medvqa-cli",
        obtain="It comes with the package medvqa-two-discs.",
        closed_definition="the answer is yes or no",
        default_roots=(str(Path(__file__).parent),),
        aliases=("discs",),
    )
    Options = None

    def find_root(self, root: Path | None) -> Path:
        """Return the folder with questions.csv; the package's own if none is named."""
        return find_folder(self.card, root, lambda folder: "" if (folder / "questions.csv").is_file()
                           else "there is no questions.csv")

    def read(self, root: Path, options: Any) -> Iterator[VQASample]:  # noqa: ARG002 - it has no options
        """Yield every question in the order of the file."""
        for row in read_csv_rows(root / "questions.csv"):
            picture = row.required_text("picture")
            yield VQASample(
                dataset="two_discs",
                split=row.choice("split", ("train", "validation", "test")),
                question_id=str(row.number),
                image_id=picture,
                images=(str(join_path(root / "pictures", picture)),),
                question=row.required_text("question"),
                answer=row.required_text("answer"),
                answer_type="closed" if row.choice("answer_type", ("open", "closed")) == "closed" else "open",
                question_type=row.text("question_type"),
            )


PLUGIN = TwoDiscs()
