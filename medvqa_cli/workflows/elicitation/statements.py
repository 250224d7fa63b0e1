"""One answer to a question with a confidence: by candidates, by its tokens, in words, by a second question.

- logits: the log-probability of every candidate that a closed question offers.
- likelihood: the likeliest answer with its log-probability.
- verbalized: answer and confidence in the model's own words (Tian et al. 2023, arXiv:2305.14975).
- p_true: whether that likeliest answer is true, put as a second question about the same image (Kadavath et al. 2022,
  arXiv:2207.05221). Differs: no other sampled answers are shown with it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from medvqa_cli.data.replies import read_reply
from medvqa_cli.evaluation.details import NoConfidenceError
from medvqa_cli.scoring.confidence import parse_verbalized
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.asking import describe_decoding, identify, make_decoding
from medvqa_cli.workflows.closed_questions import answer_closed, describe_router, open_auto_router
from medvqa_cli.workflows.elicitation.inquiry import Sheet, decode_greedily, find_room, keep_asked, name_rows
from medvqa_cli.workflows.evaluate import read_predictions
from medvqa_cli.workflows.infer import read_prediction

if TYPE_CHECKING:
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import Prediction, VQASample
    from medvqa_cli.settings.data import PromptSettings
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.elicitation.inquiry import Drawn, Inquiry

STATE_CONFIDENCE = ('Write two lines and nothing else. First your answer, as short as you can: "Answer: ...". Then '
                    'how likely it is to be right, from 0% to 100%: "Confidence: ...%".')
JUDGE_ANSWER = "Is the proposed answer true? Reply with True or False."
STATEMENT_TOKENS = 48
"""Room for an answer with a confidence beyond that of the answer."""
_STATED = re.compile(r"(?:.*?\banswer\s*:)?\s*(.*?)\s*(?:\n|[,;.(]?\s*\bconfidence\b|$)", re.IGNORECASE | re.DOTALL)


def plan_candidates(inquiry: Inquiry, progress: Progress) -> Sheet:
    """Return how the candidates of closed questions are scored: those that `infer` would offer."""
    router = open_auto_router(inquiry.settings, inquiry.run, progress)
    samples = [sample for sample in keep_asked(inquiry, inquiry.settings, progress)
               if sample.answer_type == "closed" and router.route(sample).options]
    if not samples:
        raise NoConfidenceError(f"No question of split '{inquiry.split}' offers candidates.",
                                "Ask closed questions, or take another --method.")

    def call(portion: list[VQASample]) -> list[Drawn]:
        found = answer_closed(inquiry.engine, inquiry.settings, router, portion)
        return [(found[identify(sample)], 0) for sample in portion]

    return Sheet("Scoring candidates", inquiry.engine, samples,
                 describe_router(router) | {"asked": len(inquiry.samples)}, inquiry.settings, call)


def plan_answers(inquiry: Inquiry, progress: Progress) -> Sheet:
    """Return how the likeliest answers are written."""
    settings = decode_greedily(inquiry.settings, find_room(inquiry))

    def call(portion: list[VQASample]) -> list[Drawn]:
        written = inquiry.engine.generate(portion, make_decoding(settings.infer))
        return [(read_prediction(sample, reply, settings),
                 not read_reply(reply.text, sample, settings.prompt).is_well_formed)
                for sample, reply in zip(portion, written, strict=True)]

    return Sheet("Answering", inquiry.engine, keep_asked(inquiry, settings, progress), {}, settings, call)


def plan_statements(inquiry: Inquiry, progress: Progress) -> Sheet:
    """Return how answers are written together with a confidence."""
    own = inquiry.settings.prompt
    prompt = _replace_instruction(own, "\n".join(filter(None, (own.instruction, STATE_CONFIDENCE))))
    settings = decode_greedily(inquiry.settings, find_room(inquiry) + STATEMENT_TOKENS).model_copy(
        update={"prompt": prompt})
    engine = inquiry.engine.with_prompt(prompt)

    def call(portion: list[VQASample]) -> list[Drawn]:
        written = engine.generate(portion, make_decoding(settings.infer))
        return [(replace(read_prediction(sample, reply, settings), answer=read_stated(reply.text, sample, settings),
                         text=reply.text), parse_verbalized(reply.text) is None)
                for sample, reply in zip(portion, written, strict=True)]

    return Sheet("Asking for confidence", engine, keep_asked(inquiry, settings, progress), {}, settings, call,
                 complain=_warn_silent)


def _warn_silent(number: int, total: int, progress: Progress) -> None:
    if number:
        progress.warn(f"{number} of {total} replies state no confidence: these answers are left out.")


def plan_judgements(inquiry: Inquiry, progress: Progress) -> Sheet:
    """Return how the model is asked whether its likeliest answers are true."""
    answers = {identify(row.sample): row for row in
               read_predictions(inquiry.run.path / f"{name_rows('likelihood', inquiry.tag)}.jsonl")}
    prompt = _replace_instruction(inquiry.settings.prompt, JUDGE_ANSWER)
    settings = inquiry.settings.model_copy(update={"prompt": prompt})
    engine = inquiry.engine.with_prompt(prompt)
    samples = [sample for sample in keep_asked(inquiry, settings, progress) if identify(sample) in answers]
    tokens = {name: engine.count_answer_tokens(name) for name in ("True", "False")}

    def call(portion: list[VQASample]) -> list[Drawn]:
        proposed = [answers[identify(sample)] for sample in portion]
        scored = engine.score_candidates([propose(row) for row in proposed], [list(tokens)] * len(proposed))
        return [(replace(row, candidate_scores={name: (scores[name], tokens[name]) for name in tokens}), 0)
                for row, scores in zip(proposed, scored, strict=True)]

    made = decode_greedily(inquiry.settings, find_room(inquiry))
    meta = {"proposed": {"prompt": to_tree(made.prompt), "decoding": describe_decoding(made.infer)}}
    return Sheet("Asking whether answers are true", engine, samples, meta, settings, call)


def propose(row: Prediction) -> VQASample:
    """Return the question whether an answer is true, about the same image."""
    return replace(row.sample, question=f"{row.sample.question}\nProposed answer: {row.answer}", answer="True",
                   answer_type="open")


def read_stated(text: str, sample: VQASample, settings: Settings) -> str:
    """Return the answer of a reply that holds a confidence too: what stands before it, and after any "Answer:"."""
    found = _STATED.match(text)
    return read_reply(found.group(1) if found else text, sample, settings.prompt).answer


def _replace_instruction(prompt: PromptSettings, instruction: str) -> PromptSettings:
    """Return a prompt of plain questions with an instruction: examples and forms of answers would contradict it."""
    return prompt.model_copy(update={"style": "plain", "open_style": None, "closed_style": None, "exemplars": (),
                                     "template": "", "instruction": instruction})
