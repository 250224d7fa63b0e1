"""`python -m medvqa_cli`: the command line, and what torchrun and accelerate launch."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from typer.main import get_command

    from medvqa_cli.cli.app import app

    get_command(app).main(prog_name="medvqa")


if __name__ == "__main__":
    main()
