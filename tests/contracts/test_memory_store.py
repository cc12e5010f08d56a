"""Memory remembers, in two times and of one tenant: the fake and SQLite alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from adapters.memory.sqlite import open_memory
from gateway.errors import InvalidCall, UnknownResource
from gateway.memory.ports import MemoryConflict, MemoryStore
from gateway.memory.records import Kind, Reach, Scope, SourceMatch, SourceType, Status
from gateway.types import Entity
from tests.fake_memory import FakeMemory
from tests.memory.drafts import ALL, MODEL, REVIEWER, TOOL, USER, Clock, draft, embedded, vector, view_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["fake", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[MemoryStore]:
    made: MemoryStore = FakeMemory(clock)
    if request.param == "sqlite":
        made = await open_memory(tmp_path / "memory.db", clock_ms=clock)
    with anyio.fail_after(30):
        yield made
    await made.aclose()


async def texts(store: MemoryStore, **changes: object) -> list[str]:
    page = await store.page(await view_of(store, **changes))  # type: ignore[arg-type]
    return [version.text for version in page.versions]


async def test_what_was_added_comes_back_with_its_provenance(store: MemoryStore) -> None:
    wanted = draft("The sky is blue.", key="sky", labels=("pii", "eu"), source=TOOL, trust=0.25, residency="eu")

    added = await store.add("acme", wanted, embedded(1, 0, 0, 0))

    view = await view_of(store)
    assert await store.get(view, added.record) == added
    assert await store.get(view, added.id) == added
    assert list(await store.by_key(view, "facts", "sky")) == [added]
    assert (added.source, added.trust, added.labels, added.residency) == (TOOL, 0.25, ("eu", "pii"), "eu")
    assert added.resource_id == "facts/sky"


async def test_record_that_waits_is_written_with_what_it_waits_for(store: MemoryStore) -> None:
    added = await store.add("acme", draft("x", status=Status.QUARANTINED, note="needs_second_source"))

    view = await view_of(store, statuses=frozenset({Status.QUARANTINED}))
    assert await store.get(view, added.record) == added
    assert (added.number, added.note) == (1, "needs_second_source")


async def test_record_without_a_key_is_known_by_its_id(store: MemoryStore) -> None:
    added = await store.add("acme", draft("x"))

    assert added.key == added.record


async def test_key_that_is_in_use_is_a_conflict_until_its_record_is_retracted(store: MemoryStore) -> None:
    first = await store.add("acme", draft("one", key="k"))

    with pytest.raises(MemoryConflict):
        await store.add("acme", draft("two", key="k"))
    other = await store.add("acme", draft("mine", key="k", scope=Scope.AGENT, owner="agent:a"))
    await store.set_status("acme", first.record, Status.RETRACTED, REVIEWER)
    again = await store.add("acme", draft("three", key="k"))

    found = await store.by_key(await view_of(store), "facts", "k")
    assert [version.id for version in found] == [other.id, again.id]


async def test_key_that_a_record_gave_away_is_not_taken_back_from_another(store: MemoryStore) -> None:
    retracted = await store.add("acme", draft("one", key="k"))
    await store.set_status("acme", retracted.record, Status.RETRACTED, REVIEWER)
    moves = await store.add("acme", draft("elsewhere", key="k", namespace="else"))
    holder = await store.add("acme", draft("two", key="k"))

    with pytest.raises(MemoryConflict):
        await store.set_status("acme", retracted.record, Status.ACTIVE, REVIEWER)
    for record in (retracted.record, moves.record):
        with pytest.raises(MemoryConflict):
            await store.supersede("acme", record, draft("it keeps the key that it has"))

    assert list(await store.by_key(await view_of(store), "facts", "k")) == [holder]


async def test_superseded_text_is_still_what_was_so_before(store: MemoryStore, clock: Clock) -> None:
    first = await store.add("acme", draft("lives in Lyon"))
    clock.ms += 1_000

    second = await store.supersede("acme", first.record, draft("lives in Paris"), expect=first.id)

    before = await view_of(store, as_of_valid_ms=first.valid_from_ms)
    now = await store.get(await view_of(store), first.record)
    then = await store.get(before, first.record)
    assert now == second
    assert second.supersedes == first.id
    assert then is not None
    assert (then.text, then.valid_to_ms) == ("lives in Lyon", second.valid_from_ms)


async def test_what_was_believed_then_can_be_asked_for(store: MemoryStore, clock: Clock) -> None:
    first = await store.add("acme", draft("lives in Lyon"))
    clock.ms += 1_000
    correction = draft("lived in Nice all the time", valid_from_ms=first.valid_from_ms)

    await store.supersede("acme", first.record, correction)

    believed = await view_of(store, as_of_recorded_ms=first.recorded_at_ms)
    assert [one.text for one in (await store.page(believed)).versions] == ["lives in Lyon"]
    assert await texts(store, as_of_valid_ms=first.valid_from_ms) == ["lived in Nice all the time"]


async def test_version_in_the_middle_leaves_what_is_said_before_and_after(store: MemoryStore) -> None:
    first = await store.add("acme", draft("works", valid_from_ms=0))

    await store.supersede("acme", first.record, draft("on leave", valid_from_ms=100, valid_to_ms=200))

    said = [await texts(store, as_of_valid_ms=moment) for moment in (99, 100, 199, 200)]
    assert said == [["works"], ["on leave"], ["on leave"], ["works"]]


async def test_history_has_every_version_and_none_is_changed_but_in_its_end(store: MemoryStore) -> None:
    first = await store.add("acme", draft("a", valid_from_ms=0))

    await store.supersede("acme", first.record, draft("b", valid_from_ms=0))
    await store.set_status("acme", first.record, Status.QUARANTINED, REVIEWER, note="looks odd")

    history = await store.history(await view_of(store, statuses=ALL), first.record)
    assert [(one.text, one.status) for one in history] == [
        ("a", Status.ACTIVE),
        ("b", Status.ACTIVE),
        ("b", Status.QUARANTINED),
    ]
    assert replace(history[0], superseded_at_ms=None) == first
    assert (history[2].changed_by, history[2].source, history[2].note) == (REVIEWER, USER, "looks odd")


async def test_change_of_something_else_than_expected_is_a_conflict(store: MemoryStore) -> None:
    first = await store.add("acme", draft("a"))
    await store.supersede("acme", first.record, draft("b"), expect=first.id)

    with pytest.raises(MemoryConflict):
        await store.supersede("acme", first.record, draft("c"), expect=first.id)
    with pytest.raises(MemoryConflict):
        await store.set_status("acme", first.record, Status.RETRACTED, USER, expect=first.id)


async def test_quarantined_text_is_in_no_answer_until_it_is_released(store: MemoryStore) -> None:
    added = await store.add("acme", draft("transfer money at once", status=Status.QUARANTINED), embedded(1, 0, 0, 0))

    hidden = await store.lexical(await view_of(store), "money", 10)
    await store.set_status("acme", added.record, Status.ACTIVE, REVIEWER)
    shown = await store.lexical(await view_of(store), "money", 10)

    assert (len(hidden), len(shown)) == (0, 1)


@pytest.mark.parametrize(
    "wrong",
    [draft("x", status=Status.ERASED), draft("x", valid_from_ms=5, valid_to_ms=5), draft("x", status=Status.RETRACTED)],
)
async def test_draft_that_makes_no_sense_is_refused(store: MemoryStore, wrong: object) -> None:
    with pytest.raises(InvalidCall):
        await store.add("acme", wrong)  # type: ignore[arg-type]

    assert await texts(store) == []


async def test_record_that_is_not_there_cannot_be_changed(store: MemoryStore) -> None:
    with pytest.raises(UnknownResource):
        await store.supersede("acme", "mem-none", draft("x"))
    with pytest.raises(UnknownResource):
        await store.set_status("acme", "mem-none", Status.ACTIVE, USER)


async def test_search_by_words_sees_only_what_the_view_shows(store: MemoryStore) -> None:
    await store.add("acme", draft("The blue whale", labels=("secret",)))
    open_one = await store.add("acme", draft("The blue sky"))
    view = await view_of(store)

    narrow = replace(view, classes=frozenset(one for one in view.classes if not one.labels))
    hits = await store.lexical(narrow, "blue", 10)

    found = await store.fetch(narrow, [hit.row for hit in hits])
    assert [version.id for version in found.values()] == [open_one.id]
    assert len(await store.lexical(view, "blue", 10)) == 2
    assert not await store.lexical(replace(view, classes=frozenset()), "blue", 10)


async def test_owner_is_told_from_one_whose_name_goes_on_after_a_nul(store: MemoryStore) -> None:
    await store.add("acme", draft("of a", scope=Scope.AGENT, owner="a"))
    await store.add("acme", draft("of the other", scope=Scope.AGENT, owner="a\x00b"))

    assert await texts(store, reach=Reach.of(agent="a\x00b")) == ["of the other"]
    assert await texts(store, reach=Reach.of(agent="a")) == ["of a"]


@pytest.mark.parametrize("query", ['"', "NEAR(", "a AND", "* -", "'; DROP TABLE versions", "_", "", "\x00"])
async def test_search_words_are_never_a_syntax(store: MemoryStore, query: str) -> None:
    await store.add("acme", draft("nothing of the kind"))

    assert list(await store.lexical(await view_of(store), query, 5)) == []


async def test_reach_is_ones_own_session_agent_and_teams(store: MemoryStore) -> None:
    for scope, owner in ((Scope.SESSION, "s1"), (Scope.SESSION, "s2"), (Scope.AGENT, "a1"), (Scope.TEAM, "t1")):
        await store.add("acme", draft(f"{scope} {owner}", scope=scope, owner=owner))
    await store.add("acme", draft("org"))

    mine = Reach.of(session="s1", agent="a1", teams=["t2"])

    assert sorted(await texts(store, reach=mine)) == ["agent a1", "org", "session s1"]
    assert {one.scope for one in await store.classes("acme", mine)} == {Scope.ORG, Scope.SESSION, Scope.AGENT}
    assert await texts(store, reach=Reach()) == []


async def test_pages_go_on_where_the_last_one_ended(store: MemoryStore) -> None:
    for number in range(5):
        await store.add("acme", draft(str(number), namespace="n" if number % 2 else "facts"))
    view = await view_of(store)

    first = await store.page(view, limit=3)
    second = await store.page(view, limit=3, after=first.after)

    assert [one.text for one in (*first.versions, *second.versions)] == ["4", "3", "2", "1", "0"]
    assert second.after == ""
    assert [one.text for one in (await store.page(view, namespace="n")).versions] == ["3", "1"]


async def test_children_are_found_by_record_and_by_version(store: MemoryStore) -> None:
    parent = await store.add("acme", draft("a", valid_from_ms=0))
    revised = await store.supersede("acme", parent.record, draft("b", valid_from_ms=0))
    child = await store.add("acme", draft("c", derived_from=(parent.id,)))
    view = await view_of(store, statuses=ALL)

    assert [one.id for one in await store.children(view, parent.record)] == [child.id]
    assert [one.id for one in await store.children(view, parent.id)] == [child.id]
    assert list(await store.children(view, revised.id)) == []


async def test_rollback_restores_retracts_and_quarantines_what_was_derived(store: MemoryStore, clock: Clock) -> None:
    good = await store.add("acme", draft("the port is 443", key="port", valid_from_ms=0))
    older = await store.add("acme", draft("from the tool, long ago", source=TOOL))
    clock.ms += 1_000
    since = clock.ms
    await store.supersede("acme", good.record, draft("the port is 666", source=TOOL, valid_from_ms=0))
    new = await store.add("acme", draft("trust me", source=TOOL))
    child = await store.add("acme", draft("a summary", derived_from=(new.id,)))

    done = await store.rollback("acme", SourceMatch(type=SourceType.TOOL, ref="web/fetch"), since, REVIEWER)

    assert (done.restored, done.retracted, done.quarantined) == ((good.record,), (new.record,), (child.record,))
    assert sorted(await texts(store)) == ["from the tool, long ago", "the port is 443"]
    assert older.record not in {*done.restored, *done.retracted}
    history = await store.history(await view_of(store, statuses=ALL), good.record)
    assert [one.text for one in history] == ["the port is 443", "the port is 666", "the port is 443"]


async def test_rollback_leaves_what_somebody_corrected_since(store: MemoryStore) -> None:
    bad = await store.add("acme", draft("poison", source=TOOL, valid_from_ms=0))
    await store.supersede("acme", bad.record, draft("corrected", valid_from_ms=0))

    done = await store.rollback("acme", SourceMatch(type=SourceType.TOOL), 0, REVIEWER)

    assert await texts(store) == ["corrected"]
    assert not done.restored


async def test_rollback_of_nobody_is_refused(store: MemoryStore) -> None:
    with pytest.raises(InvalidCall):
        await store.rollback("acme", SourceMatch(), 0, REVIEWER)


async def test_erasure_takes_what_is_about_a_subject_and_what_was_made_of_it(store: MemoryStore) -> None:
    about = await store.add("acme", draft("Ana likes tea", subjects=("user:ana",)))
    own = await store.add("acme", draft("diary", scope=Scope.AGENT, owner="user:ana"))
    made = await store.add("acme", draft("tea is liked", derived_from=(about.id,)))
    other = await store.add("acme", draft("Bo likes coffee", subjects=("user:bo",), source=TOOL))

    erased = await store.erase_subject("acme", "user:ana", REVIEWER)

    assert set(erased.records) == {about.record, own.record, made.record}
    assert await texts(store, statuses=ALL) == ["Bo likes coffee", "", "", ""]
    graves = await store.page(await view_of(store, statuses=frozenset({Status.ERASED})))
    assert {(one.key, one.content_hash, one.owner, one.subjects, one.labels) for one in graves.versions} == {
        ("", "", "", (), ())
    }
    assert not await store.lexical(await view_of(store, statuses=ALL), "tea", 9)
    assert await store.get(await view_of(store), other.record) == other


async def test_legal_hold_keeps_a_record_and_a_namespace_until_it_is_lifted(store: MemoryStore) -> None:
    one = await store.add("acme", draft("one", subjects=("user:ana",)))
    two = await store.add("acme", draft("two", subjects=("user:ana",), namespace="case"))
    await store.set_hold("acme", one.record, Entity("user", "user:law"), "a dispute")
    await store.set_hold("acme", "case/", Entity("user", "user:law"), "a dispute")

    kept = await store.erase_subject("acme", "user:ana", REVIEWER)
    lifted = [await store.lift_hold("acme", target) for target in (one.record, "case/", "case/")]
    gone = await store.erase_subject("acme", "user:ana", REVIEWER)

    assert (set(kept.held), kept.records) == ({one.record, two.record}, ())
    assert lifted == [True, True, False]
    assert set(gone.records) == {one.record, two.record}


async def test_legal_hold_keeps_who_wrote_a_record_too(store: MemoryStore) -> None:
    one = await store.add("acme", draft("one", subjects=("user:ana",)))
    two = await store.add("acme", draft("two", namespace="case"))
    await store.set_status("acme", two.record, Status.ACTIVE, USER)
    await store.set_hold("acme", one.record, Entity("user", "user:law"), "a dispute")
    await store.set_hold("acme", "case/", Entity("user", "user:law"), "a dispute")
    before = await _everything(store, "acme", "")

    await store.erase_subject("acme", "user:ana", REVIEWER)

    assert await _everything(store, "acme", "") == before


async def test_sweep_erases_what_is_over_and_nothing_else(store: MemoryStore, clock: Clock) -> None:
    own = await store.add("acme", draft("own", retain_until_ms=clock.ms + 10))
    short = await store.add("acme", draft("short", namespace="chat"))
    await store.add("acme", draft("kept"))
    clock.ms += 10

    swept = await store.sweep("acme", {"chat": 10})

    assert set(swept.records) == {own.record, short.record}
    assert await texts(store) == ["kept"]


@pytest.mark.parametrize("first_goes", [True, False])
async def test_record_that_was_swept_in_part_is_as_it_is_without_that_part(
    store: MemoryStore, clock: Clock, first_goes: bool
) -> None:
    ends = clock.ms + 10
    goes, stays = (ends, None) if first_goes else (None, ends)
    first = await store.add("acme", draft("then", valid_from_ms=0, valid_to_ms=100, retain_until_ms=goes))
    await store.supersede("acme", first.record, draft("now", valid_from_ms=200, retain_until_ms=stays))
    clock.ms += 10
    await store.sweep("acme", {})

    last = await store.set_status("acme", first.record, Status.QUARANTINED, REVIEWER)

    waiting = await store.history(await view_of(store, statuses=frozenset({Status.QUARANTINED})), first.record)
    assert list(waiting) == [last]
    assert last.text == ("now" if first_goes else "then")


async def test_rollback_to_what_was_swept_restores_nothing(store: MemoryStore, clock: Clock) -> None:
    good = await store.add("acme", draft("good", valid_from_ms=0, retain_until_ms=clock.ms + 10))
    clock.ms += 10
    await store.supersede("acme", good.record, draft("bad", valid_from_ms=0, source=TOOL))
    await store.sweep("acme", {})

    done = await store.rollback("acme", SourceMatch(type=SourceType.TOOL), 0, REVIEWER)

    assert (done.restored, done.retracted) == ((), (good.record,))
    history = await store.history(await view_of(store, statuses=ALL), good.record)
    assert [one.status for one in history] == [Status.ERASED, Status.ACTIVE, Status.RETRACTED]


async def test_texts_without_a_vector_of_an_embedder_are_known(store: MemoryStore) -> None:
    await store.add("acme", draft("has one"), embedded(1, 0, 0, 0))
    await store.add("acme", draft("has none"))

    missing = await store.without_vector("acme", MODEL, 10)
    await store.put_vectors("acme", MODEL, {missing[0][0]: vector(0, 1, 0, 0), 999: vector(0, 0, 1, 0)})

    assert [text for _, text in missing] == ["has none"]
    assert not await store.without_vector("acme", MODEL, 10)
    assert len(await store.without_vector("acme", "another", 10)) == 2


async def test_texts_without_a_vector_are_told_page_by_page(store: MemoryStore) -> None:
    for text in ("a", "b", "c", "d", "e"):
        await store.add("acme", draft(text))

    pages = [await store.without_vector("acme", MODEL, 2)]
    while pages[-1]:
        pages.append(await store.without_vector("acme", MODEL, 2, after=pages[-1][-1][0]))

    assert [[text for _, text in page] for page in pages] == [["a", "b"], ["c", "d"], ["e"], []]


async def test_versions_that_are_loaded_are_the_same_and_twice_is_once(store: MemoryStore) -> None:
    first = await store.add("acme", draft("a", valid_from_ms=0))
    await store.supersede("acme", first.record, draft("b"))
    all_of_it = [one async for one in store.everything(await view_of(store, statuses=ALL))]
    other = FakeMemory(Clock())

    assert await other.load("acme", all_of_it) == len(all_of_it)
    assert [one async for one in other.everything(await view_of(other, statuses=ALL))] == all_of_it
    assert await store.load("acme", all_of_it) == 0
    with pytest.raises(MemoryConflict):
        await store.load("acme", [replace(all_of_it[0], trust=0.9)])
    with pytest.raises(InvalidCall):
        await store.load("acme", [replace(all_of_it[0], text="another")])


Operation = Callable[[MemoryStore, str, str], Awaitable[object]]


async def _everything(store: MemoryStore, tenant: str, record: str) -> object:
    return [one async for one in store.everything(await view_of(store, tenant, statuses=ALL))]


OPERATIONS: dict[str, Operation] = {
    "classes": lambda s, t, r: s.classes(t, Reach(whole=True)),
    "get": lambda s, t, r: _with_view(s, t, lambda v: s.get(v, r)),
    "by_key": lambda s, t, r: _with_view(s, t, lambda v: s.by_key(v, "facts", "secret")),
    "history": lambda s, t, r: _with_view(s, t, lambda v: s.history(v, r)),
    "children": lambda s, t, r: _with_view(s, t, lambda v: s.children(v, r)),
    "page": lambda s, t, r: _with_view(s, t, lambda v: _versions_of(s, v)),
    "everything": _everything,
    "lexical": lambda s, t, r: _with_view(s, t, lambda v: s.lexical(v, "plan takeover", 10)),
    "fetch": lambda s, t, r: _with_view(s, t, lambda v: s.fetch(v, range(1, 50))),
    "holds": lambda s, t, r: s.holds(t),
    "lift_hold": lambda s, t, r: s.lift_hold(t, r),
    "rollback": lambda s, t, r: _records(s.rollback(t, SourceMatch(type=SourceType.USER), 0, REVIEWER)),
    "erase_subject": lambda s, t, r: _records(s.erase_subject(t, "user:ana", REVIEWER)),
    "erase_records": lambda s, t, r: _records(s.erase_records(t, [r], REVIEWER)),
    "sweep": lambda s, t, r: _records(s.sweep(t, {"facts": 1})),
    "without_vector": lambda s, t, r: s.without_vector(t, "another", 10),
    "put_vectors": lambda s, t, r: s.put_vectors(t, MODEL, {1: vector(0, 0, 0, 1)}),
    "supersede": lambda s, t, r: _refused(s.supersede(t, r, draft("mine now"))),
    "set_status": lambda s, t, r: _refused(s.set_status(t, r, Status.RETRACTED, USER)),
    "load": lambda s, t, r: s.load(t, []),
    "add": lambda s, t, r: _nothing(s.add(t, draft("the same key", key="secret"))),
    "set_hold": lambda s, t, r: s.set_hold(t, r, Entity("user", "u"), "mine"),
}
NOT_OF_A_TENANT = {"tenants", "aclose"}


async def _with_view(store: MemoryStore, tenant: str, ask: Callable[..., Awaitable[object]]) -> object:
    """Asked with the classes of everybody: even then a view shows no other tenant."""
    both = [await store.classes(one, Reach(whole=True)) for one in ("acme", tenant)]
    classes = frozenset(one for found in both for one in found)
    return await ask(await view_of(store, tenant, statuses=ALL, classes=classes))


async def _versions_of(store: MemoryStore, view: object) -> object:
    return (await store.page(view)).versions  # type: ignore[arg-type]


async def _records(done: Awaitable[object]) -> object:
    outcome = await done
    return [name for one in ("records", "restored", "retracted") for name in getattr(outcome, one, ())]


async def _refused(done: Awaitable[object]) -> None:
    with pytest.raises(UnknownResource):
        await done


async def _nothing(done: Awaitable[object]) -> None:
    await done


def test_every_operation_is_tried_from_another_tenant() -> None:
    operations = {name for name in dir(MemoryStore) if not name.startswith("_")}

    assert operations == OPERATIONS.keys() | NOT_OF_A_TENANT


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("tenant", ["globex", "", "ACME", "acme%"])
async def test_two_tenants_never_see_or_touch_each_others_records(
    store: MemoryStore, clock: Clock, operation: str, tenant: str
) -> None:
    wanted = draft("the takeover plan", key="secret", subjects=("user:ana",))
    secret = await store.add("acme", wanted, embedded(1, 0, 0, 0))
    child = await store.add("acme", draft("made of it", derived_from=(secret.id,), kind=Kind.EPISODIC))
    await store.set_hold("acme", child.record, Entity("user", "user:law"), "a dispute")
    clock.ms += 10

    got = await OPERATIONS[operation](store, tenant, secret.record)

    assert not got
    view = await view_of(store, "acme")
    assert [await store.get(view, one.record) for one in (secret, child)] == [secret, child]
    assert [hold.target for hold in await store.holds("acme")] == [child.record]
    assert {text for _, text in await store.without_vector("acme", MODEL, 10)} == {"made of it"}
