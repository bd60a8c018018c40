"""Compares the licences of all crates that are compiled with those that deny.toml allows; needs no network."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def is_allowed(expression, allowed):
    """An SPDX expression without parentheses inside parentheses: any side of OR, every side of AND."""
    expression = expression.replace("/", " OR ")
    while group := re.search(r"\(([^()]*)\)", expression):
        word = "allowed" if is_allowed(group[1], allowed) else "refused"
        expression = expression[: group.start()] + word + expression[group.end() :]
    one = lambda name: name == "allowed" or name in allowed
    return any(all(one(part.strip()) for part in side.split(" AND ")) for side in expression.split(" OR "))


def main():
    allowed = set(tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]["allow"])
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    crates = [p for p in metadata["packages"] if p["source"]]
    refused = [f"{p['name']} {p['version']}: {p['license']}" for p in crates if not is_allowed(p["license"] or "", allowed)]
    if refused:
        sys.exit("licences that deny.toml does not allow:\n" + "\n".join(refused))
    print(f"{len(crates)} crates")


main()
