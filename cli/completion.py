"""`mlx-qwen35 completion`: what a shell needs to complete commands, flags and paths."""

import argparse
from typing import Any

SHELLS = ("bash", "zsh", "fish")
_FILES = {"PATH", "FILE", "FILE.svg", "DIRECTORY", "DIR", "MODEL", "OUT"}


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "completion",
        help="complete commands in a shell",
        description="Print what a shell needs to complete commands, flags and paths.",
        epilog='bash: eval "$(mlx-qwen35 completion bash)" in ~/.bashrc; '
        "zsh: mlx-qwen35 completion zsh > a file _mlx-qwen35 in a directory of $fpath; "
        "fish: mlx-qwen35 completion fish > ~/.config/fish/completions/mlx-qwen35.fish",
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    from mlx_qwen35.cli.main import build_parser

    parser = build_parser()
    for action in all_actions(parser):
        if (action.metavar or action.dest.upper()) in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=options.shell))


def all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Every flag and argument, of every command."""
    found: list[argparse.Action] = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            found += [below for command in action.choices.values() for below in all_actions(command)]
    return found
