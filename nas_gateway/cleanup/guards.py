"""What a clean-up must never take, and which places are its own. Pure: paths, names of disks and rows.

Two guards stand between a submission and a clean-up, and know nothing of each other: what the row says it is for, and where
it lies. For this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chalicelib.config import DiskConfig, Settings
from nas_gateway.files.placement import Purpose
from nas_gateway.files.tables import TrackedFile

SUBMISSIONS = "submissions/"
# The folders that temporary files lie in, wherever they lie (design, section 4, "Paths").
OURS = ("upload_prechecks/", "scratch/")


@dataclass(frozen=True, slots=True)
class Places:
    """The disks as the clean-up sees them. Made by `places_of`.

    `swept` maps each workspace or scratch disk to the folders of it that are ours: "" is all of it. `same` maps a disk to
    every name of the place that it stands for: what a row knows under one of them is known.
    """

    disks: tuple[str, ...]
    submission_disk: str
    swept: Mapping[str, tuple[str, ...]]
    same: Mapping[str, tuple[str, ...]]

    def is_submission_place(self, disk: str, path: str) -> bool:
        """By where it lies alone: below `submissions/`, or on the submission disk outside the folders of temporary files."""
        if path.startswith(SUBMISSIONS):
            return True
        return self.submission_disk in self.same[disk] and not path.startswith(OURS)


def is_submission(file: TrackedFile) -> bool:
    """By what its row says it is for alone."""
    return file.purpose == Purpose.SUBMISSION.value


def places_of(settings: Settings) -> Places:
    same = {
        name: tuple(other for other, there in settings.disks.items() if other == name or _same(config, there))
        for name, config in settings.disks.items()
    }
    swept = dict[str, tuple[str, ...]]()
    for name in (settings.workspace_disk, settings.scratch_disk):
        if name in same and not any(other in swept for other in same[name]):
            # A disk that also takes submissions is not ours alone: on it only the folders of temporary files are.
            swept[name] = OURS if settings.submission_disk in same[name] else ("",)
    return Places(tuple(settings.disks), settings.submission_disk, swept, same)


def _same(one: DiskConfig, other: DiskConfig) -> bool:
    if one.driver != other.driver or one.driver not in ("local", "s3"):
        return False
    return (one.root, one.endpoint, one.bucket, one.prefix) == (other.root, other.endpoint, other.bucket, other.prefix)
