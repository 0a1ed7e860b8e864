from hypothesis import given, settings
from hypothesis import strategies as st

from mlkit.models.eviction import Resident, victims


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    residents = [Resident("new", 4, 3.0), Resident("old", 4, 1.0), Resident("middle", 4, 2.0)]
    assert victims(residents, 12) == ()
    assert victims(residents, 11) == ("old",)
    assert victims(residents, 4) == ("old", "middle")
    assert victims(residents, 0) == ("old", "middle", "new")


def test_what_is_kept_stays() -> None:
    residents = [Resident("pinned", 4, 1.0, kept=True), Resident("other", 4, 2.0)]
    assert victims(residents, 7) == ("other",)
    assert victims(residents, 3) is None


RESIDENT = st.builds(
    Resident,
    st.text("abcdefgh", min_size=3),
    st.integers(0, 9),
    st.floats(0, 100),
    kept=st.booleans(),
)


@settings(max_examples=40)
@given(st.lists(RESIDENT, max_size=6, unique_by=lambda r: r.id), st.integers(0, 50))
def test_the_rest_fits_and_no_victim_was_in_vain(residents, room) -> None:
    dropped = victims(residents, room)
    sizes = {r.id: r.nbytes for r in residents}
    if dropped is None:
        assert sum(r.nbytes for r in residents if r.kept) > room
        return
    assert not any(r.kept for r in residents if r.id in dropped)
    left = sum(sizes.values()) - sum(sizes[id] for id in dropped)
    assert left <= room
    assert not dropped or left + sizes[dropped[-1]] > room
