"""Every tag that diagnostics write, and what stands under it. `*` is a name from the data or a number from 0.

Steps are optimiser steps. Losses are in nats a token, lengths in tokens, shares in 0-1, memory in MiB (2^20 bytes).
"""

from __future__ import annotations

from fnmatch import fnmatchcase

TAGS = {
    "run/settings": "text: the settings of the run",
    "data/*/questions": "number of questions, of training and of validation",
    "data/*/images": "number of their images",
    "data/*/questions_per_image": "the first by the second",
    "data/*/open_share": "share of open questions",
    "data/*/closed_share": "share of closed questions",
    "data/*/without_image_share": "share of questions without an image",
    "data/*/distinct_answers": "number of gold answers that differ once normalized",
    "data/*/top_answer_share": "share of the most frequent gold answer",
    "data/*/modality/*": "share of each modality, of the 20 most frequent",
    "data/*/organ/*": "share of each organ",
    "data/*/question_type/*": "share of each type of question",
    "data/*/language/*": "share of each language",
    "length/prompt": "histogram: tokens of training prompts, image tokens included; nothing is ever cut off",
    "length/prompt_mean": "their mean",
    "length/prompt_max": "their largest",
    "length/answer": "histogram: tokens of training targets, the end token included",
    "length/answer_mean": "their mean",
    "length/answer_max": "their largest",
    "text/train_*": "text: a training prompt as the model sees it, runs of image tokens shortened, and its target",
    "images/train": "picture: training images of a batch as the processor made them, normalisation undone",
    "parameters/*/trained": "number of trained parameters of a part of the model, and of all",
    "parameters/*/all": "number of parameters of a part of the model, and of all",
    "parameters/*/norm": "Euclidean norm of a part's trained parameters",
    "train/loss": "mean loss of the supervised tokens since the last point",
    "train/loss_histogram": "histogram: mean loss of each forward pass since the last histogram",
    "train/learning_rate": "learning rate of the last step",
    "train/grad_norm": "norm of the last step's gradient before clipping",
    "train/supervised_tokens": "tokens with a label in an optimiser step of this process, mean since the last point",
    "train/supervised_tokens_per_second": "the same a second; validation, probes and checkpoints do not count",
    "train/tokens_per_second": "tokens run through the model a second, image tokens and padding included",
    "validation/loss": "mean loss of all supervised tokens of the validation questions",
    "gpu/memory_*_mib": "memory of tensors now and at most so far, and memory reserved from the device",
    "probe/open/exact_match": "share of open probes answered with a gold answer, both normalized",
    "probe/open/token_f1": "mean word overlap (F1) of open probes with the gold answer",
    "probe/closed/exact_match": "share of closed probes answered with a gold answer, both normalized",
    "probe/closed/accuracy": "share of closed probes answered right, yes and no parsed",
    "probe/closed/yes_no_accuracy": "the same of yes/no questions alone",
    "probe/closed/top_share": "share of the most frequent answer to closed probes; a collapse over 0.9, if gold is not",
    "probe/closed/gold_top_share": "share of the most frequent gold answer to closed probes",
    "probe/length": "histogram: tokens of generated answers, the end token included",
    "probe/length/mean": "their mean",
    "probe/stop/ended": "share of probe answers that the model ended",
    "probe/stop/cut_off": "share of probe answers cut off at the most tokens allowed",
    "probe/answers": "text: every probe's gold answer, generated answer and question",
    "probe/images": "picture: images of probes as the processor made them, normalisation undone",
}


def is_known(tag: str) -> bool:
    """Return whether a tag is in the table."""
    return any(fnmatchcase(tag, pattern) for pattern in TAGS)
