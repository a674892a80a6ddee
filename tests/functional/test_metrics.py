"""`/metrics` of both tiers of a running system."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chalicelib.hosting.chalice_app import DepotApp
from chalicelib.metrics import TABLE
from tests.functional.conftest import METRICS_TOKEN
from tests.support.client import Client, code, internal, signed_in
from tests.support.host_server import PATIENCE, running


def scraped(client: Client) -> dict[str, float]:
    """Values by name, over all labels, as Prometheus reads them."""
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
    assert answer.status_code == 200, answer.text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_both_tiers_count_what_goes_through_them(tiers):
    web = signed_in(tiers, tiers.document["username"], tiers.document["password"])
    both = Client(tiers.document["web_url"]), Client(tiers.document["services_url"])
    before = [scraped(tier) for tier in both]
    assert web.upload(b"x" * 100_000).status_code == 201
    after = [scraped(tier) for tier in both]
    for old, new in zip(before, after, strict=True):
        assert set(new) <= set(TABLE)
        assert new["depot_bytes_in_total"] - old["depot_bytes_in_total"] >= 100_000
        assert new["depot_requests_total"] - old["depot_requests_total"] >= 2


def test_health_tells_open_operations(tiers):
    assert internal(tiers).get("/internal/storage/health").status_code == 200
    assert "depot_open_intents" in scraped(Client(tiers.document["services_url"]))


@pytest.mark.parametrize("url", ["web_url", "services_url"])
def test_only_the_token_opens_it(tiers, url):
    client = Client(tiers.document[url])
    for headers in ({}, {"Authorization": f"Bearer {METRICS_TOKEN}x"}, {"X-API-Key": tiers.document["api_key"]}):
        refused = client.get("/metrics", headers=headers)
        assert (refused.status_code, code(refused)) == (401, "not_signed_in")
    session = signed_in(tiers, tiers.document["username"], tiers.document["password"]).session.headers["Authorization"]
    assert client.get("/metrics", headers={"Authorization": session}).status_code == 401
    good = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    assert client.call("HEAD", "/metrics", headers=good).headers["Content-Type"].startswith("text/plain")
    assert client.post("/metrics", headers=good, data=b"x" * 1000).status_code == 405
    assert client.get("/metrics?x=1", headers=good).status_code == 200
    assert client.get("/metrics/", headers=good).status_code == 404


def test_without_a_token_in_the_settings_it_is_not_there():
    with running(DepotApp(app_name="t")) as server:
        client = Client(f"http://127.0.0.1:{server.port}")
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {METRICS_TOKEN}"}):
            refused = client.get("/metrics", headers=headers)
            assert (refused.status_code, code(refused)) == (404, "not_found")


def test_it_answers_also_when_every_thread_is_busy():
    app, entered, leave = DepotApp(app_name="t"), threading.Event(), threading.Event()

    @app.route("/busy")
    def busy():
        entered.set()
        leave.wait(PATIENCE)
        return {}

    with running(app, threads=1, queue=1, METRICS_TOKEN=METRICS_TOKEN) as server:
        client = Client(f"http://127.0.0.1:{server.port}")
        asking = threading.Thread(target=lambda: Client(client.url).get("/busy"))
        asking.start()
        try:
            assert entered.wait(PATIENCE)
            assert "depot_requests_total" in scraped(client)
        finally:
            leave.set()
            asking.join()
