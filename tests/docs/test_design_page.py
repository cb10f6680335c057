"""The design page shows the tables that the code runs on."""

from tools.draw_states import PAGE, draw


def test_the_state_tables_of_the_design_page_are_current() -> None:
    page = PAGE.read_text()
    assert draw(page) == page, "run: python tools/draw_states.py"
