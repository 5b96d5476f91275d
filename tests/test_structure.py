"""How the source is laid out: short modules, short functions, and imports in one direction."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("mlx_qwen35/**", "patches", "cli") for path in sorted(ROOT.glob(f"{folder}/*.py"))]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_module_is_long() -> None:
    assert len(SOURCES) > 80
    assert {"patches/cpu.py", "cli/main.py", "mlx_qwen35/runtime/loop.py"} <= set(map(name_of, SOURCES))
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert [name for name, length in lengths.items() if length > MOST_LINES] == []


def test_no_function_is_long() -> None:
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= MOST_LINES_OF_A_FUNCTION:
                    found.add(f"{name_of(path)}: {node.name}")
    assert sorted(found) == []


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    """What the contract in a directory's pyproject.toml says."""
    run = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", run], cwd=directory, capture_output=True, text=True, check=False)


def test_imports_point_down() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("patches/mrope.py", "mlx_qwen35.vision"),
        ("mlx_qwen35/answers/text.py", "mlx_qwen35.patches.cpu"),
        ("mlx_qwen35/server/wire.py", "mlx_qwen35.cli.options"),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, module: str, imported: str) -> None:
    """Inside a function too, and in the folders that are part of the package through a link."""
    for folder in ("mlx_qwen35", "patches", "cli"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n\ndef late() -> None:\n    import {imported}\n")
    done = lint_imports(tmp_path)
    name = module.removeprefix("mlx_qwen35/").removesuffix(".py").replace("/", ".")
    assert done.returncode == 1
    assert f"mlx_qwen35.{name} -> {imported}" in done.stdout
