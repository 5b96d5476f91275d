"""Run as a process of its own by test_faults: all kinds of work within a memory limit, looking at every event.

Prints how much the ledger and MLX held at most, and the limit.
"""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.mtp_heads import read_mtp_head
from mlx_qwen35.runtime.memory import MemoryGuard
from mlx_qwen35.runtime.request import Event
from mlx_qwen35.state.kv_quantization import KvQuantization
from tests.tiny import IDS

# The longest sequence that there is room for, read in small steps.
TOKENS = 1500
OPTIONS: dict[str, Any] = {"temperature": 0.0, "logit_bias": {5: 100.0}}


def main(directory: Path, session: Path, speculate: str, kv_bits: int | None) -> None:
    checkpoint = Checkpoint.open(directory)
    kv = None if kv_bits is None else KvQuantization(kv_bits)
    guard = MemoryGuard.of(checkpoint.config, checkpoint.weight_files(), 10**12, kv)
    if speculate == "mtp":
        head = read_mtp_head(checkpoint)
        assert head is not None
        guard = guard.with_drafts(3, sum(tensor.nbytes for tensor in head.tensors.values()), 1)
        del head
    limit = guard.needs(TOKENS, 64)
    kit = ModelKit.load(directory, memory_limit=limit, prompt_cache_bytes=limit, speculate=speculate, kv_bits=kv_bits)
    mx.reset_peak_memory()
    held: list[int] = []

    def look(*_: object) -> None:
        held.append(kit.ledger.held)

    random = np.random.default_rng(1)

    def ids(count: int) -> list[int]:
        return [int(token) for token in random.integers(0, 300, count)]

    for length in (900, 300, 1400):
        for _ in kit.stream(ids(length), max_tokens=4, on_progress=look, **OPTIONS):
            look()
    for _ in zip(*(kit.stream(ids(length), max_tokens=30, **OPTIONS) for length in (200, 100)), strict=True):
        look()
    _together(kit, ids, look)
    messages = [{"role": "user", "content": "the quick brown fox " * 10}, {"role": "assistant", "content": "yes"}]
    kit.prefill_ahead(messages, on_progress=look)
    look()
    kit.save_session(session)
    look()
    kit.load_session(session)
    look()
    kit.generate([*messages, {"role": "user", "content": "go on"}], max_tokens=4, **OPTIONS)
    look()
    kit.logits(kit.process_prompt(ids(60)))
    look()
    kit.close()
    print(len(held) > 100, max(held), mx.get_peak_memory(), limit)


def _together(kit: ModelKit, ids: Callable[[int], list[int]], look: Callable[[], None]) -> None:
    """Four requests with an image each in an engine."""
    ends: list[Event] = []
    done = threading.Semaphore(0)

    def sink(event: Event) -> None:
        look()
        if isinstance(event, BaseException) or getattr(event, "finish_reason", None) is not None:
            ends.append(event)
            done.release()

    engine = Engine(kit, max_rows=3)
    requests = []
    for number in range(4):
        image = Image.new("RGB", (160 + 32 * number, 128), (30 * number, 0, 0))
        one = [IDS["<|vision_start|>"], IDS["<|image_pad|>"], IDS["<|vision_end|>"]]
        prompt = kit.process_prompt([*ids(30 + 20 * number), *one, *ids(20)], images=[image])
        requests.append(kit.request(prompt, max_tokens=20, **OPTIONS))
    # All are prepared by now: an image that is decoded while requests run may find no memory for it.
    for request in requests:
        engine.submit(request, sink)
    for _ in range(4):
        assert done.acquire(timeout=60)
    engine.close()
    assert not any(isinstance(event, BaseException) for event in ends), ends


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]) or None)
