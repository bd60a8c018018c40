"""What is in the binary: the licence texts of all crates, and a software bill of materials (CycloneDX 1.6).

usage: inventory.py TARGET LICENSE_FOLDER SBOM_FILE
Both come from Cargo's own account of what is compiled for the target, without build and test dependencies.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import UTC, datetime
from pathlib import Path

TEXTS = re.compile(r"^(licen[cs]e|copying|notice|unlicense|copyright)", re.IGNORECASE)
ROOT = Path(__file__).resolve().parents[2]


def packages(target):
    """The package itself, and those that are linked into it, each with the packages it needs."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    known = {p["id"]: p for p in metadata["packages"]}
    nodes = {n["id"]: n for n in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    needs, waiting = {}, [root]
    while waiting:
        package = waiting.pop()
        if package in needs:
            continue
        linked = [d["pkg"] for d in nodes[package]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
        # Macros run in the compiler.
        needs[package] = [d for d in linked if not any("proc-macro" in t["kind"] for t in known[d]["targets"])]
        waiting += needs[package]
    return known[root], {known[i]["name"] + "@" + known[i]["version"]: known[i] for i in needs if i != root}, needs, known


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}


def write_licenses(crates, folder):
    missing = []
    for name, crate in sorted(crates.items()):
        source = Path(crate["manifest_path"]).parent
        texts = sorted(p for p in source.iterdir() if p.is_file() and TEXTS.match(p.name))
        if crate.get("license_file"):
            texts.append(source / crate["license_file"])
        for text in texts:
            (folder / f"{name}-{text.name}").write_bytes(text.read_bytes())
        if not texts:
            missing.append(name)
    lines = [f"{name}: {crate['license'] or 'see its file'}" for name, crate in sorted(crates.items())]
    notes = ["Crates in this binary and their licences. Their texts are in this folder.", ""] + lines
    if missing:
        notes += ["", "These come without a text of their own; that of their licence is the usual one:", *missing]
    (folder / "README.txt").write_text("\n".join(notes) + "\n")


def reference(crate):
    return f"pkg:cargo/{crate['name']}@{crate['version']}"


def write_sbom(root, crates, needs, known, target, path):
    sums = checksums()
    time = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    components = []
    for _, crate in sorted(crates.items()):
        component = {"type": "library", "bom-ref": reference(crate), "name": crate["name"], "version": crate["version"], "purl": reference(crate), "scope": "required"}
        if crate["license"]:
            component["licenses"] = [{"expression": crate["license"].replace("/", " OR ")}]
        if checksum := sums.get((crate["name"], crate["version"])):
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        components.append(component)
    own = {"type": "application", "bom-ref": reference(root), "name": root["name"], "version": root["version"], "purl": reference(root), "licenses": [{"expression": root["license"]}], "properties": [{"name": "target", "value": target}]}
    dependencies = [{"ref": reference(known[i]), "dependsOn": sorted(reference(known[d]) for d in set(ds))} for i, ds in needs.items()]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # Of the content, so that the same sources have the same number.
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=hashlib.sha256(json.dumps(components).encode()).digest()[:16], version=4)}",
        "version": 1,
        "metadata": {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": own},
        "components": components,
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def main():
    target, licenses, sbom = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    root, crates, needs, known = packages(target)
    write_licenses(crates, licenses)
    write_sbom(root, crates, needs, known, target, sbom)


main()
