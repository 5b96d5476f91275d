"""`mlx-qwen35 serve`: an OpenAI- and Anthropic-compatible server."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mlx_qwen35.cli.options import add_model_flags, load_kit, model_of, size
from mlx_qwen35.errors import OptionError

KEY_VARIABLE = "MLX_QWEN35_API_KEY"


def add_parser(commands: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve", help="answer over HTTP", description="An OpenAI- and Anthropic-compatible server over one model."
    )
    add_model_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=8080, help="default: 8080; 0 takes a free one")
    parser.add_argument(
        "--api-key", help=f"let in only who sends this key; better in {KEY_VARIABLE}, where others cannot see it"
    )
    parser.add_argument(
        "--served-model-name", action="append", metavar="NAME", help="what requests call the model; repeatable"
    )
    parser.add_argument("--max-rows", type=int, help="requests that are answered at the same time; default: 8")
    parser.add_argument("--max-waiting", type=int, help="further requests that wait; beyond, 429; default: 64")
    parser.add_argument("--prefill-step-size", type=int, help="tokens of a prompt between two tokens of others")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that an answer may take; default: 600")
    parser.add_argument(
        "--max-body", type=size, default=64 * 2**20, metavar="SIZE", help="of a request; default: 64MiB"
    )
    parser.add_argument(
        "--allowed-hosts", nargs="+", default=[], metavar="NAME",
        help="further names that clients may call this machine by, * for any; always: localhost, .local, addresses",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="refuse fields that would change nothing")
    parser.add_argument("--strict-model", action="store_true", help="refuse other names of the model than its own")
    parser.add_argument("--max-stored", type=int, default=256, help="responses that are kept by id; default: 256")
    parser.add_argument(
        "--max-stored-bytes", type=size, default=64 * 2**20, metavar="SIZE", help="all of them; default: 64MiB"
    )
    parser.add_argument("--allow-remote-media", action="store_true", help="fetch images from public web addresses")
    parser.add_argument("--allow-local-media", type=Path, metavar="DIR", help="read images below this directory")
    parser.add_argument("--max-images", type=int, default=16, help="images in one request; default: 16")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted; what is running then is finished.

    Raises:
        OptionError: A flag is out of range, or the server extra is not installed.
    """
    try:
        from mlx_qwen35.server.app import Server, make_app
        from mlx_qwen35.server.media import MediaPolicy
        from mlx_qwen35.server.service import GenerationService
        from mlx_qwen35.server.settings import Settings
    except ImportError as error:
        raise OptionError(f"serve: expected the server extra (pip install 'mlx-qwen35[server]'), {error}") from error
    from mlx_qwen35 import Engine

    if not options.timeout > 0:
        raise OptionError(f"timeout: expected a number above 0, found {options.timeout}")
    directory = options.allow_local_media
    policy = MediaPolicy(
        options.allow_remote_media, directory and directory.expanduser(), max_images=options.max_images
    )
    api_key = options.api_key or os.environ.get(KEY_VARIABLE)
    options.model = model_of(options)
    names = options.served_model_name or [Path(options.model).name]
    hosts = (options.host, *options.allowed_hosts)
    settings = Settings(
        names,
        api_key=api_key,
        max_body=options.max_body,
        strict=options.strict,
        strict_model=options.strict_model,
        max_stored=options.max_stored,
        max_stored_bytes=options.max_stored_bytes,
        hosts=hosts,
    )
    limits = {name: getattr(options, name) for name in ("max_rows", "max_waiting", "prefill_step_size")}
    with load_kit(options) as kit:
        engine = Engine(kit, **{name: value for name, value in limits.items() if value is not None})
        app = make_app(GenerationService(engine, policy, timeout=options.timeout), settings)
        patience = min(30.0, options.timeout)
        server = Server(
            app, engine, patience=patience, host=options.host, port=options.port, log_level=options.log_level
        )
        # When uvicorn has stopped after a signal, it raises that signal once more: as an exception here, so that
        # engine and kit are closed.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        try:
            server.run()
        finally:
            engine.close(timeout=0)
