"""`mlx-qwen35 bench`: what things cost."""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.options import add_model_name, model_of
from mlx_qwen35.errors import OptionError

if TYPE_CHECKING:
    from mlx_qwen35.bench import serve
    from mlx_qwen35.bench.speed import Case, Figures
    from mlx_qwen35.bench.turns import Cost
    from mlx_qwen35.model_kit import ModelKit

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
    turns.add_argument(
        "--agent",
        action="store_true",
        help="a coding agent's tool loop over HTTP instead, with a line that changes and a counter in every request",
    )
    _add_common(turns, run_turns, against="measure its server too", repeats="runs; times are medians")
    start = measurements.add_parser(
        "start",
        help="importing, --help, and the first token of a new process",
        description="How long importing takes, the help of the generate command, and a whole process that loads the "
        "model and writes one token; other runtimes by their own commands.",
    )
    add_model_name(start)
    _add_common(start, run_start, repeats="counted runs of each, after one that is not")
    _add_speed(measurements)
    _add_serve(measurements)


def _add_common(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    *,
    repeats: str,
    against: str = "measure it too",
) -> None:
    """The flags of every measurement."""
    parser.add_argument("--against", action="append", default=[], choices=PARENTS, help=f"{against}; repeatable")
    parser.add_argument("--repeats", type=int, default=3, help=repeats)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


class Table:
    """A Markdown table on standard output, row by row as figures come.

    Args:
        head: A title for each column.
        align: For each column, "l" for words and "r" for numbers.
        shown: Whether it is printed at all; JSON takes its place.
    """

    def __init__(self, head: Sequence[str], align: str, *, shown: bool) -> None:
        self._shown = shown
        self.row(*head)
        if shown:
            print("|" + "|".join({"l": "---", "r": "--:"}[side] for side in align) + "|")

    def row(self, *cells: object) -> None:
        """One row; an empty cell is a single space."""
        if self._shown:
            print("|" + "|".join(f" {cell} " if str(cell) else " " for cell in cells) + "|", flush=True)


def _print_json(report: Mapping[str, object]) -> None:
    json.dump(report, sys.stdout, indent=1)
    print()


def _cell(text: str, ratio: float | None) -> str:
    """A figure, and how this package compares, where there is something to compare with."""
    return text if ratio is None else f"{text} ({ratio:.2f})"


def run_start(options: argparse.Namespace) -> None:
    """Print how long it takes to begin."""
    from PIL import Image

    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import start
    from mlx_qwen35.checkpoints.files import Checkpoint
    from mlx_qwen35.checkpoints.hub import find_checkpoint

    repeats = whole_number("--repeats", options.repeats, 1)
    checkpoint = Checkpoint.open(find_checkpoint(model_of(options)))
    with tempfile.TemporaryDirectory() as place:
        picture = Path(place, "red.png") if checkpoint.config.vision is not None else None
        if picture is not None:
            Image.new("RGB", (224, 224), "red").save(picture)
        found = start.measure(checkpoint.directory, options.against, repeats, picture)
    if options.json:
        _print_json({"repeats": repeats, "seconds": found})
    names = ("mlx-qwen35", *options.against)
    table = Table(("", *names), "l" + "r" * len(names), shown=not options.json)
    for measurement, times in found.items():
        table.row(measurement, *(f"{times[name]:.2f} s" if name in times else "" for name in names))


def _add_speed(measurements: Any) -> None:
    speed = measurements.add_parser(
        "speed",
        help="reading prompts and writing tokens",
        description="Tokens per second, time to first token, time per decoded token and peak memory, for prompts of "
        "several lengths, with images, and for several rows at once. Other runtimes take turns with this one in the "
        "same process; figures are medians.",
    )
    _add_source(speed)
    speed.add_argument("--lengths", type=_numbers, default=None, metavar="N,N", help="tokens of text prompts")
    speed.add_argument("--images", type=_numbers, default=None, metavar="N,N", help="numbers of images; 0 for none")
    speed.add_argument("--batches", type=_numbers, default=None, metavar="N,N", help="rows; 1 is what text prompts are")
    speed.add_argument("--side", type=int, default=512, help="width and height of an image in pixels")
    speed.add_argument("--tokens", type=int, default=32, help="tokens to write")
    speed.add_argument("--plot", metavar="FILE.svg", help="draw the reading speed")
    counted = "counted runs of each, after one that is not; what takes over a minute is run once"
    _add_common(speed, run_speed, repeats=counted)


def _add_source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="checkpoint directory or hub id; default: as everywhere")
    source.add_argument("--synthetic", metavar="SIZE", help="random weights in the shapes of 0.8b, 35b-a3b, ...")
    parser.add_argument("--layers", type=int, help="of a synthetic checkpoint, in place of the published number")
    parser.add_argument("--hidden", type=int, help="hidden size of a synthetic checkpoint")
    parser.add_argument("--dtype", help="of a synthetic checkpoint: float32 (default), bfloat16 or float16")


def _check_source(options: argparse.Namespace) -> None:
    for name in ("layers", "hidden", "dtype"):
        if getattr(options, name) is not None and options.synthetic is None:
            raise OptionError(f"--{name}: expected with --synthetic, found without it")


@contextmanager
def _source(options: argparse.Namespace) -> "Iterator[Path]":
    """The checkpoint to measure, gone afterwards if it was made for it."""
    from mlx_qwen35.bench.synthetic import write_synthetic
    from mlx_qwen35.checkpoints.hub import find_checkpoint

    if options.synthetic is None:
        yield find_checkpoint(model_of(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_synthetic(
            Path(folder) / "synthetic",
            options.synthetic,
            layers=options.layers,
            hidden=options.hidden,
            dtype=options.dtype or "float32",
        )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"expected numbers like 128,1024, found {text!r}")
    return found


def run_speed(options: argparse.Namespace) -> None:
    """Print the table of reading and writing speeds."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import speed
    from mlx_qwen35.bench.plot import bars

    repeats = whole_number("--repeats", options.repeats, 1)
    tokens = whole_number("--tokens", options.tokens, 2)
    side = whole_number("--side", options.side, 32)
    _check_source(options)
    if options.plot and not Path(options.plot).parent.is_dir():
        raise OptionError(f"--plot: expected a folder that is there, found {Path(options.plot).parent}")
    lengths = speed.LENGTHS if options.lengths is None else options.lengths
    images = speed.IMAGES if options.images is None else options.images
    batches = speed.BATCHES if options.batches is None else options.batches
    with _source(options) as model:

        def make(kit: "ModelKit") -> "Iterator[Case]":
            return speed.cases(
                kit,
                lengths=[length for length in lengths if length],
                images=[count for count in images if count],
                batches=batches,
                side=side,
                tokens=tokens,
            )

        head = ("case", "runtime", "prompt", "first token", "per token", "peak")
        table = Table(head, "llrrrr", shown=not options.json)

        def show(case: str, found: "dict[str, Figures]") -> None:
            for name, figures in found.items():
                table.row(case, name, *_speed_cells(figures, speed.ratios(found, name)))

        results = speed.measure(model, options.against, make, repeats, show)
    if options.plot:
        Path(options.plot).write_text(
            bars({case: {name: f.prompt_tps for name, f in found.items()} for case, found in results.items()})
        )
    if options.json:
        _print_json({"repeats": repeats, "cases": _with_ratios(results, speed.ratios)})


def _speed_cells(figures: "Figures", ratios: Mapping[str, float]) -> list[str]:
    prompt, first, peak = figures.prompt_tps, figures.first_token, figures.peak
    return [
        "" if prompt is None else _cell(f"{prompt:.0f} tok/s", ratios.get("prompt")),
        "" if first is None else f"{first * 1000:.0f} ms",
        _cell(f"{figures.per_token * 1000:.2f} ms", ratios.get("per_token")),
        "" if peak is None else _cell(f"{peak / 2**20:.0f} MiB", ratios.get("peak")),
    ]


def _with_ratios(
    results: Mapping[Any, dict[str, Any]], ratios: Callable[[dict[str, Any], str], dict[str, float]]
) -> dict[Any, dict[str, dict[str, Any]]]:
    """Results for JSON, those of other runtimes with how this package compares."""
    return {
        case: {
            name: dataclasses.asdict(figures) | ({"ratios": compared} if (compared := ratios(found, name)) else {})
            for name, figures in found.items()
        }
        for case, found in results.items()
    }


def _add_serve(measurements: Any) -> None:
    serve = measurements.add_parser(
        "serve",
        help="several requests at once to a server",
        description="Tokens per second of all answers together and time to first token, for several numbers of "
        "requests that begin at once, from this package's server and those of other runtimes, which run side by side "
        "and are asked in turns. Prompts are new in every turn; figures are medians.",
    )
    _add_source(serve)
    serve.add_argument("--requests", type=_numbers, default=None, metavar="N,N", help="at once; default: 1,2,4,8")
    serve.add_argument("--prompt-tokens", type=int, default=128, help="tokens of a question, at least")
    serve.add_argument("--tokens", type=int, default=64, help="tokens to write")
    _add_common(serve, run_serve, repeats="counted runs of each, after one that is not")


def run_serve(options: argparse.Namespace) -> None:
    """Print the table of requests at once."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import serve

    at_once = serve.AT_ONCE if options.requests is None else options.requests
    for count in at_once:
        whole_number("--requests", count, 1)
    repeats = whole_number("--repeats", options.repeats, 1)
    prompt_tokens = whole_number("--prompt-tokens", options.prompt_tokens, 1)
    tokens = whole_number("--tokens", options.tokens, 2)
    _check_source(options)
    with _source(options) as model:
        head = ("requests", "server", "prompt", "answer", "all together", "first token")
        table = Table(head, "rlrrrr", shown=not options.json)

        def show(count: int, found: "dict[str, serve.Figures]") -> None:
            for name, figures in found.items():
                against = serve.ratios(found, name)
                speed = _cell(f"{figures.tokens_per_second:.0f} tok/s", against.get("tokens_per_second"))
                first = _cell(f"{figures.first_token * 1000:.0f} ms", against.get("first_token"))
                table.row(count, name, figures.prompt_tokens, figures.tokens, speed, first)

        results = serve.measure(
            model,
            options.against,
            at_once,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            repeats=repeats,
            on_case=show,
        )
    if options.json:
        _print_json({"repeats": repeats, "requests": _with_ratios(results, serve.ratios)})


def run_turns(options: argparse.Namespace) -> None:
    """Print the table of a conversation's turns."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import parents, turns
    from mlx_qwen35.bench.conversation import write_conversation
    from mlx_qwen35.checkpoints.files import Checkpoint
    from mlx_qwen35.checkpoints.hub import find_checkpoint
    from mlx_qwen35.prompts.tokenizer import Tokenizer

    directory = find_checkpoint(model_of(options))
    tokenizer = Tokenizer(directory)

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    if options.agent:
        _run_agent(directory, count, options)
        return
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
        _print_json({"model": str(directory), "repeats": options.repeats, "steps": rows})
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
        _print_json({"model": str(directory), "repeats": repeats, "requests": rows})
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


def _turn_cell(cost: "Cost") -> str:
    images = "" if cost.images_encoded is None else f"{cost.images_encoded}, "
    return f"{cost.prefilled}, {images}{cost.seconds * 1000:.0f} ms"
