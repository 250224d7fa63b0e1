"""A tokenizer from SentencePiece's `tokenizer.model`, without the packages sentencepiece and protobuf.

The file is a protocol buffer (sentencepiece_model.proto): field 1, repeated, is a piece with its text (1), score (2)
and type (3). Only these are needed for a byte-pair tokenizer with byte fallback, such as those of Llama and Mistral.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NORMAL = 1
BLANK = "\u2581"
AGAIN = "Download the checkpoint again."
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


def load_sentencepiece(file: Path, settings: Mapping[str, Any]) -> Any:
    """Return the tokenizer of a `tokenizer.model`, padding on the left.

    Args:
        file: The SentencePiece model, a byte-pair one.
        settings: What tokenizer_config.json says; the special and added tokens, `add_bos_token` and `legacy` count.
            `legacy`, the default, puts a blank before every stretch of text between special tokens, else only before
            the first.

    Raises:
        ModelError: If the file is damaged.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import generate_merges

    pieces = read_pieces(file)
    vocabulary = {text: number for number, (text, _) in enumerate(pieces)}
    names = {name: _read_token(settings, name, token) for name, token in (
        ("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>"))}
    missing = [token for token in names.values() if token not in vocabulary]
    if missing:
        raise ModelError(f"'{file}' lacks the special token '{missing[0]}'.", AGAIN)
    merges = generate_merges(vocabulary, skip_tokens={text for text, kind in pieces if kind != NORMAL})
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=names["unk_token"], fuse_unk=True,
                                     byte_fallback=True))
    _treat_blanks(tokenizer, legacy=bool(settings.get("legacy", True)))
    if settings.get("add_bos_token", True):
        _add_first(tokenizer, names["bos_token"])
    if settings.get("pad_token"):
        names["pad_token"] = _read_token(settings, "pad_token", "")
    for number, token in sorted(_list_added(file, settings).items()):
        tokenizer.add_special_tokens([token])
        if tokenizer.token_to_id(token) != number:
            raise ModelError(f"The added token '{token}' beside '{file}' should have the number {number}, which does "
                             "not follow the others.", AGAIN)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left",
                                   clean_up_tokenization_spaces=False, **names)


def _list_added(file: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens that were added to a SentencePiece model's own, by number."""
    added = {int(number): str(token["content"]) for number, token in settings.get("added_tokens_decoder", {}).items()}
    older = file.with_name("added_tokens.json")
    if older.is_file():
        added |= {int(number): token for token, number in json.loads(older.read_text(encoding="utf-8")).items()}
    return added


def _treat_blanks(tokenizer: Any, *, legacy: bool) -> None:
    """Write blanks as SentencePiece does, and put one before the text."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(BLANK, prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])


def _add_first(tokenizer: Any, token: str) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, tokenizer.token_to_id(token))])


def read_pieces(file: Path) -> list[tuple[str, int]]:
    """Return the pieces of a SentencePiece model in the order of their ids: text and type.

    Raises:
        ModelError: If the file is none, or is cut short.
    """
    try:
        pieces = [_read_piece(value) for field, value in _read_fields(file.read_bytes()) if field == 1]
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(f"'{file}' is damaged: it is no SentencePiece model.", AGAIN) from error
    if not pieces:
        raise ModelError(f"'{file}' is damaged: it holds no pieces.", AGAIN)
    return pieces


def _read_piece(message: bytes) -> tuple[str, int]:
    fields = dict(_read_fields(message))
    return fields[1].decode("utf-8"), fields.get(3, NORMAL)


def _read_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        field, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _read_varint(message, at)
            yield field, value
            continue
        if kind == BYTES:
            length, at = _read_varint(message, at)
        else:
            length = {FIXED_64: 8, FIXED_32: 4}.get(kind, -1)
        if length < 0 or at + length > len(message):
            raise ValueError("cut short")
        yield field, message[at:at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number written seven bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _read_token(settings: Mapping[str, Any], name: str, default: str) -> str:
    """Return a special token of tokenizer_config.json, which writes it as text or as a mapping."""
    token = settings.get(name) or default
    return str(token["content"] if isinstance(token, dict) else token)
