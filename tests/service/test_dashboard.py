"""The dashboard in a real browser: headless Chromium, against a real service.

Every wait below is for something on the page, with a deadline (``expect`` of Playwright).
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from final import Backoff, Job, Kind, LeakyBucket, Metrics, Pause, Priority, Status, current_job
from final.service import app
from final.service.demo import demo_handlers
from tests.final.helpers import AT_ONCE, eventually, reaches
from tests.helpers import DEADLINE, Gate
from tests.service.conftest import OpenService
from tests.service.helpers import Live

playwright = pytest.importorskip(
    "playwright.sync_api", reason="The dashboard is tested with Playwright: pip install playwright"
)
expect = playwright.expect
Page = Any  # playwright.sync_api.Page, which may not be installed
OpenPage = Callable[..., Page]

# The headless one is the same engine without windows, for half the work.
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
# A sandbox needs rights that a container lacks; the rest keeps the browser to itself.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="No Chromium here: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    expect.set_options(timeout=DEADLINE * 1_000)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, open_service: OpenService) -> Iterator[OpenPage]:
    """Opens the dashboard of a service. After the test, the page has had no error.

    (It asks for ``open_service`` so that the pages are closed first.)
    """
    contexts, errors = [], []

    def open_page(live: Live, **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(DEADLINE * 1_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{live.port}{live.service.root_path}/")
        expect(page.locator("main")).to_have_attribute("aria-busy", "false")
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:  # an answer on its way would be an error, in the next test
            page.unroute_all(behavior="ignoreErrors")
        context.close()
    assert errors == []


@pytest.fixture
def demo(open_service: OpenService) -> Live:
    """Four workers whose jobs take 20 ms and are retried at once."""
    return open_service(demo_handlers(seconds=0.02), demo=True, workers=4, backoff=AT_ONCE)


@pytest.fixture
def repaired() -> threading.Event:
    return threading.Event()


@pytest.fixture
def flaky(open_service: OpenService, repaired: threading.Event) -> Live:
    """A service whose jobs fail until the event is set."""

    def deliver(job: Job) -> None:
        if not repaired.is_set():
            raise ConnectionError("the mail server is down")

    return open_service({"email": deliver}, backoff=AT_ONCE)


def create(page: Page, payload: str, priority: str = "medium") -> None:
    page.get_by_label("Type", exact=True).fill("email")
    page.get_by_role("combobox", name="Priority").select_option(priority)
    page.get_by_label("Payload").fill(payload)
    page.get_by_role("button", name="Create", exact=True).click()


def has_colour(page: Page, canvas: str, priority: str) -> bool:
    """Whether something is drawn in the colour of this priority."""
    found: bool = page.evaluate(
        """([selector, name]) => {
            const canvas = document.querySelector(selector);
            const context = canvas.getContext("2d");
            const colour = getComputedStyle(document.documentElement).getPropertyValue(name);
            const [red, green, blue] = colour.match(/[0-9a-f]{2}/g).map((two) => parseInt(two, 16));
            const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
            for (let n = 0; n < data.length; n += 4)
                if (data[n] === red && data[n + 1] === green && data[n + 2] === blue) return true;
            return false;
        }""",
        [canvas, f"--{priority}"],
    )
    return found


def figure(page: Page, lane: str, name: str) -> Any:
    return page.locator(f"[data-lane={lane}] [data-figure={name}]")


# ---- jobs ------------------------------------------------------------------------------------


def test_a_job_is_created_and_followed_to_its_end(
    open_service: OpenService, gate: Gate, open_page: OpenPage
) -> None:
    live = open_service({"email": lambda job: gate.wait()})
    page = open_page(live)
    create(page, '{"to": "ada@example.com"}', priority="high")
    mine = page.get_by_role("table", name="Created here")
    expect(mine.get_by_text("processing")).to_be_visible()
    expect(page.locator("#gantt")).to_have_attribute("aria-label", re.compile("^1 of 2 workers"))
    eventually(lambda: has_colour(page, "#gantt", "high"), "a bar in the row of a worker")
    page.get_by_text("Running now, as a table").click()
    expect(page.get_by_role("table", name="running now").get_by_text("high email")).to_be_visible()
    gate.open()
    expect(mine.get_by_text("completed")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(re.compile("is completed"))
    expect(figure(page, "high", "completed")).to_have_text("1")
    (job,) = live.queue.jobs()
    assert live.queue.get(job.id).payload == {"to": "ada@example.com"}


def test_how_far_a_job_is_is_a_bar_that_grows(
    open_service: OpenService, gate: Gate, open_page: OpenPage
) -> None:
    more = threading.Event()

    def export(job: Job) -> None:
        if job.payload:
            current_job().progress(0.4, "page <b>4</b>")
            assert more.wait(DEADLINE)
            current_job().progress(0.85, "page 8")
        gate.wait()

    live = open_service({"export": export}, workers=2)
    page = open_page(live)
    live.create(type="export", id="silent")
    live.create(type="export", id="talks", payload=1)
    page.get_by_text("Running now, as a table").click()
    bar = page.get_by_role("progressbar", name="progress of job talks")
    expect(bar).to_have_js_property("value", 0.4)
    running = page.get_by_role("table", name="running now")
    expect(running.get_by_text("40 % page <b>4</b>")).to_be_visible()
    more.set()
    expect(bar).to_have_js_property("value", 0.85)
    expect(running.get_by_text("85 % page 8")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(1)  # who says nothing has no bar
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    gate.open()


def test_what_is_wrong_with_a_job_is_said_at_the_form(demo: Live, open_page: OpenPage) -> None:
    page = open_page(demo)
    create(page, "{to: ada}")
    expect(page.get_by_role("alert").filter(has_text="The payload is not JSON")).to_be_visible()
    expect(page.get_by_label("Payload")).to_be_focused()
    page.get_by_label("Payload").fill("null")
    page.get_by_label("Type", exact=True).fill("letter")
    page.get_by_role("button", name="Create", exact=True).click()
    # Once, and in the words of the form: "see errors" is for programs.
    unknown = re.compile("^type: 'letter' has no handler here; there are: [a-z, ]+[.]$")
    expect(page.locator("#refusal")).to_have_text(unknown)
    page.get_by_label("Type", exact=True).fill("email")
    page.get_by_label("Start in seconds").fill("1e300")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.locator("#refusal")).to_have_text(re.compile("^run_at: Seconds from now are "))
    assert demo.stored() == 0


@pytest.mark.parametrize("typed", ["9007199254740993", '{"a": [-9223372036854775808, 1.50]}'])
def test_a_payload_is_sent_as_it_was_typed(
    open_service: OpenService, open_page: OpenPage, typed: str
) -> None:
    """JavaScript has no integers beyond 2**53."""
    live = open_service({"email": lambda job: None})
    page = open_page(live)
    create(page, typed)
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()
    [job] = live.queue.jobs()
    assert job.payload == json.loads(typed)


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("18446744073709551616", "more than 64 bits"),
        ('{"a": 1, "a": 2}', "the same key twice"),
        ('1, "id": "x"', "The payload is not JSON"),
    ],
)
def test_what_a_payload_cannot_be_is_said(
    demo: Live, open_page: OpenPage, typed: str, why: str
) -> None:
    page = open_page(demo)
    create(page, typed)
    expect(page.get_by_role("alert").filter(has_text=why)).to_be_visible()
    assert demo.stored() == 0


def test_a_long_error_is_unfolded_by_who_wants_it(
    open_service: OpenService, open_page: OpenPage
) -> None:
    def fail(job: Job) -> None:
        raise RuntimeError("it went wrong " * 200_000)

    live = open_service({"email": fail}, max_retries=0)
    for n in range(10):
        live.create(type="email", id=f"dead-{n}")
        reaches(live.queue, f"dead-{n}", Status.FAILED)
    assert len(live.http.get("/dead-letters").content) < 64_000
    page = open_page(live, viewport={"width": 360, "height": 740})
    error = page.get_by_role("table", name="failed for good").locator(".error summary").first
    expect(error).to_be_visible()
    assert page.evaluate("document.documentElement.scrollHeight") < 6_000
    lines = """each => each.getBoundingClientRect().height
        / parseFloat(getComputedStyle(each).lineHeight)"""
    assert error.evaluate(lines) < 3.5
    error.click()
    assert error.evaluate(lines) > 20


def test_under_the_path_of_a_proxy(open_service: OpenService, open_page: OpenPage) -> None:
    live = open_service({"email": lambda job: None}, root_path="/queue")
    page = open_page(live)
    create(page, "null")
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()
    page.get_by_role("link", name="API").click()
    expect(page.get_by_text("/jobs/{job_id}").first).to_be_visible()
    location = live.post("/queue/jobs", {"type": "email"}).headers["location"]
    assert location.startswith("/queue/jobs/")
    assert live.http.get(location).status_code == 200


def test_a_dead_letter_says_why_and_is_retried(
    flaky: Live, repaired: threading.Event, open_page: OpenPage
) -> None:
    page = open_page(flaky)
    create(page, "null")
    dead = page.get_by_role("table", name="failed for good")
    expect(dead.locator(".error")).to_have_text(re.compile("the mail server is down"))
    dead.get_by_text("4 attempts").click()
    expect(dead.get_by_role("listitem")).to_have_count(4)
    repaired.set()
    dead.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("No job has failed for good.")).to_be_visible()
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()


@pytest.mark.parametrize("status", ["failed", "retrying"])
def test_beyond_the_newest_ten_there_is_a_way_to_all(
    open_service: OpenService, open_page: OpenPage, status: str
) -> None:
    backoff = Backoff(base=3600) if status == "retrying" else AT_ONCE
    live = open_service(demo_handlers(seconds=0), demo=True, backoff=backoff)
    page = open_page(live)
    way = page.get_by_role("link", name="All dead" if status == "failed" else "All that wait")
    for n in range(11):
        live.create(type="email", id=f"job-{n}", payload={"fails": 9})
        if n == 9:
            reaches(live.queue, f"job-{n}", Status(status))
            expect(page.locator("#dead tbody tr, #retries tbody tr")).to_have_count(10)
            expect(way).to_be_hidden()
    way.click()
    expect(page.locator("body")).to_contain_text('"id":"job-0"')


@pytest.mark.parametrize("status", ["failed", "retrying"])
def test_a_list_forgets_what_no_figure_has_seen(
    open_service: OpenService, open_page: OpenPage, status: str
) -> None:
    """Figures come twice a second: a job may come and go between two of them."""

    def without_it(route: Any) -> None:
        figures = route.fetch().json()
        figures["totals"][status] = 0
        route.fulfill(json=figures)

    backoff = Backoff(base=3600) if status == "retrying" else AT_ONCE
    live = open_service(demo_handlers(seconds=0), demo=True, backoff=backoff)
    page = open_page(live)
    page.route("**/stats", without_it)
    job_id = live.create(type="webhook", payload={"fails": 4})["id"]
    rows = page.locator("#retries" if status == "retrying" else "#dead")
    expect(rows.get_by_text("connection reset by the receiver")).to_be_visible()
    if status == "retrying":
        live.queue.cancel(job_id)
    else:
        live.queue.delete(job_id)
    expect(rows.get_by_text("connection reset by the receiver")).to_be_hidden()


def test_a_dead_letter_says_what_it_is_about(flaky: Live, open_page: OpenPage) -> None:
    meta = {"user": "7", "source": "<b>web</b>"}
    flaky.queue.enqueue(Job(kind="email", group="tenant-7", meta=meta))
    page = open_page(flaky)
    dead = page.get_by_role("table", name="failed for good")
    dead.get_by_text("4 attempts").click()
    expect(dead.locator(".about")).to_have_text("group: tenant-7, source: <b>web</b>, user: 7")


def test_an_answer_of_before_is_not_the_last_word(
    flaky: Live, repaired: threading.Event, open_page: OpenPage
) -> None:
    page = open_page(flaky)
    held: list[tuple[Any, Any]] = []

    def answer(route: Any) -> None:
        response = route.fetch()
        if held or not response.json()["jobs"]:
            route.fulfill(response=response)
        else:
            held.append((route, response))

    page.route("**/dead-letters*", answer)
    job_id = flaky.create(type="email")["id"]
    failed = page.locator("#now [data-figure=failed]")
    expect(failed).to_have_text("1")
    while not held:  # the list with the one that has failed
        page.wait_for_event("request", lambda request: request.url.endswith("/stats"))
    repaired.set()
    flaky.queue.retry(job_id)
    expect(failed).to_have_text("0")
    for _ in range(2):
        page.wait_for_event("requestfinished", lambda request: request.url.endswith("/stats"))
    [(route, response)] = held
    with page.expect_response(lambda said: "dead-letters" in said.url and not said.json()["jobs"]):
        route.fulfill(response=response)
    expect(page.get_by_text("No job has failed for good.")).to_be_visible()


def test_what_was_retried_while_nobody_listened_is_asked_for(
    flaky: Live, repaired: threading.Event, open_page: OpenPage
) -> None:
    page = open_page(flaky)
    create(page, "null")
    expect(page.locator("#mine").get_by_text("failed", exact=True)).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("No connection")
    repaired.set()
    [letter] = flaky.queue.dead_letters()
    flaky.queue.retry(letter.id)
    reaches(flaky.queue, letter.id, Status.COMPLETED)
    page.context.set_offline(False)
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()


def test_a_retry_counts_down(open_service: OpenService, open_page: OpenPage) -> None:
    live = open_service(demo_handlers(seconds=0), demo=True, backoff=Backoff(base=4, jitter=0))
    page = open_page(live)
    live.create(type="webhook", payload={"fails": 1})
    retries = page.get_by_role("table", name="wait for the next one")
    expect(retries.get_by_text("connection reset by the receiver")).to_be_visible()
    # Looked for once a second at the latest, so what is looked for must stay for longer.
    expect(retries.get_by_text(re.compile("in [34] s"))).to_be_visible()
    expect(retries.get_by_text(re.compile("in [12] s"))).to_be_visible()
    expect(page.get_by_text("Nothing waits for a retry.")).to_be_visible()
    expect(figure(page, "medium", "completed")).to_have_text("1")


def test_a_retry_that_is_far_away_is_told_in_hours(
    open_service: OpenService, open_page: OpenPage
) -> None:
    backoff = Backoff(base=10_000, maximum=10_000, jitter=0)
    live = open_service(demo_handlers(seconds=0), demo=True, backoff=backoff)
    page = open_page(live)
    live.create(type="email", payload={"fails": 9})
    expect(page.locator("#retries").get_by_text("in 2 h 46 min")).to_be_visible()


def test_an_attempt_is_told_with_its_date(
    flaky: Live, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead letter may be weeks old."""

    def long_ago(route: Any) -> None:
        job = route.fetch().json()
        for failure in job["failures"]:
            failure |= {"started_at": "2020-12-31T20:00:00Z", "ended_at": "2020-12-31T20:00:01Z"}
        route.fulfill(json=job)

    flaky.create(type="email", id="old")
    page = open_page(flaky, locale="en-GB", timezone_id="Asia/Tokyo")
    page.route("**/jobs/old", long_ago)
    page.get_by_text("4 attempts").click()
    said = "01/01/2021, 05:00:00, after 1.0 s: ConnectionError: the mail server is down"
    expect(page.locator("#dead").get_by_role("listitem")).to_have_text([said] * 4)


def test_attempts_that_are_unfolded_are_those_of_now(flaky: Live, open_page: OpenPage) -> None:
    flaky.create(type="email", id="again")
    page = open_page(flaky)
    page.get_by_text("4 attempts").click()
    lines = page.locator("#dead").get_by_role("listitem")
    expect(lines).to_have_count(4)
    flaky.queue.retry("again")
    reaches(flaky.queue, "again", Status.FAILED)
    expect(lines).to_have_count(8)


# ---- starvation ------------------------------------------------------------------------------


def test_starvation_is_seen_to_happen_and_to_stop(
    open_service: OpenService, open_page: OpenPage
) -> None:
    live = open_service(demo_handlers(seconds=0.03), demo=True)
    page = open_page(live)
    low = page.locator("[data-lane=low]")
    page.get_by_role("radio", name="Strict priority").check()
    expect(page.get_by_role("status")).to_have_text(re.compile("Strict priority"))
    page.get_by_role("button", name="Flood the queue").click()
    expect(low.get_by_text("starving")).to_be_visible()
    page.get_by_role("radio", name="Token fairness").check()
    expect(low.get_by_text("starving")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("The low lane moves again.")
    lanes = live.queue.metrics().by_priority
    assert lanes[Priority.HIGH].queued > 0
    assert lanes[Priority.LOW].queued < 100


def test_without_the_demo_there_is_no_flood(live: Live, open_page: OpenPage) -> None:
    page = open_page(live)
    live.create()
    expect(figure(page, "medium", "completed")).to_have_text("1")
    expect(page.get_by_role("button", name="Flood the queue")).to_be_hidden()
    expect(page.get_by_role("radio")).to_have_count(0)


# ---- who looks at it -------------------------------------------------------------------------


def test_what_looks_like_html_is_text(open_service: OpenService, open_page: OpenPage) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"

    def fail(job: Job) -> None:
        raise RuntimeError(evil)

    live = open_service({evil: fail}, max_retries=0)
    live.queue.enqueue(Job(id=evil[:19] + "/", kind=evil))
    live.queue.enqueue(Job(id=evil, kind=evil))
    page = open_page(live)
    dead = page.get_by_role("table", name="failed for good")
    expect(dead.locator(".error")).to_have_text([f"RuntimeError: {evil}"] * 2)
    expect(dead.locator(".tag").first).to_have_text(f"medium {evil}")
    expect(dead.get_by_role("link", name=evil[:19] + "/")).to_be_visible()
    dead.get_by_text("1 attempt").first.click()
    expect(dead.get_by_role("listitem")).to_contain_text(evil)
    dead.get_by_role("button", name=f"Retry job {evil}", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text(evil)
    assert page.title() == "Job queue"
    assert page.locator("main img, main script").count() == 0


def tab_to(page: Page, element: Any) -> None:
    """Go on with the tab key until this has the focus, and is seen to have it."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if element.evaluate("each => each === document.activeElement"):
            return
    raise AssertionError(f"The tab key does not lead to {element}.")


def test_a_job_is_created_and_retried_with_the_keyboard(
    flaky: Live, repaired: threading.Event, open_page: OpenPage
) -> None:
    page = open_page(flaky)
    tab_to(page, page.get_by_label("Type", exact=True))
    page.keyboard.type("email")
    tab_to(page, page.get_by_role("button", name="Create", exact=True))
    page.keyboard.press("Enter")
    retry = page.get_by_role("table", name="failed for good").get_by_role("button", name="Retry")
    expect(retry).to_be_visible()
    tab_to(page, retry)
    assert retry.evaluate("each => getComputedStyle(each).outlineStyle") == "solid"
    repaired.set()
    page.keyboard.press("Space")
    expect(page.get_by_role("heading", name="Dead letters")).to_be_focused()
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()


def test_the_rule_is_changed_with_the_keyboard(demo: Live, open_page: OpenPage) -> None:
    page = open_page(demo)
    fair = page.get_by_role("radio", name="Token fairness")
    expect(fair).to_be_checked()
    tab_to(page, fair)
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("status")).to_contain_text("Strict priority")
    tab_to(page, page.get_by_role("button", name="Flood the queue"))
    page.keyboard.press("Enter")
    expect(figure(page, "low", "queued")).not_to_have_text("0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(
    open_service: OpenService, open_page: OpenPage, scheme: str
) -> None:
    def fail(job: Job) -> None:
        raise RuntimeError("x" * 300)  # a word without an end

    live = open_service({"email": fail}, max_retries=0)
    live.create(type="email", id="y" * 200)
    live.post("/pause", {"type": "z" * 100})
    job = {"type": "email"}
    named = {"name": "nightly-report-of-everything", "timezone": "Europe/Berlin"}
    live.post("/periodic", {"schedule": "0 3 * * *", "job": job, **named})
    page = open_page(live, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    create(page, "null")
    expect(page.locator("#mine").get_by_text("failed", exact=True)).to_be_visible()
    dead = page.get_by_role("table", name="failed for good")
    dead.get_by_text("1 attempt").first.click()
    expect(dead.get_by_role("listitem")).to_be_visible()
    periodic = page.locator("#periodic-card")
    expect(periodic).to_contain_text("medium email")
    assert periodic.evaluate("card => card.scrollWidth <= card.clientWidth")
    assert periodic.locator(".tag").bounding_box()["height"] < 60  # no letter has its own line
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    colours = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    back, ink = map(brightness, colours)
    assert (back > ink) == (scheme == "light")


def brightness(colour: str) -> int:
    """Of a colour like rgb(27, 34, 48)."""
    return sum(map(int, re.findall(r"\d+", colour)))


def test_every_control_and_table_has_a_name(demo: Live, open_page: OpenPage) -> None:
    page = open_page(demo)
    demo.create(type="email", payload={"fails": 9})
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    for role in ("button", "textbox", "combobox", "spinbutton", "radio", "meter", "img", "table"):
        unnamed = page.get_by_role(role, name=re.compile("^$"))
        assert page.get_by_role(role).count() > 0, role
        assert unnamed.count() == 0, f"{role}: {unnamed.first.evaluate('each => each.outerHTML')}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_people_from_using_it(
    flaky: Live, repaired: threading.Event, open_page: OpenPage, scheme: str
) -> None:
    """As far as a program can find that out: axe-core, of all that the page can show at once."""
    from axe_playwright_python.sync_playwright import Axe

    flaky.create(type="email", id="dead")
    reaches(flaky.queue, "dead", Status.FAILED)
    repaired.set()
    page = open_page(flaky, color_scheme=scheme)
    create(page, "null")
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()
    page.get_by_text("4 attempts").click()
    expect(page.get_by_role("listitem").filter(has_text="mail server")).to_have_count(4)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_an_empty_meter_is_seen_in_forced_colours(demo: Live, open_page: OpenPage) -> None:
    page = open_page(demo, forced_colors="active")
    meter = page.get_by_role("meter").first
    assert meter.evaluate("each => getComputedStyle(each).borderTopStyle") == "solid"


# ---- pause and scale -------------------------------------------------------------------------


def test_the_queue_and_a_lane_are_paused_and_resumed(live: Live, open_page: OpenPage) -> None:
    page = open_page(live)
    pause = page.get_by_role("button", name="Pause the queue")
    pause.click()
    expect(page.get_by_role("status")).to_have_text("The queue is paused.")
    page.get_by_role("button", name="Pause the low lane").click()
    resume = page.get_by_role("button", name="Resume the queue")
    resume.click()
    expect(page.locator("[data-lane=high] .paused")).to_be_hidden()
    expect(page.locator("[data-lane=low] .paused")).to_be_visible()
    assert live.queue.paused() == [Pause(priority=Priority.LOW)]
    live.create(priority="low", id="held")
    expect(figure(page, "low", "queued")).to_have_text("1")
    page.get_by_role("button", name="Resume the low lane").click()
    assert live.queue.wait("held", DEADLINE).status is Status.COMPLETED


def test_what_somebody_else_has_paused_is_seen_and_resumed(live: Live, open_page: OpenPage) -> None:
    live.queue.pause(kind="<b>mail</b>")
    live.queue.pause(group="tenant-7")
    page = open_page(live)
    table = page.get_by_role("table", name="What else is paused")
    expect(table.get_by_role("row")).to_have_count(2)
    expect(table.get_by_text("Type <b>mail</b> is paused")).to_be_visible()
    page.get_by_role("button", name="Resume group tenant-7").click()
    expect(table.get_by_role("row")).to_have_count(1)
    assert live.queue.paused() == [Pause(kind="<b>mail</b>")]
    live.queue.resume(kind="<b>mail</b>")
    expect(table).to_be_hidden()
    live.queue.pause()
    expect(page.get_by_role("button", name="Resume the queue")).to_be_visible()


def test_the_number_of_workers_is_changed(live: Live, open_page: OpenPage) -> None:
    page = open_page(live)
    field = page.get_by_role("spinbutton", name="How many")
    expect(field).to_have_value("2")
    field.fill("5")
    field.press("Enter")
    expect(page.locator("[data-figure=busy]")).to_have_text("0 of 5")
    live.queue.set_workers(3)
    expect(page.locator("[data-figure=busy]")).to_have_text("0 of 3")
    expect(field).to_have_value("5")  # somebody may be about to type
    page.get_by_role("button", name="Change").focus()
    expect(field).to_have_value("3")


@pytest.mark.parametrize("pause", [{"priority": "low"}, {"group": "tenant-7"}])
def test_a_paused_lane_does_not_starve(
    live: Live, open_page: OpenPage, pause: dict[str, str]
) -> None:
    live.queue.pause(**pause)
    live.create(priority="low", group="tenant-7")
    page = open_page(live)
    for _ in range(30):
        live.create(priority="high")
    expect(figure(page, "high", "completed")).to_have_text("30")
    expect(figure(page, "low", "passed")).to_have_text("0")
    expect(page.locator("[data-lane=low] .starving")).to_be_hidden()


def test_a_lane_that_waits_for_a_limit_does_not_starve(
    open_service: OpenService, open_page: OpenPage
) -> None:
    slow = Kind(lambda job: None, rate_limit=LeakyBucket(0.001))
    live = open_service({"slow": slow, "work": lambda job: None})
    for _ in range(2):  # the first starts at once
        live.create(type="slow", priority="low")
    page = open_page(live)
    for _ in range(30):
        live.create(priority="high")
    expect(figure(page, "high", "completed")).to_have_text("30")
    expect(figure(page, "low", "queued")).to_have_text("1")
    expect(figure(page, "low", "passed")).to_have_text("0")
    expect(page.locator("[data-lane=low] .starving")).to_be_hidden()


# ---- the connection --------------------------------------------------------------------------


def test_a_lost_connection_is_said_and_found_again(demo: Live, open_page: OpenPage) -> None:
    page = open_page(demo)
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("No connection; next try in")
    expect(page.get_by_role("status")).to_have_text("The connection is lost.")
    demo.create(type="email", payload={"fails": 9})
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.get_by_role("status")).to_have_text("Connected again.")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_lost_connection_is_seen_wherever_one_has_scrolled(
    demo: Live, open_page: OpenPage
) -> None:
    page = open_page(demo, viewport={"width": 360, "height": 600})
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(page.locator("#connection")).not_to_be_in_viewport()
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("No connection")
    expect(page.locator("#connection")).to_be_in_viewport()


def test_a_reload_keeps_the_last_minute(
    open_service: OpenService, gate: Gate, open_page: OpenPage
) -> None:
    live = open_service({"email": lambda job: gate.wait()})
    page = open_page(live)
    create(page, "null", priority="high")
    chart = page.locator("[data-lane=high] canvas")
    expect(chart).to_have_attribute("aria-label", re.compile("; 1 started"))
    gate.open()
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()
    page.reload()
    expect(page.locator("#mine")).to_be_hidden()
    expect(chart).to_have_attribute("aria-label", re.compile("; 1 started"))
    eventually(lambda: has_colour(page, "#gantt", "high"), "the bar of before")


def test_figures_that_come_late_are_said_and_no_lost_connection(
    demo: Live, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program has locked the file: the service says so, and the page with it."""
    page = open_page(demo)
    gate = Gate()
    metrics = demo.queue.metrics

    def late() -> Metrics:
        gate.wait()
        return metrics()

    monkeypatch.setattr(demo.queue, "metrics", late)
    expect(page.get_by_role("alert").filter(has_text="has not answered for 1 s")).to_be_visible()
    expect(page.locator("#connection")).to_have_text("Live")
    gate.open()
    expect(page.get_by_role("alert").filter(has_text="has not answered")).to_be_hidden()


def test_with_a_token_the_browser_asks_for_it(
    open_service: OpenService, open_page: OpenPage
) -> None:
    token = "correct horse battery"
    live = open_service(demo_handlers(seconds=0), demo=True, token=token)
    page = open_page(live, http_credentials={"username": "me", "password": token})
    create(page, '{"seconds": 0}')
    expect(page.locator("#mine").get_by_text("completed")).to_be_visible()


def test_the_page_is_made_of_our_own_files_only(demo: Live, open_page: OpenPage) -> None:
    page = open_page(demo)
    addresses = page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
    assert len(addresses) > 5
    assert all(address.startswith(f"http://127.0.0.1:{demo.port}/") for address in addresses)
    for file in Path(app.PAGE).iterdir():
        assert "innerHTML" not in file.read_text(encoding="utf-8")
