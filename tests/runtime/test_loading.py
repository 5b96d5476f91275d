"""What loading leaves until it is needed."""

import subprocess
import sys

SCRIPT = """
import sys
from PIL import Image
from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX

with ModelKit.load(BOX, gated_delta="native", exact=True) as kit:
    kit.chat("hi", max_tokens=1)
    print("mlx_vlm" in sys.modules)
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    prompt = kit.process_prompt(messages, images=Image.new("RGB", (64, 64), "red"))
    print("mlx_vlm" in sys.modules)
    kit.generate(prompt, max_tokens=1)
    print(kit.model.vision_tower._tower is not None)
"""


def test_the_tower_and_its_package_come_with_the_first_picture() -> None:
    """The package when a picture is prepared. In a process of its own: in this one others have imported it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nTrue\nTrue\n", "")
