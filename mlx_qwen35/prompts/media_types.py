"""What a file is, by its first bytes."""

# Top-level boxes that a file of ISO's base media format, or QuickTime's, begins with.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx")
_AVIF = (b"avif", b"avis")
_LONGEST_BRANDS = 256
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def image_brand(data: bytes) -> str | None:
    """Which of the two image formats in ISO's container a file is, by its brand; MPEG-4 has others."""
    if data[4:8] != b"ftyp":
        return None
    if data[8:12] in _AVIF:
        return "AVIF"
    if data[8:12] not in _HEIC:
        return None
    # The first name may be of either; of those that follow, up to the end of the box, AVIF's is AVIF's alone.
    others = data[16 : min(int.from_bytes(data[:4]), _LONGEST_BRANDS)]
    return "AVIF" if any(others[at : at + 4] in _AVIF for at in range(0, len(others), 4)) else "HEIC"


def video_container(data: bytes) -> str | None:
    """FFmpeg's name of the container that a video file is in; None if it is none of those that are read."""
    if data[4:8] in _BOXES and image_brand(data) is None:
        return "mov"
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    return "avi" if data[:4] == b"RIFF" and data[8:12] == b"AVI " else None


def begins_as_image(data: bytes) -> bool:
    """Whether the first bytes promise one of the image formats that are always read; BMP's two promise nothing."""
    return animation_format(data) is not None or data.startswith((b"\xff\xd8\xff", b"II*\0", b"MM\0*"))


def animation_format(data: bytes) -> str | None:
    """Pillow's name of the image format, if it is one that may move."""
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
