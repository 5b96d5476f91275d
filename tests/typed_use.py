"""Uses of the public names that mypy has to accept or, where a line says what is wrong with it, to refuse.

Nothing here runs: mypy reads it, and in its strict mode an error that is expected and does not come is one.
"""

import mlx.core as mx
import numpy as np

from mlx_qwen35 import GenerationOptions, GenerationResult, ModelKit, OptionError


def right(kit: ModelKit, options: GenerationOptions) -> GenerationResult:
    for chunk in kit.stream([{"role": "user", "content": "Hi"}], max_tokens=3, on_progress=None):
        print(chunk.text)
    kit.generate("Hi", temperature=0.5, top_k=20, seed=1, stop=["."])
    kit.generate(kit.process_prompt("Hi"), **options)
    kit.generate(np.array([1, 2]))
    kit.process_prompt(mx.array([1, 2]))
    try:
        return kit.chat("Hi", images=["a.png"], enable_thinking=False, reasoning_effort="low", thinking_budget=9)
    except OptionError:
        raise


async def one_by_one(kit: ModelKit) -> str:
    return "".join([chunk.text async for chunk in kit.stream("Hi", temperature=0.5)])


def wrong(kit: ModelKit) -> None:
    kit.generate("Hi", temprature=0.5)  # type: ignore[call-arg]
    kit.stream("Hi", max_token=3)  # type: ignore[call-arg]
    kit.chat("Hi", enable_thinkin=False)  # type: ignore[call-arg]
    kit.request("Hi", on_progress=None)  # type: ignore[call-arg]
    kit.generate("Hi", top_p="high")  # type: ignore[arg-type]
    kit.chat("Hi", reasoning_effort="lwo")  # type: ignore[arg-type]
    ModelKit("path/or/hub-id")  # type: ignore[arg-type]
