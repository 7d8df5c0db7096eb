#!/usr/bin/env python3
"""Every version's plugins on every version's core, each training and generating.

    matrix.py ROOT WORK [--driver PROGRAM] [--plugin NAME=FILE]... [--cpu FLAGS] [--flags FLAGS] -- COMPILER...

Cores: each frozen version's, today's (the driver PROGRAM), and one of the next version, derived from
today's. Plugins: each frozen version's, today's (the FILEs), the next version's. What a cell computes
is held against the reference on the same core, and against the walk that the models learn.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import build
import layout

WALK = [(i * 7 + 3) % 61 for i in range(4, 10)]  # what follows driver.c's prompt
CLOSE_STEPS = 8    # after these, roundings have grown
TOLERANCE = {"cpu": (1e-3, 0.1)}  # losses (relative), logits; others compute as the reference does
DEFAULT_TOLERANCE = (1e-5, 1e-3)


class Result:
    def __init__(self, status, text):
        self.status, self.text = status, text
        self.losses, self.logits, self.tokens, self.stats = {}, {}, {}, []
        for line in text.splitlines():
            words = line.split()
            if len(words) > 1 and words[1] == "loss":
                self.losses.setdefault(words[0], []).append((float(words[3]), float(words[5])))
            elif len(words) > 1 and words[1] in ("logits", "tokens"):
                getattr(self, words[1])[words[0]] = [float(w) for w in words[2:]]
            elif words and words[0] == "stats":
                self.stats.append((words[1], int(words[2]), int(words[3])))


def run(program, arguments, plugin=None, steps=None):
    """A program with one plugin file to be found; a driver gets a folder, and may be told the steps."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("DS_")}
    env["DS_PLUGIN_PATH"] = plugin or "/nonexistent"
    with tempfile.TemporaryDirectory() as folder:
        rest = [folder] if os.path.basename(program) == "driver" else []
        rest += [str(steps)] if steps else []
        done = subprocess.run([program, *arguments, *rest], env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=300)
    return Result(done.returncode, done.stdout.decode(errors="replace"))


def near(a, b, relative, absolute):
    return len(a) == len(b) and all(abs(x - y) <= relative * abs(y) + absolute for x, y in zip(a, b))


def problems(result, reference, name, agreed):
    """What is wrong with a cell, a text each. agreed: the version that the plugin must say it agreed
    to; None when it doesn't say."""
    if result.status != 0:
        tail = [l for l in result.text.splitlines() if "logits" not in l][-3:]
        return ["ended with %d: %s" % (result.status, " | ".join(tail))]
    out = []
    loss_tolerance, logit_tolerance = TOLERANCE.get(name, DEFAULT_TOLERANCE)
    if agreed and "log %s: agreed to ABI %s\n" % (name, agreed) not in result.text:
        out.append("did not agree to ABI %s" % agreed)
    if len(result.stats) != 4 or any(s[0] != name for s in result.stats):
        out.append("ran on %s" % sorted({s[0] for s in result.stats}))
    for _, calls, fallbacks in result.stats:
        good = {"minimal": fallbacks == calls, "floor": fallbacks == calls,
                "full": 0 < fallbacks < calls, "cpu": fallbacks == 0}.get(name, True)
        if not good or calls == 0:
            out.append("%d of %d calls fell back to the reference" % (fallbacks, calls))
    for op in sorted(set(re.findall(r"log full: (gemm|add|mul|scale|fill|softmax) \(", result.text))):
        out.append("%s fell back to the reference" % op)
    for model, want in reference.losses.items():
        got = result.losses.get(model, [])
        for column in (0, 1):
            a, b = ([step[column] for step in steps[:CLOSE_STEPS]] for steps in (got, want))
            if not near(a, b, loss_tolerance, 0):
                out.append("%s: %s %s, the reference's %s" % (model, ("losses", "norms")[column], a, b))
        if got and not got[-1][0] < 0.1 * got[0][0]:
            out.append("%s learns nothing: the loss goes from %g to %g" % (model, got[0][0], got[-1][0]))
        if not near(result.logits.get(model, []), reference.logits[model], 0, logit_tolerance):
            out.append("%s: the logits are not the reference's" % model)
        if result.tokens.get(model) != WALK:
            out.append("%s generates %s instead of %s" % (model, result.tokens.get(model), WALK))
    if not reference.losses:
        out.append("the reference gave nothing to compare with")
    return out


# ---- what there is to run

class Matrix:
    def __init__(self, args):
        self.work = build.Work(args.work, args.root, args.compiler, args.flags.split())
        self.args = args
        self.cores = []    # (label, version, driver program)
        self.plugins = []  # (label, version, name, file, whether it says what it agreed to)
        self.objects = {}  # of the cores built here, by label

    def make(self):
        """Builds all. Under the folder's lock."""
        work, root = self.work, self.args.root
        header = layout.Layout(layout.printed(os.path.join(root, "abi"), self.args.compiler))
        for version, folder in layout.spoken_versions(header, os.path.join(root, "tests", "abi")):
            label = "%d.%d" % version
            work.unpack(folder, label)
            self.objects[label] = work.core(label)
            self.cores.append((label, version, work.driver(label, self.objects[label], label + "/src/driver.c")))
            for name in ("minimal", "full"):
                file = work.plugin("%s/%s" % (label, name), label + "/abi", ["%s/src/%s.c" % (label, name)])
                self.plugins.append((label, version, name, file, True))
        today = header.version
        self.today, self.next = today, (today[0], today[1] + 1)
        self.cores.append(("today", today, self.args.driver))
        for text in self.args.plugin:
            name, file = text.split("=", 1)
            self.plugins.append(("today", today, name, file, name in ("minimal", "full")))
        self.make_next()
        work.run()

    def make_next(self):
        work = self.work
        work.derive_next()
        tests = os.path.join(self.args.root, "tests", "abi")
        for name in ("minimal.c", "full.c", "next.c", "driver.c", "probe.c", "descriptors.c"):
            work.copy(os.path.join(tests, name), "next/src/" + name)
        self.objects["next"] = work.core("next")
        self.cores.append(("next", self.next, work.driver("next", self.objects["next"], "next/src/driver.c")))
        self.probe = work.driver("next", self.objects["next"], "next/src/probe.c")
        self.descriptors = work.driver("next", self.objects["next"], "next/src/descriptors.c", ["-DNEXT"])
        for source, name in (("minimal", "minimal"), ("full", "full"), ("next", "full")):
            file = work.plugin("next/" + source, "next/abi", ["next/src/%s.c" % source])
            self.plugins.append(("next" + (", poisoned" if source == "next" else ""), self.next, name, file, True))
        if self.args.cpu:
            self.plugins.append(("next", self.next, "cpu", self.next_cpu(), False))

    def next_cpu(self):
        """Today's cpu plugin, its plainest kernels alone, made for the next header."""
        folder = os.path.join(self.args.root, "plugins", "cpu")
        sources = []
        for path in build.tree(folder):
            out = self.work.copy(os.path.join(folder, path), "next/src/cpu/" + path)
            sources += [out] if path.endswith(".c") else []
        flags = [f for f in self.args.cpu.split() if not f.startswith("-l")]
        libraries = [f for f in self.args.cpu.split() if f.startswith(("-l", "-fopenmp", "-pthread"))]
        return self.work.plugin("next/cpu", "next/abi", sources, flags, libraries)

    def cells(self):
        for core, core_version, driver in self.cores:
            for label, version, name, file, says in self.plugins:
                agreed = "%d.%d" % min(core_version, version) if says else None
                yield core, driver, label, name, file, agreed


def patched_note(file, out, version_range):
    """A copy of a plugin whose note has another range."""
    with open(file, "rb") as f:
        data = bytearray(f.read())
    name_size = struct.pack("=I", 7)
    at = [m.start() for m in re.finditer(b"dscore\0", data) if data[m.start() - 12:m.start() - 8] == name_size]
    if len(at) != 1:
        raise ValueError("%s has %d notes" % (file, len(at)))
    struct.pack_into("=HHH", data, at[0] + 8 + 4, *version_range)
    with open(out, "wb") as f:
        f.write(data)
    return out


def negotiations(core_version, oldest):
    """(note's major, oldest, newest; what the failure says, or None), for a core that speaks
    `oldest` to its own minor."""
    major, newest = core_version
    spoken = "%d.%d to %d.%d" % (major, oldest, major, newest)
    def refused(m, a, b, cure):
        return (m, a, b), "speaks ABI %d.%d to %d.%d, this dscore speaks %s: upgrade %s" % (m, a, m, b, spoken, cure)
    yield (major, oldest, newest), None
    yield (major, newest, newest), None
    yield (major, newest, newest + 5), None
    yield (major, 0, oldest), None
    yield (major, 0, 65535), None
    yield refused(major, newest + 1, newest + 1, "dscore")
    yield refused(major, newest + 1, 65535, "dscore")
    yield refused(major + 1, 0, 65535, "dscore")
    yield refused(major + 1, oldest, newest, "dscore")
    yield refused(65535, oldest, newest, "dscore")
    if oldest > 0:
        yield refused(major, 0, oldest - 1, "the plugin")
        yield refused(major, oldest - 1, oldest - 1, "the plugin")
    if major > 0:
        yield refused(major - 1, 0, 65535, "the plugin")
    yield (major, newest, newest - 1), "which is empty"


def check_negotiation(m, complain):
    folder = tempfile.mkdtemp()
    count = 0
    for core, version, driver in m.cores:
        plugin = [p for p in m.plugins if p[2] == "minimal" and (p[0] == core)][0]
        compat = layout.Layout(layout.printed(
            os.path.join(m.args.root, "abi") if core == "today" else os.path.join(m.work.folder, core, "abi"),
            m.args.compiler)).compat
        for spoken, text in negotiations(version, compat):
            count += 1
            file = patched_note(plugin[3], os.path.join(folder, "note%d.so" % count), spoken)
            result = run(driver, ["minimal"], file, steps=1)
            if text is None and (result.status != 0 or not result.losses):
                complain("note %d.%d-%d on core %s: refused: %s" % (*spoken, core, result.text[-300:]))
            if text is not None and (result.status == 0 or text not in result.text):
                complain("note %d.%d-%d on core %s: expected \"%s\", got: %s" % (*spoken, core, text, result.text[-300:]))
    shutil.rmtree(folder)
    print("negotiation: %d note ranges on %d cores" % (count, len(m.cores)))


def check_probe(m, complain):
    for label, _, name, file, _ in m.plugins:
        result = run(m.probe, [name, "next" if "poisoned" in label else "today"], file)
        if result.status != 0:
            complain("what is appended, asked of %s %s by the next core: %s" % (name, label, result.text.strip()))


def check_descriptors(m, complain):
    """Structs of today's size, of the next version's, shorter and longer: descriptors.c."""
    reachable = [(label, name, file) for label, _, name, file, _ in m.plugins if name in ("full", "cpu") and "poisoned" not in label]
    for label, name, file in [("next", "reference", "reference")] + reachable:
        result = run(m.descriptors, [file])
        if result.status != 0:
            complain("structs of every size, given to %s %s: %s" % (name, label, result.text.strip()))
    print("structs of every size: %d plugins" % (len(reachable) + 1))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("work")
    parser.add_argument("--driver", required=True)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--cpu", default="", help="flags to build the cpu plugin with")
    parser.add_argument("--flags", default="", help="flags to build all with")
    parser.add_argument("compiler", nargs="+")
    return parser.parse_args(arguments)


def main():
    m = Matrix(parse(sys.argv[1:]))
    failures = []
    with m.work.locked():
        m.make()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            references = {core: pool.submit(run, driver, ["reference"]) for core, _, driver in m.cores}
            cells = [(cell, pool.submit(run, cell[1], [cell[3]], cell[4])) for cell in m.cells()]
            for (core, _, label, name, _, agreed), result in cells:
                found = problems(result.result(), references[core].result(), name, agreed)
                print("%-8s %-15s on core %-6s %s" % (name, label, core, "; ".join(found) or "good"))
                failures += ["%s (%s) on core %s: %s" % (name, label, core, f) for f in found]
        check_probe(m, failures.append)
        check_descriptors(m, failures.append)
        check_negotiation(m, failures.append)
    for failure in failures:
        print("matrix: " + failure)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
