"""What a Chinese question offers: the options it names, and the verbs by which it is affirmed or denied."""

from __future__ import annotations

import re
import unicodedata

POLAR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "包含": (("包含", "包括"), ("不包含", "不包括")),
    "包括": (("包括", "包含"), ("不包括", "不包含")),
    "出现": (("是的", "有"), ("没有", "不是")),
    "可以": (("可以",), ("不可以",)),
    "存在": (("存在",), ("不存在",)),
    "正常": (("正常",), ("不正常",)),
    "有": (("有", "包含"), ("没有", "不包含")),
    "是": (("是的", "是"), ("不是", "没有", "否")),
}
"""Verb in the question -> how it is affirmed and denied; a question is answered with its own verb, or with "是的"."""
GENERAL = POLAR["是"]
MOST_FORMS = 3
"""Of each of yes and no."""

_CHOICE = re.compile(r"\s*(?:还是|或者|或是)\s*")
_LIST = re.compile(r"\s*(?:、|和|与|或者|或)\s*")
_WHICH = re.compile(r"哪(?:一)?(?:个|侧|种|边|些)?")
_ASKING = re.compile(r"哪|什么|多少|几|谁|为何|怎|如何")
_CLAUSE = re.compile(r"[,:;?\u3002]")
_OPENING = re.compile(r"^.*(?:图中|图像中|图片中|图里|图片里|图像里|中的|这是|这个是|位于|属于|是)")
_CLOSING = re.compile(r"(?:加权)?的.*$|(?:更|最|体积|哪|是|异常|呢|吗).*$")


def find_options(question: str) -> tuple[tuple[str, ...], ...]:
    """Return the options that a Chinese question names, at least two, or none.

    They stand around 还是 or 或者 ("左侧还是右侧"), or are listed before 哪 ("肝脏和肺哪个更大").
    """
    text = _tidy(question)
    if "还是" in text:
        before, *rest = _CHOICE.split(text)
        listed = _LIST.split(_CLAUSE.split(before)[-1])
        return _trim([*listed, *rest])
    which = _WHICH.search(text)
    if not which:
        return ()
    return _trim(_LIST.split(_CLAUSE.split(text[: which.start()])[-1]))


def _trim(parts: list[str]) -> tuple[tuple[str, ...], ...]:
    first, rest = _OPENING.sub("", parts[0]), parts[1:]
    options = [_CLOSING.sub("", part) or part for part in (first, *rest)]
    kept = [option for option in options if option]
    return tuple((option,) for option in kept) if len(kept) > 1 else ()


def list_polar_forms(question: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the forms of yes and of no that fit a question's verbs, the most fitting first."""
    fitting = [POLAR[verb] for verb in POLAR if verb in question and verb != "是"]
    forms = [*fitting, GENERAL]
    yes, no = (tuple(dict.fromkeys(form for pair in forms for form in pair[side])) for side in (0, 1))
    return yes, no


def is_yes_no_question(question: str) -> bool:
    """Return whether a Chinese question that names no options asks for yes or no.

    It ends with 吗, or holds no question word.
    """
    return _tidy(question).endswith("吗") or not _ASKING.search(question)


def _tidy(question: str) -> str:
    """Return a question without blanks and end marks, its commas and question marks those of ASCII."""
    return "".join(unicodedata.normalize("NFKC", question).split()).rstrip("?.\u3002")
