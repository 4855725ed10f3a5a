"""What a benchmark needs: a PostgreSQL of its own, the service on one of its databases, and a folder. Nothing of it is left."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
POSTGRES = ROOT / "deploy/dev/postgres.sh"
ROLES = ["holdfast_state", "holdfast_backup", "holdfast_restore"]
PASSPHRASE = "wicket ladder harbour plum 7"

# The same for everybody: nothing begins by itself in the middle of a run.
SETTINGS = {"autovacuum": "off", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}


def clean_env(**more):
    """Without what others would take for their configuration, and in one language."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "OTEL_", "PG"))}
    return {**env, "LC_ALL": "C.UTF-8", **more}


def binary():
    """The release, which is built unless BENCH_BINARY names another program."""
    if other := os.environ.get("BENCH_BINARY"):
        return pathlib.Path(other).resolve()
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/holdfast"


def free_port():
    while True:  # below the ports that the kernel gives to clients
        port = random.randint(20000, 32000)
        with contextlib.closing(socket.socket()) as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port


class World:
    """PostgreSQL with the roles of Holdfast, a passphrase and a home for gpg, in a folder that is removed at the end."""

    def __init__(self, need_bytes, **settings):
        self.load = os.getloadavg()[2]
        self.holdfast = binary()
        (ROOT / ".dev").mkdir(exist_ok=True)
        free = shutil.disk_usage(ROOT / ".dev").free
        if free < need_bytes:
            raise SystemExit(f"bench: {need_bytes >> 20} MB are needed in {ROOT / '.dev'}, and {free >> 20} MB are free")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".dev"))
        # A short path: the agent has a socket in it.
        self.gpg_home = tempfile.mkdtemp(prefix="holdfast-gpg-")
        self.services = []
        try:
            self._start({**SETTINGS, **settings})
        except BaseException:
            self.close()
            raise

    def _start(self, settings):
        (self.dir / "secrets").mkdir(mode=0o700)
        for name in [*ROLES, "platform", "token", "seal-key"]:
            self.secret(name, os.urandom(24).hex())
        self.passphrase_file = self.secret("passphrase", PASSPHRASE)
        self._postgres("start")
        self.sql("".join(f"alter system set {name} = '{value}';" for name, value in settings.items()))
        self._postgres("stop")
        self._postgres("start")
        self.psql("postgres", "-f", ROOT / "deploy/postgres/roles.sql")
        self.sql("create role platform login")
        for role in [*ROLES, "platform"]:
            self.sql(f"alter role {role} password '{(self.dir / 'secrets' / role).read_text()}'")

    def close(self):
        for service in list(self.services):
            service.stop()
        with contextlib.suppress(subprocess.CalledProcessError):
            self._postgres("stop")
        subprocess.run(["gpgconf", "--homedir", self.gpg_home, "--kill", "all"], stderr=subprocess.DEVNULL, check=False)
        for left in [self.gpg_home, self.dir]:
            shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError):
            (ROOT / ".dev").rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def secret(self, name, text):
        path = self.dir / "secrets" / name
        path.touch(0o600)
        path.write_text(text)
        return path

    def _postgres(self, command):
        subprocess.run([POSTGRES, command, self.dir / "postgres"], env=clean_env(), check=True)

    def postmaster(self):
        return int((self.dir / "postgres/data/postmaster.pid").read_text().split()[0])

    def env(self, database="postgres", user="postgres"):
        """For programs of PostgreSQL: no password stands in a command line."""
        secret = self.dir / ("postgres/superuser-password" if user == "postgres" else f"secrets/{user}")
        port = (self.dir / "postgres/port").read_text().strip()
        return clean_env(
            PGHOST="127.0.0.1",
            PGPORT=port,
            PGUSER=user,
            PGPASSWORD=secret.read_text(),
            PGDATABASE=database,
            GNUPGHOME=self.gpg_home,
        )

    def psql(self, database, *arguments, user="postgres", text=None):
        command = ["psql", "-qXAt", "-v", "ON_ERROR_STOP=1", *arguments]
        ended = subprocess.run(command, env=self.env(database, user), input=text, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise measure.Failed(f"psql: {ended.stderr.strip()[-2000:]}")
        return ended.stdout.strip()

    def sql(self, text, database="postgres"):
        return self.psql(database, text=text)

    def create_database(self, name):
        """A new one, instead of that of this name; a service that uses that ends."""
        for service in [service for service in self.services if service.database == name]:
            service.stop()
        self.sql(f"drop database if exists {name} with (force)")
        self.sql(f"create database {name} owner platform")
        self.sql(f"revoke all on database {name} from public")


class Service:
    """`holdfast serve` on one database, with a folder of its own, and its command line. Started anew for each run that counts,
    as the programs beside it are, so that its peak of memory is that of the run."""

    def __init__(self, world, database, catalog, encrypted=True, join=None):
        self.world, self.database, self.catalog, self.join = world, database, catalog, join
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"backups-{database}-", dir=world.dir))
        self.log = self.folder.with_suffix(".log")
        self.process = self.file = None
        self.start()
        if encrypted:
            self.command("encryption", "set", "--passphrase-file", world.passphrase_file)
        self.command("retention", "set", "2")

    def start(self):
        self.stop()
        secrets, self.port = self.world.dir / "secrets", free_port()
        env = clean_env(
            HOLDFAST_LISTEN=f"127.0.0.1:{self.port}",
            HOLDFAST_FOLDER=str(self.folder),
            HOLDFAST_CATALOG=str(self.catalog),
            HOLDFAST_DATABASE__HOST="127.0.0.1",
            HOLDFAST_DATABASE__NAME=self.database,
            HOLDFAST_DATABASE__SSLMODE="disable",
            HOLDFAST_DATABASE__PORT=self.world.env()["PGPORT"],
            HOLDFAST_TOKEN_FILE=str(secrets / "token"),
            HOLDFAST_SEAL_KEY_FILE=str(secrets / "seal-key"),
            HOLDFAST_LIMITS__BACKUPS_PER_HOUR="0",
            HOLDFAST_ALLOW_PLAINTEXT_SECRETS="true",
            HOLDFAST_SCHEDULE__DRIVER="external",
            **{
                f"HOLDFAST_DATABASE__{role.removeprefix('holdfast_').upper()}_PASSWORD_FILE": str(secrets / role)
                for role in ROLES
            },
        )
        begin = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.world.holdfast, "serve"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self.join,
            )
        self.world.services.append(self)
        # It listens, and has compared its folder with its catalog.
        deadline = time.monotonic() + 1800
        while True:
            with open(self.log, "rb") as log:
                log.seek(begin)
                said = log.read()
            if b"was compared with the catalog" in said and self.answers():
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise measure.Failed(f"the service did not start: {said[-2000:].decode(errors='replace')}")
            time.sleep(0.05)

    def stop(self):
        if self.process is None:
            return
        self.world.services.remove(self)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def client(self, *arguments):
        endpoint = ["--endpoint", f"http://127.0.0.1:{self.port}", "--token-file", self.world.dir / "secrets/token"]
        return [str(part) for part in [self.world.holdfast, *arguments, "--json", *endpoint]]

    def answers(self):
        return not subprocess.run(self.client("status"), env=clean_env(), capture_output=True, check=False).returncode

    def command(self, *arguments):
        ended = subprocess.run(self.client(*arguments), env=clean_env(), capture_output=True, text=True, check=False)
        if ended.returncode:
            raise measure.Failed(f"holdfast {arguments[0]} ended with {ended.returncode}: {ended.stderr.strip()[-2000:]}")
        return json.loads(ended.stdout) if ended.stdout.strip() else None

    def cost(self, *arguments, lines=None):
        """Carries a command out and says what it cost: the client, which waits for the end of it, and the service."""
        before = measure.tree_cpu(self.process.pid)
        cost = measure.pipeline([self.client(*arguments)], clean_env(), lines=lines)
        peak = measure.peak_memory(self.process.pid)
        if not peak:
            raise measure.Failed(f"the service has ended: {self.log.read_text(errors='replace')[-2000:]}")
        cost.cpu += measure.tree_cpu(self.process.pid) - before
        cost.memory += peak
        cost.more["service"] = peak
        return cost

    def backup(self):
        """A backup, and the seconds until its file was written and the service began to prove it."""
        written, started = [], time.monotonic()

        def lines(text):
            if text.startswith("checking"):
                written.append(time.monotonic() - started)

        cost = self.cost("backup", lines=lines)
        # A short one is over before anybody has seen it check its file.
        cost.more["written"] = written[0] if written else cost.wall
        # Names sort by time. Looked up here, so that no call is counted that the backup did not need.
        self.file = max(self.folder.glob("*.tar.zst*"))
        cost.size = self.file.stat().st_size
        return cost

    def latest(self):
        return self.command("show", "latest")

    def restore(self, *options):
        """Of the last backup that was asked for."""
        time_, suffix, _ = self.file.name.split("-")
        return self.cost("restore", f"b-{time_.lower()}-{suffix}", "--yes", "--passphrase-file", self.world.passphrase_file, *options)
