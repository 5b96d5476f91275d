"""`mlx-qwen35 models`: the checkpoints in the hub's cache."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from mlx_qwen35.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from mlx_qwen35.cached import CachedModel


def add_parser(commands: Any) -> None:
    """Declare the command and what it does."""
    parser = commands.add_parser(
        "models",
        help="list, download and remove checkpoints",
        description="The Qwen3.5-class checkpoints in the hub's cache, which HF_HOME moves; without more, list them.",
    )
    parser.set_defaults(run=run_list, json=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser(
        "list",
        aliases=["ls"],
        help="what is there",
        description="Size, bits, pictures, MTP module, and whether it fits into this machine's memory.",
    )
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    listing.set_defaults(run=run_list)
    pull = actions.add_parser("pull", help="download one", description="Download a checkpoint, or what is new of it.")
    pull.add_argument("id", metavar="ID", help="hub id, like mlx-community/Qwen3.5-4B-MLX-4bit")
    pull.add_argument("--revision", help="branch, tag or commit; default: main")
    pull.set_defaults(run=run_pull)
    remove = actions.add_parser(
        "rm", aliases=["remove"], help="remove one", description="Remove a checkpoint from the hub's cache."
    )
    remove.add_argument("id", metavar="ID", help="hub id, as the list has it")
    remove.add_argument("--yes", "-y", action="store_true", help="do not ask")
    remove.set_defaults(run=run_remove)


def run_list(options: argparse.Namespace) -> None:
    """Print a table, or JSON."""
    from mlx_qwen35.cached import cache_directory, cached_models

    found = cached_models()
    if options.json:
        print(json.dumps({"directory": str(cache_directory()), "models": [model.facts() for model in found]}))
        return
    if not found:
        print(f"No Qwen3.5-class checkpoint in {cache_directory()}; mlx-qwen35 models pull ID downloads one.")
        return
    _print_table(found)
    print(f"in {cache_directory()}")


def _print_table(models: "list[CachedModel]") -> None:
    rows = [("model", "size", "bits", "pictures", "MTP", "fits"), *(row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def row(model: "CachedModel") -> tuple[str, ...]:
    """One line of the table."""
    size = f"{model.size / 1e9:.1f} GB"
    if model.problem is not None:
        return (model.id, size, "", "", "", model.problem)
    yes = {True: "yes", False: "no"}
    fits = "yes" if model.fits else f"no: {model.needs / 1e9:.1f} GB needed, {model.limit / 1e9:.1f} GB there"
    return (model.id, size, model.bits, yes[model.vision], yes[model.mtp], fits)


def run_pull(options: argparse.Namespace) -> None:
    """Download, and say what came.

    Raises:
        CheckpointError: It came, and cannot be loaded.
    """
    from mlx_qwen35.cached import describe, pull

    found = describe(options.id, pull(options.id, options.revision))
    if found.problem is not None:
        raise CheckpointError(f"{options.id}: downloaded, and cannot be loaded: {found.problem}")
    _print_table([found])


def run_remove(options: argparse.Namespace) -> None:
    """Ask, and remove.

    Raises:
        OptionError: It is not there, or nobody can be asked.
    """
    from mlx_qwen35.cached import find_cached

    entry = find_cached(options.id)
    if not options.yes:
        if not asks():
            raise OptionError("models rm: expected a terminal to ask on, or --yes")
        answer = input(f"Remove {options.id}, {entry.size_on_disk / 1e9:.1f} GB, from the cache? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            print("kept")
            return
    freed = entry.remove()
    print(f"removed {options.id}, {freed / 1e9:.1f} GB")


def asks() -> bool:
    """Whether there is somebody who can answer."""
    return sys.stdin.isatty()
