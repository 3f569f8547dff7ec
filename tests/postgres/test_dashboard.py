"""The dashboard on a database, in a real browser: the processes that share it."""

from __future__ import annotations

from final.service.demo import demo_handlers
from tests.host import Host
from tests.service.conftest import OpenService, closed, open_service
from tests.service.test_dashboard import (
    OpenPage,
    browser,
    expect,
    open_page,
    pytestmark,
)

__all__ = ["browser", "closed", "open_page", "open_service", "pytestmark"]  # fixtures


def test_a_process_is_shown_until_it_is_gone(
    address: str, open_service: OpenService, open_page: OpenPage
) -> None:
    live = open_service(demo_handlers(), demo=True, path=address)
    with Host(address, workers=0, name="nowhere") as host:
        host.wait_for("ready")
        page = open_page(live)
        table = page.get_by_role("table", name="Processes that share this database")
        other = table.get_by_role("row", name=f"nowhere:{host.pid}")
        expect(other).to_contain_text("alive")
        expect(table.get_by_role("row", name="(this one)")).to_have_count(1)
        live.create(type="email", payload={"seconds": 60}, id="a")
        expect(table).to_contain_text("email 1")
        host.kill()
        expect(other).to_have_count(0)


def test_a_file_has_no_such_table(open_service: OpenService, open_page: OpenPage) -> None:
    page = open_page(open_service(demo_handlers(), demo=True))
    expect(page.locator("#processes-card")).to_be_hidden()
