"""What a built wheel holds, and what importing costs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "mlx_vlm", "mlx_lm", "mlx.nn", "numpy", "PIL")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that nothing is left behind in the checkout."""
    source = tmp_path_factory.mktemp("wheel") / "source"
    names = ("mlx_qwen35", "patches", "cli", "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path) -> zipfile.ZipFile:
    """What is installed: pip calls the same function."""
    folder = source.parent
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.mark.thorough
@pytest.mark.thorough
def test_a_wheel_owns_one_name_only(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mlx_qwen35"}


@pytest.mark.thorough
def test_a_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for folder, target in (("mlx_qwen35", "mlx_qwen35"), ("patches", "mlx_qwen35/patches"), ("cli", "mlx_qwen35/cli")):
        modules = [path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")]
        assert modules
        assert {f"{target}/{module}" for module in modules} <= names
    assert {"mlx_qwen35/py.typed", "mlx_qwen35/cli/sample.png"} <= names
    page = {f"mlx_qwen35/server/page/{path.name}" for path in (ROOT / "mlx_qwen35/server/page").iterdir()}
    assert "mlx_qwen35/server/page/page.js" in page
    assert page <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert (
        "mlx-qwen35 = mlx_qwen35.cli.main:main"
        in wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    )


@pytest.mark.thorough
def test_an_editable_install_is_a_path_that_type_checkers_follow(source: Path, tmp_path: Path) -> None:
    """And it is found from a directory that holds a folder of this name, as the parent of a clone does."""
    build = "import sys; from setuptools.build_meta import build_editable; print(build_editable(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True, text=True
    )
    built = zipfile.ZipFile(tmp_path / done.stdout.splitlines()[-1])
    (name,) = (name for name in built.namelist() if name.endswith(".pth"))
    assert built.read(name).decode().strip() == str(source)
    built.extract(name, tmp_path / "site")
    (tmp_path / "clones" / "mlx_qwen35").mkdir(parents=True)
    look = "import site, sys; site.addsitedir(sys.argv[1]); import mlx_qwen35; print(mlx_qwen35.__file__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", look, str(tmp_path / "site")], cwd=tmp_path / "clones", check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(source / "mlx_qwen35" / "__init__.py")


@pytest.mark.parametrize(
    "statement",
    [
        "import mlx_qwen35",
        "import mlx_qwen35; dir(mlx_qwen35)",
        "from mlx_qwen35.cli.main import build_parser; build_parser().format_help()",
    ],
)
def test_starting_imports_nothing_heavy(statement: str) -> None:
    """Well under 0.3 s of the processor, whatever else it has to do."""
    script = f"import time; start = time.process_time()\n{statement}\nimport sys; print(time.process_time() - start)\n"
    script += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 0.3


def test_help_is_quick() -> None:
    """The whole process, interpreter included, in seconds of the processor."""
    before = os.times()
    subprocess.run([sys.executable, "-m", "mlx_qwen35.cli.main", "--help"], check=True, capture_output=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_public_names_are_what_they_say() -> None:
    import mlx_qwen35

    for name in mlx_qwen35.__all__:
        assert getattr(mlx_qwen35, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        mlx_qwen35.Nothing  # noqa: B018


def test_public_names_are_listed_in_the_readme() -> None:
    import mlx_qwen35

    readme = (ROOT / "README.md").read_text()
    assert [name for name in mlx_qwen35.__all__ if name != "__version__" and f"`{name}`" not in readme] == []
