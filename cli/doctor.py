"""`mlx-qwen35 doctor`: what a checkpoint is, and whether it works here."""

import argparse
import dataclasses
import json
from typing import Any

from mlx_qwen35.cli.options import MODEL_HELP, add_model_name, model_of
from mlx_qwen35.errors import OptionError, Qwen35Error


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor",
        help="examine a checkpoint",
        description="Report what a checkpoint holds and needs, then load it and check that it works.",
    )
    parser.add_argument("directory", nargs="?", metavar="MODEL", help=MODEL_HELP)
    add_model_name(parser)  # as every other command has it
    parser.add_argument("--no-check", action="store_true", help="only report, do not load the weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the report; a failed check is an error of the user's checkpoint."""
    from mlx_qwen35.doctor import examine, self_check

    if options.directory and options.model:
        raise OptionError(f"--model: expected one checkpoint, found {options.directory} and {options.model}")
    options.model = options.directory or options.model
    model = model_of(options)
    report = examine(model)
    if not options.json:
        gib = 2**30
        quantised = report.quantization and {k: v for k, v in report.quantization.items() if not isinstance(v, dict)}
        lengths = sorted({min(length, report.context_length) for length in (4096, 32768, report.context_length)})
        memory = ", ".join(f"{report.memory(length) / gib:.2f} GiB with {length} tokens" for length in lengths)
        rows = {
            "checkpoint": report.directory,
            "model type": report.model_type,
            "layout": report.layout,
            "tensors": ", ".join(f"{count} {name}" for name, count in sorted(report.dtypes.items())),
            "quantisation": ", ".join(f"{key} {value}" for key, value in (quantised or {}).items()) or "none",
            "vision": "yes" if report.vision else "no",
            "MTP": "yes" if report.mtp else "no",
            "weights": f"{report.parameters_bytes / gib:.2f} GiB",
            "memory": f"{memory}; images and reading the prompt come on top",
            "versions": ", ".join(f"{name} {value}" for name, value in report.versions.items()),
        }
        for name, value in rows.items():
            print(f"{name + ':':<14}{value}")
        for note in report.notes:
            print(note)
    checks = [] if options.no_check else self_check(model)
    if options.json:
        whole = {**dataclasses.asdict(report), "checks": [dataclasses.asdict(check) for check in checks]}
        print(json.dumps(whole, default=str, ensure_ascii=False))
    else:
        for check in checks:
            print(f"{'ok' if check.passed else 'FAILED'}: {check.name} ({check.found})")
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise Qwen35Error(f"{model}: the self-check failed: {'; '.join(failed)}")
