"""How numbers were measured, in words: what stands beside every one of them."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.formatting import format_count, format_value, name_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


UNSTATED = "not stated"
PICTURES = {"blank": "blank: the same grey for every question", "shuffled": "those of another image of the split",
            "shuffled-modality": "those of another image of the same modality",
            "text-only": "none: the question's text alone"}
"""What was shown in each control."""


def refuse_numbers(what: str, gaps: Sequence[str]) -> str:
    """Return why numbers are not shown: what their protocol does not say, and what to do."""
    return (f"The numbers of {what} are not shown: metrics.json does not say how they were measured (missing: "
            f"{', '.join(gaps)}). Score the run again: `medvqa eval`.")


def describe_shortly(protocol: Mapping[str, Any], rule: str = "") -> str:
    """Return one sentence: data set and split, control, mask, knowledge, decoding, profile of the texts, rule."""
    profiles = protocol.get("profiles")
    unstated = "decoding not stated" if profiles else ""
    parts = [f"Measured on {protocol.get('dataset', 'unknown data')}, {protocol.get('split', 'unknown')} split",
             *_list_departures(protocol), describe_answering(protocol) or unstated,
             f"text profile {next(iter(profiles))}" if profiles else "", protocol.get("rules", {}).get(rule, "")]
    return "; ".join(part for part in parts if part) + "."


def _list_departures(protocol: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the model saw besides, or instead of, the plain pictures and questions."""
    if control := name_control(protocol):
        yield f"control: {control}"
    inference = protocol.get("inference") or {}
    mask, knowledge = inference.get("mask") or {}, inference.get("knowledge") or {}
    if mask.get("mode", "none") != "none" and _find_shown(inference) == "off":
        yield f"mask: {mask['mode']}"
    if knowledge.get("mode", "off") != "off":
        yield f"knowledge: {knowledge['mode']}"


def describe_answering(protocol: Mapping[str, Any]) -> str:
    """Return how answers were made: "closed: likeliest of the candidates; open: greedy, at most 32 tokens"."""
    inference = protocol.get("inference") or {}
    written = describe_decoding(inference)
    if not inference.get("closed_candidates") or inference.get("samples"):
        return written
    chosen = "closed: likeliest of the candidates"
    is_all_closed = protocol.get("n_open") == 0 or protocol.get("questions") in ("closed", "yes_no")
    return chosen if is_all_closed or not written else f"{chosen}; open: {written}"


def describe_decoding(inference: Mapping[str, Any]) -> str:
    """Return how answers were made: "greedy, at most 8 tokens"."""
    decoding = inference.get("decoding") or {}
    temperature = decoding.get("temperature")
    if temperature is None:
        return ""
    way = "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"
    if inference.get("samples"):
        way = f"{inference['samples']} answers a question {way}"
    if decoding.get("top_k"):
        way += f" among the {decoding['top_k']} likeliest"
    if decoding.get("top_p"):
        way += f", top-p {decoding['top_p']:g}"
    return f"{way}, at most {decoding.get('max_new_tokens')} tokens"


def describe_interval(protocol: Mapping[str, Any]) -> str:
    """Return what the brackets mean: "95 % interval, percentile bootstrap over images, 2,000 resamples, seed 0"."""
    intervals = protocol.get("intervals") or {}
    if not {"level", "method", "resamples", "seed"} <= set(intervals):
        return "intervals of an unstated kind"
    return (f"{100 * intervals['level']:g} % intervals: {intervals['method']}, {format_count(intervals['resamples'])} "
            f"resamples, seed {intervals['seed']}")


def describe_interval_rule(protocol: Mapping[str, Any]) -> str:
    """Return what the brackets mean, and where there are none."""
    rule = (protocol.get("intervals") or {}).get("rule")
    return describe_interval(protocol) + (f"; {rule}" if rule else "")


def list_protocol(protocol: Mapping[str, Any], *, rules: bool = True) -> Iterator[tuple[str, str]]:
    """Yield everything a protocol says, as terms and texts; without `rules` not what each measure is."""
    inference = protocol.get("inference", {})
    yield "Data set", str(protocol.get("dataset", "not stated"))
    yield "Split", str(protocol.get("split", "not stated"))
    for key in ("languages", "fingerprint", "closed_definition"):
        value = protocol.get(key) or inference.get(key)
        if value or key in protocol:
            yield name_key(key), str(value or UNSTATED)
    yield "Questions", _count_questions(protocol, inference)
    yield from (("Excluded", f"{format_count(item['n'])}: {item['reason']}") for item in protocol.get("excluded", ()))
    yield "Images", format_count(protocol.get("images"))
    yield from _list_inference(inference)
    yield from _list_scoring(protocol)
    if protocol.get("normalizer"):
        yield "Text normalizer", f"profile “{protocol['normalizer']}”"
    if rules:
        yield from list_rules(protocol)
    if protocol.get("num_bins"):
        yield "Bins", f"{protocol['num_bins']} of equal width, each (lower, upper]"
    yield "Intervals", describe_interval_rule(protocol)


def list_rules(protocol: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what each measure is, by its name."""
    yield from ((name_metric(metric), str(rule)) for metric, rule in protocol.get("rules", {}).items())


def _list_scoring(protocol: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what compared the answers: text profiles, encoder, judge."""
    for name, rule in protocol.get("profiles", {}).items():
        yield f"Text profile {name}", str(rule)
    if protocol.get("encoder"):
        name, bracket, place = str(protocol["encoder"]).removesuffix(")").partition(" (")
        where = f"{bracket}{hide_folders(place)})" if bracket else ""
        yield "BERTScore", f"encoder {name}{where}; no idf weights, no rescaling with a baseline"
    if "judge" in protocol:
        yield "Judge", _describe_judge(protocol["judge"])


def hide_folders(name: str) -> str:
    """Return the last two parts of an absolute path, other names as they are: a page tells nobody's home folder."""
    return "/".join(PurePath(name).parts[-2:]) if PurePath(name).is_absolute() else name


def _describe_judge(judge: Mapping[str, Any] | None) -> str:
    if not judge:
        return "none"
    found = judge.get("agreement", {})
    return (f"{judge.get('name')}, open questions; agrees with exact match on {format_value(found.get('share'))} of "
            f"{format_count(found.get('n'))} answers (Cohen's kappa {format_value(found.get('kappa'))}), "
            f"{format_count(found.get('without_verdict'))} without a verdict")


def _count_questions(protocol: Mapping[str, Any], inference: Mapping[str, Any]) -> str:
    text = format_count(protocol.get("n"))
    if "n_closed" in protocol:
        text += f" ({format_count(protocol['n_closed'])} closed, {format_count(protocol['n_open'])} open)"
    if inference.get("limit"):
        text += f"; only the first {format_count(inference['limit'])} of the split were asked"
    return text


def _list_inference(inference: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not {"decoding", "prompt", "instruction", "seed"} & set(inference):
        yield from ((term, UNSTATED) for term in ("Decoding", "Prompt", "Candidates"))
        return
    yield "Decoding", describe_decoding(inference) or UNSTATED
    prompt = inference.get("prompt", {})
    if prompt:
        yield "Prompt", _describe_prompt(prompt)
    yield "Instruction", prompt.get("instruction") or inference.get("instruction") or "none besides the style's own"
    yield "Pictures", _describe_pictures(inference)
    knowledge = inference.get("knowledge", {})
    if knowledge.get("mode", "off") != "off":
        yield "Knowledge", (f"{knowledge['mode']}: at most {knowledge.get('max_triples')} facts a question, privileged "
                            "information")
    model = inference.get("model", {})
    if model:
        yield "Model", ", ".join(hide_folders(str(model[key])) for key in ("family", "checkpoint", "adapter", "dtype",
                                                                           "device", "server") if model.get(key))
    if inference.get("engine"):
        yield "Engine", _describe_engine(inference["engine"], model)
    if "closed_candidates" in inference:
        yield "Closed questions", describe_candidates(inference["closed_candidates"])
    if "seed" in inference:
        yield "Seed", str(inference["seed"])


def describe_candidates(candidates: Mapping[str, Any] | None) -> str:
    """Return how closed questions were answered: freely, or by the best of candidates."""
    if not candidates:
        return "answered freely"
    words = candidates.get("vocabulary", {})
    return (f"the best of the candidates that question and training answers offer (route {candidates.get('mode')}), by "
            f"{candidates.get('score')}; vocabulary of {words.get('dataset')}/{words.get('split')}, "
            f"{format_count(words.get('answers'))} answers")


def _describe_engine(name: str, model: Mapping[str, Any]) -> str:
    if name == "openai":
        return (f"a server's chat completions; its own chat template; pictures of at most {model.get('image_size')} "
                "pixels")
    return f"{name} {model.get('vllm', '')}".strip()


def _describe_prompt(prompt: Mapping[str, Any]) -> str:
    styles = {kind: prompt.get(f"{kind}_style") for kind in ("open", "closed")}
    parts = [f"style {prompt.get('style')}", *(f"{kind} questions {style}" for kind, style in styles.items() if style),
             f"options {prompt.get('options')}"]
    if prompt.get("exemplars"):
        parts.append(f"exemplars {len(prompt['exemplars'])}")
    if prompt.get("template"):
        parts.append(f"template {prompt['template']!r}")
    return ", ".join(parts)


def name_control(protocol: Mapping[str, Any] | None) -> str:
    """Return the control that numbers were measured in, such as "blank"; empty for the images themselves."""
    inference = (protocol or {}).get("inference") or {}
    shown, places = _find_shown(inference), inference.get("option_rotation")
    return ", ".join([*([] if shown == "off" else [shown]), *([f"options moved by {places}"] if places else [])])


def _find_shown(inference: Mapping[str, Any]) -> str:
    return "blank" if inference.get("blank_images") else str(inference.get("control", "off"))


def _describe_pictures(inference: Mapping[str, Any]) -> str:
    shown = _find_shown(inference)
    if shown in PICTURES:
        return PICTURES[shown]
    mask = inference.get("mask", {})
    if mask.get("mode", "none") == "none":
        return "as they are"
    return f"{mask['mode']} by segmentation masks (classes: {mask.get('classes')})"


METRICS = {"ece": "Calibration error (ECE)", "mce": "Largest bin error (MCE)", "brier": "Brier score",
           "token_f1": "Token F1", "bias_floor": "ECE of a perfect model", "p_yes": "Probability of yes",
           "ece_debiased": "ECE less chance", "ece_equal_mass": "ECE over equal-mass bins",
           "nll": "Log-likelihood loss", "auroc": "AUROC",
           "aurc": "Risk over all coverages (AURC)", "excess_aurc": "Excess AURC",
           "ppv": "PPV", "npv": "NPV", "mcc": "MCC", **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
           **{f"rouge_{kind}{part}": f"ROUGE-{kind.upper()}{part.replace('_', ' ')}" for kind in ("1", "2", "l")
              for part in ("", "_precision", "_recall")}}


def name_metric(key: str) -> str:
    """Return a metric's name as a reader knows it."""
    return METRICS.get(key, name_key(key))


def describe_floor(block: Mapping[str, Any]) -> str:
    """Return the sentence that the calibration error is to be read against."""
    floor = block.get("bias_floor")
    return "" if floor is None else (f"A perfectly calibrated model with these probabilities, questions and samples "
                                     f"would show an ECE of {format_value(floor)} on average: that much is chance.")
