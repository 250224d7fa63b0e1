"""Which linear layers get an adapter: a preset, names, or a regular expression, turned into exact module names."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from medvqa_cli.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medvqa_cli.models.protocol import ModelLayout
    from medvqa_cli.settings.train import LoRASettings

REGEX = "re:"
NAMES = "list:"
NONE = "none"
REGEX_MARKS = frozenset("\\^$*+?|()[]{}")
QUERIES_AND_VALUES = frozenset({"q", "v", "q_proj", "v_proj", "query", "value", "qkv", "qkv_proj"})
"""T5, OPT and Llama, ViT and Q-Former, and layers that hold queries and values in one matrix."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named choice among the linear layers of a part; `source` is who proposed or used it."""

    about: str
    source: str
    picks: Callable[[str], bool]


def _is_attention(name: str) -> bool:
    above = name.lower().split(".")[:-1]
    return any("attn" in part or "attention" in part for part in above)


def _is_query_or_value(name: str) -> bool:
    return _is_attention(name) and name.rpartition(".")[2] in QUERIES_AND_VALUES


def _is_feed_forward(name: str) -> bool:
    return any(part.isdigit() for part in name.split(".")) and not _is_attention(name)


PRESETS = {
    "query-value": Preset(
        "queries and values of every attention: q and v of T5, q_proj and v_proj of OPT and Llama",
        "Hu et al. 2021, LoRA, arXiv:2106.09685, section 7.1: with one parameter budget these two did best overall",
        _is_query_or_value),
    "attention": Preset(
        "every linear layer of every attention, fused or not",
        "Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.2: the attention is adapted, the feed-forward part frozen",
        _is_attention),
    "mlp": Preset(
        "every linear layer of the numbered layers outside the attention",
        "He et al. 2022, arXiv:2110.04366, section 4: feed-forward layers use a larger parameter budget better",
        _is_feed_forward),
    "all-linear": Preset(
        "every linear layer but the output embedding",
        "Dettmers et al. 2023, QLoRA, arXiv:2305.14314, section 4: needed to match full fine-tuning; also LLaVA-1.5's "
        "own script scripts/v1_5/finetune_lora.sh (r 128, alpha 256, the projector in full beside it)",
        lambda _name: True),
}
"""Targets by name. Without any, a family's own preset holds: `ModelLayout.lora_targets`."""


class Wanted(NamedTuple):
    """Targets as they were meant: one regular expression, or presets and names; all empty for no adapters."""

    pattern: str = ""
    presets: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def parse_targets(targets: Sequence[str]) -> Wanted:
    """Return what `train.lora.targets` means.

    `none` is no adapters. `re:PATTERN`, or any text with marks of a regular expression, is a pattern over whole
    module names and stands alone: commas in it are its own. `list:a,b` takes every item as a name. Else each item is
    a preset (`PRESETS`, written with - or _) or a name.

    Raises:
        SettingsError: If the pattern is no regular expression, or `none` has company.
    """
    if not targets or targets == (NONE,):
        return Wanted()
    text = ",".join(targets)
    if text.startswith(REGEX) or (REGEX_MARKS & set(text) and not text.startswith(NAMES)):
        return Wanted(pattern=_check_pattern(text.removeprefix(REGEX)))
    if text.startswith(NAMES):
        return Wanted(names=tuple(name.strip() for name in text.removeprefix(NAMES).split(",")))
    if NONE in targets:
        raise SettingsError(f"train.lora.targets is '{text}': 'none' stands alone.", "Leave 'none' out, or the rest.")
    presets = {item: item.replace("_", "-") for item in targets if item.replace("_", "-") in PRESETS}
    return Wanted(presets=tuple(presets.values()), names=tuple(item for item in targets if item not in presets))


def makes_adapters(lora: LoRASettings) -> bool:
    """Return whether the targets are adapters: all are but `none`, with which parts are trained in place."""
    return not lora.targets or any(parse_targets(lora.targets))


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"train.lora.targets is no regular expression: '{pattern}' ({error}).",
                            "Correct it, or list module names with commas between.") from error
    return pattern


def find_targets(model: Any, layout: ModelLayout, lora: LoRASettings) -> list[str]:
    """Return the whole names of the linear layers that get an adapter, in the model's order.

    Without `lora.targets`, the language model takes the family's preset, the other parts every linear layer.

    Raises:
        SettingsError: If the targets are written wrongly.
        ModelError: If one of them names no linear layer; the nearest names are shown.
    """
    linear = list_linear(model)
    wanted = parse_targets(lora.targets)
    if wanted.pattern:
        return _refuse_tied_head(_match_pattern(wanted.pattern, linear, model), model)
    inside: dict[str, list[str]] = {
        part: [name for name in linear if find_owner(name, layout) == part] for part in lora.parts}
    if empty := [part for part, names in inside.items() if not names]:
        raise ModelError(f"The {empty[0].replace('_', ' ')} has no linear layer to adapt.",
                         f"Leave {empty[0]} out of train.lora.parts"
                         + ("; --tune-projector trains it in full." if empty[0] == "projector" else "."))
    if not lora.targets:
        return _take_defaults(inside, layout)
    candidates = [name for names in inside.values() for name in names]
    head = _find_head(model)
    picks = {item: [name for name in candidates if _is_called(name, item)] for item in wanted.names}
    picks |= {item: [name for name in candidates if name != head and PRESETS[item].picks(name)]
              for item in wanted.presets}
    if unknown := [item for item, names in picks.items() if not names]:
        raise _explain_unknown(unknown, candidates, linear, layout, lora)
    chosen = {name for names in picks.values() for name in names}
    return _refuse_tied_head([name for name in candidates if name in chosen], model)


def _find_head(model: Any) -> str:
    """Return the name of the output embedding, empty if there is none."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), "")


def _refuse_tied_head(names: list[str], model: Any) -> list[str]:
    """Return the names, unless one is an output embedding whose weights are the input embedding's too."""
    head = _find_head(model)
    if head in names and model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        raise ModelError(f"'{head}' shares its weights with the input embedding: an adapter on it cannot be merged.",
                         "Choose train.lora.targets without it.")
    return names


def _take_defaults(inside: dict[str, list[str]], layout: ModelLayout) -> list[str]:
    found = [name for part, names in inside.items() for name in names
             if part != "language_model" or any(_is_called(name, target) for target in layout.lora_targets)]
    if not found:
        names = ", ".join(sorted({name.rpartition(".")[2] for names in inside.values() for name in names}))
        raise ModelError(f"The family's own LoRA targets ({', '.join(layout.lora_targets)}) are not in this model.",
                         f"Set train.lora.targets to some of: {names}.")
    return found


def _is_called(name: str, target: str) -> bool:
    """Match whole path components: `q` is not `ln_q`."""
    return name == target or name.endswith(f".{target}")


def _match_pattern(pattern: str, linear: Sequence[str], model: Any) -> list[str]:
    found = [name for name in linear if re.fullmatch(pattern, name)]
    if found:
        return found
    others = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if others:
        raise ModelError(f"The regular expression '{pattern}' matches no linear layer, only '{others[0]}'.",
                         f"Match linear layers, such as '{linear[-1]}'.")
    partly = next((name for name in linear if re.search(pattern, name)), "")
    raise ModelError(f"The regular expression '{pattern}' matches no module.",
                     f"It must match a whole name, such as '{partly or linear[-1]}'"
                     + (f": try '.*{pattern}'." if partly.endswith(pattern) else "."))


def _explain_unknown(unknown: Sequence[str], candidates: Sequence[str], linear: Sequence[str], layout: ModelLayout,
                     lora: LoRASettings) -> ModelError:
    names = sorted({name.rpartition(".")[2] for name in candidates})
    near = [close for item in unknown for close in difflib.get_close_matches(item, [*names, *PRESETS], n=1)]
    elsewhere = sorted({find_owner(name, layout) for item in unknown for name in linear if _is_called(name, item)}
                       - {"other", *lora.parts})
    parts = " or ".join(part.replace("_", " ") for part in lora.parts)
    message = (f"No linear layer of the {parts} is called {', '.join(map(repr, unknown))}."
               + (f" Did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""))
    if elsewhere:
        return ModelError(message, f"It is in the {elsewhere[0].replace('_', ' ')}: add {elsewhere[0]} to "
                                   "train.lora.parts (--lora-parts).")
    return ModelError(message, f"Set train.lora.targets to some of: {', '.join(names)}; to a preset: "
                               f"{', '.join(PRESETS)}; to {REGEX}PATTERN over whole names; or to {NONE}.")


def list_linear(model: Any) -> list[str]:
    """Return the whole names of a model's linear layers, in the model's order."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def list_parts(layout: ModelLayout) -> dict[str, tuple[str, ...]]:
    """Return part -> module paths."""
    return {"vision_tower": (layout.vision_tower,), "projector": layout.projectors,
            "language_model": (layout.language_model,)}


def find_owner(name: str, layout: ModelLayout) -> str:
    """Return the part a module or parameter belongs to, or "other".

    Parts may lie inside each other (Qwen-VL's projector in its tower): the innermost one counts.
    """
    around = [(len(path), part) for part, paths in list_parts(layout).items() for path in paths
              if f"{name}.".startswith(f"{path}.")]
    return max(around)[1] if around else "other"


def write_pattern(names: Sequence[str], model: Any) -> str:
    """Return a regular expression that matches exactly these module names: short where layers repeat."""
    chosen = set(names)
    short = "|".join(sorted({re.sub(r"\\\.\d+(?=\\\.)", r"\\.\\d+", re.escape(name)) for name in names}))
    exact = all(name in chosen or not re.fullmatch(short, name) for name, _ in model.named_modules())
    return short if exact else "|".join(re.escape(name) for name in names)
