"""A report's tables and figures as Markdown and as LaTeX: each with its protocol in the caption."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medvqa_cli.reporting.blocks import Plots, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from medvqa_cli.reporting.blocks import Meter, Section
    from medvqa_cli.reporting.figures import Figure

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
         "“": "``", "”": "''", "\u2018": "`", "\u2019": "'", "…": r"\ldots{}", "\u2013": "--", "—": "---",
         "\u00d7": r"$\times$", "\u00a0": "~",
         '"': r"\textquotedbl{}", "|": r"\textbar{}", "`": r"\textasciigrave{}"}
LATEX_HEAD = r"""% Tables and figures of a medvqa report. In the preamble:
%   \usepackage[T1]{fontenc} \usepackage{booktabs,graphicx,tabularx}
"""
UNICODE_HEAD = "% Compile with XeLaTeX or LuaLaTeX and a font that has these characters: "
WIDE = 34
"""A column whose longest cell has more characters than this may break its lines."""
MANY = 4
"""In a table of more columns than this every one may."""


def render_markdown(title: str, sections: Sequence[Section], figures: str) -> str:
    """Return every table and figure of a report as Markdown (tables as GitHub writes them).

    Args:
        title: Heading.
        sections: Of the report.
        figures: Folder of the figures, as the file that holds the text sees it.
    """
    parts = [f"# {_escape_markdown(title)}"]
    for section in sections:
        items = [*_list_items(section)]
        if items:
            parts.append(f"## {section.title}")
        parts += [_mark_table(item) if isinstance(item, Table) else _mark_figure(item, figures) for item in items]
    return "\n\n".join(parts) + "\n"


def _list_items(section: Section) -> Iterator[Table | Figure]:
    """Yield tables that are not folded away, and figures that are files."""
    for block in section.blocks:
        if isinstance(block, Table) and not block.folded and block.rows:
            yield block
        elif isinstance(block, Plots):
            yield from (figure for figure in block.figures if figure.png)


def _mark_table(table: Table) -> str:
    rule = ["---" if not place or name in table.textual else "---:" for place, name in enumerate(table.columns)]
    lines = [[_escape_markdown(name) for name in table.columns], rule,
             *([_escape_markdown(_say(cell)) for cell in row] for row in table.rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"\n\n{_escape_markdown(table.note)}" if table.note else ""
    return f"**{_escape_markdown(table.title)}**\n\n{text}{note}"


def _mark_figure(figure: Figure, folder: str) -> str:
    title = _escape_markdown(figure.title)
    return f"![{title}](<{folder}/{figure.name}.svg>)\n\n*{title}.* {_escape_markdown(figure.caption)}"


def _say(cell: str | Meter) -> str:
    return cell if isinstance(cell, str) else cell.text


def _escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no end of a cell."""
    escaped = re.sub(r"([\\`*_\[\]|<>#~$&])", r"\\\1", " ".join(text.split()))
    return escaped.replace(r"\&", "&amp;").replace(r"\<", "&lt;").replace(r"\>", "&gt;")


def render_latex(title: str, sections: Sequence[Section], figures: str) -> str:
    """Return every table and figure of a report as LaTeX floats (booktabs), for a document to read in.

    Characters that pdfLaTeX does not know are kept, and named at the top.

    Args:
        title: Of the report, for a comment.
        sections: Of the report.
        figures: Folder of the figures, as the document that reads the text sees it.
    """
    floats = [(_set_table(item, section.key, number) if isinstance(item, Table)
               else _set_figure(item, figures))
              for section in sections for number, item in enumerate(_list_items(section), start=1)]
    body = "\n".join(floats)
    strange = "".join(sorted({character for character in body if ord(character) > 0xFF}))
    head = LATEX_HEAD + f"% Report: {_drop_breaks(title)}\n" + (f"{UNICODE_HEAD}{strange}\n" if strange else "")
    return f"{head}\n{body}"


def _set_table(table: Table, section: str, number: int) -> str:
    cells = [[_escape_latex(_say(cell)) for cell in row] for row in table.rows]
    columns = "".join(_align(table, place) for place in range(len(table.columns)))
    lines = [r"\begin{table}[tp]", r"\centering", rf"\caption{{{_caption(table.title, table.note)}}}",
             rf"\label{{tab:{section}-{number}}}", r"\footnotesize", rf"\begin{{tabularx}}{{\linewidth}}{{{columns}}}",
             r"\toprule", _join([_escape_latex(name) for name in table.columns]), r"\midrule", *map(_join, cells),
             r"\bottomrule", r"\end{tabularx}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _align(table: Table, place: int) -> str:
    """The first column takes what room is left; numbers stand on the right, and long texts break."""
    if place == 0 or table.columns[place] in table.textual:
        return r">{\raggedright\arraybackslash}X"
    longest = max(len(_say(row[place])) for row in table.rows)
    return r">{\raggedleft\arraybackslash}X" if longest > WIDE or len(table.columns) > MANY else "r"


def _set_figure(figure: Figure, folder: str) -> str:
    return "\n".join([r"\begin{figure}[tp]", r"\centering",
                      rf"\includegraphics[width=0.7\linewidth]{{\detokenize{{{folder}/{figure.name}.png}}}}",
                      rf"\caption{{{_caption(figure.title, figure.caption)}}}", rf"\label{{fig:{figure.name}}}",
                      r"\end{figure}"]) + "\n"


def _caption(title: str, note: str) -> str:
    return rf"\textbf{{{_escape_latex(title)}.}} {_escape_latex(note)}".strip()


def _join(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape_latex(text: str) -> str:
    """Return text that LaTeX shows as it is; in brackets, so that no cell's [ is taken for an option of a rule."""
    escaped = "".join(LATEX.get(character, character) for character in " ".join(text.split()))
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _drop_breaks(text: str) -> str:
    return " ".join(text.split())
