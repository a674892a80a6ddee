"""Presigned uploads from a real browser straight to a real store (Ceph RGW): the page's policy, CORS, the receipt."""

from __future__ import annotations

import hashlib
import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from chalicelib.limits import MIB
from tests.browser.conftest import sign_in
from tests.support.client import signed_in
from tests.support.residue import empty_bucket, store_client
from tests.support.stack import RunningStack, running_stack

pytestmark = pytest.mark.nas


@pytest.fixture
def presigning(tmp_path: Path) -> Iterator[RunningStack]:
    """A stack whose store browsers reach by themselves, and may from its pages (docs/deployment.md, CORS)."""
    bucket = f"depot-test-{uuid.uuid4().hex[:20]}"
    env = {"NAS_PUBLIC_ENDPOINT": os.environ["S3_ENDPOINT"], "S3_BUCKET": bucket}
    with running_stack(tmp_path / "stack", env=env) as stack:
        rule = {
            "AllowedOrigins": [stack.document["web_url"]],
            "AllowedMethods": ["GET", "PUT"],
            "AllowedHeaders": ["content-type", "x-amz-content-sha256"],
            "ExposeHeaders": ["ETag"],
        }
        store_client(stack).put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
        yield stack
        empty_bucket(stack)


def test_parts_go_straight_to_the_store_and_the_page_may_talk_to_nobody_else(
    chromium: Browser, presigning: RunningStack, tmp_path: Path
) -> None:
    document, store = presigning.document, urlsplit(os.environ["S3_ENDPOINT"]).netloc
    source = tmp_path / "direct.csv"
    source.write_bytes(random.Random(5).randbytes(21 * MIB + 3))
    context = chromium.new_context(base_url=document["web_url"])
    page = context.new_page()
    errors, sent = list[str](), list[tuple[str, str]]()
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: sent.append((request.method, urlsplit(request.url).netloc)))
    sign_in(page, document["username"], document["password"])
    answer = page.goto("/app/upload")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["connect-src"] == f"'self' {os.environ['S3_ENDPOINT']}"
    page.get_by_label("Cohort").fill("VACS")
    page.get_by_label("Protocol year").fill("2024")
    page.get_by_label("File type").fill("patient")
    page.locator(".uppy-Dashboard-input").first.set_input_files(source)
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.locator("#receipts")).to_contain_text("Received: direct.csv", timeout=60_000)
    assert errors == []
    assert [method for method, host in sent if host == store].count("PUT") == 5, "Uppy cuts parts of 5 MiB"
    assert {host for _, host in sent} == {urlsplit(document["web_url"]).netloc, store}
    page.locator("#receipts a").first.click()
    file_id = page.url.rsplit("/", 1)[1]
    web = signed_in(presigning, document["username"], document["password"])
    assert hashlib.sha256(web.content(file_id).content).digest() == hashlib.sha256(source.read_bytes()).digest()
    context.close()
