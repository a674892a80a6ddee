"""Every page there is, with something on it: for axe-core and for the pictures in the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.client import Client

COHORT = "VACS"


@dataclass(frozen=True)
class Place:
    """`name` is the picture's; `ready` is a selector to wait for."""

    name: str
    path: str
    ready: str = "main"


def places(web: Client) -> list[Place]:
    """The pages, once a few files are there for them to show. `web` is an administrator."""
    listed = web.get("/files", params={"cohort": COHORT}).json()["files"]
    named = {file["filename"]: file["file_id"] for file in listed}
    for name, kind in (("patients_2024.csv", "patient"), ("labs_2024.csv", "laboratory"), ("visits_2024.csv", "encounter")):
        if name not in named:
            body = b"id,age\n" * (1000 if kind == "patient" else 150_000)
            named[name] = web.upload(body, name, cohort=COHORT, file_type=kind).json()["file_id"]
    file_id = named["patients_2024.csv"]
    return [
        Place("files", f"/app/files?cohort={COHORT}"),
        Place("files-empty", "/app/files?cohort=EMPTY"),
        Place("file", f"/app/files/{file_id}"),
        Place("delete", f"/app/files/{file_id}/delete"),
        Place("upload", "/app/upload", ".uppy-Dashboard-inner"),
        Place("audit", f"/app/audit?cohort={COHORT}"),
        Place("not-found", "/app/files/" + "0" * 32),
        Place("sign-in", "/app/sign-in"),
    ]
