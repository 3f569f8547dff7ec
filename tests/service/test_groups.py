"""Groups over HTTP and on the page: one tenant floods, and the others do not wait."""

from __future__ import annotations

import pytest

from final import GroupRecord, Job
from final.service import figures
from final.service.demo import demo_handlers
from tests.helpers import DEADLINE, Gate
from tests.service.conftest import OpenService
from tests.service.helpers import Live
from tests.service.test_dashboard import OpenPage, browser, expect, open_page  # noqa: F401


@pytest.fixture
def waiting(open_service: OpenService, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Live:
    """One worker, held at the gate by a job of "tenant-1". Each look is a new one."""
    monkeypatch.setattr(figures, "FRESH", 0.0)
    live = open_service({"work": lambda job: gate.wait()}, workers=1)
    live.create(id="holder", group="tenant-1")
    return live


class TestHttp:
    def test_who_has_most_waiting_comes_first(self, waiting: Live) -> None:
        waiting.queue.enqueue_many([Job(kind="work", group=f"tenant-{n}") for n in (2, 3, 3)])
        first, second = (
            group
            for group in waiting.http.get("/groups").json()["groups"]
            if group["group"] != "tenant-1"
        )
        assert 0 < first.pop("oldest_queued") < DEADLINE
        assert first == {"group": "tenant-3", "queued": 2, "running": 0}
        assert (second["group"], second["queued"]) == ("tenant-2", 1)

    def test_so_many_as_are_wanted(self, waiting: Live) -> None:
        waiting.queue.enqueue_many([Job(kind="work", group=f"tenant-{n}") for n in range(2, 20)])
        for query, count in (("", 10), ("?limit=3", 3), ("?limit=100", 19)):
            assert len(waiting.http.get(f"/groups{query}").json()["groups"]) == count
        for wrong in ("limit=0", "limit=101", "limits=3"):
            assert waiting.http.get(f"/groups?{wrong}").status_code == 422

    def test_who_ask_often_share_an_answer(
        self, live: Live, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look that takes seconds is not taken again for twenty times as long."""
        asked: list[int] = []

        def look(limit: int) -> list[GroupRecord]:
            asked.append(limit)
            clock.now += 3
            return []

        clock = Clock()
        monkeypatch.setattr(live.queue, "groups", look)
        monkeypatch.setattr(figures, "time", clock)
        for seconds, looks in ((0, 1), (59, 1), (2, 2), (59, 2)):
            clock.now += seconds
            for _ in range(3):
                assert live.http.get("/groups").json() == {"groups": []}
            assert len(asked) == looks


class Clock:
    """In place of the module ``time``."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class TestPage:
    def test_one_floods_and_the_others_wait_as_long_as_their_own_jobs(
        self,
        waiting: Live,
        gate: Gate,
        open_page: OpenPage,  # noqa: F811
    ) -> None:
        page = open_page(waiting)
        table = page.get_by_role("table", name="Groups that have jobs")
        waiting.queue.enqueue_many([Job(kind="work", group="tenant-1") for _ in range(1_000)])
        waiting.queue.enqueue(Job(kind="work", group="<b>2</b>", priority="high"))
        rows = table.locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first.locator("th, td").nth(0)).to_have_text("tenant-1")
        expect(rows.first.locator("th, td").nth(1)).to_have_text("1,000")
        expect(rows.first.locator("th, td").nth(2)).to_have_text("1")
        expect(rows.last.locator("th, td").nth(0)).to_have_text("<b>2</b>")
        expect(rows.last.locator("th, td").nth(1)).to_have_text("1")
        gate.open()
        waiting.queue.join(DEADLINE)
        expect(page.get_by_text("No job of a group waits or runs.")).to_be_visible()

    def test_where_no_job_has_a_group_there_is_no_such_table(
        self,
        live: Live,
        open_page: OpenPage,  # noqa: F811
    ) -> None:
        page = open_page(live)
        with page.expect_response("**/groups"):
            live.create()
        expect(page.locator("#groups-card")).to_be_hidden()

    @pytest.mark.slow
    def test_the_flood_of_the_demo_is_one_tenants_and_a_job_may_be_anothers(
        self,
        open_service: OpenService,
        open_page: OpenPage,  # noqa: F811
    ) -> None:
        live = open_service(demo_handlers(seconds=60), demo=True, workers=2)
        page = open_page(live)
        page.get_by_role("button", name="Flood the queue").click()
        table = page.get_by_role("table", name="Groups that have jobs")
        expect(table.get_by_role("row", name="tenant-1")).to_be_visible()
        expect(table.locator("tbody tr")).to_have_count(4)
        page.get_by_label("Group", exact=True).fill("mine")
        page.get_by_role("button", name="Create", exact=True).click()
        expect(table.get_by_role("row", name="mine")).to_be_visible()
        [flooder] = live.queue.groups(limit=1)
        assert (flooder.name, flooder.queued + flooder.running) == ("tenant-1", 560)
