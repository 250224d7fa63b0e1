"""Sections to one self-contained HTML page: no network, text from data and models always escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Gallery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medvqa_cli.reporting.blocks import Section

DISCLAIMER = "For research use only. Not a medical device; not for clinical decisions."


@dataclass(frozen=True, slots=True)
class Page:
    """A page before it is HTML. `written` is an ISO 8601 time, the only part that differs between two renderings."""

    title: str
    subtitle: str
    written: str
    sections: Sequence[Section]
    kind: str = "report"


def render_page(page: Page) -> str:
    """Return the page as one HTML document.

    A content security policy forbids every request and runs no script but ours, known by its hash, so that text which
    slipped through the escaping could still do nothing.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    script = _read("page.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_read("page.html.j2"))
    return template.render(page=page, disclaimer=DISCLAIMER, style=Markup(_read("page.css")), script=Markup(script),  # noqa: S704 - our own files
                           script_hash=_hash(script), embed_json=embed_json, markup=Markup, galleries=_galleries(page))


def embed_json(content: Any) -> str:
    """Return JSON that may stand inside a script element: no character of it can end the element or open a comment."""
    from markupsafe import Markup

    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - the five characters that matter to HTML are escaped above


def _galleries(page: Page) -> list[Gallery]:
    return [block for section in page.sections for block in section.blocks if isinstance(block, Gallery)]


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _read(name: str) -> str:
    return resources.files(__package__ or "").joinpath(name).read_text(encoding="utf-8")
