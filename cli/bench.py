"""`mlx-qwen35 bench`: what things cost."""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.options import add_model_name, model_of

if TYPE_CHECKING:
    from mlx_qwen35.bench.turns import Cost

PARENTS = ("mlx-lm", "mlx-vlm")


def add_parser(commands: Any) -> None:
    """Declare the command and its measurements."""
    parser = commands.add_parser("bench", help="measure", description="Measure what things cost.")
    measurements = parser.add_subparsers(dest="measurement", metavar="MEASUREMENT", required=True)
    turns = measurements.add_parser(
        "turns",
        help="a conversation, turn by turn",
        description="Tokens read, images encoded and time to first token in every turn of a scripted conversation: "
        "cold, with nothing kept; warm, with the prompt cache; ahead, where the last answer is read again while the "
        "user types. mlx-lm gets the conversation without its images, which it cannot read.",
    )
    add_model_name(turns)
    turns.add_argument("--against", action="append", default=[], choices=PARENTS, help="measure its server too")
    turns.add_argument("--repeats", type=int, default=3, help="runs; times are medians")
    turns.add_argument("--json", action="store_true", help="print one JSON object")
    turns.set_defaults(run=run_turns)


def run_turns(options: argparse.Namespace) -> None:
    """Print the table of a conversation's turns."""
    from mlx_qwen35.bench import parents, turns
    from mlx_qwen35.bench.conversation import write_conversation
    from mlx_qwen35.checkpoint import Checkpoint, find_checkpoint
    from mlx_qwen35.sampling import whole_number
    from mlx_qwen35.tokenizer import Tokenizer

    directory = find_checkpoint(model_of(options))
    tokenizer = Tokenizer(directory)

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    images = Checkpoint.open(directory).config.vision is not None
    steps = write_conversation(count, images=images)
    columns = turns.measure(directory, steps, whole_number("--repeats", options.repeats, 1))
    cold = columns["cold"]
    for parent in options.against:
        plain = write_conversation(count, images=images and parent == "mlx-vlm")
        columns[parent] = parents.measure(parent, directory, plain, options.repeats)
    if options.json:
        rows = [
            {"turn": step.turn, "name": step.name}
            | {name: dataclasses.asdict(costs[number]) for name, costs in columns.items()}
            for number, step in enumerate(steps)
        ]
        json.dump({"model": str(directory), "repeats": options.repeats, "steps": rows}, sys.stdout, indent=1)
        print()
        return
    print("| turn | | prompt | " + " | ".join(f"{name}: read, images, first token" for name in columns) + " |")
    print("|--:|---|--:|" + "--:|" * len(columns))
    for number, step in enumerate(steps):
        cells = " | ".join(_cell(costs[number]) for costs in columns.values())
        print(f"| {step.turn} | {step.name} | {cold[number].prompt_tokens} | {cells} |")
    ratios = [f"{cold[-1].seconds / costs[-1].seconds:.1f} ({name})" for name, costs in columns.items()]
    print(f"\nTime to first token on the last turn, cold against each: {', '.join(ratios)}")


def _cell(cost: "Cost") -> str:
    images = "" if cost.images_encoded is None else f"{cost.images_encoded}, "
    return f"{cost.prefilled}, {images}{cost.seconds * 1000:.0f} ms"
