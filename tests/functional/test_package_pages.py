"""The pages in the packages: templates, static files and what npm built are in the web tier's, and answered from there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from infra import package
from tests.functional.test_package import invoke, zips
from tests.support.lambda_events import event as proxy_event

__all__ = ["zips"]

PAGES = ("templates", "static")


def page_files(root: Path) -> set[str]:
    """What the pages are made of: templates, our style and script, and what npm built of them where somebody did."""
    web = root / "chalicelib" / "web"
    return {path.relative_to(root).as_posix() for name in PAGES for path in (web / name).rglob("*") if path.is_file()}


def test_templates_static_files_and_what_npm_built_go_into_the_web_project_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "source"
    for name in ("chalicelib", "nas_gateway", ".chalice"):
        shutil.copytree(package.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (package.ROOT / "app.py", *package.ROOT.glob("requirements-*.txt")):
        shutil.copy(path, root)
    (root / "chalicelib" / "web" / "static" / "build").mkdir(exist_ok=True)
    (root / "chalicelib" / "web" / "static" / "build" / "made.js").write_text("// by npm")
    monkeypatch.setattr(package, "ROOT", root)
    package.lay_out("web", tmp_path / "web")
    package.lay_out("services", tmp_path / "services")
    assert page_files(tmp_path / "web") == page_files(root)
    assert {"chalicelib/web/static/build/made.js", "chalicelib/web/templates/base.html"} <= page_files(root)
    assert not (tmp_path / "services" / "chalicelib" / "web").exists()


def requirements(role: str) -> set[str]:
    text = (package.ROOT / f"requirements-{role}.txt").read_text()
    return {line.split("==")[0] for line in text.splitlines() if "==" in line}


def test_only_the_web_package_renders_pages() -> None:
    assert {"jinja2", "markupsafe"} <= requirements("web")
    assert not {"jinja2", "markupsafe"} & requirements("services")


# --- the zips ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_zips_hold_the_pages_and_what_they_load_where_they_belong(zips: dict[str, Path]) -> None:
    with zipfile.ZipFile(zips["web"]) as archive:
        names = set(archive.namelist())
    assert page_files(package.ROOT) <= names
    assert {name.split("/")[0] for name in names} >= {"jinja2", "markupsafe"}
    with zipfile.ZipFile(zips["services"]) as archive:
        assert not [
            name for name in archive.namelist() if name.startswith(("chalicelib/web/", "jinja2/", "markupsafe/"))
        ]


@pytest.mark.slow
def test_the_web_zip_shows_pages_and_static_files_with_nothing_else_installed(
    zips: dict[str, Path], tmp_path: Path
) -> None:
    env = {"SERVER_ROLE": "web", "INTERNAL_API_KEY": "k" * 64, "SERVICES_URL": "http://127.0.0.1:9"}
    for page in ("/app/sign-in", "/docs", "/openapi.json"):
        result = invoke(zips["web"], tmp_path / "web", proxy_event("GET", page), env)
        answer: dict[str, Any] = result["answer"]  # type: ignore[assignment]
        assert (answer["statusCode"], result["foreign"]) == (200, []), page
    asset = package.ROOT / "chalicelib" / "web" / "static" / "depot.css"
    version = hashlib.sha256(asset.read_bytes()).hexdigest()[:16]
    where = {"version": version, "name": "depot.css"}
    asked = proxy_event("GET", "/static/{version}/{name}", path=where, headers={"accept-encoding": "gzip"})
    answer = invoke(zips["web"], tmp_path / "web", asked, env)["answer"]  # type: ignore[assignment]
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    assert gzip.decompress(base64.b64decode(answer["body"])) == asset.read_bytes()
