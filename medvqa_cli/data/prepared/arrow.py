"""Arrow files in the layout of a saved `datasets.DatasetDict`.

Written by hand, because `save_to_disk` copies every picture into the table once for each of its questions.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.data.prepared.rows import ENCODING_ERRORS, decode_samples, encode_samples, make_features
from medvqa_cli.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from datasets import Features

    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample

DATA_FILE = "data-00000-of-00001.arrow"
BATCH_ROWS = 1000


def write_splits(folder: Path, samples: Iterable[VQASample], fingerprint: str, progress: Progress) -> dict[str, int]:
    """Write samples below a new folder, one table a split, and return the number of rows of each.

    Raises:
        DataError: If a value is of the wrong kind, or two samples of one split have the same question_id.
    """
    folder.mkdir(parents=True)
    writers: dict[str, SplitWriter] = {}
    with contextlib.ExitStack() as stack:
        for sample in samples:
            split = sample.split
            if split not in writers:
                writers[split] = SplitWriter(folder / split, f"{fingerprint}-{split}", stack, progress)
            writers[split].add(sample)
        for writer in writers.values():
            writer.flush()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(writers)}), encoding="utf-8")
    return {split: writer.num_rows for split, writer in writers.items()}


def read_samples(folder: Path, move: Callable[[str], str] | None = None) -> Iterator[list[VQASample]]:
    """Yield the samples of one split's table, a batch at a time.

    Args:
        folder: The table's folder.
        move: Where an image path points now.

    Raises:
        OSError: If the file is missing or cut off.
        ValueError: If it is no Arrow stream of samples.
    """
    import pyarrow as pa

    with pa.memory_map(str(folder / DATA_FILE)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            yield decode_samples(batch, move)


class SplitWriter:
    """Writes one split's table in batches, so that memory does not grow with it."""

    def __init__(self, folder: Path, fingerprint: str, stack: contextlib.ExitStack, progress: Progress) -> None:
        import pyarrow as pa

        folder.mkdir()
        features = make_features()
        _write_description(folder, features, fingerprint)
        self.num_rows = 0
        self._progress = progress
        self._ids: set[str] = set()
        self._batch: list[VQASample] = []
        self._schema = features.arrow_schema
        self._stream = stack.enter_context(pa.ipc.new_stream(str(folder / DATA_FILE), self._schema))

    def add(self, sample: VQASample) -> None:
        """Append a sample."""
        if sample.question_id in self._ids:
            raise DataError(f"Two questions of split '{sample.split}' have the id '{sample.question_id}'.",
                            "Every question of a split needs an id of its own.")
        self._ids.add(sample.question_id)
        self._batch.append(sample)
        if len(self._batch) == BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        batch, self._batch = self._batch, []
        try:
            table = encode_samples(batch, self._schema)
        except ENCODING_ERRORS as error:
            raise _find_faulty(batch, self._schema) or error from error
        self._stream.write_batch(table)
        self.num_rows += len(batch)
        self._progress.advance(len(batch))


def _find_faulty(batch: list[VQASample], schema: Any) -> DataError | None:
    """Return an error about the first sample of a batch that has no place in the table."""
    for sample in batch:
        try:
            encode_samples([sample], schema)
        except ENCODING_ERRORS as error:
            return DataError(f"Question '{sample.question_id}' of data set '{sample.dataset}', split '{sample.split}', "
                             f"has a value of the wrong kind: {error}.", "This is a fault of the data set's reader.")
    return None


def _write_description(folder: Path, features: Features, fingerprint: str) -> None:
    from datasets import DatasetInfo

    DatasetInfo(features=features).write_to_directory(str(folder))
    state: dict[str, Any] = {"_data_files": [{"filename": DATA_FILE}], "_fingerprint": fingerprint,
                             "_format_columns": None, "_format_kwargs": {}, "_format_type": None,
                             "_output_all_columns": False, "_split": folder.name}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
