"""What callers and the platform feel: the latency of calls with many files, and that of the platform beside a backup."""

import base64
import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import uuid

import data
import measure
import peers
import world as worlds

GHZ_VERSION = "v0.120.0"
FILES = int(os.environ.get("FILES", 10_000))
SECONDS = int(os.environ.get("SECONDS", 20))


def ghz():
    """A client for load, built once into the cache, where Go is. None: there is none."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "holdfast"
    program = cache / f"ghz-{GHZ_VERSION}"
    if program.exists():
        return program
    if not shutil.which("go"):
        return None
    print(f"Building a client for load (ghz {GHZ_VERSION}): a few minutes, once.", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build.", dir=cache) as build:
        env = {**os.environ, "GOBIN": build, "GOFLAGS": "-buildvcs=false"}
        built = subprocess.run(
            ["go", "install", f"github.com/bojand/ghz/cmd/ghz@{GHZ_VERSION}"], env=env, capture_output=True, check=False
        )
        if built.returncode:
            print(built.stderr.decode()[-1000:])
            return None
        # Only what is whole gets its name.
        os.rename(f"{build}/ghz", program)
    return program


def small_service(world, database):
    """A service on a small platform, whose files nobody needs a passphrase for."""
    service = worlds.Service(world, database, data.many_tables(world, database, 5, 1000), encrypted=False)
    service.backup()
    return service


def plant(service, first, last):
    """Whole backup files with these numbers in the folder of a service: each a copy of the latest one that is another backup, with
    its own id in manifest and name. Nobody has signed them, so the next start takes them for backups of somebody else."""
    packed = service.file
    plain = subprocess.run(["zstd", "-q", "-d", "-c", packed], stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive if member.name != "signature.asc"]
    content = {member.name: body for member, body in members}
    manifest, end = json.loads(content["manifest.json"]), json.loads(content["end.json"])
    with tempfile.TemporaryDirectory(dir=service.world.dir) as work:
        for number in range(first, last + 1):
            suffix = base64.b32encode(number.to_bytes(5, "big")).decode().lower()
            manifest.update(backup=f"b-20260101t000000z-{suffix}", uid=str(uuid.UUID(int=number)))
            content["manifest.json"] = json.dumps(manifest, indent=2).encode()
            end["manifest_sha256"] = hashlib.sha256(content["manifest.json"]).hexdigest()
            content["end.json"] = json.dumps(end).encode()
            made = io.BytesIO()
            with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for member, _ in members:
                    member.size = len(content[member.name])
                    archive.addfile(member, io.BytesIO(content[member.name]))
                whole = archive.offset + 2 * tarfile.BLOCKSIZE  # Python would fill it up to a record of a tape.
            pathlib.Path(work, f"20260101T000000Z-{suffix}.tar").write_bytes(made.getvalue()[:whole])
        subprocess.run(["zstd", "-q", "-1", "--rm", "-r", work], check=True)
        for file in pathlib.Path(work).glob("*.tar.zst"):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            file.chmod(0o640)
            shutil.move(file, service.folder / f"{file.name.removesuffix('.tar.zst')}-{digest[:32]}.tar.zst")


def known(service, expected):
    """All that were planted are in the list. They are pinned, so that the next backup does not give them up: by SQL, as
    UpdateBackup writes it, since ten thousand calls would take long."""
    found = int(service.world.sql("select count(*) from holdfast.backup where body->>'uid' is not null", service.database))
    if found < expected:
        raise measure.Failed(f"{expected} files were planted, but only {found} are known: {service.log.read_text()[-1000:]}")
    pin = """update holdfast.backup set body = body || '{"pinned": true}'; vacuum (analyze) holdfast.backup"""
    service.world.sql(pin, service.database)


def load(program, service, call, request, callers):
    """Calls for some seconds by so many callers at a time: latencies in ms, calls a second, and CPU of service and PostgreSQL."""
    token = (service.world.dir / "secrets/token").read_text()
    metadata = service.world.secret("ghz.json", json.dumps({"authorization": f"Bearer {token}"}))
    proto = worlds.ROOT / "proto"
    command = [program, "--insecure", "--proto", proto / "holdfast/backup/v1/backup_service.proto", "-i", proto]
    command += ["--call", f"holdfast.backup.v1.BackupService/{call}", "-d", json.dumps(request), "--metadata-file", metadata]
    command += [*f"-c {callers} -z {SECONDS}s --duration-stop wait -O json".split(), f"127.0.0.1:{service.port}"]
    before = measure.tree_cpu(service.process.pid), measure.tree_cpu(service.world.postmaster())
    made = subprocess.run(command, env=worlds.clean_env(), capture_output=True, text=True, check=False)
    after = measure.tree_cpu(service.process.pid), measure.tree_cpu(service.world.postmaster())
    if made.returncode:
        raise measure.Failed(f"ghz: {made.stderr.strip()[-500:]}")
    told = json.loads(made.stdout)
    good = told["statusCodeDistribution"].get("OK", 0)
    if good != told["count"]:
        raise measure.Failed(f"{call}: {told['statusCodeDistribution']}, {list(told.get('errorDistribution') or {})[:1]}")
    percentiles = {entry["percentage"]: entry["latency"] / 1e6 for entry in told["latencyDistribution"]}
    return {
        "calls": good,
        "rate": told["rps"],
        "p50": percentiles[50],
        "p99": percentiles[99],
        "cpu_ms": (after[0] - before[0]) / good * 1000,
        "server_cpu_ms": (after[1] - before[1]) / good * 1000,
    }


def service_figures(world, say):
    """Rows of (what, files, figures); none where there is no client for load."""
    program = ghz()
    if not program or not shutil.which("zstd"):
        say("SKIPPED: the latency of calls; ghz (which Go builds) or zstd is not here")
        return []
    rows, planted = [], 0
    service = small_service(world, "calls")
    name = service.latest()["name"]
    for files in sorted({min(10, FILES), FILES}):
        plant(service, planted + 1, files)
        planted = files
        service.start()
        known(service, files)
        named = {"name": name}
        for call, request, callers in [("ListBackups", {}, 1), ("GetBackup", named, 1), ("GetBackup", named, 50)]:
            what = f"{call}, {callers} caller{'s' if callers > 1 else ''}"
            figures = load(program, service, call, request, callers)
            rows.append((what, files, figures))
            say(f"{what:<26} {files:>6} files  {figures['rate']:8.0f}/s  p99 {figures['p99']:8.2f} ms")
    service.stop()
    return rows


def beside(service, contest, rounds, say):
    """Latencies of the platform, in ms, with nothing beside it, and with one backup after the other, by Holdfast or pg_dump."""
    scripts = {
        "reads": "select * from bench.measurement where id = :id;",
        "writes": "update bench.measurement set value = value + 1 where id = :id;",
    }
    world = service.world
    rows = world.sql("select max(id) from bench.measurement", service.database)
    work = world.dir / "pgbench"
    work.mkdir()
    command = ["pgbench", "-n", "-c", "4", "-j", "1", "-R", "200", "-T", str(SECONDS), "-D", f"rows={rows}"]
    command += ["-l", f"--log-prefix={work}/log"]
    for name, text in scripts.items():
        (work / name).write_text(f"\\set id random(1, :rows)\n{text}\n")
        command += ["-f", str(work / name)]
    service.start()
    neighbours = {
        "alone": None,
        "beside backups by Holdfast": service.backup,
        "beside pg_dump -Fc | gpg -c": lambda: contest.pipe([[*peers.DUMP, "-Fc"], contest.encrypt], contest.custom),
    }
    found = {}
    for _ in range(rounds):
        for who, neighbour in neighbours.items():
            world.sql("checkpoint")
            os.sync()
            with concurrent.futures.ThreadPoolExecutor() as apart:
                bench = apart.submit(measure.pipeline, [command], world.env(service.database, "platform"))
                while neighbour and not bench.done():
                    neighbour()
            bench.result()
            for log in work.glob("log.*"):
                for line in log.read_text().splitlines():
                    words = line.split()
                    found.setdefault(who, ([], []))[int(words[3])].append(int(words[2]) / 1000)
                log.unlink()
    for who, kinds in found.items():
        say(f"{who:<30} p99: reads {percentile(kinds[0], 99):.2f} ms, writes {percentile(kinds[1], 99):.2f} ms")
    return {who: dict(zip(scripts, kinds)) for who, kinds in found.items()}


def percentile(values, wanted):
    return sorted(values)[min(len(values) - 1, len(values) * wanted // 100)]
