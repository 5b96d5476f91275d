"""Are the upstream libraries the ones that this package was tested with?"""

from importlib.metadata import PackageNotFoundError

from packaging.requirements import Requirement

from mlx_qwen35.errors import VersionError
from mlx_qwen35.upstream import requires, version

# Their classes are subclassed and their arithmetic is ported, so a newer one may differ silently.
CHECKED = ("mlx-lm", "mlx-vlm")


def supported_ranges() -> dict[str, Requirement]:
    """The requirement on each checked library, as this distribution declares it."""
    try:
        declared = requires("mlx-qwen35") or []
    except PackageNotFoundError:  # run from a source tree that was not installed
        return {}
    found = {requirement.name: requirement for requirement in map(Requirement, declared)}
    return {name: found[name] for name in CHECKED}


def check_versions() -> None:
    """Refuse to work on untested upstream code.

    Raises:
        VersionError: mlx-lm or mlx-vlm is outside its tested range; names both ranges.
    """
    ranges = supported_ranges()
    installed = {name: version(name) for name in ranges}
    if any(not ranges[name].specifier.contains(installed[name], prereleases=True) for name in ranges):
        expected = ", ".join(f"{name} {requirement.specifier}" for name, requirement in ranges.items())
        found = ", ".join(f"{name} {value}" for name, value in installed.items())
        raise VersionError(f"installed packages: expected {expected}; found {found}")
