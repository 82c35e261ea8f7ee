#!/usr/bin/env python3
"""Checks an exported trail with other code than ours: PyPI's aics-tlog for keys, notes, trees and proofs (C2SP), and a second
implementation of the leaf (crates/vault_trail/vectors/audit_leaf.py).

check_trail.py FOLDER: reads trail.csv, vkey, checkpoint, older, inclusion and growth. Prints `ok` and how many rows there were.
"""

import csv
import sys
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "crates/vault_trail/vectors"))

from aics_tlog import MerkleTree, parse_checkpoint, parse_note, parse_vkey, verify_consistency, verify_leaf_inclusion, verify_note  # noqa: E402
from aics_tlog.note import b64_decode  # noqa: E402

from audit_leaf import leaf_bytes  # noqa: E402

NUMBERS = ("id", "status", "key_version", "grant_id", "leaf")
BYTES = ("leaf_hash", "salt", "redacted_digest")


def rows(path: Path):
    for row in csv.DictReader(path.open(newline="")):
        row = {name: value or None for name, value in row.items()}
        for name in NUMBERS:
            row[name] = int(row[name]) if row[name] else None
        for name in BYTES:
            row[name] = bytes.fromhex(row[name][2:]) if row[name] else None
        row["created_at"] = datetime.fromisoformat(row["created_at"] + ":00")
        yield row


def main(folder: Path) -> None:
    key = parse_vkey((folder / "vkey").read_text().strip())

    def checkpoint(text: str):
        note = parse_note(text)
        assert verify_note(note, [key]), "the signature"
        return parse_checkpoint(note.text)

    read = lambda name: (folder / name).read_text()  # noqa: E731
    leaves = [leaf_bytes(row) for row in rows(folder / "trail.csv") if row["leaf"] is not None]
    tree = MerkleTree(leaves)
    newest, older = checkpoint(read("checkpoint")), checkpoint(read("older"))
    assert newest.origin == older.origin == key.name
    for kept in (newest, older):
        assert tree.root(kept.size) == kept.root, f"the root of size {kept.size}"

    head, note = read("inclusion").split("\n\n", 1)
    lines = head.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    index, proof, now = int(lines[1].removeprefix("index ")), [b64_decode(line) for line in lines[2:]], checkpoint(note)
    assert verify_leaf_inclusion(leaves[index], index, now.size, proof, now.root)
    assert not verify_leaf_inclusion(leaves[index] + b"x", index, now.size, proof, now.root)

    head, note = read("growth").split("\n\n", 1)
    lines = head.split("\n")
    old, proof, now = int(lines[0].removeprefix("old ")), [b64_decode(line) for line in lines[1:]], checkpoint(note)
    assert old == older.size
    assert verify_consistency(old, now.size, older.root, now.root, proof)
    print("ok", len(leaves))


main(Path(sys.argv[1]))
