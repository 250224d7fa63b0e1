"""Sections on what stands twice: in two splits, in two data sets; and on pictures that cannot be used."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from medvqa_cli.reporting.blocks import Meter, Note, Pair, Pairs, Plots, Section, Table
from medvqa_cli.reporting.charts import About, draw_bars, draw_matrix
from medvqa_cli.reporting.formatting import format_count
from medvqa_cli.reporting.gallery import embed_picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.reporting.blocks import Block
    from medvqa_cli.reporting.figures import Figure

MOST_LISTED = 50
SHARED = {"questions_on_shared_images": "about the same picture", "questions_on_near_images": "about nearly the same",
          "shared_questions": "same question and picture", "shared_texts": "same question and answer"}


def build_overlap(document: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> Section:
    """Return the section on what splits share, and on pictures that look alike."""
    pairs, near = document["leakage"], document["images"]["near"]
    figures = [_draw_overlap("overlap", "Pictures of one split that stand in another", pairs)] if len(pairs) > 1 else []
    if near["pairs"]:
        figures.append(_draw_distances(near))
    blocks: list[Block] = [Plots(figures)] if figures else []
    if pairs:
        blocks.append(_tabulate_pairs("What one split shares with another", pairs))
    if any(near["splits"].values()):
        rows = [[split, f"{format_count(number)} of {format_count(document['splits'][split]['images'])}"]
                for split, number in near["splits"].items()]
        blocks.append(Table("Pictures with a near-duplicate in their own split", ["Split", "Pictures"], rows,
                            narrow=True, note="They count as different pictures, but say little that is new."))
    blocks += _show_examples(near["examples"], thumbnails, "Nearly the same: the closest pairs, across splits first")
    lead = "A model that has seen a picture, or its neighbour in the same scan, may remember rather than read it."
    return Section("overlap", "What stands twice", lead,
                   blocks or [Note("There is only one split, and no two of its pictures look alike.")])


def build_others(others: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, bytes]) -> Section:
    """Return the section on what other data sets share with this one."""
    blocks: list[Block] = []
    for other in others:
        name = other["dataset"]
        pairs = [{**pair, "splits": [_name_other(pair["splits"][0]), pair["splits"][1]]} for pair in other["pairs"]]
        whole = [pair for pair in pairs if pair["splits"][0] == _name_other(f"{name}/any")]
        if any(pair["shared_images"] or pair["near_images"] for pair in whole):
            blocks.append(Plots([_draw_overlap(f"overlap-{_name_id(name)}", f"Pictures that stand in {name}", pairs)]))
        else:
            blocks.append(Note(f"No picture stands in {name}, and none looks nearly like one there."))
        blocks.append(_tabulate_pairs(f"What stands in {name}", whole))
        blocks += _show_examples(other["examples"], thumbnails, f"Nearly the same in {name}: the closest pairs")
    lead = "What a model has learnt from another data set counts as seen, too."
    return Section("others", "Other data sets", lead, blocks)


def build_pictures(document: Mapping[str, Any]) -> Section:
    """Return the section on files: unreadable ones, copies, text in the pixels."""
    images = document["images"]
    blocks: list[Block] = [Note(f"{format_count(images['distinct'])} files; {format_count(len(images['unreadable']))} "
                                f"missing or unreadable; {format_count(images['identical'])} with the same pixels as "
                                "another file.")]
    lists = {"Missing or unreadable": images["unreadable"], "May have text in the pixels": images["texts"]}
    for title, found in lists.items():
        if found:
            rows = [[path, reason] for path, reason in list(found.items())[:MOST_LISTED]]
            rest = len(found) - len(rows)
            blocks.append(Table(f"{title} ({len(found):,})", ["File", "Why"], rows, textual=["Why"], folded=True,
                                note=f"{rest:,} more are in analysis.json." if rest > 0 else ""))
    return Section("files", "Files", "", blocks)


def list_examples(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the pairs of pictures that the page shows."""
    return [*document["images"]["near"]["examples"],
            *(example for other in document["against"] for example in other["examples"])]


def _draw_overlap(name: str, title: str, pairs: Sequence[Mapping[str, Any]]) -> Figure:
    rows = list(dict.fromkeys(pair["splits"][1] for pair in pairs))
    columns = list(dict.fromkeys(pair["splits"][0] for pair in pairs))
    cells = {(pair["splits"][1], pair["splits"][0]): (_share(pair), _say_cell(pair)) for pair in pairs}
    about = About(name, title, "Of the pictures of the split on the left: how many stand in the split above, and how "
                  "many more look nearly the same as one there.")
    return draw_matrix(about, rows, columns, cells)


def _share(pair: Mapping[str, Any]) -> float:
    return (pair["shared_images"] + pair["near_images"]) / pair["images"] if pair["images"] else 0.0


def _say_cell(pair: Mapping[str, Any]) -> str:
    return f"{pair['shared_images']:,} of {pair['images']:,}\nnearly: {pair['near_images']:,}"


def _draw_distances(near: Mapping[str, Any]) -> Figure:
    distances = {int(bits): number for bits, number in near["distances"].items()}
    step = 2 if all(bits % 2 == 0 for bits in distances) else 1
    bars = {str(bits): distances.get(bits, 0) for bits in range(0, near["max_distance"] + 1, step)}
    about = About("distances", "Pairs of pictures that look alike",
                  f"All pairs within {near['max_distance']} of {near['of_bits']} bits of their perceptual hashes, in "
                  "and across splits; pairs of equal pixels are not counted.")
    return draw_bars(about, bars, "bits that differ", "pairs")


def _tabulate_pairs(title: str, pairs: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[str | Meter]] = [
        [f"{pair['splits'][1]} in {pair['splits'][0]}",
         *(_measure(pair, name) for name in ("shared_images", "near_images")),
         *(format_count(pair[name]) for name in ("questions", *SHARED))] for pair in pairs]
    return Table(title, ["Of one in the other", "Same picture", "Nearly the same", "Questions", *SHARED.values()], rows)


def _measure(pair: Mapping[str, Any], part: str) -> Meter:
    return Meter(f"{format_count(pair[part])} of {format_count(pair['images'])}",
                 pair[part] / pair["images"] if pair["images"] else None)


def _show_examples(examples: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, bytes], title: str) -> list[Block]:
    items = [_show_pair(example, thumbnails) for example in examples]
    return [Pairs(title, items)] if items else []


def _show_pair(example: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> Pair:
    first, second = example["images"]
    names = [f"{'/'.join(PurePath(path).parts[-2:])} ({', '.join(splits)})"
             for path, splits in zip((first, second), example["splits"], strict=True)]
    pictures = [embed_picture(thumbnails[path]) if path in thumbnails else "" for path in (first, second)]
    return Pair((names[0], names[1]), (pictures[0], pictures[1]), f"{example['distance']} bits differ")


def _name_other(split: str) -> str:
    """Return `NAME/any` in words; other names of splits stay."""
    return f"all of {split.removesuffix('/any')}" if split.endswith("/any") else split


def _name_id(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)
