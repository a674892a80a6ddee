"""Cross-origin requests: exact origins only, and none unless the operator said so."""

import pytest

from chalicelib.config import Settings
from chalicelib.errors import SettingsError
from chalicelib.web.cors import cors_headers

PORTAL = "https://portal.example"


def headers(origin=None, allowed=frozenset({PORTAL})):
    asked = {} if origin is None else {"origin": origin}
    return cors_headers(allowed, asked, methods="PATCH", takes="Upload-Offset", shows="Location")


def configured(value):
    env = {"SERVER_ROLE": "web", "INTERNAL_API_KEY": "k" * 32, "SERVICES_URL": "http://services:8001"}
    return Settings.from_env({**env, "DEPOT_CORS_ORIGINS": value}).cors_origins


def test_an_allowed_origin_is_named_and_never_with_credentials():
    told = headers(PORTAL)
    assert told["Access-Control-Allow-Origin"] == PORTAL
    assert told["Access-Control-Allow-Methods"] == "PATCH"
    assert told["Access-Control-Allow-Headers"] == "Upload-Offset"
    assert told["Access-Control-Expose-Headers"] == "Location"
    assert "Access-Control-Allow-Credentials" not in told


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://portal.example", PORTAL + ".evil", PORTAL + ":8443", "null", ""]
)
def test_any_other_origin_learns_nothing_and_caches_keep_the_answers_apart(origin):
    assert headers(origin) == {"Vary": "Origin"}


def test_without_a_setting_there_are_no_such_headers():
    assert configured("") == frozenset()
    assert headers(PORTAL, frozenset()) == {}


def test_origins_are_listed_as_browsers_write_them():
    assert configured(f" {PORTAL}, http://127.0.0.1:8080,https://[::1]:8443 ") == {
        PORTAL,
        "http://127.0.0.1:8080",
        "https://[::1]:8443",
    }


@pytest.mark.parametrize(
    "value",
    ["*", "null", "portal.example", PORTAL + "/", PORTAL + "/app", "HTTPS://portal.example", "https://Portal.example",
     PORTAL + ":443", "http://portal.example:80", "https://*.example", "ftp://portal.example", f"{PORTAL} {PORTAL}"],
)  # fmt: skip
def test_what_no_browser_would_send_stops_the_start(value):
    with pytest.raises(SettingsError, match="DEPOT_CORS_ORIGINS lists origins such as"):
        configured(value)
