"""The modules of mlx_lm and mlx_vlm that models are made of, without what those packages' own `__init__` imports.

`import mlx_lm.models.cache` runs mlx_lm's `__init__` first. It imports transformers and all that generates text, which
takes a second or more, and of which nothing is needed here; mlx_vlm's takes longer. Who imports those packages
afterwards gets them whole, with the same modules. Also which versions are installed.
"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from types import ModuleType

_importing = threading.RLock()

# Reading a distribution's metadata takes milliseconds, and what runs is what was there when the process began.
version = cache(metadata.version)
requires = cache(metadata.requires)


@cache
def import_decoder() -> None:
    """What decoders are made of; nothing where mlx_lm was imported already."""
    with _without_init("mlx_lm"):
        import mlx_lm.models.pipeline
        import mlx_lm.models.qwen3_5_moe
        import mlx_lm.sample_utils  # noqa: F401


@cache
def import_vision_tower() -> ModuleType:
    """mlx-vlm's `models/qwen3_vl/vision.py`, whose tower is that of Qwen3.5; any thread."""
    with _without_init("mlx_vlm", "mlx_vlm.models.qwen3_vl"):
        from mlx_vlm.models.qwen3_vl import vision
    found: ModuleType = vision
    return found


@contextmanager
def _without_init(*packages: str) -> Iterator[None]:
    """Inside, modules of these packages are imported as if their `__init__` were empty.

    Args:
        packages: Full names, outer ones first; those that were imported already stay as they are.
    """
    with _importing:
        stubs = [package for package in packages if _stub(package)]
        try:
            yield
        finally:
            for package in stubs:
                del sys.modules[package]
            if stubs:
                sys.meta_path.insert(0, _Whole(stubs))


def _stub(package: str) -> bool:
    """Put an empty package in its place, unless it is there already or no plain file."""
    if package in sys.modules:
        return False
    spec = find_spec(package)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        return False
    sys.modules[package] = module_from_spec(spec)
    return True


class _Whole(MetaPathFinder):
    """Finds packages whose modules were imported without them, and gives them those modules."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc."""
        spec = PathFinder.find_spec(fullname, path) if fullname in self._packages else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Runs a package's `__init__`, with the modules that are there bound to it as importing them would have."""

    def exec_module(self, module: ModuleType) -> None:
        """See importlib.abc."""
        for name, found in list(sys.modules.items()):
            parent, _, child = name.rpartition(".")
            if parent == self.name:
                setattr(module, child, found)
        super().exec_module(module)
