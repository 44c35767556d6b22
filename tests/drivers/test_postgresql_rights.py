"""A restored database has the rights and settings of the one that it replaces, or it is refused before it begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.drivers.base import DriverError
from engine.waiting import never_cancel
from tests.drivers.postgresql_lab import Lab, dump_of, feed, restore, running_postgresql

# All that is in no dump of a database.
PROPERTIES = """
SELECT to_jsonb(d) - ARRAY['oid', 'datname', 'datfrozenxid', 'datminmxid', 'datacl'],
  shobj_description(oid, 'pg_database'), (SELECT array_agg(one::text ORDER BY one::text) FROM unnest(datacl) AS one),
  (SELECT jsonb_object_agg(setrole, setconfig) FROM pg_db_role_setting WHERE setdatabase = oid)
FROM pg_database AS d WHERE datname = 'sorted';
"""
MAY_CONNECT = (
    "SELECT rolname FROM pg_roles WHERE has_database_privilege(oid, :'name', 'CONNECT') AND rolname ~ '^some';"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Lab]:
    with running_postgresql() as lab:
        yield lab


@pytest.fixture
def lab(server: Lab) -> Iterator[Lab]:
    server.sql("CREATE DATABASE shop;")
    server.sql("CREATE TABLE t (id int);", "shop")
    yield server
    server.drop()


@pytest.mark.case("RS-18")
def test_rights_settings_and_collation_are_those_of_the_database_that_is_replaced(lab: Lab) -> None:
    lab.sql("CREATE DATABASE sorted TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk';")
    lab.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (42);", "sorted")
    lab.sql("""CREATE ROLE some_app; CREATE ROLE some_reader; CREATE ROLE "some ""odd'";""")
    dump = dump_of(lab, "database/sorted")
    try:
        with lab.driver.open_output(lab.writing("database/sorted", overwrite=True)) as opened:
            lab.sql(
                """
ALTER DATABASE sorted OWNER TO some_app; ALTER DATABASE sorted CONNECTION LIMIT 7;
REVOKE ALL ON DATABASE sorted FROM PUBLIC; REVOKE TEMPORARY ON DATABASE sorted FROM some_app;
GRANT CONNECT ON DATABASE sorted TO some_reader WITH GRANT OPTION;
GRANT TEMPORARY ON DATABASE sorted TO "some ""odd'"; COMMENT ON DATABASE sorted IS 'it''s\nours';
ALTER DATABASE sorted SET search_path TO "$user", 'Od"d, x', '', public;
ALTER DATABASE sorted SET default_transaction_read_only TO on;
ALTER DATABASE sorted SET "my.text" TO E'a\\\\b''; DROP DATABASE shop; -- "x", =';
ALTER ROLE "some ""odd'" IN DATABASE sorted SET work_mem TO '5MB';
ALTER ROLE some_reader IN DATABASE sorted SET search_path TO '';
"""
            )
            expected = lab.sql(PROPERTIES)
            feed(opened.output, dump)
            [new] = lab.databases() - {"shop", "sorted"}
            assert lab.sql(MAY_CONNECT, name=new) == []
            opened.finish(never_cancel)

        assert lab.sql(PROPERTIES) == expected and "phonebk" in str(expected) and "Od" in str(expected)
        assert lab.sql(MAY_CONNECT, name="sorted") == [["some_app"], ["some_reader"]]
        assert lab.sql("SELECT id FROM t;", "sorted") == [["42"]]
    finally:
        lab.drop()
        lab.sql("""DROP ROLE some_app, some_reader, "some ""odd'";""")


def test_a_worker_that_is_no_superuser_replaces_a_database_only_with_all_its_rights(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.sql("CREATE ROLE some_worker LOGIN CREATEDB; ALTER DATABASE shop OWNER TO some_worker;")
    lab.sql("ALTER TABLE t OWNER TO some_worker;", "shop")
    lab.sql("REVOKE ALL ON DATABASE shop FROM PUBLIC; ALTER DATABASE shop SET work_mem TO '5MB';")
    expected = lab.sql(MAY_CONNECT, name="shop")
    services = lab.storage.parent / "pg_service.conf"
    (lab.storage.parent / "other.conf").write_text(services.read_text().replace("user=backupsite", "user=some_worker"))
    try:
        with monkeypatch.context() as patched:
            patched.setenv("PGSERVICEFILE", str(lab.storage.parent / "other.conf"))
            restore(lab, dump_of(lab), "database/shop", overwrite=True)
        assert lab.sql(MAY_CONNECT, name="shop") == expected == [["some_worker"]]
        lab.sql("ALTER ROLE backupsite IN DATABASE shop SET work_mem TO '6MB';")
        with monkeypatch.context() as patched:
            patched.setenv("PGSERVICEFILE", str(lab.storage.parent / "other.conf"))
            with pytest.raises(DriverError, match="settings of the database shop") as refused:
                restore(lab, b"", "database/shop", overwrite=True)
        assert refused.value.code == "not_permitted" and lab.databases() == {"shop"}
    finally:
        lab.drop()
        lab.sql("DROP ROLE some_worker;")
