"""Weights of a checkpoint onto a model."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.errors import CheckpointError


def load_weights(model: Any, checkpoint: Checkpoint) -> None:
    """Give a model a checkpoint's weights, left on disk until `materialise`; only on the thread that owns MLX.

    Args:
        model: Without weights; its `sanitize` knows the checkpoint's layouts.
    Raises:
        CheckpointError: A weight file is damaged, or the tensors do not fit config.json; lists them.
    """
    # Both are slow to import.
    import mlx.nn as nn
    from mlx_lm.utils import infer_quant_config

    with naming(checkpoint.directory):
        weights = model.sanitize(read_tensors(checkpoint.weight_files()))

        def stored_quantised(path: str, module: nn.Module) -> bool | dict[str, Any]:
            if not hasattr(module, "to_quantized") or f"{path}.scales" not in weights:
                return False
            # Its shapes say how a tensor was quantised, whatever the names in config.json.
            return dict(infer_quant_config(path, module, weights))

        nn.quantize(model, class_predicate=stored_quantised)
        model.eval()
        model.load_weights(list(weights.items()))
    _check_backend(model, checkpoint.directory)


def read_tensors(files: list[Path]) -> dict[str, Any]:
    """The tensors of some safetensors files, left on disk until they are used."""
    import mlx.core as mx

    tensors: dict[str, Any] = {}
    for path in files:
        tensors.update(mx.load(str(path)))  # type: ignore[arg-type]
    return tensors


def materialise(model: Any, directory: Path, chunk_bytes: int = 2**30) -> Generator[None, None, None]:
    """Read a lazily loaded model's weights, about a gigabyte a step; only on the thread that owns MLX.

    Raises:
        CheckpointError: A weight file is damaged.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    chunk: list[Any] = []
    with naming(directory):
        for value in dict(tree_flatten(model.parameters())).values():
            chunk.append(value)
            if sum(part.nbytes for part in chunk) >= chunk_bytes:
                mx.eval(chunk)
                chunk = []
                yield
        mx.eval(chunk)


def _check_backend(model: Any, directory: Path) -> None:
    """MLX's CPU backend has no expert multiplication in half precision; it would fail in mid-answer."""
    import mlx.core as mx
    from mlx_lm.models.switch_layers import SwitchLinear

    if mx.default_device() != mx.Device(mx.cpu):
        return
    if any(
        isinstance(module, SwitchLinear) and module.weight.dtype != mx.float32 for _, module in model.named_modules()
    ):
        raise CheckpointError(
            f"{directory}: expected float32 or quantised experts on the CPU backend, found half precision; "
            "convert it with --dtype float32 or --bits 8"
        )


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Say which checkpoint, or which of its files, an error of the loading libraries is about."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"{place}: {error}") from error
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{place}: the weights cannot be loaded: {error}") from error
