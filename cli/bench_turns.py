"""`mlx-qwen35 bench turns`: a conversation, turn by turn."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.options import add_model_name, model_of
from mlx_qwen35.cli.sources import sees
from mlx_qwen35.cli.tables import Table, add_common, print_json
from mlx_qwen35.errors import OptionError

if TYPE_CHECKING:
    from mlx_qwen35.bench.turns import Cost


def add_turns(measurements: Any) -> None:
    """Declare the measurement."""
    turns = measurements.add_parser(
        "turns",
        help="a conversation, turn by turn",
        description="Tokens read, images encoded and time to first token in every turn of a scripted conversation: "
        "cold, with nothing kept; warm, with the prompt cache; ahead, where the last answer is read again while the "
        "user types. mlx-lm gets the conversation without its images, which it cannot read.",
    )
    add_model_name(turns)
    turns.add_argument(
        "--agent",
        action="store_true",
        help="a coding agent's tool loop over HTTP instead, with a line that changes and a counter in every request",
    )
    turns.add_argument(
        "--restart",
        action="store_true",
        help="the next turn of a long conversation instead, after its server was restarted, and after it was killed",
    )
    turns.add_argument("--tokens", type=int, help="of that conversation, at least; default: 20000")
    add_common(turns, run_turns, against="measure its server too", repeats="runs; times are medians")


def run_turns(options: argparse.Namespace) -> None:
    """Print the table of a conversation's turns."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import parents, turns
    from mlx_qwen35.bench.conversation import write_conversation
    from mlx_qwen35.checkpoints.hub import find_checkpoint
    from mlx_qwen35.prompts.tokenizer import Tokenizer

    directory = find_checkpoint(model_of(options))
    tokenizer = Tokenizer(directory)

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    if options.tokens is not None and not options.restart:
        raise OptionError(f"--tokens: expected with --restart, found {options.tokens} without")
    if options.agent and options.restart:
        raise OptionError("--restart: expected none with --agent, which is another measurement")
    if options.agent:
        _run_agent(directory, count, options)
        return
    if options.restart:
        _run_restart(directory, count, options)
        return
    images = sees(directory)
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
        print_json({"model": str(directory), "repeats": options.repeats, "steps": rows})
        return
    head = ("turn", "", "prompt", *(f"{name}: read, images, first token" for name in columns))
    table = Table(head, "rlr" + "r" * len(columns), shown=True)
    for number, step in enumerate(steps):
        cells = [_turn_cell(costs[number]) for costs in columns.values()]
        table.row(step.turn, step.name, cold[number].prompt_tokens, *cells)
    ratios = [f"{cold[-1].seconds / costs[-1].seconds:.1f} ({name})" for name, costs in columns.items()]
    print(f"\nTime to first token on the last turn, cold against each: {', '.join(ratios)}")


def _run_agent(directory: Path, count: Callable[[str], int], options: argparse.Namespace) -> None:
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import agent

    repeats = whole_number("--repeats", options.repeats, 1)
    columns = agent.measure(directory, agent.write_requests(count), options.against, repeats)
    own = next(iter(columns.values()))
    if options.json:
        rows = {name: [dataclasses.asdict(cost) for cost in costs] for name, costs in columns.items()}
        print_json({"model": str(directory), "repeats": repeats, "requests": rows})
        return
    head = ("request", "prompt", "new", *(f"{name}: read, first token" for name in columns))
    table = Table(head, "rrr" + "r" * len(columns), shown=True)
    before = 0
    for number, cost in enumerate(own, 1):
        cells = [_turn_cell(costs[number - 1]) for costs in columns.values()]
        table.row(number, cost.prompt_tokens, cost.prompt_tokens - before, *cells)
        before = cost.prompt_tokens
    totals = [f"{sum(c.prefilled for c in costs)} ({name})" for name, costs in columns.items()]
    print(f"\nTokens read in all: {', '.join(totals)}")


def _run_restart(directory: Path, count: Callable[[str], int], options: argparse.Namespace) -> None:
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import restart

    repeats = whole_number("--repeats", options.repeats, 1)
    tokens = restart.TOKENS if options.tokens is None else whole_number("--tokens", options.tokens, 1)
    if options.against:
        raise OptionError("--against: expected none with --restart, for no other server keeps what it read")
    images = sees(directory)
    turns = restart.write_turns(count, tokens, images=images)
    with restart.with_context(directory, tokens + 4096) as model:
        found = restart.measure(model, turns, repeats)
    if options.json:
        costs = {name: dataclasses.asdict(cost) for name, (cost,) in found.items()}
        print_json({"model": str(directory), "repeats": repeats, "next_turn": costs})
        return
    table = Table(("the next turn", "prompt", "read", "first token", "of cold"), "lrrrr", shown=True)
    for name, (cost,) in found.items():
        share = cost.seconds / found["cold"][0].seconds
        table.row(name, cost.prompt_tokens, cost.prefilled, f"{cost.seconds * 1000:.0f} ms", f"{share:.3f}")


def _turn_cell(cost: "Cost") -> str:
    images = "" if cost.images_encoded is None else f"{cost.images_encoded}, "
    return f"{cost.prefilled}, {images}{cost.seconds * 1000:.0f} ms"
