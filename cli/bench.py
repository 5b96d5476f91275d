"""`mlx-qwen35 bench`: what things cost."""

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.bench_kv import add_kv
from mlx_qwen35.cli.bench_profile import add_profile
from mlx_qwen35.cli.bench_turns import add_turns
from mlx_qwen35.cli.options import add_model_name, model_of
from mlx_qwen35.cli.sources import add_source, check_source, numbers, sees, source
from mlx_qwen35.cli.tables import Table, add_common, cell, print_json, refuse
from mlx_qwen35.errors import OptionError

if TYPE_CHECKING:
    from mlx_qwen35.bench import serve
    from mlx_qwen35.bench.drafts import Gain, Task
    from mlx_qwen35.bench.speed import Case, Figures
    from mlx_qwen35.model_kit import ModelKit
    from mlx_qwen35.runtime.speculation import Speculate


def add_parser(commands: Any) -> None:
    """Declare the command and its measurements."""
    parser = commands.add_parser("bench", help="measure", description="Measure what things cost.")
    parser.set_defaults(run=lambda options: parser.print_help())
    measurements = parser.add_subparsers(dest="measurement", metavar="MEASUREMENT")
    add_turns(measurements)
    start = measurements.add_parser(
        "start",
        help="importing, --help, and the first token of a new process",
        description="How long importing takes, the help of the generate command, and a whole process that loads the "
        "model and writes one token; other runtimes by their own commands.",
    )
    add_model_name(start)
    add_common(start, run_start, repeats="counted runs of each, after one that is not")
    _add_speed(measurements)
    _add_serve(measurements)
    add_kv(measurements)
    add_profile(measurements)
    _add_video(measurements)


def run_start(options: argparse.Namespace) -> None:
    """Print how long it takes to begin."""
    from PIL import Image

    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import start
    from mlx_qwen35.checkpoints.hub import find_checkpoint

    repeats = whole_number("--repeats", options.repeats, 1)
    directory = find_checkpoint(model_of(options))
    with tempfile.TemporaryDirectory() as place:
        picture = Path(place, "red.png") if sees(directory) else None
        if picture is not None:
            Image.new("RGB", (224, 224), "red").save(picture)
        found = start.measure(directory, options.against, repeats, picture)
    if options.json:
        print_json({"repeats": repeats, "seconds": found})
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
    add_source(speed)
    speed.add_argument(
        "--lengths", type=numbers, metavar="N,N",
        help="tokens of text prompts; default: 128,1024,4096,16384, with --speculate 128,1024",
    )  # fmt: skip
    speed.add_argument(
        "--images", type=numbers, metavar="N,N",
        help="numbers of images; 0 for none; default: 1,4, with --speculate 1",
    )  # fmt: skip
    speed.add_argument(
        "--batches", type=numbers, metavar="N,N",
        help="rows; 1 is what text prompts are; default: 1,2,4,8, with --speculate 2,4",
    )  # fmt: skip
    speed.add_argument("--side", type=int, help="width and height of an image in pixels; default: 512")
    speed.add_argument("--tokens", type=int, help="tokens to write; default: 32")
    speed.add_argument(
        "--speculate", type=_modes, default=(), metavar="MODE,MODE",
        help="measure speculative decoding in place of that: answers with mtp, lookup or auto beside those without, "
        "and what verifying so many tokens costs; default: not",
    )  # fmt: skip
    speed.add_argument(
        "--verify-only", action="store_true",
        help="print only what a step over several tokens costs, with all of its tokens kept and with one",
    )  # fmt: skip
    speed.add_argument(
        "--draft-tokens", type=int, metavar="N", help="tokens that are drafted at once, up to 7; default: as everywhere"
    )
    speed.add_argument("--plot", metavar="FILE.svg", help="draw the reading speed; default: not")
    counted = "counted runs of each, after one that is not; what takes over a minute is run once"
    add_common(speed, run_speed, repeats=counted)


def _modes(text: str) -> "tuple[Speculate, ...]":
    from mlx_qwen35.runtime.speculation import check_speculation

    try:
        return tuple(check_speculation(mode, None, exact=False)[0] for mode in text.split(","))
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run_drafts(options: argparse.Namespace, model: Path, repeats: int) -> None:
    """Print the tables of what speculative decoding gains and costs."""
    from mlx_qwen35.bench import drafts

    table = Table(("task", "drafts", "tokens/s", "processor", "a step", "right"), "llrrrr", shown=not options.json)

    def show(task: str, found: "dict[str, Gain]") -> None:
        for name, gain in found.items():
            plain = found["off"]
            ratio = None if name == "off" else gain.tps / plain.tps
            share = None if name == "off" else gain.processor / plain.processor
            right = " ".join(f"{often:.0%}" for often in gain.right)
            table.row(
                task,
                name,
                cell(f"{gain.tps:.0f}", ratio),
                cell(f"{gain.processor * 1000:.2f} ms", share),
                f"{gain.tokens_per_step:.2f}" if gain.tokens_per_step else "",
                right,
            )

    def make(kit: "ModelKit") -> "Iterator[Task]":
        return drafts.tasks(
            kit,
            lengths=options.lengths or (128, 1024),
            images=options.images or (1,),
            batches=options.batches or (2, 4),
        )

    beside = "mlx-vlm" in options.against
    results = drafts.measure(
        model, options.speculate, make, repeats, draft_tokens=options.draft_tokens, beside=beside, on_task=show
    )
    if not options.json:
        print()
    costs = run_verify(options, model, repeats)
    if options.json:
        tasks = {
            task: {mode: dataclasses.asdict(gain) for mode, gain in found.items()} for task, found in results.items()
        }
        print_json({"repeats": repeats, "tasks": tasks, **costs})


def run_verify(options: argparse.Namespace, model: Path, repeats: int) -> dict[str, dict[int, Any]]:
    """Print and return what a step over several tokens costs, and the drafts; ten of each kind for every repeat."""
    from mlx_qwen35.bench.drafts import draft_costs, verify_costs
    from mlx_qwen35.model_kit import ModelKit as Kit

    with Kit.load(model, prompt_cache_bytes=0, speculate="auto") as kit:
        costs, drafts = verify_costs(kit, repeats=10 * repeats), draft_costs(kit, repeats=10 * repeats)
    head = ("tokens of a step", "all stay", "all but one go", "the module's drafts")
    table = Table(head, "rrrr", shown=not options.json)
    for width, times in costs.items():
        cells = [cell(f"{seconds * 1000:.2f} ms", seconds / costs[1][0]) for seconds in (*times, drafts.get(width, 0))]
        table.row(width, *cells[:2], cells[2] if width in drafts else "")
    return {"verify_seconds": costs, "draft_seconds": drafts}


def run_speed(options: argparse.Namespace) -> None:
    """Print the table of reading and writing speeds."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import speed
    from mlx_qwen35.bench.plot import bars

    repeats = whole_number("--repeats", options.repeats, 1)
    if options.verify_only:
        names = ("speculate", "lengths", "images", "batches", "side", "tokens", "draft_tokens", "plot", "against")
        refuse(options, "with --verify-only", *names)
    elif options.speculate:
        refuse(options, "with --speculate", "side", "tokens", "plot")
        if "mlx-lm" in options.against:
            raise OptionError("--against: expected mlx-vlm with --speculate, found mlx-lm, which has no drafts")
    else:
        refuse(options, "without --speculate", "draft_tokens")
    tokens = whole_number("--tokens", speed.TOKENS if options.tokens is None else options.tokens, 2)
    side = whole_number("--side", speed.SIDE if options.side is None else options.side, 32)
    check_source(options)
    if options.plot and not Path(options.plot).parent.is_dir():
        raise OptionError(f"--plot: expected a folder that is there, found {Path(options.plot).parent}")
    lengths = speed.LENGTHS if options.lengths is None else options.lengths
    images = speed.IMAGES if options.images is None else options.images
    batches = speed.BATCHES if options.batches is None else options.batches
    with source(options) as model:
        if options.verify_only:
            costs = run_verify(options, model, repeats)
            if options.json:
                print_json({"repeats": repeats, **costs})
            return
        if options.speculate:
            run_drafts(options, model, repeats)
            return

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
        print_json({"repeats": repeats, "cases": _with_ratios(results, speed.ratios)})


def _add_video(measurements: Any) -> None:
    video = measurements.add_parser(
        "video",
        help="reading clips",
        description="Tokens per second, time to first token and peak memory for clips of several lengths, in turns "
        "with mlx-vlm, with the same pixels; whether all wrote the same tokens; and what a second question about the "
        "longest clip costs. Clips come as pixels, so decoding a file is not measured.",
    )
    add_source(video)
    video.add_argument("--frames", type=numbers, metavar="N,N", help="of the clips; default: 16,64,128")
    video.add_argument("--side", type=int, default=128, help="width and height of a frame in pixels")
    video.add_argument("--tokens", type=int, help="tokens to write; default: 16")
    video.add_argument(
        "--pieces", type=numbers, default=None, metavar="N,N",
        help="measure the vision tower alone in place of that, with so many pairs of frames at once; default: not",
    )  # fmt: skip
    add_common(video, run_video, repeats="counted runs of each, after one that is not")


def run_video(options: argparse.Namespace) -> None:
    """Print the tables of clips, and of the second question."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import speed, video

    repeats = whole_number("--repeats", options.repeats, 1)
    if options.pieces:
        refuse(options, "with --pieces", "tokens", "against")
    tokens = whole_number("--tokens", video.TOKENS if options.tokens is None else options.tokens, 2)
    side = whole_number("--side", options.side, 32)
    frames = options.frames or video.FRAMES
    for count in (*frames, *(options.pieces or ())):
        whole_number("--frames, --pieces", count, 1)
    check_source(options)
    with source(options) as model:
        if options.pieces:
            _show_pieces(options, video.piece_speeds(model, max(frames), side, options.pieces))
            return
        ends: set[int] = set()

        def make(kit: "ModelKit") -> "Iterator[Case]":
            ends.update(kit.tokenizer.eos_token_ids)
            return video.cases(kit, frames=frames, side=side, tokens=tokens)

        head = ("clip", "runtime", "prompt", "first token", "per token", "peak", "tokens")
        table = Table(head, "llrrrrl", shown=not options.json)

        def show(case: str, found: "dict[str, Figures]") -> None:
            own = next(iter(found.values())).tokens
            for name, figures in found.items():
                same, compared = video.alike(own, figures.tokens, ends)
                told = "" if figures.tokens is own else f"{same} of {compared} the same"
                table.row(case, name, *_speed_cells(figures, speed.ratios(found, name)), told)

        results = speed.measure(model, options.against, make, repeats, show)
        questions = video.second_question(model, max(frames), side)
    if options.json:
        asked = [dataclasses.asdict(question) for question in questions]
        print_json({"repeats": repeats, "clips": _with_ratios(results, speed.ratios), "questions": asked})
    else:
        print()
    titles = (f"question about {max(frames)} frames", "tokens read", "frames encoded", "first token")
    table = Table(titles, "lrrr", shown=not options.json)
    for name, question in zip(("the first", "the second"), questions, strict=True):
        table.row(name, question.read, question.frames_encoded, f"{question.first_token * 1000:.0f} ms")


def _show_pieces(options: argparse.Namespace, found: Mapping[int, tuple[float, int]]) -> None:
    if options.json:
        print_json(
            {"pieces": {count: {"patches_per_second": speed, "peak": peak} for count, (speed, peak) in found.items()}}
        )
    table = Table(("pairs at once", "patches per second", "peak"), "rrr", shown=not options.json)
    for count, (speed, peak) in found.items():
        table.row(count, f"{speed:.0f}", f"{peak / 2**20:.0f} MiB")


def _speed_cells(figures: "Figures", ratios: Mapping[str, float]) -> list[str]:
    prompt, first, peak = figures.prompt_tps, figures.first_token, figures.peak
    return [
        "" if prompt is None else cell(f"{prompt:.0f} tok/s", ratios.get("prompt")),
        "" if first is None else f"{first * 1000:.0f} ms",
        "" if math.isnan(figures.per_token) else cell(f"{figures.per_token * 1000:.2f} ms", ratios.get("per_token")),
        "" if peak is None else cell(f"{peak / 2**20:.0f} MiB", ratios.get("peak")),
    ]


def _with_ratios(
    results: Mapping[Any, dict[str, Any]], ratios: Callable[[dict[str, Any], str], dict[str, float]]
) -> dict[Any, dict[str, dict[str, Any]]]:
    """Results for JSON, those of other runtimes with how this package compares."""
    return {
        case: {
            name: _plain(figures) | ({"ratios": compared} if (compared := ratios(found, name)) else {})
            for name, figures in found.items()
        }
        for case, found in results.items()
    }


def _plain(figures: Any) -> dict[str, Any]:
    """Figures for JSON, which has no number that is none."""
    found = dataclasses.asdict(figures).items()
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in found}


def _add_serve(measurements: Any) -> None:
    serve = measurements.add_parser(
        "serve",
        help="several requests at once to a server",
        description="Tokens per second of all answers together and time to first token, for several numbers of "
        "requests that begin at once, from this package's server and those of other runtimes, which run side by side "
        "and are asked in turns. Prompts are new in every turn; figures are medians.",
    )
    add_source(serve)
    serve.add_argument("--requests", type=numbers, default=None, metavar="N,N", help="at once; default: 1,2,4,8")
    serve.add_argument("--prompt-tokens", type=int, default=128, help="tokens of a question, at least")
    serve.add_argument("--tokens", type=int, default=64, help="tokens to write")
    add_common(serve, run_serve, repeats="counted runs of each, after one that is not")


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
    check_source(options)
    with source(options) as model:
        head = ("requests", "server", "prompt", "answer", "all together", "first token")
        table = Table(head, "rlrrrr", shown=not options.json)

        def show(count: int, found: "dict[str, serve.Figures]") -> None:
            for name, figures in found.items():
                against = serve.ratios(found, name)
                speed = cell(f"{figures.tokens_per_second:.0f} tok/s", against.get("tokens_per_second"))
                first = cell(f"{figures.first_token * 1000:.0f} ms", against.get("first_token"))
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
        print_json({"repeats": repeats, "requests": _with_ratios(results, serve.ratios)})
