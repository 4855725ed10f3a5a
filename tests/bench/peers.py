"""Who is compared: Holdfast, and what people use instead, on the same data by the same PostgreSQL."""

import os
import pathlib
import shutil
import subprocess
from dataclasses import dataclass
from collections.abc import Callable

import data
import measure
import world as worlds

DUMP = ["pg_dump", "-n", "bench"]
BACKUP, EMPTY, CHANGED = "Backup", "Restore into an empty database", "Restore with 1 % of the rows changed"


@dataclass
class Way:
    """One way to do it. `prepare` and `check` are not counted."""

    group: str
    """Those of one group do the same, and are compared with what is called `holdfast` there."""
    name: str
    run: Callable[[], measure.Cost]
    prepare: Callable[[], None] = lambda: None
    check: Callable[[], None] = lambda: None
    note: str = ""


class Contest:
    """One platform in one database, and the files that each way makes of it."""

    def __init__(self, world, service):
        self.world, self.service = world, service
        self.files = world.dir / "files"
        self.files.mkdir()
        self.custom, self.folder = self.files / "custom.gpg", self.files / "folder"
        quietly = "--batch --yes --quiet --pinentry-mode loopback --passphrase-file".split()
        self.gpg = ["gpg", *quietly, str(world.passphrase_file)]
        self.encrypt = [*self.gpg, "--cipher-algo", "AES256", "-c"]
        # The agent finds out how fast this machine derives a key, once.
        measure.pipeline([["true"], self.encrypt], self.env("postgres"))
        self.wanted = data.digest(world, service.database)

    def env(self, database):
        return self.world.env(database)

    def pipe(self, commands, out):
        cost = measure.pipeline(commands, self.env(self.service.database), out=out)
        cost.size = out.stat().st_size
        return cost

    def backups(self):
        compressed = self.files / "plain.gpg"
        yield Way(
            BACKUP,
            "holdfast",
            self.service.backup,
            self.service.start,
            note="whole call: written, durable, read back and compared",
        )
        yield Way(
            BACKUP, "pg_dump -Fc | gpg -c", lambda: self.pipe([[*DUMP, "-Fc"], self.encrypt], self.custom), note="what people do"
        )
        if shutil.which("zstd"):
            for level in [1, 3]:
                commands = [[*DUMP, "-Fp"], ["zstd", "-q", f"-{level}", "-T0", "-c"], [*self.encrypt, "-z0"]]
                yield Way(
                    BACKUP,
                    f"pg_dump -Fp | zstd -{level} -T0 | gpg -c -z0",
                    lambda commands=commands: self.pipe(commands, compressed),
                    note="a pipe that is made for speed" if level == 1 else "",
                )
        else:
            print("SKIPPED: the pipes with zstd, which is not here")
        yield Way(
            BACKUP,
            "pg_dump -Fd -j2",
            self.dump_folder,
            lambda: shutil.rmtree(self.folder, ignore_errors=True),
            note="not encrypted",
        )
        if pgbackrest := self.pgbackrest():
            yield Way(
                BACKUP,
                "pgbackrest, full",
                lambda: self.run_pgbackrest(pgbackrest),
                note="another kind: the files of the whole cluster, AES-256",
            )

    def dump_folder(self):
        cost = measure.pipeline([[*DUMP, "-Fd", "-j2", "-f", str(self.folder)]], self.env(self.service.database))
        cost.size = size_of(self.folder)
        return cost

    def pgbackrest(self):
        """Its command line, with a repository that is ready. None, where it is not here or does not work here."""
        program = os.environ.get("PGBACKREST") or shutil.which("pgbackrest")
        if not program:
            print("SKIPPED: pgbackrest, which is not here (Debian: apt-get install pgbackrest)")
            return None
        at = self.files / "pgbackrest"
        at.mkdir()
        configuration = at / "pgbackrest.conf"
        configuration.touch(0o600)
        configuration.write_text(f"""[global]
repo1-path={at}/repository
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass={worlds.PASSPHRASE}
repo1-retention-full=1
compress-type=zst
compress-level=1
process-max=2
start-fast=y
archive-check=n
log-level-file=off
log-level-console=warn
lock-path={at}/lock
spool-path={at}/spool
[bench]
pg1-path={self.world.dir}/postgres/data
pg1-port={self.env("postgres")["PGPORT"]}
pg1-user=postgres
""")
        command = [program, f"--config={configuration}", "--stanza=bench"]
        made = subprocess.run(
            [*command, "--no-online", "stanza-create"], env=self.env("postgres"), capture_output=True, text=True, check=False
        )
        if made.returncode:
            print(f"SKIPPED: pgbackrest, which does not work here: {(made.stdout + made.stderr).strip()[-500:]}")
            return None
        return [*command, "--type=full", "backup"]

    def run_pgbackrest(self, command):
        cost = measure.pipeline([command], self.env("postgres"))
        cost.size = size_of(max((self.files / "pgbackrest/repository/backup/bench").glob("*F")))
        return cost

    def restores(self):
        """After the backups, whose files these take."""
        world, service = self.world, self.service
        open_custom = [*self.gpg, "-d", str(self.custom)]

        def theirs(group, name, prepare, *commands, note=""):
            into = [*commands[:-1], [*commands[-1], "-d", "peer"]]
            return Way(group, name, lambda: measure.pipeline(into, self.env("peer")), prepare, self.same("peer", name), note)

        def ours(group, name, prepare, *options, note=""):
            def prepared():
                prepare(world, service.database)
                service.start()

            return Way(group, name, lambda: service.restore(*options), prepared, self.same(service.database, name), note)

        def new():
            world.create_database("peer")

        yield theirs(
            EMPTY,
            "pg_restore -j2",
            new,
            ["pg_restore", "-j2", str(self.folder)],
            note="from a folder that is not encrypted; not atomic",
        )
        yield ours(EMPTY, "holdfast", data.empty, "--skip-safety-backup", note="tables and indexes are there")
        yield theirs(EMPTY, "gpg -d | pg_restore -1", new, open_custom, ["pg_restore", "-1"], note="makes tables and indexes")
        yield ours(CHANGED, "holdfast", data.change, "--skip-safety-backup", note="without a safety backup, as the others")
        yield theirs(
            CHANGED,
            "gpg -d | pg_restore --clean --single-transaction",
            lambda: data.change(world, "peer"),
            open_custom,
            ["pg_restore", "--clean", "--single-transaction"],
        )
        yield ours(CHANGED, "holdfast, undoable", data.change, note="with the safety backup that it makes by default")

    def same(self, database, who):
        return lambda: data.expect(self.world, database, self.wanted, who)


def size_of(path):
    return sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())


def rounds(world, ways, count, say):
    """All of them in turn, so often. Each with its costs."""
    ways = [(way, []) for way in ways]
    for number in range(count):
        for way, costs in ways:
            way.prepare()
            cost = measure.measured(world, way.run)
            way.check()
            costs.append(cost)
            say(f"{number + 1}/{count}  {way.name:<50} {cost}")
    return ways
