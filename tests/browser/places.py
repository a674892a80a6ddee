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
    kinds = {"patients_2024.csv": "patient", "labs_2024.csv": "laboratory", "visits_2024.csv": "encounter"}
    for name, kind in kinds.items():
        if name not in named:
            body = b"id,age\n" * (1000 if kind == "patient" else 150_000)
            named[name] = web.upload(body, name, cohort=COHORT, file_type=kind).json()["file_id"]
    if len(listed) < len(kinds):
        web.upload(b"id\n" * 400, "check.csv", cohort=COHORT, purpose="precheck")
        web.post("/cohorts", json={"name": COHORT})
        web.post("/users", json={"username": "ana@site.example", "role": "cohort_manager", "cohorts": [COHORT]})
        web.post("/holds", json={"file_id": named["labs_2024.csv"], "reason": "Case 17, until the court has decided"})
    web.post("/app/system", data={"name": "report"})  # what the report counts
    plan = web.post("/cleanup/plans", json={"hours": 0}).json()["plan_id"]
    file_id = named["patients_2024.csv"]
    return [
        Place("files", f"/app/files?cohort={COHORT}"),
        Place("files-empty", "/app/files?cohort=EMPTY"),
        Place("file", f"/app/files/{file_id}"),
        Place("delete", f"/app/files/{file_id}/delete"),
        Place("upload", "/app/upload", ".uppy-Dashboard-inner"),
        Place("audit", f"/app/audit?cohort={COHORT}"),
        Place("report", "/app/report"),
        Place("cleanup", "/app/cleanup"),
        Place("plan", f"/app/cleanup/{plan}"),
        Place("holds", "/app/holds"),
        Place("people", "/app/people"),
        Place("system", "/app/system"),
        Place("account", "/app/account"),
        Place("not-found", "/app/files/" + "0" * 32),
        Place("sign-in", "/app/sign-in"),
    ]
