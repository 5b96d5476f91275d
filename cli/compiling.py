"""What a user is told when MLX compiles its CPU kernels, which may take half a minute before the first token."""

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from weakref import ref

MESSAGE = (
    "mlx-qwen35: MLX compiles its kernels for this machine's processor with g++, which takes a while; "
    "it keeps them for the next time"
)


def compiler_runs() -> bool:
    """Whether a child of this process is the C++ compiler that MLX calls, once for each kernel it does not have yet.

    Source:
        MLX 0.32.4, backend/cpu/jit_compiler.cpp: `g++ ...` through popen. Linux tells what children there are.
    """
    for listed in Path("/proc/self/task").glob("*/children"):
        # A thread or a child that is gone in the next moment.
        with suppress(OSError):
            for child in listed.read_text().split():
                if b"g++" in Path("/proc", child, "cmdline").read_bytes():
                    return True
    return False


def watch_compiler(kit: object, seconds: float = 0.5) -> None:
    """As long as there is a kit, say on stderr that MLX compiles as soon as it does; once.

    Args:
        seconds: How often to look.
    """
    import mlx.core as mx

    if sys.platform == "linux" and mx.default_device() == mx.Device(mx.cpu):
        threading.Thread(target=_watch, args=(ref(kit), seconds), name="compiler watch", daemon=True).start()


def _watch(kit: "ref[object]", seconds: float) -> None:
    while kit() is not None:
        if compiler_runs():
            print(MESSAGE, file=sys.stderr, flush=True)
            return
        time.sleep(seconds)
