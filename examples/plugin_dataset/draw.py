"""Draw the pictures and write the questions: a large and a small disc, their brightness, their sides."""

import csv
from pathlib import Path

FOLDER = Path(__file__).parent / "two_discs"
SPLITS = ("train",) * 6 + ("validation",) * 3 + ("test",) * 3


def main() -> None:
    """Write twelve pictures and 36 questions; the same each time."""
    rows = []
    for number, split in enumerate(SPLITS):
        left_is_large, bright_is_large = number % 2 == 0, number // 2 % 2 == 0
        draw_picture(FOLDER / "pictures" / f"{number:02}.png", left_is_large, bright_is_large)
        questions = ask(left_is_large, bright_is_large)
        rows += [(split, f"{number:02}.png", *question) for question in questions]
    with (FOLDER / "questions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("split", "picture", "question", "answer", "answer_type", "question_type"))
        writer.writerows(rows)


def ask(left_is_large: bool, bright_is_large: bool) -> list[tuple[str, str, str, str]]:
    """Return three questions: text, answer, answer type, question type."""
    return [("Is the large disc on the left?", "yes" if left_is_large else "no", "closed", "side"),
            ("Is the small disc the brighter one?", "no" if bright_is_large else "yes", "closed", "brightness"),
            ("Where is the small disc?", "right" if left_is_large else "left", "open", "side")]


def draw_picture(path: Path, left_is_large: bool, bright_is_large: bool) -> None:
    """Draw two grey discs on black."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (32, 32))
    pen = ImageDraw.Draw(image)
    for is_large in (True, False):
        x, radius = (9 if is_large == left_is_large else 23), (6 if is_large else 3)
        grey = 230 if is_large == bright_is_large else 110
        pen.ellipse((x - radius, 16 - radius, x + radius, 16 + radius), fill=grey)
    path.parent.mkdir(exist_ok=True)
    image.save(path)


if __name__ == "__main__":
    main()
