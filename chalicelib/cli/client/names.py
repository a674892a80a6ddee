"""Names and sizes as they are shown, and names that came from elsewhere as they may be used on this machine."""

from __future__ import annotations

import unicodedata

from chalicelib.limits import MAX_SEGMENT_BYTES

# Room for what is appended while a file is on its way.
PART_SUFFIX = ".part"

# Windows reads these as devices, with any extension (Microsoft, "Naming Files, Paths, and Namespaces").
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in range(1, 10))})


def shown(text: str) -> str:
    """Text for a terminal or a log: what could move the cursor, colour, or turn the line around becomes `?`."""
    return "".join("?" if _unsafe(char) else char for char in text)


def safe_name(name: str, fallback: str) -> str:
    """A plain file name for a new file here, from a name that somebody else chose. No path parts, never hidden.

    >>> safe_name("../../etc/passwd", "id"), safe_name(".bashrc", "id"), safe_name("..", "id"), safe_name("a:b", "id")
    ('passwd', '_bashrc', 'id', 'a_b')
    """
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join("_" if _unsafe(char) or char in '<>:"|?*' else char for char in name).strip().rstrip(".")
    if not name.strip("."):
        return fallback
    if name.startswith("."):
        name = "_" + name[1:]
    if name.split(".")[0].upper() in _DEVICES:
        name = "_" + name
    while len(name.encode()) > MAX_SEGMENT_BYTES - len(PART_SUFFIX):
        stem, dot, suffix = name.rpartition(".")
        # Shorten the stem and keep a short extension; without one, shorten the name.
        name = f"{stem[:-1]}{dot}{suffix}" if stem and len(suffix) < 32 else name[:-1]
    return name


def size_text(count: int) -> str:
    """A size for people.

    >>> size_text(1023), size_text(1536), size_text(8 * 1024**3)
    ('1023 bytes', '1.5 KiB', '8.0 GiB')
    """
    if count < 1024:
        return f"{count} bytes"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def _unsafe(char: str) -> bool:
    # Cc control, Cf format (bidi, zero width), Cs lone surrogates (undecodable bytes of a file name), Zl/Zp separators.
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
