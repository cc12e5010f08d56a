"""What only a real database can get wrong: upgrades, permissions, places that cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, make_url, text

from adapters.stores import migrate
from adapters.stores.place import locate, make_engine
from adapters.stores.schema import metadata
from adapters.stores.sql import SqlStore, StateUnavailable, open_store
from gateway.errors import ConfigError
from gateway.ports import ApiKey, Pin, TaskQuery
from gateway.spending import Account, Line, Terms
from gateway.types import Usage
from tests.contracts import postgres

KEY = ApiKey("k1", b"\x01" * 32, "user", "user:ana", roles=("dev",))


async def opened(data_dir: Path, url: str = "") -> SqlStore:
    return await open_store(url, data_dir=data_dir, clock_s=time.time)


def old_database(data_dir: Path) -> Path:
    """A database as revision 0001 left it, with one key, in write-ahead mode."""
    data_dir.mkdir(mode=0o700)
    file = data_dir / "state.db"
    engine = create_engine(f"sqlite:///{file}")
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(file)) as native:
        native.execute("PRAGMA journal_mode=WAL")
        native.execute(
            "INSERT INTO api_keys VALUES ('k1', ?, 'user', 'user:ana', '', '[\"dev\"]', '[]', 0, 0, 0)",
            [KEY.secret_sha256],
        )
        native.commit()
    return file


def query(file: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as native:
        return list(native.execute(sql))


async def test_old_database_is_migrated_and_a_backup_is_kept(tmp_path: Path) -> None:
    file = old_database(tmp_path / "data")

    store = await opened(tmp_path / "data")
    await store.put_pins([Pin("u", "tool", "t", "d", b"{}")])
    keys, pins = await store.keys(), await store.pins("u")
    tasks = await store.tasks.count_tasks(TaskQuery("planner", "ana"))
    await store.aclose()

    assert [*keys] == [KEY]
    assert len(pins) == 1
    assert tasks == 0
    backup = tmp_path / "data" / "state.db.bak-0001"
    assert query(backup, "SELECT version_num FROM alembic_version") == [("0001",)]
    assert query(backup, "SELECT id FROM api_keys") == [("k1",)]
    assert query(file, "SELECT version_num FROM alembic_version") == [("0006",)]
    assert backup.stat().st_mode & 0o777 == 0o600


async def test_two_that_upgrade_together_migrate_once(tmp_path: Path) -> None:
    old_database(tmp_path / "data")

    async def upgrade() -> None:
        store = await opened(tmp_path / "data")
        assert [*await store.keys()] == [KEY]
        await store.aclose()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(upgrade)
            group.start_soon(upgrade)

    backups = sorted(path.name for path in (tmp_path / "data").glob("*.bak-*"))
    assert backups == ["state.db.bak-0001"]
    assert query(tmp_path / "data" / "state.db.bak-0001", "SELECT version_num FROM alembic_version") == [("0001",)]


async def test_failed_upgrade_leaves_the_old_database(tmp_path: Path) -> None:
    file = old_database(tmp_path / "data")
    with closing(sqlite3.connect(file)) as native:  # in the way of what 0002 makes
        native.execute("CREATE TABLE pins (x)")
        native.commit()

    with pytest.raises(ConfigError, match="cannot be opened"):
        await opened(tmp_path / "data")

    assert query(file, "SELECT version_num FROM alembic_version") == [("0001",)]
    assert query(file, "SELECT id FROM api_keys") == [("k1",)]


async def test_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    await (await opened(tmp_path / "data")).aclose()
    file = tmp_path / "data" / "state.db"
    with closing(sqlite3.connect(file)) as native:
        native.execute("UPDATE alembic_version SET version_num = '0999'")
        native.commit()

    with pytest.raises(ConfigError, match=r"revision '0999', written by a newer version .* knows up to '0006'"):
        await opened(tmp_path / "data")

    assert query(file, "SELECT version_num FROM alembic_version") == [("0999",)]
    assert list((tmp_path / "data").glob("*.bak-*")) == []


async def test_nothing_is_upgraded_without_a_backup(tmp_path: Path) -> None:
    file = old_database(tmp_path / "data")
    (tmp_path / "data" / "state.db.bak-0001").mkdir()

    with pytest.raises(ConfigError, match="no backup can be made"):
        await opened(tmp_path / "data")

    assert query(file, "SELECT version_num FROM alembic_version") == [("0001",)]


async def test_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as native:
        native.execute("CREATE TABLE notes (x)")

    with pytest.raises(ConfigError, match=r"tables of another program \(notes"):
        await open_store(f"sqlite:///{file}", data_dir=None, clock_s=time.time)

    assert query(file, "SELECT name FROM sqlite_master") == [("notes",)]


async def test_current_database_is_opened_without_a_backup(tmp_path: Path) -> None:
    await (await opened(tmp_path / "data")).aclose()

    store = await opened(tmp_path / "data")

    assert await store.revision() == 1
    await store.aclose()
    assert list((tmp_path / "data").glob("*.bak-*")) == []


async def test_database_of_two_branches_is_refused(tmp_path: Path) -> None:
    await (await opened(tmp_path / "data")).aclose()
    with closing(sqlite3.connect(tmp_path / "data" / "state.db")) as native:
        native.execute("INSERT INTO alembic_version VALUES ('0001')")
        native.commit()

    with pytest.raises(ConfigError, match="several revisions"):
        await opened(tmp_path / "data")


async def test_nobody_else_may_read_the_state(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)

    store = await opened(tmp_path / "data")
    await store.put_key(KEY)

    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    assert files == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    await store.aclose()


async def test_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    file = old_database(tmp_path / "data")
    file.chmod(0o644)

    await (await opened(tmp_path / "data")).aclose()

    assert file.stat().st_mode & 0o777 == 0o600


async def test_directory_of_a_chosen_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o755)

    await (await opened(tmp_path / "data", f"sqlite:///{tmp_path}/shared/own.db")).aclose()

    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "shared" / "own.db").stat().st_mode & 0o777 == 0o600


async def test_sqlite_is_opened_with_the_settings_that_concurrency_needs(tmp_path: Path) -> None:
    await (await opened(tmp_path / "data")).aclose()
    engine = make_engine(locate("", tmp_path / "data"))

    async with engine.connect() as connection:
        names = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        values = [(await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in names]

    await engine.dispose()
    assert values == ["wal", 1, 5000, 1]


async def test_path_may_hold_characters_that_urls_and_ini_files_treat_specially(tmp_path: Path) -> None:
    store = await opened(tmp_path / "a b%20?#%(x)s")

    assert await store.revision() == 1
    await store.aclose()
    assert (tmp_path / "a b%20?#%(x)s" / "state.db").is_file()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no data directory"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "name a file"),
        ("mysql://root:hunter2@h/x", "'mysql' is not supported"),
        ("postgresql+psycopg://root:hunter2@h/x", "not supported"),
        ("postgresql://u:hunter2@h/x?application_name=y", "'application_name' is not supported"),
        ("hunter2", "not a URL"),
        ("postgresql://u:hunter2@h:port/x", "not a URL"),
    ],
)
async def test_url_that_cannot_hold_state_is_refused_without_repeating_it(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        await open_store(url, data_dir=None, clock_s=time.time)

    assert "hunter2" not in str(caught.value)


async def test_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"postgresql://ana:hunter2@/state?host={tmp_path}"

    with pytest.raises(ConfigError, match="cannot be opened") as caught:
        await open_store(url, data_dir=None, clock_s=time.time)

    assert "hunter2" not in str(caught.value)


async def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, but somebody's notes " * 100)
    before = file.read_bytes()

    with pytest.raises(ConfigError, match="not a database"):
        await open_store(f"sqlite:///{file}", data_dir=None, clock_s=time.time)

    assert file.read_bytes() == before


async def test_place_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the directory should be")

    with pytest.raises(ConfigError, match="give the gateway a directory it can write"):
        await opened(tmp_path / "data")


async def test_lost_database_is_an_error_that_names_no_path(tmp_path: Path) -> None:
    store = await opened(tmp_path / "data")
    with closing(sqlite3.connect(tmp_path / "data" / "state.db")) as native:
        native.execute("DROP TABLE meta")

        with pytest.raises(StateUnavailable) as read:
            await store.revision()
        with pytest.raises(StateUnavailable) as write:
            await store.put_key(KEY)

    assert str(tmp_path) not in str(read.value) + str(write.value)
    assert [*await store.keys()] == []
    await store.aclose()


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_migrations_make_what_the_schema_describes(tmp_path: Path) -> None:
    await (await opened(tmp_path / "data")).aclose()
    engine = make_engine(locate("", tmp_path / "data"))

    async with engine.connect() as connection:
        found = await connection.run_sync(differences)

    await engine.dispose()
    assert found == []


@pytest.mark.slow
async def test_postgresql_keeps_its_tables_in_a_schema_of_their_own() -> None:
    with postgres.cluster() as home:
        url = postgres.create_database(home, "state")
        store = await open_store(url, data_dir=None, clock_s=time.time)
        await store.put_key(KEY)
        await store.aclose()
        engine = make_engine(locate(url, None))

        async with engine.begin() as connection:
            rows = await connection.execute(text("SELECT schemaname, tablename FROM pg_tables"))
            names = {f"{schema}.{name}" for schema, name in rows if schema not in {"pg_catalog", "information_schema"}}
            await connection.execute(text("SET search_path TO interlock"))
            found = await connection.run_sync(differences)
            await connection.execute(text("UPDATE interlock.alembic_version SET version_num = '0999'"))
        await engine.dispose()
        with pytest.raises(ConfigError, match="newer version"):
            await open_store(url, data_dir=None, clock_s=time.time)

    assert names == {f"interlock.{name}" for name in (*metadata.tables, "alembic_version")}
    assert found == []


@pytest.mark.slow
async def test_lost_server_is_an_error_until_it_is_back() -> None:
    with postgres.cluster() as home:
        store = await open_store(postgres.create_database(home, "state"), data_dir=None, clock_s=time.time)
        await store.put_key(KEY)

        postgres.stop(home)
        with anyio.fail_after(60), pytest.raises(StateUnavailable):
            await store.keys()
        with anyio.fail_after(60), pytest.raises(StateUnavailable):
            await store.revoke_key("k1", 1)
        postgres.start(home)
        with anyio.fail_after(60):
            found = await store.keys()

        await store.aclose()
    assert [*found] == [KEY]


async def test_server_may_be_asked_for_an_encrypted_connection_as_libpq_writes_it() -> None:
    assert locate("postgresql://db.example/state?sslmode=verify-full", None).url.query == {"ssl": "verify-full"}


async def test_url_of_a_server_is_printed_without_its_password() -> None:
    place = locate("postgres://ana:hunter2@db.example/state", None)

    assert place.url == make_url("postgresql+asyncpg://ana:hunter2@db.example/state")
    assert str(place) == "postgresql+asyncpg://ana:***@db.example/state"


async def test_question_that_is_cancelled_leaves_nothing_behind_that_waits(tmp_path: Path) -> None:
    store = await open_store("", data_dir=tmp_path, clock_s=time.time)
    before = {task.id for task in anyio.get_running_tasks()}

    with anyio.fail_after(20):
        for _ in range(5):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(store.keys)
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
    left = [task for task in anyio.get_running_tasks() if task.id not in before]

    await store.aclose()
    assert left == []


async def test_write_that_is_cancelled_at_any_moment_keeps_no_lock(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    budgets = store.budgets
    line = Line(Account("a", "k", "subject", "user:ana", "daily", 86_400, 0, "acme"), Terms(), Usage(calls=1))

    with anyio.fail_after(60):
        for turns in range(100):
            writing = asyncio.create_task(budgets.reserve(f"h{turns}", [line], (), 1_000_000, 1_000_001))
            for _ in range(turns):
                await anyio.lowlevel.cancel_shielded_checkpoint()
            writing.cancel()  # as servers do with who left: no scope of anyio's shields from that
            await asyncio.wait([writing])
            await budgets.reset("a", 1_000_000)  # while the task is known, and with it a traceback that knows cursors
        await store.aclose()


ANOTHER_PROCESS = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("UPDATE meta SET value = value + 1 WHERE name = 'revision'")
database.commit()
print(database.execute("SELECT count(*) FROM api_keys").fetchone()[0])
database.close()
"""


async def test_what_other_processes_write_is_seen_and_what_is_written_is_kept_however_often_it_is_opened(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path)
    await (await opened(tmp_path)).aclose()  # as the demonstration does, in the gateway's own process
    asked = [sys.executable, "-c", ANOTHER_PROCESS, str(tmp_path / "state.db")]
    before = await store.revision()

    with anyio.fail_after(30):
        await anyio.run_process(asked)
        seen = await store.revision()
        await store.put_key(KEY)
        counted = await anyio.run_process(asked)
    again = await store.revision()
    await store.aclose()

    assert (seen, again) == (before + 1, before + 3), "a process that closed the database took its log away"
    assert counted.stdout.strip() == b"1"
