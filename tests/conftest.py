"""Tiny checkpoints, loaded once per test run."""

import gc
import os
import random
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.vision import VisionAddOn, make_vision_add_on
from tests.tiny import DENSE, MOE, Shape, write_checkpoint

# How long an example takes says something about the machine only.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


# What one process compiles, of the package and of the tests, its children and the others of the run need not.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# On Linux, MLX takes every array from malloc. Memory that goes back to the system after each is cleared page by page
# for the next one, a tenth of the run; for this process it is too late to say so, for those that it starts it is not.
for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
    os.environ.setdefault(name, str(1 << 30))


def pytest_collection(session: pytest.Session) -> None:
    """Where several processes collect, each begins elsewhere, so that each file's assertions are rewritten once."""
    own = getattr(session.config, "workerinput", None)
    if own is None:
        return
    root = session.config.rootpath
    paths = [root / argument.split("::")[0] for argument in session.config.args]
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("test_*.py"))})
    first = len(files) * int(own["workerid"].removeprefix("gw")) // own["workercount"]
    for file in [*files[first:], *files[:first]]:
        # Collecting tells what is wrong with it.
        with suppress(Exception, pytest.skip.Exception):
            import_module(".".join(file.relative_to(root).with_suffix("").parts))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make thorough the cases that `some` leaves out, and skip, with the reason, what this machine cannot show."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if "some" in item.keywords and "thorough" not in item.keywords:
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    for name, found in cases.items():
        found.sort(key=lambda item: item.nodeid)
        # The same ones in every process and every run, and not every second one of two parameters that take turns.
        kept = random.Random(name).sample(found, min(found[0].get_closest_marker("some").args[0], len(found)))
        for item in found:
            if item not in kept:
                item.add_marker("thorough")
    if not mx.metal.is_available():
        reason = pytest.mark.skip(reason="needs an Apple GPU: MLX runs on another backend here")
        for item in items:
            if "metal" in item.keywords:
                item.add_marker(reason)


def pytest_collection_finish() -> None:
    """Modules and test items stay to the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than there are cores: at most times one test waits, for another process or for a clock."""
    return (yield) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one process, so that what they share is made once: servers, terminals, loaded models."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Path]:
    """From a shape to its checkpoint directory; must not be changed by a test."""
    root = tmp_path_factory.mktemp("checkpoints")

    def get(shape: Shape) -> Path:
        directory = root / shape.name
        return directory if directory.exists() else write_checkpoint(directory, shape)

    return get


@pytest.fixture(scope="session")
def reference_tokenizer(checkpoint_dir: Callable[[Shape], Path]) -> Any:
    """transformers' tokenizer of the files that every tiny checkpoint has."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint_dir(DENSE))


@pytest.fixture(scope="session")
def kits(checkpoint_dir: Callable[[Shape], Path]) -> Iterator[Callable[[Shape], ModelKit]]:
    """From a shape to a kit that the whole run shares, and that drafts nothing: what it answers is the decoder's."""
    loaded: dict[str, ModelKit] = {}

    def get(shape: Shape) -> ModelKit:
        if shape.name not in loaded:
            loaded[shape.name] = ModelKit.load(checkpoint_dir(shape), speculate="off")
        return loaded[shape.name]

    yield get
    for kit in loaded.values():
        kit.close()


@pytest.fixture(scope="session")
def kit(kits: Callable[[Shape], ModelKit]) -> ModelKit:
    """A dense kit."""
    return kits(DENSE)


@pytest.fixture
def fresh(checkpoint_dir: Callable[[Shape], Path]) -> Iterator[Callable[..., ModelKit]]:
    """Makes kits that remember nothing of other tests, and are closed after this one; they draft if that is asked."""
    made: list[ModelKit] = []

    def load(shape: Shape = DENSE, **options: Any) -> ModelKit:
        made.append(ModelKit.load(checkpoint_dir(shape), **{"speculate": "off"} | options))
        return made[-1]

    yield load
    for kit in made:
        kit.close()


@pytest.fixture(scope="session", params=[DENSE, MOE], ids=lambda shape: shape.name)
def dense_and_moe(request: pytest.FixtureRequest) -> Shape:
    """Runs a test once with a dense and once with a mixture-of-experts checkpoint."""
    shape: Shape = request.param
    return shape


@dataclass(frozen=True)
class Bench:
    """A model in the test's own thread, for tests that drive mlx-lm directly."""

    checkpoint: Checkpoint
    model: Any
    vision: VisionAddOn

    def prompt(self, ids: list[int], images: list[Image.Image] | None = None) -> Prompt:
        """What ModelKit.process_prompt gives for ids."""
        prepared = tuple(self.vision.prepare_image(image) for image in images or ())
        expanded, layout = self.vision.prepare_prompt(ids, prepared)
        return Prompt(np.array(expanded, dtype=np.int32), layout, prepared)

    def cache(self, prompt: Prompt) -> list[Any]:
        """Fresh caches that will read the prompt's images."""
        return self.vision.fill(self.model.make_cache(), prompt)


@pytest.fixture(scope="session")
def benches(checkpoint_dir: Callable[[Shape], Path]) -> Callable[[Shape], Bench]:
    """From a shape to a model in this thread."""
    loaded: dict[str, Bench] = {}

    def get(shape: Shape) -> Bench:
        if shape.name not in loaded:
            checkpoint = Checkpoint.open(checkpoint_dir(shape))
            model = Model.from_checkpoint(checkpoint)
            vision = make_vision_add_on(checkpoint.config, model.vision_tower, checkpoint.directory)
            loaded[shape.name] = Bench(checkpoint, model, vision)
        return loaded[shape.name]

    return get
