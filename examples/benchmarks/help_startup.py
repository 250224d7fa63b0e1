"""What `medvqa --help` costs against a bare Typer command with Rich.

    python examples/benchmarks/help_startup.py

Each is started in a fresh process, turn by turn; the median is taken. The bar is 1.5 times.
Last run (2 CPU cores, Python 3.11, typer 0.29.2, rich 15.0.0): bare 0.185 s, `medvqa --help` 0.197 s (1.06 times),
`medvqa data list` 0.181 s, `medvqa train sft --help` 0.251 s.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

BARE = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str = "world") -> None:
    "Say hello."
app()
"""
COMMANDS = {
    "bare Typer --help": ["-c", BARE, "--help"],
    "medvqa --help": ["-m", "medvqa_cli", "--help"],
    "medvqa data list": ["-m", "medvqa_cli", "data", "list"],
    "medvqa train sft --help": ["-m", "medvqa_cli", "train", "sft", "--help"],
}
ROUNDS = 15
BAR = 1.5


def measure(arguments: list[str]) -> float:
    """Return the wall time of one fresh process, in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    """Print the medians as JSON; the exit code is 1 if `--help` is over the bar."""
    for arguments in COMMANDS.values():
        measure(arguments)  # once unmeasured: writes bytecode, warms the disk
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            times[name].append(measure(arguments))
    seconds = {name: round(statistics.median(values), 3) for name, values in times.items()}
    ratio = round(seconds["medvqa --help"] / seconds["bare Typer --help"], 2)
    print(json.dumps({"seconds": seconds, "ratio": ratio, "bar": BAR}, indent=2))
    return int(ratio > BAR)


if __name__ == "__main__":
    sys.exit(main())
