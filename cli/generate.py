"""`mlx-qwen35 generate`: one prompt, one answer."""

import argparse
import dataclasses
import json
import os
import re
import stat
import sys
from typing import Any

from mlx_qwen35.cli.options import (
    add_generation_flags,
    add_media,
    add_model_flags,
    generation_arguments,
    load_kit,
    rendering_arguments,
    video_options,
)
from mlx_qwen35.errors import MediaError, OptionError
from mlx_qwen35.paths import expand, is_there, shorten


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="answer one prompt", description="Answer one prompt and exit.")
    add_model_flags(parser)
    parser.add_argument(
        "--prompt", "-p", metavar="TEXT",
        help="what to ask; - reads standard input; text of a pipe or a file stands before it; default: that text alone",
    )  # fmt: skip
    add_media(parser, "in order, images before videos")
    add_generation_flags(parser)
    parser.add_argument("--json", action="store_true", help="print the whole result as one JSON object")
    parser.set_defaults(run=run)


def read_prompt(given: str | None) -> str:
    """What to ask: the prompt that was given, behind the text that comes from a pipe or a file.

    Raises:
        OptionError: There is nothing, or what comes is not text.
    """
    piped = _read_input() if given == "-" or comes_by_itself() else ""
    parts = [part for part in (piped, "" if given in (None, "-") else given) if part and part.strip()]
    return "\n\n".join([part.rstrip("\n") for part in parts[:-1]] + parts[-1:])


def comes_by_itself() -> bool:
    """Whether standard input is a pipe or a file: there, something follows that ends.

    A socket, as remote shells and other programs leave it open, may never.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no file at all
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise OptionError(f"standard input: expected text, found {error}") from error


def check_media(options: argparse.Namespace) -> None:
    """Whether the files of pictures and videos are there, before a large model is loaded for nothing.

    Raises:
        MediaError: One is not. What URLs lead to, and what files hold, is seen when they are read.
    """
    for name in ("image", "video"):
        for path in getattr(options, name):
            if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", path) and not is_there(expand(path, MediaError, f"--{name}")):
                raise MediaError(f"--{name}: {shorten(path)}: No such file or directory")


def run(options: argparse.Namespace) -> None:
    """Answer one prompt on stdout."""
    text = read_prompt(options.prompt)
    if not text.strip() and not options.image and not options.video:
        raise OptionError("--prompt: expected some text, found none; a pipe's text counts too")
    parts = [{"type": "image", "image": path} for path in options.image]
    parts += [{"type": "video", "video": path, **video_options(options)} for path in options.video]
    messages: list[dict[str, Any]] = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    if options.system_prompt is not None:
        messages.insert(0, {"role": "system", "content": options.system_prompt})
    answering, rendering = generation_arguments(options), rendering_arguments(options)
    check_media(options)
    with load_kit(options) as kit:
        if options.json:
            prompt = kit.process_prompt(messages, **rendering)
            result = kit.generate(prompt, **answering)
            utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
            print(json.dumps(dataclasses.asdict(result), ensure_ascii=not utf8))
            return
        from mlx_qwen35.cli.screen import Screen

        screen = Screen()
        try:
            prompt = kit.process_prompt(messages, on_frames=screen.on_decoded, **rendering)
        finally:
            screen.end_progress()
        chunks = kit.stream(prompt, on_progress=screen.on_progress, on_frames=screen.on_frames, **answering)
        answered = False
        for chunk in screen.stream(chunks):
            answered = answered or bool(chunk.text)
            if chunk.stats is not None:
                stats, reason = chunk.stats, str(chunk.finish_reason)
        if screen.err.is_terminal:
            screen.status(stats, reason)
        if not answered and reason == "length":
            screen.say("the reasoning was cut before the answer began: raise --max-tokens, or use --no-think")
