"""What a terminal shows: bars, tables, pictures. Run in a pseudo-terminal where that matters."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from PIL import Image

from medvqa_cli.cli.pictures import render_picture
from medvqa_cli.cli.terminal import Terminal

WORK = """
import time
from medvqa_cli.cli.terminal import Terminal
terminal = Terminal()
progress = terminal.progress
progress.start("Training [b]", 40, "step")
for number in range(40):
    time.sleep(0.02)
    progress.advance(1, note=f"loss {1 / (number + 1):.2f}")
    if number == 20:
        progress.say("half [way]")
progress.start("Reading", None, "row")
progress.advance(7)
progress.finish()
terminal.close()
"""


def run_in_terminal(*arguments: str, **variables: str) -> str:
    """Run Python with stdout and stderr on a pseudo-terminal; return what it shows."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **variables}
    process = subprocess.Popen([sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs,
                               env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux tells the end of a pseudo-terminal so
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(timeout=30) == 0, shown.decode()
    return shown.decode()


def test_a_bar_shows_rate_and_time_left(repository):
    shown = run_in_terminal("-c", WORK, PYTHONPATH=str(repository))
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "half [way]\r\n" in plain
    assert re.search(r"Training \[b\] [━╸╺ ]+ +2\d/40 +\d+(\.\d+)? step/s +\d\d:\d\d +loss 0\.0\d", plain)
    assert re.search(r"✓ Training \[b\] ━{24} 40/40 \d+(\.\d+)? step/s 00:0\d loss 0\.03 *\r\n", plain)
    assert re.search(r"✓ Reading ━{24} 7/7 ", plain), "an unknown total is known at the end"
    assert "\x1b[3" in shown, "there is colour"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor comes back"


def test_no_color_is_heeded(repository):
    shown = run_in_terminal("-c", WORK, PYTHONPATH=str(repository), NO_COLOR="1")
    assert "40/40" in shown
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9](;[0-9;]*)?m", shown)


def test_a_table_on_a_terminal_cuts_nothing(repository, tmp_path):
    shown = run_in_terminal("-m", "medvqa_cli", "plugins", "list", PYTHONPATH=str(repository), COLUMNS="60",
                            MEDVQA_CONFIG_HOME=str(tmp_path))
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert "…" not in plain
    assert max(map(len, plain.splitlines())) <= 60
    assert "llava" in plain


def test_an_error_in_a_terminal_is_not_wrapped(repository):
    shown = run_in_terminal("-c", "from medvqa_cli.cli.terminal import Terminal\n"
                            "from medvqa_cli.errors import DataError\n"
                            "Terminal().fail(DataError('long ' * 40 + 'end', 'do [x]'))", PYTHONPATH=str(repository))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\r\n")
    assert lines == ["error: " + "long " * 40 + "end", "hint: do [x]", ""]


def test_a_picture_is_drawn_with_half_blocks(tmp_path):
    path = tmp_path / "x.png"
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 1, 4, 2))
    image.paste((0, 255, 0), (0, 2, 4, 4))
    image.save(path)
    text = render_picture(path, 10**6, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀"
    colours = [(span.style.color.triplet.hex, span.style.bgcolor.triplet.hex) for span in text.spans]
    assert colours == [("#ff0000", "#0000ff")] * 4 + [("#00ff00", "#00ff00")] * 4


@pytest.mark.parametrize(("size", "rows"), [((100, 50), 10), ((50, 100), 40), ((1000, 1), 1)])
def test_a_picture_keeps_its_shape(tmp_path, size, rows):
    path = tmp_path / "x.png"
    Image.new("RGB", size).save(path)
    lines = render_picture(path, 10**6, 40).plain.split("\n")
    assert (len(lines), {len(line) for line in lines}) == (rows, {40})


def test_a_table_in_a_pipe_is_aligned_text(capsys):
    Terminal().print_table(["a", "long"], [["x" * 5, [1, 2]], [None, 0.123456], [True, ()]])
    assert capsys.readouterr().out == "a      long\nxxxxx  1, 2\n-      0.1235\nTrue   -\n"


def test_facts_are_indented(capsys):
    terminal = Terminal()
    terminal.print_tree({"a": 1, "b": {"c": [1, 2], "d": {}}, "e": None})
    assert capsys.readouterr().out == "a: 1\nb:\n  c: 1, 2\n  d: -\ne: -\n"


def test_names_that_are_no_unicode_are_shown(tmp_path, repository):
    name = os.fsdecode(b"caf\xe9")
    code = f"from medvqa_cli.cli.terminal import Terminal\nTerminal().print_tree({{'name': {name!r}}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=repository)
    assert done.stdout == b"name: caf\\udce9\n"
