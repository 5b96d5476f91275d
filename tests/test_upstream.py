"""Parts of mlx_lm and mlx_vlm come without the rest, and the rest is whole for whoever wants it."""

import subprocess
import sys

import pytest

ANSWER = """
import sys
from PIL import Image
from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX

def ask(*parts):
    prompt = kit.process_prompt([{"role": "user", "content": [*parts, {"type": "text", "text": "Hello!"}]}])
    return kit.generate(prompt, max_tokens=1, temperature=0.0)

with ModelKit.load(BOX) as kit:
    ask()
    ask({"type": "image", "image": Image.new("RGB", (64, 64), "red")})
print(*sorted({"mlx_lm", "mlx_vlm", "transformers", "huggingface_hub", "torch"} & set(sys.modules)))
"""

# Each time as in a fresh process, but for what mlx_lm itself imports: that takes most of the time.
WHOLE = """
import sys
from mlx_qwen35.upstream import import_decoder, import_vision_tower

tower = import_vision_tower()
assert import_vision_tower() is tower
finders = list(sys.meta_path)
for first in (
    "from mlx_lm.generate import stream_generate", "from mlx_lm import load", "import mlx_lm.models.llama"
):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlx_lm"]:
        del sys.modules[name]
    sys.meta_path[:] = finders
    import_decoder.cache_clear()
    import_decoder(), import_decoder()
    assert not {"mlx_lm", "mlx_lm.generate", "mlx_lm.utils", "mlx_lm.models.llama", "mlx_vlm"} & set(sys.modules)
    assert "transformers" not in sys.modules or not first.startswith("from mlx_lm.generate")
    cache = sys.modules["mlx_lm.models.cache"]
    exec(first)
    import mlx_lm
    import mlx_lm.models.cache
    assert "transformers" in sys.modules
    assert mlx_lm.models.cache is cache is sys.modules["mlx_lm.models.cache"]
    assert mlx_lm.load.__module__ == "mlx_lm.utils"
    assert callable(mlx_lm.generate), "its function, not the module of that name"
    assert mlx_lm.utils is sys.modules["mlx_lm.utils"]
    assert mlx_lm.__spec__.submodule_search_locations == list(mlx_lm.__path__)

import mlx_vlm.models.qwen3_5
assert mlx_vlm.models.qwen3_vl.vision is tower
assert mlx_vlm.models.qwen3_vl.VisionModel is tower.VisionModel
assert issubclass(mlx_vlm.models.qwen3_5.VisionModel, tower.VisionModel)

# What is whole already stays as it is.
load = mlx_lm.load
sys.meta_path[:] = finders
import_decoder.cache_clear()
import_decoder()
assert sys.modules["mlx_lm"] is mlx_lm and mlx_lm.load is load
assert sys.meta_path == finders
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COMMAND = """
import sys
from mlx_qwen35.cli.main import main
main(["generate", "--prompt", "Hello!", "--max-tokens", "1", "--no-think"])
print("|", *sorted({"mlx_lm", "mlx_vlm", "transformers", "huggingface_hub", "torch"} & set(sys.modules)))
"""


@pytest.mark.thorough
def test_answers_about_text_and_pictures_need_no_more() -> None:
    assert run(ANSWER) == ""


@pytest.mark.thorough
def test_the_command_line_needs_no_more() -> None:
    assert run(COMMAND).endswith("\n|")


@pytest.mark.thorough
def test_the_packages_are_whole_afterwards() -> None:
    """With the same modules, whatever is imported first; and then they stay as they are."""
    run(WHOLE)
