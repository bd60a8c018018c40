#!/usr/bin/env python3
"""Links, anchors and pictures of the documents: each leads somewhere, and each document can be found.

usage: links.py      prints what is wrong, and a line "N passed, N failed"
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
passed, problems = 0, []


def check(is_good, problem):
    global passed
    if is_good:
        passed += 1
    else:
        problems.append(problem)


def prose(text):
    """Without code."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(path):
    """As GitHub and mdBook make them of headings."""
    text = re.sub(r"^(```|~~~).*?^\1", "", path.read_text(), flags=re.M | re.S)
    found = set()
    for heading in re.findall(r"^#+ +(.*)$", text, flags=re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        while slug in found:
            slug += "-1"
        found.add(slug)
    return found


def targets(path):
    text = prose(path.read_text())
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


def main():
    summary = (ROOT / "docs/SUMMARY.md").read_text()
    used = set()
    for document in DOCUMENTS:
        name = document.relative_to(ROOT)
        if document.parent.name == "docs" and document.name != "SUMMARY.md":
            check(f"]({document.name})" in summary, f"{name} is not in docs/SUMMARY.md")
        for target in targets(document):
            if re.match(r"[a-z]+:", target):
                check(target.startswith(("https://", "mailto:", "http://localhost")), f"{name}: {target} is not https")
                continue
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            if document.name == "SUMMARY.md" and path == "contributing.md":
                file = ROOT / "CONTRIBUTING.md"
            check(file.exists(), f"{name}: {target} leads nowhere")
            used.add(file)
            if anchor and file.suffix == ".md" and file.exists():
                check(anchor in anchors(file), f"{name}: {target} has no such heading")
        text = prose(document.read_text())
        for picture in re.findall(r"!\[([^\]]*)\]\(", text) + re.findall(r"<img(?![^>]*\balt=\"[^\"])[^>]*>", text):
            check(len(picture) > 10 and not picture.startswith("<img"), f"{name}: a picture says nothing to those who can't see it: {picture}")
    for picture in (ROOT / "docs/pictures").iterdir():
        # The wide and the narrow, the light and the dark are taken together.
        kind = picture.name.split("-")[0]
        check(any(file.name.startswith(f"{kind}-") for file in used), f"{picture.name} is in no document")
    for problem in problems:
        print(f"FAIL  {problem}")
    print(f"{passed} passed, {len(problems)} failed")
    sys.exit(1 if problems else 0)


main()
