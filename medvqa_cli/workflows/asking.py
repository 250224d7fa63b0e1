"""How samples are handed to an engine, and what becomes of those that cannot be answered."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from medvqa_cli.inference.protocol import AnswerError, Decoding
from medvqa_cli.inference.seeds import seed_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.inference import InferenceSettings
    from medvqa_cli.settings.schema import CalibrationSettings

T = TypeVar("T")
MOST_IN_A_ROW = 20
"""Questions in a row without an answer after which the engine is taken to be broken."""


def make_decoding(options: InferenceSettings | CalibrationSettings, seed: int = 0) -> Decoding:
    """Return how tokens are chosen."""
    return Decoding(options.max_new_tokens, options.temperature, seed, options.top_k, options.top_p)


def describe_decoding(options: InferenceSettings | CalibrationSettings) -> dict[str, Any]:
    """Return how tokens are chosen as plain values; top_k and top_p stand there where they leave tokens out."""
    found: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    return found | ({"top_k": options.top_k} if options.top_k else {}) | (
        {"top_p": options.top_p} if options.top_p < 1 else {})


class Failures(list[tuple["VQASample", AnswerError]]):
    """Questions without an answer, and why."""


def identify(sample: VQASample) -> tuple[str, str, str]:
    """Return what tells a question from all others: ids are unique within a data set's split only."""
    return sample.dataset, sample.split, sample.question_id


def ask(engine: Engine, samples: Sequence[VQASample], call: Callable[[list[VQASample]], list[T]],
        failures: Failures | None = None, *, portions: Sequence[list[VQASample]] | None = None,
        ) -> Iterator[tuple[list[VQASample], list[T]]]:
    """Hand samples to an engine in the portions it wants, several at a time if it wants that.

    Args:
        engine: Says in which portions.
        samples: What to ask.
        call: Asks the engine about one portion; called in threads where the engine takes several calls at a time.
        failures: Receives the questions that cannot be answered; None: the first of them ends all.
        portions: Portions that hold all samples, perhaps among others; planned from the samples if not given. Of each
            only the samples to ask are asked.

    Yields:
        Each portion with what `call` returned for it, in the order in which they are finished.

    Raises:
        AnswerError: If a question cannot be answered and nobody collects failures, or 20 in a row cannot.
        ModelError: If no question can be answered.
    """
    in_a_row = 0
    wanted = {identify(sample) for sample in samples}
    planned = plan_portions(engine, samples) if portions is None else [
        left for portion in portions if (left := [sample for sample in portion if identify(sample) in wanted])]
    for portion, future in _run(planned, call, engine.intake.calls):
        try:
            answers = future.result()
        except AnswerError as error:
            in_a_row += 1
            if failures is None or in_a_row >= MOST_IN_A_ROW:
                raise
            failures.extend((sample, error) for sample in portion)
        else:
            in_a_row = 0
            yield portion, answers


def plan_portions(engine: Engine, samples: Sequence[VQASample], *, greedy: bool = False) -> list[list[VQASample]]:
    """Return the samples as an engine takes them: by image, or a number of them whatever their images.

    Greedy calls by image may take several images. Which stand together changes answers' last digits, so what goes on
    after a kill goes on with the portions of all samples.
    """
    intake = engine.intake
    if intake.by_image:
        return _join_small(group_samples(samples), intake.questions if greedy else 1)
    return [list(samples[start: start + intake.questions]) for start in range(0, len(samples), intake.questions)]


def _join_small(groups: Sequence[list[VQASample]], most: int) -> list[list[VQASample]]:
    """Return groups in their order, neighbours put together while they have at most so many samples."""
    joined: list[list[VQASample]] = []
    for group in groups:
        if joined and len(joined[-1]) + len(group) <= most:
            joined[-1] = [*joined[-1], *group]
        else:
            joined.append(group)
    return joined


def group_samples(samples: Sequence[VQASample]) -> list[list[VQASample]]:
    """Return samples grouped by their images, in order of appearance; one without an image is a group of its own."""
    groups: dict[tuple[str, ...], list[VQASample]] = {}
    for number, sample in enumerate(samples):
        groups.setdefault(sample.images or (str(number),), []).append(sample)
    return list(groups.values())


def seed_portion(engine: Engine, portion: Sequence[VQASample], seed: int) -> int:
    """Return the seed of a call: that of the image, or the run's where the engine gives each question its own.

    A question without an image is a call of its own: its seed is its id's.
    """
    if not engine.intake.by_image:
        return seed
    return seed_for(seed, portion[0].images or identify(portion[0]))


def _run(portions: Sequence[list[VQASample]], call: Callable[[list[VQASample]], list[T]],
         threads: int) -> Iterator[tuple[list[VQASample], Future[list[T]]]]:
    if threads == 1:
        yield from ((portion, _attempt(call, portion)) for portion in portions)
        return
    todo: SimpleQueue[list[VQASample]] = SimpleQueue()
    done: SimpleQueue[tuple[list[VQASample], Future[list[T]]]] = SimpleQueue()
    stopped = threading.Event()
    for portion in portions:
        todo.put(portion)

    def work() -> None:
        while not stopped.is_set():
            try:
                portion = todo.get_nowait()
            except Empty:
                return
            done.put((portion, _attempt(call, portion)))

    for _ in range(min(threads, len(portions))):
        threading.Thread(target=work, name="asking", daemon=True).start()  # a daemon: Ctrl-C does not wait for a server
    try:
        for _ in portions:
            yield done.get()
    finally:
        stopped.set()


def _attempt(call: Callable[[list[VQASample]], list[T]], portion: list[VQASample]) -> Future[list[T]]:
    future: Future[list[T]] = Future()
    try:
        future.set_result(call(portion))
    except Exception as error:  # noqa: BLE001 - raised again where the result is taken
        future.set_exception(error)
    return future
