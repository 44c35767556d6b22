"""What of a database is in no dump of it: who may connect to it, its settings, owner, limit, comment and collation.

All of it is taken from the database that is replaced, in statements that the server itself writes and quotes.
"""

from __future__ import annotations

from agents.drivers.postgresql_client import AccessDeniedError, Server

# Columns that only newer servers have are read as JSON. Until a restored database has its name nobody else gets in.
_CREATE = r"""
SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    :'new', pg_encoding_to_char(encoding), datcollate, datctype)
  || CASE facts->>'datlocprovider'
    WHEN 'i' THEN ' LOCALE_PROVIDER icu ICU_LOCALE '
      || quote_literal(coalesce(facts->>'datlocale', facts->>'daticulocale'))
      || coalesce(' ICU_RULES ' || quote_literal(facts->>'daticurules'), '')
    WHEN 'b' THEN ' LOCALE_PROVIDER builtin BUILTIN_LOCALE ' || quote_literal(facts->>'datlocale')
    WHEN 'c' THEN ' LOCALE_PROVIDER libc'
    ELSE '' END
FROM (SELECT *, to_jsonb(pg_database) AS facts FROM pg_database) AS old WHERE datname = :'name' \gexec
REVOKE ALL ON DATABASE :"new" FROM PUBLIC;
SELECT format('ALTER DATABASE %I OWNER TO %I', :'new', pg_get_userbyid(datdba))
FROM pg_database WHERE datname = :'name' \gexec
"""
# Lists are stored with their own quotes, and each name of one is quoted anew: what is stored may be any text.
_TAKE = r"""
SELECT format('ALTER DATABASE %I OWNER TO %I', :'new', pg_get_userbyid(datdba)),
  format('ALTER DATABASE %I CONNECTION LIMIT %s', :'new', datconnlimit),
  format('COMMENT ON DATABASE %I IS %L', :'new', shobj_description(oid, 'pg_database')),
  format('REVOKE ALL ON DATABASE %I FROM PUBLIC, %I', :'new', pg_get_userbyid(datdba))
FROM pg_database WHERE datname = :'name' \gexec
SELECT format('GRANT %s ON DATABASE %I TO %s%s', privilege_type, :'new',
  CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
  CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = :'name' \gexec
SELECT format('ALTER %s SET %I TO %s',
  CASE setrole WHEN 0 THEN format('DATABASE %I', :'new')
    ELSE format('ROLE %I IN DATABASE %I', pg_get_userbyid(setrole), :'new') END,
  key,
  CASE WHEN key IN ('search_path', 'temp_tablespaces', 'session_preload_libraries', 'local_preload_libraries')
    THEN coalesce((
      SELECT string_agg(quote_literal(coalesce(replace(part[1], '""', '"'), part[2])), ', ' ORDER BY place)
      FROM regexp_matches(value, '"((?:[^"]|"")*)"|([^",\s]+)', 'g') WITH ORDINALITY AS parts (part, place)
    ), quote_literal(''))
    ELSE quote_literal(value) END)
FROM pg_database JOIN pg_db_role_setting ON setdatabase = oid, unnest(setconfig) AS entry,
  split_part(entry, '=', 1) AS key, substr(entry, length(key) + 2) AS value
WHERE datname = :'name' \gexec
"""


def create_like(server: Server, new: str, name: str) -> None:
    """Make `new` with encoding, collation and owner of `name`. AccessDeniedError when it could not get the rest later:
    that is tried now, before hours of work.
    """
    server.ask(_CREATE, new=new, name=name)
    try:
        server.ask(f"BEGIN; {_TAKE} ROLLBACK;", new=new, name=name)
    except AccessDeniedError as error:
        raise AccessDeniedError(
            f"The rights and settings of the database {name} could not be kept. {error.message} Settings of other "
            "roles need CREATEROLE, some settings a superuser. Or restore to a new database."
        ) from error


def swap_names(server: Server, new: str, name: str, old: str) -> None:
    """`new` gets all that is named above of `name`, and its name; that one becomes `old`. All at once, or nothing."""
    swap = 'ALTER DATABASE :"name" RENAME TO :"old"; ALTER DATABASE :"new" RENAME TO :"name";'
    server.ask(f"BEGIN; {_TAKE} {swap} COMMIT;", new=new, name=name, old=old)
