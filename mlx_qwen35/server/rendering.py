"""Answers' Markdown as HTML, for the page: by a process of its own, which is ended when a text takes too long.

Parsers of Markdown, of TeX and of programs' texts all have inputs that keep them busy for hours, some of them inside
one regular expression, which no other thread of a Python process can interrupt. Nor does rendering take time from
the thread that writes tokens.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from mlx_qwen35.server.preparing import PreparingThreads
from mlx_qwen35.server.wire import WireObject, invalid_request

RENDER_PATH = "/render"
# Without -P, a json.py where the server was started would be imported.
COMMAND = (sys.executable, "-P", "-m", "mlx_qwen35.server.markdown")
MAX_TEXT = 200_000
# For one text, and with those that came before it.
SECONDS = 3.0
PATIENCE = 15.0
# For the process to be there.
START = 60.0


class RenderRequest(WireObject):
    """What the page asks for."""

    text: str = Field(max_length=MAX_TEXT)
    partial: bool = False


class RenderProcess:
    """The process, started with the first text, and anew after it was ended.

    Args:
        command: What to run; it answers "ready" and then each line with a line.
        seconds: That it may take for a text.
    """

    def __init__(self, command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> None:
        self._command, self.seconds = command, seconds
        self._process: subprocess.Popen[str] | None = None
        self._lock, self._threads = threading.Lock(), PreparingThreads()

    async def render(self, wanted: RenderRequest) -> list[dict[str, Any]]:
        """The blocks of a text; see `render_markdown`.

        Raises:
            ApiError: It takes too long, or has no HTML of a reasonable size.
            RequestTimeoutError: Earlier ones take too long.
        """
        return await self._threads.run(self._render, wanted, deadline=time.monotonic() + PATIENCE)

    def _render(self, wanted: RenderRequest) -> list[dict[str, Any]]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            answer = self._ask(json.dumps({"text": wanted.text, "partial": wanted.partial}), self.seconds)
        if answer is None:
            message = f"text: expected Markdown that is rendered within {self.seconds:g} seconds"
            raise invalid_request(message, "text")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise invalid_request(found["error"], "text")
        blocks: list[dict[str, Any]] = found["blocks"]
        return blocks

    def _start(self) -> None:
        self._end()
        # A session of its own: Ctrl-C in a terminal is for the server, which ends it by closing its input.
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
        )
        if self._ask(None, START) != "ready\n":
            self._end()
            raise RuntimeError("the process that renders Markdown did not start")

    def _ask(self, line: str | None, seconds: float) -> str | None:
        """The process's next line; None, and no process any more, if it takes longer or has ended."""
        process, late = self._process, threading.Event()
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            if line is not None:
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
            timer.join()
        if answer.endswith("\n") and not late.is_set():
            return answer
        self._end()
        return answer if answer.endswith("\n") else None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()
