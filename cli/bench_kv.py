"""`mlx-qwen35 bench kv`: quantised keys and values."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.sources import add_source, check_source, numbers, source
from mlx_qwen35.cli.tables import Table, cell, print_json

if TYPE_CHECKING:
    from mlx_qwen35.bench.kv import Step


def add_kv(measurements: Any) -> None:
    """Declare the measurement."""
    kv = measurements.add_parser(
        "kv",
        help="quantised keys and values",
        description="The time of a token behind long contexts and the bytes of their keys and values, as they are and "
        "with 8 and 4 bits, in turns; and how far logits and greedy answers are off.",
    )
    add_source(kv)
    kv.add_argument("--contexts", type=numbers, default=None, metavar="N,N", help="tokens; default: 1024,4096,16384")
    kv.add_argument("--kv-group-size", type=int, choices=(32, 64, 128), default=64, help="default: 64")
    kv.add_argument("--tokens", type=int, default=32, help="tokens that are timed behind each context")
    kv.add_argument("--json", action="store_true", help="print one JSON object")
    kv.set_defaults(run=run_kv)


def run_kv(options: argparse.Namespace) -> None:
    """Print what quantising costs and saves, and how far it is off."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import kv
    from mlx_qwen35.model_kit import ModelKit

    check_source(options)
    tokens = whole_number("--tokens", options.tokens, 1)
    contexts = kv.CONTEXTS if options.contexts is None else options.contexts
    for context in contexts:
        whole_number("--contexts", context, 2)
    steps: dict[int, dict[str, Step]] = {}
    with source(options) as model:
        # Refused here if the heads cannot be cut into such groups.
        with ModelKit.load(model, kv_bits=8, kv_group_size=options.kv_group_size, prompt_cache_bytes=0) as kit:
            table = Table(("context", "keys and values", "per token", "memory"), "rlrr", shown=not options.json)
            for context in contexts:
                steps[context] = kv.measure_steps(kit, context, options.kv_group_size, tokens)
                _show(table, context, steps[context])
        errors = kv.measure_errors(model, options.kv_group_size)
    if options.json:
        report = {
            str(context): {name: dataclasses.asdict(step) for name, step in found.items()}
            for context, found in steps.items()
        }
        print_json({"steps": report, "errors": {name: dataclasses.asdict(error) for name, error in errors.items()}})
        return
    print()
    head = ("keys and values", "largest error", "mean error", "same choice", "same greedy tokens")
    table = Table(head, "lrrrr", shown=True)
    for name, error in errors.items():
        same = f"{error.same_tokens} of {error.tokens}"
        table.row(name, f"{error.largest:.2%}", f"{error.mean:.3%}", f"{error.same_choice:.2%}", same)


def _show(table: Table, context: int, found: "Mapping[str, Step]") -> None:
    plain = next(iter(found.values()))
    for name, step in found.items():
        ratios = (step.seconds / plain.seconds, step.nbytes / plain.nbytes) if step is not plain else (None, None)
        seconds, size = f"{step.seconds * 1000:.2f} ms", f"{step.nbytes / 2**20:.1f} MiB"
        table.row(context, name, cell(seconds, ratios[0]), cell(size, ratios[1]))
