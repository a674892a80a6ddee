"""The browser application without a browser: what pages say, to whom, and that every form works without script."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.support.client import Client, fresh_name
from tests.support.stack import RunningStack

Users = Callable[..., Client]


class Browser:
    """Somebody's browser with script switched off: a cookie jar, and forms sent from our own pages."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False

    def get(self, path: str, **options: object) -> requests.Response:
        return self.session.get(self.url + path, timeout=30, headers={"Sec-Fetch-Site": "none"}, **options)

    def send(
        self, path: str, fields: dict[str, str], site: str = "same-origin", **options: object
    ) -> requests.Response:
        options.setdefault("allow_redirects", False)
        return self.session.post(self.url + path, data=fields, timeout=30, headers={"Sec-Fetch-Site": site}, **options)

    def sign_in(self, username: str, password: str, **more: str) -> requests.Response:
        return self.send("/app/sign-in", {"username": username, "password": password, **more})


@pytest.fixture
def browser(tiers: RunningStack) -> Iterator[Browser]:
    made = Browser(tiers.document["web_url"])
    yield made
    made.session.close()


@pytest.fixture
def admin(browser: Browser, tiers: RunningStack) -> Browser:
    assert browser.sign_in(tiers.document["username"], tiers.document["password"]).status_code == 303
    return browser


def as_browser(client: Client) -> Browser:
    """A browser that holds the session of a client."""
    made = Browser(client.url)
    made.session.cookies.set("depot_session", client.session.headers["Authorization"].split()[1])
    return made


def text(answer: requests.Response) -> str:
    """What a person reads of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


# --- signing in ---------------------------------------------------------------------------------------------------------


def test_a_browser_is_led_from_the_front_door_to_signing_in_and_back(browser: Browser, tiers: RunningStack) -> None:
    answer = browser.session.get(browser.url + "/", headers={"Accept": "text/html"}, timeout=30)
    assert answer.url.startswith(browser.url + "/app/sign-in")
    answer = browser.get("/app/audit")
    assert answer.url.endswith("/app/sign-in?next=/app/audit")
    answer = browser.sign_in(tiers.document["username"], tiers.document["password"], next="/app/audit")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/app/audit")
    assert browser.get("/app/audit").status_code == 200


@pytest.mark.parametrize(
    "place", ["//evil.example", "https://evil.example", "/app/../x", "/app//evil", "javascript:x", "\\"]
)
def test_signing_in_leads_nowhere_else(browser: Browser, tiers: RunningStack, place: str) -> None:
    answer = browser.sign_in(tiers.document["username"], tiers.document["password"], next=place)
    assert answer.headers["Location"] == "/app/files"


def test_a_wrong_password_is_told_on_the_page_and_the_name_is_kept(browser: Browser) -> None:
    answer = browser.sign_in("nobody@example.org", "wrong")
    assert answer.status_code == 401
    assert "nobody@example.org" in answer.text
    assert 'role="alert"' in answer.text
    assert "Set-Cookie" not in answer.headers


def test_another_site_cannot_sign_anybody_in_or_out(admin: Browser, tiers: RunningStack) -> None:
    document = tiers.document
    fields = {"username": document["username"], "password": document["password"]}
    assert admin.send("/app/sign-in", fields, site="cross-site").status_code == 403
    assert admin.send("/app/sign-out", {}, site="cross-site").status_code == 403
    assert admin.get("/app/files").url.endswith("/app/files"), "still signed in"


def test_signing_out_ends_the_session_and_not_only_the_cookie(admin: Browser) -> None:
    kept = dict(admin.session.cookies)
    assert admin.send("/app/sign-out", {}).headers["Location"] == "/app/sign-in"
    assert not admin.session.cookies.get("depot_session")
    admin.session.cookies.update(kept)
    assert "/app/sign-in" in admin.get("/app/files").url


# --- every page -----------------------------------------------------------------------------------------------------------

PAGES = (
    "/app/files", "/app/files?cohort=VACS", "/app/upload", "/app/audit", "/app/report", "/app/cleanup", "/app/holds",
    "/app/people", "/app/system", "/app/account", "/app/sign-in", "/app/files/" + "0" * 32,
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_no_page_may_load_or_run_anything_of_others_or_inline(admin: Browser, page: str) -> None:
    answer = admin.get(page)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<(script|style)>| style=| on[a-z]+=", answer.text)
    for address in re.findall(r'(?:src|href|action)="([^"]+)"', answer.text):
        assert address.startswith(("/", "?", "#")), address
        assert not address.startswith("//"), address


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_what_a_screen_reader_goes_by(admin: Browser, page: str) -> None:
    answer = admin.get(page)
    assert '<html lang="en">' in answer.text
    assert len(re.findall(r"<h1[ >]", answer.text)) == 1
    assert len(re.findall(r"<main ", answer.text)) == 1
    labelled = set(re.findall(r'<label for="([^"]+)"', answer.text))
    fields = re.findall(r'<(?:input|select)\b(?![^>]*type="hidden")[^>]*\bid="([^"]+)"', answer.text)
    assert set(fields) <= labelled
    ids = re.findall(r'\bid="([^"]+)"', answer.text)
    assert len(ids) == len(set(ids))


def test_static_files_may_be_kept_for_ever_and_are_packed(admin: Browser) -> None:
    address = re.search(r'href="(/static/[^"]+\.css)"', admin.get("/app/files").text).group(1)
    plain = admin.get(address)
    assert plain.headers["Content-Type"] == "text/css; charset=utf-8"
    assert "immutable" in plain.headers["Cache-Control"]
    assert plain.headers["Content-Encoding"] == "gzip"
    assert ":root" in plain.text
    old = re.sub(r"/static/[0-9a-f]+/", "/static/0000000000000000/", address)
    assert admin.get(old).status_code == 404, "another version is never served under this address"
    for odd in ("/static/x/..%2Fpages%2Fkit.py", "/static/x/kit.py", "/static/x/%2Fetc%2Fpasswd"):
        assert admin.get(odd).status_code == 404


# --- files ----------------------------------------------------------------------------------------------------------------


def test_the_form_uploads_without_script_and_shows_a_receipt(admin: Browser) -> None:
    name, cohort = fresh_name(), fresh_name("")
    fields = {"cohort": cohort, "protocol_year": "2024", "file_type": "patient"}
    answer = admin.send("/app/upload", fields, files={"file": (name, b"id,age\n1,40\n", "text/csv")})
    assert answer.status_code == 201, text(answer)
    assert "The file was received" in answer.text
    file_id = re.search(r"/app/files/([0-9a-f]{32})", answer.text).group(1)
    listed = admin.get(f"/app/files?cohort={cohort}")
    assert name in text(listed)
    shown = text(admin.get(f"/app/files/{file_id}"))
    assert "File uploaded via stream" in shown
    assert "12 bytes" in shown


def test_a_file_is_deleted_only_after_asking(admin: Browser, web: Client) -> None:
    cohort = fresh_name("")
    file_id = web.upload(b"x", cohort=cohort).json()["file_id"]
    asked = admin.get(f"/app/files/{file_id}/delete")
    assert "cannot be brought back" in text(asked)
    assert web.get(f"/files/{file_id}").status_code == 200, "asking deletes nothing"
    assert admin.send(f"/app/files/{file_id}/delete", {}, site="cross-site").status_code == 403
    answer = admin.send(f"/app/files/{file_id}/delete", {})
    assert answer.status_code == 303
    assert "The file was deleted" in text(admin.get(answer.headers["Location"]))
    assert web.get(f"/files/{file_id}").status_code == 404


def test_names_are_shown_as_text_whatever_they_hold(admin: Browser, web: Client) -> None:
    cohort, name = fresh_name(""), f"<script>alert(1)<script>&\"'{fresh_name()}"
    file_id = web.upload(b"x", name, cohort=cohort).json()["file_id"]
    for page in (f"/app/files?cohort={cohort}", f"/app/files/{file_id}", f"/app/files/{file_id}/delete"):
        answer = admin.get(page)
        assert "<script>alert" not in answer.text, page
        assert name in html.unescape(answer.text)


def test_files_are_filtered_ordered_and_paged(admin: Browser, web: Client) -> None:
    cohort = fresh_name("")
    names = [f"{letter}-{fresh_name()}" for letter in "abcd"]
    for number, name in enumerate(names):
        assert web.upload(b"x", name, cohort=cohort, file_type="even" if number % 2 == 0 else "odd").status_code == 201

    def shown(query: str) -> list[str]:
        page = text(admin.get(f"/app/files?cohort={cohort}&{query}"))
        return sorted((name for name in names if name in page), key=page.index)

    assert shown("order=oldest") == names
    assert shown("order=newest") == shown("") == names[::-1]
    assert shown("order=oldest&file_type=even") == [names[0], names[2]]
    assert shown("name=b-") == [names[1]]
    assert "No file matches" in text(admin.get(f"/app/files?cohort={cohort}&name=zzz"))
    found, query = list[str](), "order=oldest&limit=1&file_type=odd"
    for _ in range(10):
        page = admin.get(f"/app/files?cohort={cohort}&{query}")
        found += [name for name in names if name in text(page)]
        following = re.search(r'rel="next" href="\?([^"]+)"', page.text)
        if following is None:
            break
        query = html.unescape(following.group(1))
    assert found == [names[1], names[3]]


def test_an_empty_cohort_says_what_to_do(admin: Browser) -> None:
    page = text(admin.get(f"/app/files?cohort={fresh_name('')}"))
    assert "Upload the first one" in page


# --- who sees what --------------------------------------------------------------------------------------------------------


def test_another_cohorts_file_is_not_there(as_user: Users, web: Client) -> None:
    mine, theirs = fresh_name(""), fresh_name("")
    file_id = web.upload(b"x", cohort=theirs).json()["file_id"]
    browser = as_browser(as_user("cohort_manager", mine))
    for page in (f"/app/files/{file_id}", f"/app/files/{file_id}/delete"):
        assert browser.get(page).status_code == 404
    assert browser.send(f"/app/files/{file_id}/delete", {}).status_code == 404
    assert web.get(f"/files/{file_id}").status_code == 200
    assert browser.get(f"/app/files?cohort={theirs}").status_code == 403
    assert browser.get(f"/app/audit?cohort={theirs}").status_code == 403


@pytest.mark.parametrize(
    ("role", "offered"),
    [
        ("uploader", {"Upload", "Files"}),
        ("reader", {"Files"}),
        ("auditor", {"Files", "Audit trail"}),
        ("cohort_manager", {"Upload", "Files", "Audit trail"}),
    ],
)
def test_the_navigation_offers_what_the_role_may(as_user: Users, role: str, offered: set[str]) -> None:
    browser = as_browser(as_user(role, "VACS"))
    page = browser.get("/app/files")
    navigation = re.search(r"<nav aria-label=\"Main\">(.*?)</nav>", page.text, re.DOTALL).group(1)
    shown = set(re.findall(r">([^<>\s][^<>]*)</a>", navigation))
    assert offered <= shown
    assert not ({"Upload", "Audit trail"} - offered) & shown
    for name, place in (("Upload", "/app/upload"), ("Audit trail", "/app/audit")):
        assert browser.get(place).status_code == (200 if name in offered else 403)


def test_an_uploader_sees_no_history_and_no_way_to_delete(as_user: Users, web: Client) -> None:
    cohort = fresh_name("")
    file_id = web.upload(b"x", cohort=cohort).json()["file_id"]
    page = as_browser(as_user("uploader", cohort)).get(f"/app/files/{file_id}")
    assert "History" not in page.text
    assert "Delete" not in page.text
    assert "Download" not in page.text


# --- the audit trail -----------------------------------------------------------------------------------------------------


def test_the_trail_is_shown_filtered_and_offered_as_a_file(admin: Browser, web: Client) -> None:
    cohort = fresh_name("")
    web.upload(b"x", cohort=cohort)
    page = admin.get(f"/app/audit?cohort={cohort}&outcome=completed")
    assert text(page).count("File uploaded via stream") == 1
    export = html.unescape(re.search(r'href="(/audit/export\?[^"]*format=csv)"', page.text).group(1))
    assert cohort in admin.get(export).text
    assert "must be a date" in text(admin.get("/app/audit?since=yesterday"))


def test_an_error_is_a_page_that_says_what_to_do_and_which_request_it_was(admin: Browser) -> None:
    answer = admin.get("/app/files?cohort=VACS&order=sideways")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["X-Request-ID"] in answer.text
    assert "order must be oldest or newest" in text(answer)


# --- running the place ----------------------------------------------------------------------------------------------------


def test_a_clean_up_is_planned_read_and_applied_by_form(admin: Browser, web: Client) -> None:
    kept = web.upload(b"stays", cohort=fresh_name("")).json()["file_id"]
    gone = web.upload(b"goes", cohort=fresh_name(""), purpose="precheck").json()["file_id"]
    answer = admin.send("/app/cleanup", {"which": "age", "hours": "0"})
    assert answer.status_code == 303, text(answer)
    plan = admin.get(answer.headers["Location"])
    assert gone[:12] in plan.text
    assert kept[:12] not in plan.text
    assert web.get(f"/files/{gone}").status_code == 200, "a plan deletes nothing"
    hash = re.search(r'name="hash" value="([0-9a-f]{64})"', plan.text).group(1)
    assert admin.send(answer.headers["Location"] + "/apply", {"hash": "0" * 64}).status_code == 409
    assert web.get(f"/files/{gone}").status_code == 200
    for _ in range(20):  # other tests' temporary files are in the plan, too, and one call goes on for some seconds only
        done = admin.send(
            answer.headers["Location"] + "/apply", {"hash": hash, "max_files": "10000", "max_percent": "100"}
        )
        assert done.status_code == 303, text(done)
        page = text(admin.get(done.headers["Location"]))
        assert "Clean-up, applied" in page
        if "Outcome" in page and "Go on" not in page:
            break
    assert web.get(f"/files/{gone}").status_code == 404
    assert web.get(f"/files/{kept}").status_code == 200


def test_a_hold_is_set_by_form_keeps_the_file_and_is_lifted(admin: Browser, web: Client) -> None:
    file_id = web.upload(b"x", cohort=fresh_name("")).json()["file_id"]
    hold = {"kind": "file_id", "name": file_id, "reason": "Case 17 is not decided"}
    assert admin.send("/app/holds", hold).status_code == 303
    assert "Case 17 is not decided" in text(admin.get("/app/holds"))
    assert admin.send(f"/app/files/{file_id}/delete", {}).status_code == 409
    assert admin.send("/app/holds", {**hold, "do": "lift", "reason": "Case 17 is decided"}).status_code == 303
    assert admin.send(f"/app/files/{file_id}/delete", {}).status_code == 303


def test_an_administrator_makes_a_cohort_and_a_user_who_can_sign_in(admin: Browser, tiers: RunningStack) -> None:
    cohort, name = fresh_name(""), f"{fresh_name('')}@site.example"
    assert cohort in text(admin.send("/app/people", {"what": "cohort", "name": cohort}))
    made = admin.send("/app/people", {"username": name, "role": "uploader", "cohorts": cohort})
    assert made.status_code == 201, text(made)
    password = html.unescape(re.search(r'class="secret">([^<]+)<', made.text).group(1))
    assert password not in admin.get("/app/people").text, "shown this once"
    theirs = Browser(admin.url)
    assert theirs.sign_in(name, password).status_code == 303
    assert cohort in text(theirs.get("/app/files"))
    assert theirs.get("/app/people").status_code == 403
    user_id = re.search(
        rf">{re.escape(name)}</th>.*?/app/people/([0-9a-f]+)", admin.get("/app/people").text, re.DOTALL
    ).group(1)
    assert "was changed" in text(admin.send(f"/app/people/{user_id}", {"do": "disable"}))
    assert "/app/sign-in" in theirs.get("/app/files").url, "a disabled user's session ends"


def test_what_is_wrong_with_a_new_user_is_said_and_nothing_typed_is_lost(admin: Browser) -> None:
    answer = admin.send("/app/people", {"username": "x" * 300, "role": "uploader", "cohorts": "VACS"})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert "x" * 300 in answer.text


def test_a_token_is_made_shown_once_used_and_revoked(as_user: Users) -> None:
    cohort = fresh_name("")
    browser = as_browser(as_user("cohort_manager", cohort))
    made = browser.send("/app/account", {"do": "token", "name": "nightly", "may_list": "1", "days": "7"})
    assert made.status_code == 201, text(made)
    token = html.unescape(re.search(r'class="secret">([^<]+)<', made.text).group(1))
    script = Client(browser.url, {"Authorization": f"Bearer {token}"})
    assert script.get("/files", params={"cohort": cohort}).status_code == 200
    assert script.upload(b"x", cohort=cohort).status_code == 403
    page = browser.get("/app/account")
    assert token not in page.text
    token_id = re.search(r'name="token_id" value="([^"]+)"', page.text).group(1)
    assert "was revoked" in text(browser.send("/app/account", {"do": "revoke", "token_id": token_id}))
    assert script.get("/files", params={"cohort": cohort}).status_code == 401


def test_the_system_page_shows_health_and_runs_a_job(admin: Browser, as_user: Users) -> None:
    page = text(admin.get("/app/system"))
    assert "Disk submissions" in page
    assert "Landlock in force" in page
    ran = admin.send("/app/system", {"name": "report"})
    assert "The job ended: Completed" in text(ran)
    assert "By cohort" in text(admin.get("/app/report"))
    assert admin.send("/app/system", {"name": "nonsense"}).status_code == 404
    assert as_browser(as_user("auditor")).get("/app/system").status_code == 403
