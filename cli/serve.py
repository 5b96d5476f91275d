"""`mlx-qwen35 serve`: an OpenAI- and Anthropic-compatible server."""

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_qwen35.cli.options import (
    KEY_VARIABLE,
    add_answer_flags,
    add_model_flags,
    generation_arguments,
    load_kit,
    model_of,
    rendering_arguments,
    size,
)
from mlx_qwen35.errors import OptionError
from mlx_qwen35.paths import expand

if TYPE_CHECKING:
    from mlx_qwen35.server.generation import AnswerDefaults
    from mlx_qwen35.server.settings import Settings

PORT = 8080


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve", help="answer over HTTP", description="An OpenAI- and Anthropic-compatible server over one model."
    )
    add_model_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0 takes a free one")
    parser.add_argument(
        "--api-key",
        help=f"let in only who sends this key; default: {KEY_VARIABLE}, where others cannot see it, or everybody",
    )
    parser.add_argument(
        "--served-model-name",
        action="append",
        metavar="NAME",
        help="what requests call the model; repeatable; default: its directory's name",
    )
    # The further names are those of mlx-lm's and mlx-vlm's servers.
    parser.add_argument(
        "--max-rows", "--decode-concurrency", "--max-num-seqs", type=int,
        help="requests that are answered at the same time; default: 32",
    )  # fmt: skip
    parser.add_argument("--max-waiting", type=int, help="further requests that wait; beyond, 429; default: 64")
    parser.add_argument(
        "--prefill-step-size", type=int, help="tokens of a prompt between two tokens of others; default: 512"
    )
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that an answer may take; default: 600")
    parser.add_argument(
        "--max-body", type=size, default=64 * 2**20, metavar="SIZE", help="of a request; default: 64MiB"
    )
    parser.add_argument(
        "--allowed-hosts", nargs="+", default=[], metavar="NAME",
        help="further names that clients may call this machine by, * for any; default: localhost, .local and addresses",
    )  # fmt: skip
    parser.add_argument(
        "--allowed-origins", nargs="+", type=origins, default=[], metavar="ORIGIN",
        help="pages of other origins that may ask, like https://chat.example; * for any; default: none",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="refuse fields that would change nothing")
    parser.add_argument("--strict-model", action="store_true", help="refuse other names of the model than its own")
    parser.add_argument(
        "--free-tool-calls", action="store_true", help="hold calls to functions that are not strict to no schema"
    )
    parser.add_argument("--max-stored", type=int, default=256, help="responses that are kept by id; default: 256")
    parser.add_argument(
        "--max-stored-bytes", type=size, default=64 * 2**20, metavar="SIZE", help="all of them; default: 64MiB"
    )
    _add_media_limits(parser)
    add_answer_flags(parser.add_argument_group("answers", "where a request says nothing else"))
    parser.add_argument(
        "--log-level", type=str.lower, choices=("debug", "info", "warning", "error"), default="info",
        help="from where on the log tells; default: info",
    )  # fmt: skip
    parser.set_defaults(run=run)


def _add_media_limits(parser: argparse.ArgumentParser) -> None:
    """Where images and videos may come from, and how many."""
    parser.add_argument(
        "--allow-remote-media", action="store_true", help="fetch images and videos from public web addresses"
    )
    parser.add_argument(
        "--allow-local-media",
        type=Path,
        metavar="DIR",
        help="images and videos below it may be named; default: none",
    )
    parser.add_argument("--max-images", type=int, default=16, help="images in one request; default: 16")
    parser.add_argument("--max-videos", type=int, default=4, help="videos in one request; default: 4")
    parser.add_argument(
        "--max-video-bytes", type=size, default=100 * 2**20, metavar="SIZE",
        help="of one video, which has to fit into --max-body where it is a data: URL; default: 100MiB",
    )  # fmt: skip


def origins(text: str) -> list[str]:
    """Origins as browsers write them: one, or several with commas between them."""
    found = [one.strip().rstrip("/").lower() for one in text.split(",")]
    for one in found:
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+", one):
            raise argparse.ArgumentTypeError(f"expected an origin like https://chat.example, found {one!r}")
    return found


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted; what is running then is finished.

    Raises:
        OptionError: A flag is out of range, the address cannot be had, or the server extra is not installed.
    """
    try:
        from mlx_qwen35.server.app import Server, make_app
        from mlx_qwen35.server.listening import close, is_open, listen, url_of
        from mlx_qwen35.server.media import MediaPolicy
        from mlx_qwen35.server.service import GenerationService
    except ImportError as error:
        raise OptionError(
            f"serve: expected the server extra (pip install '.[server]' in the checkout), {error}"
        ) from error
    from mlx_qwen35 import Engine

    if not options.timeout > 0:
        raise OptionError(f"timeout: expected a number above 0, found {options.timeout}")
    directory = options.allow_local_media and expand(options.allow_local_media, OptionError, "allow_local_media")
    policy = MediaPolicy(
        options.allow_remote_media, directory, max_images=options.max_images,
        max_videos=options.max_videos, max_video_bytes=options.max_video_bytes,
    )  # fmt: skip
    settings, defaults = settings_of(options), defaults_of(options)
    limits = {name: getattr(options, name) for name in ("max_rows", "max_waiting", "prefill_step_size")}
    sockets = listen(options.host, options.port)
    # When uvicorn has stopped after a signal, it raises that signal once more: as an exception here, so that
    # engine and kit are closed.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        if is_open(sockets) and settings.api_key is None:
            _tell(f"--host {options.host} lets in who reaches this machine, and no key is set; {KEY_VARIABLE} sets one")
        with load_kit(options) as kit:
            engine = Engine(kit, **{name: value for name, value in limits.items() if value is not None})
            service = GenerationService(
                engine, policy, timeout=options.timeout, defaults=defaults, hold_calls=not options.free_tool_calls
            )
            service.make_grammars_soon()
            app = make_app(service, settings)
            url = url_of(options.host, sockets[0].getsockname()[1])
            server = Server(
                app, engine, patience=min(30.0, options.timeout),
                on_ready=lambda: tell_addresses(url, settings.names[0]), log_level=options.log_level,
            )  # fmt: skip
            try:
                server.run(sockets)
            finally:
                engine.close(timeout=0)
    finally:
        signal.signal(signal.SIGTERM, before)
        close(sockets)


def settings_of(options: argparse.Namespace) -> "Settings":
    """What the flags say about who may ask; names the model."""
    from mlx_qwen35.server.settings import Settings

    options.model = model_of(options)
    return Settings(
        options.served_model_name or [Path(options.model).name],
        api_key=options.api_key or os.environ.get(KEY_VARIABLE) or None,
        max_body=options.max_body,
        strict=options.strict,
        strict_model=options.strict_model,
        max_stored=options.max_stored,
        max_stored_bytes=options.max_stored_bytes,
        hosts=(options.host, *options.allowed_hosts),
        origins=[one for several in options.allowed_origins for one in several],
    )


def defaults_of(options: argparse.Namespace) -> "AnswerDefaults":
    """What the flags say about answers.

    Raises:
        OptionError: One is out of range.
    """
    from mlx_qwen35.server.generation import AnswerDefaults

    answering, rendering = generation_arguments(options), rendering_arguments(options)
    # The engine reads prompts of several requests in turns, in steps of its own.
    answering.pop("prefill_step_size", None)
    budget = answering.pop("thinking_budget", None)
    return AnswerDefaults(
        answering, rendering["enable_thinking"], rendering["reasoning_effort"], budget,
        rendering["chat_template_kwargs"],
    )  # fmt: skip


def tell_addresses(url: str, name: str) -> None:
    """Where the page is, and what to enter in clients."""
    _tell(f"{name} answers at {url} (a page to try it; Ctrl-C ends it)")
    _tell(f"base URL for OpenAI's clients: {url}/v1, for Anthropic's: {url}")


def _tell(text: str) -> None:
    print(f"mlx-qwen35: {text}", file=sys.stderr, flush=True)
