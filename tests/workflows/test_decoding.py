"""How tokens are chosen: from the settings to the engine, and stated so that older rows stay what they are."""

from __future__ import annotations

from medvqa_cli.inference.protocol import Decoding
from medvqa_cli.reporting.protocol import describe_decoding as tell_decoding
from medvqa_cli.settings.schema import make_settings
from medvqa_cli.workflows.asking import describe_decoding, make_decoding


def test_every_setting_reaches_the_engine():
    settings = make_settings({"infer": {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "max_new_tokens": 3}})
    assert make_decoding(settings.infer, 11) == Decoding(max_new_tokens=3, temperature=0.5, seed=11, top_k=7, top_p=0.9)


def test_what_leaves_no_token_out_is_not_stated():
    """Rows of versions without top-k and top-p were made in the same way."""
    assert describe_decoding(make_settings().calibration) == {"max_new_tokens": 8, "temperature": 0.7}
    stated = describe_decoding(make_settings({"calibration": {"top_k": 5, "top_p": 0.9}}).calibration)
    assert stated == {"max_new_tokens": 8, "temperature": 0.7, "top_k": 5, "top_p": 0.9}
    assert tell_decoding({"decoding": stated}) == (
        "sampled at temperature 0.7 among the 5 likeliest, top-p 0.9, at most 8 tokens")
