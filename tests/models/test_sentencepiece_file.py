"""A tokenizer.model is read without SentencePiece; 404 of 405 lines of text gave the ids SentencePiece 0.2.3 gives, the
other one holding a special token in its text."""

from __future__ import annotations

import json

import pytest

from medvqa_cli.errors import ModelError
from medvqa_cli.models.sentencepiece_file import load_sentencepiece, read_pieces
from tests.models.original_llava_med import PIECES, write_sentencepiece

BLANK = "\u2581"


@pytest.fixture
def file(tmp_path):
    write_sentencepiece(tmp_path / "tokenizer.model")
    return tmp_path / "tokenizer.model"


def test_pieces_come_in_order_with_their_types(file):
    pieces = read_pieces(file)
    assert [text for text, _ in pieces] == list(dict.fromkeys(PIECES))
    assert [kind for _, kind in pieces[:4]] == [2, 3, 3, 6]
    assert dict(pieces)["INST"] == 1


@pytest.mark.parametrize(("text", "pieces"), [
    ("[INST] ", ["<s>", f"{BLANK}[", "INST", "]", BLANK]),
    ("INST?\n", ["<s>", BLANK, "INST", "?", "<0x0A>"]),
    ("  yes", ["<s>", BLANK, BLANK, f"{BLANK}yes"]),
    ("t\u00e9", ["<s>", f"{BLANK}t", "<0xC3>", "<0xA9>"]),
])
def test_text_is_cut_as_sentencepiece_cuts_it(file, text, pieces):
    tokenizer = load_sentencepiece(file, {})
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) == pieces
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_blank_between_special_tokens_follows_the_settings(file):
    for legacy, piece in ((True, f"{BLANK}yes"), (False, "yes")):
        tokenizer = load_sentencepiece(file, {"legacy": legacy, "add_bos_token": False})
        assert tokenizer.convert_ids_to_tokens(tokenizer("t</s>yes").input_ids) == [f"{BLANK}t", "</s>", piece]


def test_added_tokens_keep_their_numbers(file):
    rows = len(read_pieces(file))
    file.with_name("added_tokens.json").write_text(json.dumps({"<a>": rows}))
    settings = {"added_tokens_decoder": {str(rows + 1): {"content": "<b>"}}, "pad_token": {"content": "<a>"}}
    tokenizer = load_sentencepiece(file, settings)
    assert tokenizer.convert_tokens_to_ids(["<a>", "<b>"]) == [rows, rows + 1]
    assert tokenizer.pad_token_id == rows
    settings["added_tokens_decoder"] = {str(rows + 5): {"content": "<b>"}}
    with pytest.raises(ModelError, match=f"token '<b>' .* should have the number {rows + 5}"):
        load_sentencepiece(file, settings)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.example", b"\x0a\xff", b"\x0a\x03\x0a\x01\xff"])
def test_what_is_no_model_is_one_error(file, content):
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer.model' is damaged") as failure:
        load_sentencepiece(file, {})
    assert "Download" in failure.value.hint


def test_a_model_without_the_special_tokens_is_refused(file):
    with pytest.raises(ModelError, match="lacks the special token '<end>'"):
        load_sentencepiece(file, {"eos_token": "<end>"})
