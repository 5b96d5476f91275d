"""Fonts that numbers are printed in: of Debian's packages, none of them part of this repository.

`apt-get install` puts them under /usr/share/fonts. `python -m tools.judge.fonts FOLDER` needs no root: it unpacks them
there, and JUDGE_FONTS=FOLDER makes the judge look there.
"""

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# Package: files whose digits anybody can read. None is among those that are common on a desktop.
PRINTED = {
    "fonts-agave": ("agave-r-autohinted.ttf",),
    "fonts-allerta": ("allerta_medium.otf",),
    "fonts-averia-sans-gwf": ("AveriaSansGWF-Regular.ttf", "AveriaSansGWF-Bold.ttf"),
    "fonts-b612": ("B612-Bold.otf",),
    "fonts-bebas-neue": ("BebasNeue-Regular.otf",),
    "fonts-campania": ("Campania.otf",),
    "fonts-clear-sans": ("ClearSans-Bold.ttf",),
    "fonts-georgewilliams": ("CaslonBold.ttf",),
    "fonts-gfs-artemisia": ("GFSArtemisiaBold.otf",),
    "fonts-gfs-didot": ("GFSDidot.otf",),
    "fonts-gnutypewriter": ("GNUTypewriter.ttf",),
    "fonts-jura": ("Jura-Bold.otf",),
    "fonts-kaushanscript": ("KaushanScript-Regular.otf",),
    "fonts-klaudia-berenika": ("Klaudia.ttf",),
    "fonts-league-mono": ("LeagueMono-SemiBold.otf",),
    "fonts-leckerli-one": ("LeckerliOne-Regular.ttf",),
    "fonts-lemonada": ("Lemonada-Bold.otf",),
    "fonts-manrope": ("Manrope-SemiBold.ttf",),
    "fonts-national-park": ("NationalPark-Heavy.otf",),
    "fonts-opendin": ("OSP-DIN.ttf",),
    "fonts-osifont": ("osifont.ttf",),
    "fonts-oxygen": ("Oxygen-Sans-Bold.ttf",),
    "fonts-quattrocento": ("Quattrocento-Regular.otf",),
    "fonts-reggae": ("ReggaeOne-Regular.ttf",),
    "fonts-routed-gothic": ("routed-gothic.ttf",),
    "fonts-sora": ("Sora-Bold.otf",),
    "fonts-tiresias": ("tiresias_infofont.ttf",),
    "fonts-ubuntu-title": ("Ubuntu-Title.ttf",),
}
WRITTEN = {
    "fonts-bwht": (
        "BecauseWeBuild-Regular.otf", "BecauseWeConnect-Regular.otf", "BecauseWeCreate-Regular.otf",
        "BecauseWeMentor-Regular.otf", "BecauseWeOrganize-Regular.otf",
    ),
    "fonts-dkg-handwriting": ("dkg.ttf", "dkgBd.ttf"),
    "fonts-klee": ("KleeOne-SemiBold.ttf",),
    "fonts-smc-chilanka": ("Chilanka-Regular.otf",),
    "fonts-tlwg-purisa-ttf": ("Purisa-Bold.ttf",),
}  # fmt: skip
PACKAGES = tuple(sorted({*PRINTED, *WRITTEN}))


class MissingFontsError(RuntimeError):
    """Fonts that the pictures need are not here; says how to get them."""


def folders() -> list[Path]:
    """Where to look: what JUDGE_FONTS names, the user's and the system's."""
    named = os.environ.get("JUDGE_FONTS")
    own = [Path(named)] if named else []
    return [*own, Path.home() / ".local/share/fonts", Path("/usr/share/fonts")]


@cache
def files() -> dict[str, Path]:
    """All fonts that are there, by the file's name.

    Raises:
        MissingFontsError: Not all that are needed: the pictures would be others, and results not comparable.
    """
    found: dict[str, Path] = {}
    for folder in reversed(folders()):
        for path in sorted(folder.rglob("*.[ot]tf")) if folder.is_dir() else ():
            found[path.name] = path
    names = {name for table in (PRINTED, WRITTEN) for names in table.values() for name in names}
    if missing := sorted(names - set(found)):
        raise MissingFontsError(
            f"missing fonts: {', '.join(missing)}. Get them by: apt-get install {' '.join(PACKAGES)}; "
            "or, without root: python -m tools.judge.fonts FOLDER, then set JUDGE_FONTS=FOLDER"
        )
    return {name: found[name] for name in sorted(names)}


def names(*, written: bool) -> list[str]:
    return [name for group in (WRITTEN if written else PRINTED).values() for name in group]


def unpack(folder: Path) -> None:
    """Download the packages with apt and copy the fonts that are needed to a folder."""
    wanted = {*names(written=True), *names(written=False)}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=place, check=True)
        for package in sorted(Path(place).glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), place], check=True)
        for path in Path(place).rglob("*.[ot]tf"):
            if path.name in wanted:
                (folder / path.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
