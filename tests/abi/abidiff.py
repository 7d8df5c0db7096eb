#!/usr/bin/env python3
"""libabigail's abidiff on the ABI's types: what a frozen version and today's say may differ only by
what is appended.

    abidiff.py ABI-FOLDER FROZEN COMPILER...    exit 0: only appends; 1: each break on a line

An independent second reading: from the compiler's debug information, not from the header's text. The
whole report is read, and every line must be one of an append. (abidiff's own exit code can't tell an
append from a break, and its suppressions by has_data_member_inserted_at hide types that have other
changes too.) The entry point is compared by its typed pointer: behind a void * nothing would be.
"""
import os
import re
import subprocess
import sys
import tempfile

import layout

ALLOWED = [r"", r"type size hasn't changed", r"\d+ Added (variable|function)s?:", r"\[A\] .*"]


def debug_object(folder, out, compiler):
    """A shared object whose debug information has every type of the header in a folder."""
    subprocess.run([*compiler, "-std=c11", "-g", "-w", "-shared", "-fPIC", "-I", folder, "-x", "c", "-", "-o", out],
                   input=layout.types(folder).encode(), check=True)
    return out


def report_breaks(report):
    """The lines of a report of leaf changes that are no append, each with its type."""
    out, title, size, section = [], "", 0, ""
    for line in (l.strip() for l in report.splitlines()):
        changed = re.fullmatch(r"'(\w+ .*)' changed:", line)
        grown = re.fullmatch(r"type size changed from (\d+) to (\d+) \(in bits\)", line)
        heading = re.fullmatch(r"\d+ (data member|enumerator) (insertion|deletion)s?:", line)
        member = re.fullmatch(r"'(.*)', at offset (\d+) \(in bits\)", line)
        value = re.fullmatch(r"'.*' value '-?\d+'", line)
        summary = re.match(r"Removed/Changed/Added \w+ summary: (\d+) Removed, (\d+) Changed", line)
        if changed:
            title, size = changed.group(1), None
        elif summary:
            if summary.groups() != ("0", "0"):
                out.append(line)
        elif line.startswith(("Leaf changes summary", "Changed leaf types summary")):
            pass
        elif grown:
            size = int(grown.group(1))
            if int(grown.group(2)) < size or title.split()[-1] in layout.FIXED:
                out.append("%s: %s" % (title, line))
        elif heading:
            section = heading.group(2)
        elif member or value:
            appended = value or (size is not None and int(member.group(2)) >= size and
                                 title.split()[-1] not in layout.FIXED)
            if section != "insertion" or not appended:
                out.append("%s: %s of %s" % (title, section, line))
        elif not any(re.fullmatch(a, line) for a in ALLOWED):
            out.append("%s: %s" % (title, line))
    return out


def breaks(old_object, new_object):
    done = subprocess.run(["abidiff", "--leaf-changes-only", "--harmless", "--no-show-locs", old_object, new_object],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    report = done.stdout.decode()
    if done.returncode & 3 or (done.returncode != 0 and "changed" not in report):
        raise RuntimeError("abidiff failed: " + report)
    return report_breaks(report)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    abi, frozen, compiler = sys.argv[1], sys.argv[2], sys.argv[3:]
    today = layout.Layout(layout.printed(abi, compiler))
    found, count = [], 0
    with tempfile.TemporaryDirectory() as work:
        new = debug_object(abi, os.path.join(work, "new.so"), compiler)
        for version, folder in layout.spoken_versions(today, frozen):
            count += 1
            old = debug_object(folder, os.path.join(work, "old.so"), compiler)
            found += ["abidiff: %d.%d -> today: %s" % (*version, b) for b in breaks(old, new)]
    if count == 0:
        found.append("abidiff: nothing is frozen that today's could be compared with")
    print("\n".join(found))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
