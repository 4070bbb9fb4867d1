"""What is known of all torrents, kept up to date by what qBittorrent says has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from qbm_trio.core.model import Torrent, TorrentId
from qbm_trio.core.snapshot import REMOVED_AFTER_S, Changes, Snapshot, Update, apply, met
from qbm_trio.core.space import RELOCATING_TAG
from tests.rig.seen import SEEDING


def named(number: int, **changes: object) -> Torrent:
    id = TorrentId(f"{number:040x}")
    return replace(SEEDING, id=id, infohash_v1=id, **changes)  # type: ignore[arg-type]


def told(torrent: Torrent, before: Torrent | None = None) -> dict[str, object]:
    """What qBittorrent says of a torrent, whole or since before."""
    return {
        field.name: getattr(torrent, field.name)
        for field in fields(torrent)
        if field.name != "id"
        and (before is None or getattr(torrent, field.name) != getattr(before, field.name))
    }


def whole(*torrents: Torrent, number: int = 1) -> Changes:
    return Changes(number=number, whole=True, torrents={t.id: told(t) for t in torrents})


def since(
    torrents: Mapping[TorrentId, Mapping[str, object]] | None = None,
    removed: tuple[TorrentId, ...] = (),
) -> Changes:
    return Changes(number=2, whole=False, torrents=torrents or {}, removed=frozenset(removed))


MANY = [named(n) for n in range(20)]


def known(*torrents: Torrent) -> Snapshot:
    return apply(Snapshot(), whole(*torrents), now_s=0.0).snapshot


def names(update: Update) -> set[TorrentId]:
    return {torrent.id for torrent in update.removed}


# -- what is known


@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 8),
            st.tuples(
                st.sampled_from(["stalledUP", "uploading", "stoppedUP", "downloading"]),
                st.sampled_from(["/ssd/t", "/hdd/t"]),
                st.sampled_from([0.0, 0.5, 1.0]),
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sets(st.integers(0, 5)),
)
def test_after_any_answers_what_is_known_is_what_qbittorrent_has(
    lists: list[dict[int, tuple[str, str, float]]], broken: set[int]
) -> None:
    """Whichever answers are whole, and however torrents come, change and go."""
    snapshot, before = Snapshot(), dict[TorrentId, Torrent]()
    for turn, listed in enumerate(lists):
        now = {}
        for number, (state, content_path, progress) in listed.items():
            torrent = named(number, state=state, content_path=content_path, progress=progress)
            now[torrent.id] = torrent
        if turn == 0 or turn in broken:
            changes = whole(*now.values(), number=turn)
        else:
            changes = Changes(
                number=turn,
                whole=False,
                torrents={
                    id: told(t, before.get(id)) for id, t in now.items() if t != before.get(id)
                },
                removed=frozenset(before.keys() - now.keys()),
            )
        update = apply(snapshot, changes, now_s=float(turn))
        assert update.snapshot.torrents == now
        assert update.snapshot.number == turn
        assert update.changed <= now.keys()
        assert not names(update) & now.keys()
        snapshot, before = update.snapshot, now


def test_nothing_told_is_nothing_changed_and_costs_no_copy() -> None:
    before = known(*MANY)
    update = apply(before, since(), now_s=1.0)
    assert update.snapshot.torrents is before.torrents
    assert not update.changed
    assert not update.removed


def test_an_upload_that_begins_or_ends_is_no_change_that_matters() -> None:
    before = known(*MANY)
    id = MANY[3].id
    for state in ("uploading", "forcedUP", "queuedUP"):
        assert not apply(before, since({id: {"state": state}}), now_s=1.0).changed


def test_what_is_acted_on_is_a_change_that_matters() -> None:
    before = known(*MANY)
    id = MANY[3].id
    for field in (
        {"state": "missingFiles"},
        {"state": "moving"},
        {"content_path": "/hdd/t"},
        {"tags": frozenset({RELOCATING_TAG})},
        {"progress": 0.5},
        {"completed_at": 2.0},
    ):
        assert apply(before, since({id: field}), now_s=1.0).changed == {id}


def test_of_a_torrent_that_is_tagged_as_being_relocated_each_state_matters() -> None:
    tagged = replace(MANY[0], tags=frozenset({RELOCATING_TAG}))
    update = apply(known(tagged), since({tagged.id: {"state": "stoppedUP"}}), now_s=1.0)
    assert update.changed == {tagged.id}


def test_one_that_is_told_of_in_part_only_is_taken_for_unready() -> None:
    update = apply(known(), since({MANY[0].id: {"name": "new"}}), now_s=1.0)
    (torrent,) = update.snapshot.torrents.values()
    assert (torrent.name, torrent.state, torrent.progress) == ("new", "unknown", 0.0)


# -- what is removed


def test_in_an_unbroken_session_one_that_is_removed_is_gone_at_once() -> None:
    update = apply(known(*MANY), since(removed=(MANY[0].id,)), now_s=1.0)
    assert update.removed == (MANY[0],)
    assert MANY[0].id not in update.snapshot.torrents
    assert not update.snapshot.absent


def test_one_that_was_removed_and_added_again_is_not_gone() -> None:
    id = MANY[0].id
    update = apply(known(*MANY), since({id: {"tags": frozenset({"x"})}}, (id,)), now_s=1.0)
    assert not update.removed
    assert id in update.snapshot.torrents


def test_one_that_came_and_went_between_two_answers_is_gone_if_others_saw_it() -> None:
    seen_by_a_job = met(TorrentId("f" * 40), "quick", "e" * 64)
    assert set(seen_by_a_job.hashes) == {"f" * 40, "e" * 64}
    update = apply(known(*MANY), since(), now_s=1.0, others=[seen_by_a_job, MANY[0]])
    assert update.removed == (seen_by_a_job,)


def test_one_that_others_saw_in_an_earlier_session_may_be_back() -> None:
    """A killed qBittorrent forgets what was added last: that is what jobs are about."""
    seen_by_a_job = met(TorrentId("f" * 40), "quick", "e" * 40)
    update = apply(known(*MANY), whole(*MANY), now_s=1.0, others=[seen_by_a_job])
    assert not update.removed
    again = apply(update.snapshot, since(), now_s=2.0, others=[seen_by_a_job])
    assert not again.removed
    assert apply(again.snapshot, since(), now_s=1.0 + REMOVED_AFTER_S).removed == (seen_by_a_job,)


def test_one_that_a_new_session_misses_is_gone_only_after_ten_minutes() -> None:
    update = apply(known(*MANY), whole(*MANY[1:]), now_s=100.0)
    assert not update.removed
    just_before = apply(update.snapshot, since(), now_s=100.0 + REMOVED_AFTER_S - 1)
    assert not just_before.removed
    late = apply(just_before.snapshot, since(), now_s=100.0 + REMOVED_AFTER_S)
    assert late.removed == (MANY[0],)
    assert not apply(late.snapshot, since(), now_s=9999.0).removed  # once


def test_one_that_is_back_before_that_is_not_gone() -> None:
    update = apply(known(*MANY), whole(*MANY[1:]), now_s=100.0)
    back = apply(update.snapshot, since({MANY[0].id: told(MANY[0])}), now_s=200.0)
    assert MANY[0].id in back.changed
    assert not apply(back.snapshot, since(), now_s=9999.0).removed


def test_a_further_session_does_not_begin_the_ten_minutes_anew() -> None:
    update = apply(known(*MANY), whole(*MANY[1:]), now_s=100.0)
    again = apply(update.snapshot, whole(*MANY[1:]), now_s=400.0)
    assert apply(again.snapshot, since(), now_s=100.0 + REMOVED_AFTER_S).removed == (MANY[0],)


def test_a_list_of_less_than_nine_in_ten_proves_nothing_however_long() -> None:
    """A killed qBittorrent may have lost a third of them, and get them back."""
    snapshot = known(*MANY)
    for minute in range(60):
        update = apply(snapshot, whole(*MANY[3:]), now_s=60.0 * minute)  # 17 of 20
        assert not update.removed
        snapshot = update.snapshot
    # With 18 of 20 the ten minutes begin.
    long = apply(snapshot, whole(*MANY[2:]), now_s=3600.0)
    assert set(long.snapshot.absent) == {MANY[0].id, MANY[1].id}
    assert not apply(long.snapshot, since(), now_s=3540.0 + REMOVED_AFTER_S - 1).removed
    late = apply(long.snapshot, since(), now_s=3540.0 + REMOVED_AFTER_S)
    assert late.removed == tuple(MANY[:2])


def test_a_qbittorrent_that_has_nothing_yet_removes_nothing() -> None:
    update = apply(known(*MANY), whole(), now_s=0.0)
    assert not apply(update.snapshot, since(), now_s=9999.0).removed
