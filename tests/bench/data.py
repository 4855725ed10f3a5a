"""The data: a platform that is made from a scale and a seed, what it digests to, and a hundredth of it changed."""

import pathlib

import measure
import world as worlds

HERE = pathlib.Path(__file__).parent
BYTES = 1_400_000_000
"""Of scale 1, as text."""


def fill(world, database, scale, seed, tables):
    """A new database with the data, and what the roles of Holdfast need in it."""
    world.create_database(database)
    settings = {"scale": scale, "seed": seed, "tables": tables}
    world.psql(
        database,
        *[word for name in settings for word in ("-v", f"{name}={settings[name]}")],
        "-f",
        HERE / "data.sql",
        user="platform",
    )
    return ready(world, database)


def many_tables(world, database, tables, rows):
    """The same rows in so many tables. Of two columns, since a manifest of 4 MiB is all that a file may have."""
    world.create_database(database)
    world.psql(
        database,
        user="platform",
        text=f"""
        create schema bench;
        select format('create table bench.part_%s (id bigint primary key, remark text not null)', part),
            format('insert into bench.part_%1$s select i, md5(i::text) from generate_series(%1$s, {rows}, {tables}) as i', part)
        from generate_series(1, {tables}) as part \\gexec""",
    )
    return ready(world, database)


def wide_rows(world, database, count, size):
    """Rows of `size` bytes, in binary and as text, that do not shrink."""
    world.create_database(database)
    world.psql(
        database,
        user="platform",
        text=f"""
        create schema bench;
        create table bench.picture (id integer primary key, content bytea not null);
        alter table bench.picture alter content set storage external;
        insert into bench.picture select i, (select string_agg(sha256(int8send(i * 10000000::bigint + piece)), '')
            from generate_series(1, {size // 32}) as piece) from generate_series(1, {count}) as i;
        create table bench.letter (id integer primary key, content text not null);
        alter table bench.letter alter content set storage external;
        insert into bench.letter select id, left(translate(encode(content, 'base64'), E'\\n', ''), {size}) from bench.picture;""",
    )
    return ready(world, database)


def ready(world, database):
    """Grants for the roles of Holdfast, statistics, and the catalog: one resource for each kind of table. Returns its path."""
    grants = worlds.ROOT / "deploy/postgres/grants.sql"
    world.psql(
        database,
        user="platform",
        text=f"""
        select array_agg(oid::regclass) as tables from pg_class where relnamespace = 'bench'::regnamespace and relkind = 'r' \\gset
        \\i '{grants}'""",
    )
    world.sql("vacuum (analyze)", database)
    resources = {}
    for table in names(world, database):
        resources.setdefault(table.removeprefix("bench.").split("_")[0], []).append(table)
    catalog = world.dir / f"catalog-{database}.toml"
    catalog.write_text(
        "".join(
            f'[[resource]]\nname = "{name}"\ntitle = "{name.capitalize()}"\ntables = [\n'
            + "".join(f'    "{table}",\n' for table in tables)
            + "]\n\n"
            for name, tables in resources.items()
        )
    )
    return catalog


def described(service, scale, seed, tables):
    """One line on the data, as the service counted it."""
    resources = service.latest()["resources"]
    size = sum(int(part["sizeBytes"]) for part in resources)
    items = [
        f"{int(part['itemCount']):,} {part['displayName'].lower()}s" for part in resources if part["displayName"] != "Setting"
    ]
    return f"- {size / 1e6:,.0f} MB as copied: {', '.join(items)}, {tables} small tables (scale {scale:g}, seed {seed})"


def names(world, database):
    return world.sql(
        """select oid::regclass from pg_class where relnamespace = 'bench'::regnamespace and relkind = 'r' order by oid""",
        database,
    ).splitlines()


def digest(world, database):
    """For each table its rows and the sums of two hashes of each: two databases with the same hold the same, in whatever order."""
    return world.sql(
        """
        set timezone = 'UTC'; set bytea_output = 'hex'; set extra_float_digits = 3;
        select format('select %1$L, count(*), sum(hashtextextended(t::text, 1)), sum(hashtextextended(t::text, 2)) from %1$s as t',
            oid::regclass) from pg_class where relnamespace = 'bench'::regnamespace and relkind = 'r'
        order by oid::regclass::text collate "C" \\gexec""",
        database,
    )


def expect(world, database, wanted, who):
    """A restore counts only when every table holds what it held."""
    found = digest(world, database)
    if found != wanted:
        different = set(found.splitlines()) ^ set(wanted.splitlines())
        tables = sorted({line.split("|")[0] for line in different})
        raise measure.Failed(f"after the restore by {who} these tables do not hold what they held: {', '.join(tables[:10])}")


def change(world, database):
    """A hundredth of the rows: half of them updated, a quarter deleted, a quarter new."""
    world.sql(
        """
        begin;
        update bench.measurement set value = value + 1 where id % 200 = 7;
        delete from bench.measurement where id % 400 = 11;
        insert into bench.measurement
            select -id, station_id, at, kind, value, source, remark from bench.measurement where id % 400 = 13;
        update bench.document set body = body || '{"state": "changed"}' where id % 200 = 7;
        delete from bench.document where id % 400 = 11;
        insert into bench.document select -id, md5('new' || id)::uuid, body from bench.document where id % 400 = 13;
        commit;
        vacuum (analyze);""",
        database,
    )


def empty(world, database):
    """Every table of the platform without a row, as it is on the day after a disaster: its schema is there."""
    world.psql(
        database,
        text="""
        select format('truncate %s', string_agg(oid::regclass::text, ', ')) from pg_class
        where relnamespace = 'bench'::regnamespace and relkind = 'r' \\gexec
        vacuum (analyze);""",
    )
