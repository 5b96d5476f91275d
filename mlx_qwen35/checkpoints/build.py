"""Weights of a checkpoint onto a model."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.layouts import canonical_name
from mlx_qwen35.checkpoints.reading import is_file, read_json
from mlx_qwen35.checkpoints.stored import quantisation_of
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

    from mlx_qwen35.checkpoints.global_scales import add_global_scales

    with naming(checkpoint.directory):
        weights = model.sanitize(read_checkpoint(checkpoint))

        def stored_quantised(path: str, module: nn.Module) -> bool | dict[str, Any]:
            if not hasattr(module, "to_quantized") or f"{path}.scales" not in weights:
                return False
            # Its shapes say how a tensor was quantised, whatever the names in config.json.
            return quantisation_of(path, module.weight.shape[-1], weights)

        nn.quantize(model, class_predicate=stored_quantised)
        add_global_scales(model, weights)
        model.eval()
        model.load_weights(list(weights.items()))


def read_tensors(files: Iterable[Path], weight_map: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The tensors of some safetensors files, left on disk until they are used.

    Args:
        weight_map: The name of the file that each tensor is to be taken from, as an index has it.
    Raises:
        CheckpointError: Two files hold the same tensor, and no index says which to take.
    """
    import mlx.core as mx

    tensors: dict[str, Any] = {}
    # By canonical name, because a file that is left over may be of another layout.
    places: dict[str, tuple[str, Path]] = {}
    for path in files:
        for name, value in mx.load(str(path)).items():  # type: ignore[union-attr]
            other, first = places.get(_same_everywhere(name), (name, path))
            if first != path:
                right = {(weight_map or {}).get(known) for known in (name, other)} & {first.name, path.name}
                if len(right) != 1:
                    raise CheckpointError(
                        f"tensor {name}: expected in one file, found in {first.name} and in {path.name}; move away "
                        "the file that is left over, or let model.safetensors.index.json name the right one"
                    )
                if path.name not in right:
                    continue
                del tensors[other]
            places[_same_everywhere(name)] = (name, path)
            tensors[name] = value
    return tensors


def _same_everywhere(name: str) -> str:
    try:
        return canonical_name(name)
    except CheckpointError:
        return name  # which is refused, with all others, by who gives it its meaning


def read_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """All tensors of a checkpoint, under the names that they have there, left on disk until they are used.

    Raises:
        CheckpointError: See `read_tensors`.
    """
    index = checkpoint.directory / "model.safetensors.index.json"
    files = checkpoint.weight_files()  # which refuses an index that is none
    return read_tensors(files, read_json(index)["weight_map"] if is_file(index) else None)


def materialise(model: Any, directory: Path, chunk_bytes: int = 2**30) -> Generator[None, None, None]:
    """Read a lazily loaded model's weights, about a gigabyte a step; only on the thread that owns MLX.

    Raises:
        CheckpointError: A weight file is damaged.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten

    chunk: list[Any] = []
    # Nobody widens the model any more, and what is not read keeps its file open.
    getattr(model, "_half_offsets", {}).clear()
    with naming(directory):
        for value in dict(tree_flatten(model.parameters())).values():
            chunk.append(value)
            if sum(part.nbytes for part in chunk) >= chunk_bytes:
                mx.eval(chunk)
                chunk = []
                yield
        mx.eval(chunk)


def check_backend(model: Any, directory: Path) -> None:
    """MLX's CPU backend has no expert multiplication in half precision; it would fail in mid-answer.

    Args:
        model: Or a module of one, in the precision that it is to compute in.
    Raises:
        CheckpointError: It has such experts.
    """
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
    except (ArithmeticError, LookupError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{place}: the weights cannot be loaded: {error}") from error
