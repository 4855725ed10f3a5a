"""Checks an unpacked backup file with nothing but the standard library: rows, bytes and digest of each table, against end.json.

    python3 tests/digest.py FOLDER
"""
import hashlib, json, pathlib, struct, sys

root = pathlib.Path(sys.argv[1])
manifest = json.loads((root / "manifest.json").read_text())
end = json.loads((root / "end.json").read_text())
assert hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest() == end["manifest_sha256"]
assert len(manifest["tables"]) == len(end["tables"])
for table, stated in zip(manifest["tables"], end["tables"]):
    data = b"".join(member.read_bytes() for member in sorted((root / table["path"]).glob("*.copy")))
    if table["format"] == "text":
        assert data == b"" or data.endswith(b"\n")
        rows, size = data.split(b"\n")[:-1], len(data)
    else:
        assert data.startswith(b"PGCOPY\n\xff\r\n\0") and data.endswith(b"\xff\xff")
        rows, at, size = [], 19, len(data) - 21
        while at < len(data) - 2:
            begin, (fields,) = at, struct.unpack_from(">h", data, at)
            at += 2
            for _ in range(fields):
                at += 4 + max(0, struct.unpack_from(">i", data, at)[0])
            rows.append(data[begin:at])
    digest = sum(int(hashlib.sha256(row).hexdigest(), 16) for row in rows) % 2**256
    sha256 = hashlib.sha256(data).hexdigest()
    found = dict(name=table["name"], rows=len(rows), bytes=size, digest=f"{digest:064x}", sha256=sha256)
    assert found == stated, (found, stated)
    print(table["name"], table["format"], len(rows))
