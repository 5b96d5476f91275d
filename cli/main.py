"""`mlx-qwen35`: the commands, and what becomes of errors."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mlx_qwen35 import __version__
from mlx_qwen35.errors import CheckpointWarning, Qwen35Error

OK, USER_ERROR, INTERRUPTED = 0, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; nothing heavy is imported to build it."""
    from mlx_qwen35.cli import bench, chat, completion, convert, doctor, generate, launch, models, serve
    from mlx_qwen35.cli.options import Parser

    parser = Parser(
        prog="mlx-qwen35",
        description="Run Qwen3.5, text and images, on Apple silicon with MLX.",
        epilog="mlx-qwen35 COMMAND --help has the flags of a command.",
    )
    parser.add_argument("--version", "-V", action="version", version=f"mlx-qwen35 {__version__}")
    parser.set_defaults(run=lambda options: parser.print_help())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in (chat, generate, serve, launch, models, convert, doctor, bench, completion):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 for what the user can mend, after one line on stderr; 130 after Ctrl-C. Anything
        unexpected keeps its traceback.
    """
    _open_streams()
    # A progress bar of transformers for every load says nothing to a user of this command.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        with _plain_warnings():
            options.run(options)
        sys.stdout.flush()
    except Qwen35Error as error:
        print(f"mlx-qwen35: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as in `| head`: nothing is wrong.
        _forget_output()
    except OSError as error:  # a full disk, a directory that may not be written
        print(f"mlx-qwen35: {error}", file=sys.stderr)
        _forget_output()
        return USER_ERROR
    return OK


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings about a checkpoint as errors are shown, without the place in the code."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **further: Any) -> None:
            if issubclass(category, CheckpointWarning):
                print(f"mlx-qwen35: {message}", file=sys.stderr)
            else:
                others(message, category, *place, **further)

        warnings.showwarning = show
        yield


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; `launch` has what stands behind -- as `arguments`."""
    own, further = list(arguments), []
    if own[:1] == ["launch"] and "--" in own:
        at = own.index("--")
        own, further = own[:at], own[at + 1 :]
    from mlx_qwen35.cli.habits import FLAG_COMMANDS, wrong_beginning

    if own and own[0] in FLAG_COMMANDS:  # `help chat` is `chat --help`
        own = [*own[1:], FLAG_COMMANDS[own[0]]]
    parser = build_parser()
    if wrong := wrong_beginning(own):
        parser.error(wrong)
    options = parser.parse_args(own)
    if further:
        options.arguments = further
    return options


def _open_streams() -> None:
    """Have all three standard streams, and none that an answer's characters break.

    One that the caller closed leads nowhere: the next file that is opened would take its number. What an output's
    encoding lacks is escaped, as Python does on stderr.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Send what is still buffered nowhere: flushing it at exit would fail again."""
    with suppress(OSError):  # no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
