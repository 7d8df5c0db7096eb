#!/usr/bin/env python3
"""Breaks the ABI on purpose, one way at a time, and shows that the check named for it refuses.

    mutants.py ARGUMENTS-OF-MATRIX      the same build folder as matrix.py

Checks: layout (layout.py), abidiff (abidiff.py, where libabigail is installed), matrix (matrix.py: a
plugin on a core), short (test_short_tables: tables of every size), structs (descriptors.c: what core
hands over, of every size). What is not broken, and what is
properly appended, must pass the same checks.
"""
import os
import re
import shutil
import sys

import abidiff
import build
import layout
import matrix
import next_version

BOTH = ("layout", "abidiff")

# What it does, pattern, replacement, who refuses, what the complaint must name.
HEADER = [
    ("a field in the middle", r"(typedef struct ds_gemm \{[^}]*?uint32_t flags;[^\n]*\n)", r"\1  int64_t extra;\n",
     BOTH, "ds_gemm"),
    ("a function in the middle", r"(void \(\*close\)\(ds_device \*dev\);)",
     r"\1\n  ds_status (*reset)(ds_device *dev, ds_error *err);", BOTH, "ds_device_table"),
    ("two functions change places", r"(DS_MUST_USE ds_status \(\*upload\)[^;]*;)(.*?)(DS_MUST_USE ds_status \(\*download\)[^;]*;)",
     r"\3\2\1", BOTH, "upload"),
    ("two functions of one type change names", r"\(\*upload\)(.*?)\(\*download\)", r"(*download)\1(*upload)",
     BOTH, "upload"),
    ("a field becomes wider", r"float alpha, beta;", r"double alpha, beta;", BOTH, "alpha"),
    ("a field becomes unsigned", r"int32_t dtype_a, dtype_b", r"uint32_t dtype_a, dtype_b", BOTH, "dtype_a"),
    ("a field is gone, its place a hole", r"int32_t reserved;\n\} ds_device_info;", r"} ds_device_info;", BOTH, "reserved"),
    ("a function is gone", r"void \(\*abort\)\(ds_comm \*c\);", "", BOTH, "abort"),
    ("a function takes one more", r"(size_t \(\*pack_size\)\(ds_device \*dev, const ds_gemm \*g)", r"\1, int32_t threads",
     BOTH, "pack_size"),
    ("a function gives something else", r"void \(\*destroy\)\(ds_comm \*c\)", r"ds_status (*destroy)(ds_comm *c)",
     BOTH, "destroy"),
    ("a parameter becomes 32 bits", r"(\(\*allreduce\)\([^;]*?)int64_t count", r"\1int32_t count", BOTH, "allreduce"),
    ("an enum is renumbered", r"DS_REDUCE_MEAN = 1,", r"DS_REDUCE_MEAN = 4,", BOTH, "DS_REDUCE_MEAN"),
    ("an enum value is reused", r"(DS_EPILOGUE_SILU = 4)", r"\1,\n  DS_EPILOGUE_TANH = 4", ("layout",), "DS_EPILOGUE_TANH"),
    ("an enum value is gone", r"DS_ERR_TIMEOUT = 9,[^\n]*\n", "", BOTH, "DS_ERR_TIMEOUT"),
    ("a flag moves", r"DS_GEMM_PACKED_B = 1u << 2", r"DS_GEMM_PACKED_B = 1u << 3", ("layout",), "DS_GEMM_PACKED_B"),
    ("shorter messages", r"DS_ERROR_MESSAGE_MAX 1024", r"DS_ERROR_MESSAGE_MAX 512", BOTH, "ds_error"),
    ("longer messages", r"DS_ERROR_MESSAGE_MAX 1024", r"DS_ERROR_MESSAGE_MAX 2048", BOTH, "ds_error"),
    ("tensors of more dimensions", r"DS_MAX_RANK 6", r"DS_MAX_RANK 8", BOTH, "ds_tensor"),
    ("a tensor grows", r"\n\} ds_tensor;", "\n  void *owner;\n} ds_tensor;", BOTH, "ds_tensor"),
    ("the note grows", r"\n\} ds_note;", "\n  uint64_t features;\n} ds_note;", BOTH, "ds_note"),
    ("an attribute gets a third form", r"(double f;)", r"\1\n  char text[16];", BOTH, "ds_attr"),
    ("the note's name", r"DS_NOTE_NAME \"dscore\"", r'DS_NOTE_NAME "dsplug"', ("layout",), "DS_NOTE_NAME"),
    ("an append that aligns more", r"\n\} ds_comm_world;", "\n  int64_t nodes;\n} ds_comm_world;", ("layout",), "ds_comm_world"),
    ("the entry point takes the range by address", r"(const ds_host \*host, )ds_version_range host_abi",
     r"\1const ds_version_range *host_abi", BOTH, "ds_plugin_query"),
]
OPS = [
    ("an op's id is reused", r"\Z", "DS_OP(28, TWICE, twice, 1, 1, 0)\n", "op twice takes the id 28 of mean_backward"),
    ("two ops change ids", r"DS_OP\(16, ADD(.*?)DS_OP\(17, MUL", r"DS_OP(17, ADD\1DS_OP(16, MUL", "op add had the id 16"),
    ("an op takes one more input", r"softmax, 1, 1, 0", "softmax, 2, 1, 0", "op softmax"),
    ("an op takes one more attribute", r"rms_norm, 2, 2, 1", "rms_norm, 2, 2, 2", "op rms_norm"),
    ("an op's inputs and outputs change places", r"rope, 3, 1, 2", "rope, 1, 3, 2", "op rope"),
    ("an op is gone", r"DS_OP\(25, ARGMAX[^\n]*\n", "", "op argmax had the id 25, which is nobody's now"),
    ("an op has another name", r"LAYER_NORM, layer_norm,", "NORM, norm,", "op layer_norm had the id 3"),
]


class Failures:
    def __init__(self):
        self.texts, self.count = [], 0

    def expect(self, what, check, complaints, named):
        """A mutant: some complaint must name the thing."""
        self.count += 1
        hit = [c for c in complaints if named in c]
        print("%-50s %-8s %s" % (what, check, hit[0][:110] if hit else "PASSED"))
        if not hit:
            self.texts.append("%s: %s does not refuse it (%s)" % (what, check, "; ".join(complaints[:3]) or "no complaint"))

    def pass_(self, what, check, complaints):
        print("%-50s %-8s %s" % (what, check, complaints[0][:110] if complaints else "passes"))
        if complaints:
            self.texts.append("%s: %s refuses it: %s" % (what, check, "; ".join(complaints[:3])))


# ---- the header

class Headers:
    def __init__(self, m, failures):
        self.root, self.compiler, self.failures = m.args.root, m.args.compiler, failures
        self.folder = os.path.join(m.work.folder, "mutants", "abi")
        self.texts = {n: build.read(os.path.join(self.root, "abi", n)) for n in ("ds_abi.h", "ds_ops.def")}
        self.texts["ds_abi.h"] = re.sub(r"/\*.*?\*/", "", self.texts["ds_abi.h"], flags=re.S)
        self.today = self.layout_of(self.texts)
        self.abidiff = shutil.which("abidiff") is not None
        if self.abidiff:
            self.object = abidiff.debug_object(self.folder, os.path.join(self.folder, "today.so"), self.compiler)
        else:
            print("abidiff is left out: libabigail's abidiff is not installed (Debian: abigail-tools)")

    def layout_of(self, texts):
        for name, text in texts.items():
            build.write(os.path.join(self.folder, name), text)
        return layout.Layout(layout.printed(self.folder, self.compiler))

    def complaints(self, texts):
        """{check: complaints} of a header held against today's."""
        out = {"layout": layout.breaks(self.today, self.layout_of(texts))}
        if self.abidiff:
            new = abidiff.debug_object(self.folder, os.path.join(self.folder, "new.so"), self.compiler)
            out["abidiff"] = abidiff.breaks(self.object, new)
        return out

    def run(self):
        for what, pattern, new, checks, named in HEADER:
            text = next_version.replace_once(self.texts["ds_abi.h"], pattern, new, what)
            got = self.complaints({**self.texts, "ds_abi.h": text})
            for check in checks:
                if check in got:
                    self.failures.expect(what, check, got[check], named)
        for what, pattern, new, named in OPS:
            text = next_version.replace_once(self.texts["ds_ops.def"], pattern, new, what)
            self.failures.expect(what, "layout", self.complaints({**self.texts, "ds_ops.def": text})["layout"], named)
        for what, texts in (("what is not broken", self.texts),
                            ("what is properly appended", next_version.header(os.path.join(self.root, "abi"), self.compiler))):
            for check, got in self.complaints(texts).items():
                self.failures.pass_(what, check, got)
        self.versions()

    def numbered(self, minor, compat):
        text = re.sub(r"(#define DS_ABI_MINOR) \d+", r"\1 %d" % minor, self.texts["ds_abi.h"])
        return self.layout_of({**self.texts, "ds_abi.h": re.sub(r"(#define DS_ABI_COMPAT_MINOR) \d+", r"\1 %d" % compat, text)})

    def versions(self):
        """DS_ABI_MINOR and DS_ABI_COMPAT_MINOR against what is frozen, as if today's were."""
        today, (major, minor), compat = self.today, self.today.version, self.today.compat
        frozen = [(today.version, today)]
        check = layout.version_breaks
        grown = self.layout_of(next_version.header(os.path.join(self.root, "abi"), self.compiler))
        sneaked = next_version.header(os.path.join(self.root, "abi"), self.compiler)
        sneaked["ds_abi.h"] = re.sub(r"(#define DS_ABI_MINOR) \d+", r"\1 %d" % minor, sneaked["ds_abi.h"])
        expect = self.failures.expect
        expect("an append without a new minor", "layout", check(self.layout_of(sneaked), frozen), "takes a new DS_ABI_MINOR")
        expect("a new minor without a frozen copy", "layout", check(grown, frozen),
               "ABI %d.%d is not frozen" % grown.version)
        expect("DS_ABI_COMPAT_MINOR raised, nothing else", "layout", check(self.numbered(minor, minor + 1), frozen),
               "DS_ABI_COMPAT_MINOR was %d and is %d" % (compat, minor + 1))
        raised = self.numbered(minor + 1, minor + 1)
        expect("a break without a frozen copy", "layout", check(raised, frozen), "is not frozen")
        odd = self.numbered(minor + 2, minor + 1)
        expect("DS_ABI_COMPAT_MINOR between two minors", "layout", check(odd, frozen + [(odd.version, odd)]),
               "it stays, or becomes the new minor")
        broken = next_version.header(os.path.join(self.root, "abi"), self.compiler)
        broken["ds_abi.h"] = broken["ds_abi.h"].replace("float alpha, beta;", "float beta, alpha;")
        broken = self.layout_of(broken)
        expect("a break in a new minor, frozen but not declared", "layout", check(broken, frozen + [(broken.version, broken)]),
               "%d.%d -> %d.%d: ds_gemm.alpha stood" % (today.version + broken.version))
        self.failures.pass_("an append with its frozen copy", "layout", check(grown, frozen + [(grown.version, grown)]))
        self.failures.pass_("a declared break with its frozen copy", "layout", check(raised, frozen + [(raised.version, raised)]))


# ---- plugins and cores

# What it does; the core and the plugin it is run with; what is changed; what the cell must say.
# A plugin: (label of the header, source, file that is changed).
PLUGINS = [
    ("a plugin wants just its own ds_host", "next", ("today", "full", "full.c"),
     r"if \(DS_HAS\(host, log\) && host->log\)", "if (host->base.size == sizeof *host)", "did not agree"),
    ("a plugin wants just its own ds_gemm", "next", ("today", "full", "full.c"),
     r"DS_HAS\(g, c\) && !\(g->flags", "g->size == sizeof *g && !(g->flags", "gemm fell back"),
    ("a plugin wants just its own minor", "next", ("today", "full", "full.c"),
     r"host_abi.min_minor > DS_ABI_MINOR", "host_abi.max_minor != DS_ABI_MINOR", "no common ABI"),
    ("a newer plugin wants just its own minor", "today", ("next", "minimal", "minimal.c"),
     r"host_abi.min_minor > DS_ABI_MINOR", "host_abi.max_minor != DS_ABI_MINOR", "no common ABI"),
    ("a newer plugin keeps its own minor", "today", ("next", "full", "full.c"),
     r"if \(host_abi.max_minor < DS_ABI_MINOR\)[^;]*;", "", "did not agree to ABI"),
    ("a plugin agrees to a minor that core speaks no more", "today", ("today", "minimal", "minimal.c"),
     r"if \(host_abi.max_minor < DS_ABI_MINOR\) plugin.base.minor = host_abi.max_minor;",
     "plugin.base.minor = DS_ABI_COMPAT_MINOR - 1;", "it agreed to ABI"),
    ("a newer plugin reads a field that isn't there", "today", ("next", "next", "next.c"),
     r"DS_HAS\(d, next\), DS_HAS\(d, next\) \?[^;]*?: 0\)", "1, (uintptr_t)(d)->next)", "not as agreed"),
    ("a newer plugin compares ds_gemm's size with ==", "today", ("next", "full", "full.c"),
     r"DS_HAS\(g, c\) && !\(g->flags", "g->size == sizeof *g && !(g->flags", "gemm fell back"),
    ("a plugin wants just its own ds_op", "next", ("today", "full", "full.c"),
     r"if \(!DS_HAS\(op, attr\)\)", "if (op->size != sizeof *op)", "add fell back"),
]
# The header's own macros, as a plugin uses them: the header's version, the core's, the plugin.
MACROS = [
    ("DS_HAS with == instead of >=", "next", "today", "full", r"\)\) >=", ")) ==", "did not agree"),
    ("DS_PLUGIN_NOTE with the newest minor alone", "today", "next", "full",
     r"DS_ABI_MAJOR, DS_ABI_COMPAT_MINOR, DS_ABI_MINOR, 0", "DS_ABI_MAJOR, DS_ABI_MINOR, DS_ABI_MINOR, 0", "upgrade dscore"),
]
# What full.c does to structs of another size: what is changed, and the struct that descriptors.c names.
STRUCTS = [
    ("a plugin reads a short ds_gemm", r"DS_HAS\(g, c\) && !\(g->flags", "!(g->flags", "ds_gemm of"),
    ("a plugin reads a short ds_op", r"if \(!DS_HAS\(op, attr\)\) return 0;", "", "ds_op of"),
    ("a plugin reads a short ds_quant", r"DS_HAS\(q, zeros\) && ", "", "ds_quant of"),
    ("a plugin reads a short ds_quant_gemm", r"DS_HAS\(g, c\) && g->flags == 0", "g->flags == 0", "ds_quant_gemm of"),
    ("a plugin reads a short ds_host", r"DS_HAS\(host, log\) && ", "", "ds_host of"),
    ("a plugin writes all of a short ds_device_info", r"full\.size = info->size < sizeof full \? [^;]*;", "full.size = sizeof full;",
     "ds_device_info of"),
    ("a plugin writes all of a short ds_comm_world", r"full\.size = out->size < sizeof full \? [^;]*;", "full.size = sizeof full;",
     "ds_comm_world of"),
    ("a plugin wants ds_device_info as large as its own", r"info->size < sizeof info->size", "info->size < sizeof *info",
     "ds_device_info of"),
    ("a plugin copies all of a ds_gemm", r"static ds_status gemm_run\(ds_stream \*s, const ds_gemm \*g, ds_error \*err\) \{",
     r"static ds_status gemm_run(ds_stream *s, const ds_gemm *given, ds_error *err) {\n  ds_gemm all = *given, *g = &all;",
     "ds_gemm of"),
]
# Core's files, as the next version of core has them, with a plugin of today's.
CORES = [
    ("core wants tables of just its own size", "backend/loader.c", r"base\.size < sizeof base \|\| base\.size > 65536",
     "base.size != size", "matrix", "says that it has"),
    ("core wants a function that was appended", "backend/loader.c", r"DEVICE\(upload\),", "DEVICE(upload), DEVICE(next),",
     "matrix", 'lacks the required function "next"'),
    ("core wants plugins of just its own minor", "backend/note.c", r"host\.min_minor <= plugin\.max_minor",
     "host.max_minor == plugin.max_minor", "matrix", "upgrade"),
    ("core forgets the oldest minor it speaks", "backend/loader.c", r"ds_note_negotiate\(abi,",
     "ds_note_negotiate((ds_version_range){DS_ABI_MAJOR, DS_ABI_MINOR, DS_ABI_MINOR, 0},", "matrix", "upgrade the plugin"),
    ("core copies its own size of a table", "backend/loader.c", r"size_t common = base\.size < size \? base\.size : size;",
     "size_t common = size;", "short", "bytes: "),
    ("core copies half a function", "backend/loader.c", r"common -= \(common - sizeof base\) % sizeof\(void \*\);", "",
     "short", "bytes: "),
    ("core believes any size of a table", "backend/loader.c", r"base\.size < sizeof base \|\| base\.size > 65536", "0",
     "short", "bytes: "),
]


class Cells:
    def __init__(self, m, failures):
        self.m, self.failures, self.queued = m, failures, []
        self.drivers = {label: driver for label, _, driver in m.cores}
        self.versions = {label: version for label, version, _ in m.cores}
        m.work.copy(os.path.join(m.args.root, "tests", "unit", "test.h"), "mutants/unit/test.h")

    def headers(self, label):
        """The folder of a version's header, in the build folder."""
        if label == "today":
            for name in ("ds_abi.h", "ds_ops.def"):
                self.m.work.copy(os.path.join(self.m.args.root, "abi", name), "mutants/today/" + name)
            return "mutants/today"
        return label + "/abi"

    def source(self, number, changed, pattern, new, what):
        """A folder with full.c, minimal.c and next.c, one of them changed."""
        folder = "mutants/%d" % number
        for name in ("full.c", "minimal.c", "next.c"):
            text = build.read(os.path.join(self.m.args.root, "tests", "abi", name))
            if name == changed:
                text = next_version.replace_once(text, pattern, new, what)
            build.write(os.path.join(self.m.work.folder, folder, name), text)
        return folder

    def cell(self, what, core, plugin_version, name, file, texts):
        agreed = "%d.%d" % min(self.versions[core], self.versions[plugin_version])
        self.queued.append((what, "matrix", self.drivers[core], [name], file, name, agreed, core, texts))

    def plugins(self):
        work = self.m.work
        for i, (what, core, (label, plugin, changed), pattern, new, *texts) in enumerate(PLUGINS):
            folder = self.source(i, changed, pattern, new, what)
            file = work.plugin("%s/%s" % (folder, plugin), self.headers(label), ["%s/%s.c" % (folder, plugin)])
            self.cell(what, core, label, "full" if plugin == "next" else plugin, file, texts)
        for i, (what, core, label, plugin, pattern, new, *texts) in enumerate(MACROS):
            folder = self.source(100 + i, None, None, None, what)
            headers = folder + "/abi"
            for name in ("ds_abi.h", "ds_ops.def"):
                text = build.read(os.path.join(work.folder, self.headers(label), name))
                if name == "ds_abi.h":
                    text = next_version.replace_once(text.replace("\\\n", " "), pattern, new, what)
                build.write(os.path.join(work.folder, headers, name), text)
            file = work.plugin("%s/%s" % (folder, plugin), headers, ["%s/%s.c" % (folder, plugin)])
            self.cell(what, core, label, plugin, file, texts)

    def structs(self):
        """full.c of the next version, given what cores of today and before have."""
        for i, (what, pattern, new, text) in enumerate(STRUCTS):
            folder = self.source(200 + i, "full.c", pattern, new, what)
            file = self.m.work.plugin(folder + "/full", "next/abi", [folder + "/full.c"])
            self.queued.append((what, "structs", self.m.descriptors, [file], None, None, None, "next", [text]))

    def short_test(self, name, core):
        """test_short_tables with a core's objects."""
        root, work = self.m.args.root, self.m.work
        out = "mutants/unit/%s/test_short_tables" % name
        source = work.copy(os.path.join(root, "tests/unit/backend/test_short_tables.c"),
                           "mutants/unit/backend/test_short_tables.c")
        work.copy(os.path.join(root, "tests/unit/backend/plugin_folder.h"), "mutants/unit/backend/plugin_folder.h")
        flags = build.core_flags("next") + ["-Imutants/unit", "-DTEST_PLUGIN_DIR=\\\"/nonexistent\\\""]
        return work.program(out, core + [work.object(source, "mutants/unit/short.o", flags)])

    def cores(self):
        work = self.m.work
        for i, (what, path, pattern, new, check, text) in enumerate(CORES):
            source = "mutants/core%d/%s" % (i, path)
            build.write(os.path.join(work.folder, source), next_version.replace_once(
                build.read(os.path.join(work.folder, "next/src/core", path)), pattern, new, what))
            original = "next/core_%s.o" % path[:-2].replace("/", "_")
            mutated = work.object(source, "mutants/core%d.o" % i, ["-Inext/src/core", *build.core_flags("next")])
            objects = [mutated if o == original.replace("core_", "", 1) else o for o in self.m.objects["next"]]
            if mutated not in objects:
                raise ValueError("core has no object of " + path)
            if check == "short":
                program = self.short_test("core%d" % i, objects)
                self.queued.append((what, check, program, [self.short], None, None, None, "next", [text]))
            else:
                program = work.program("mutants/core%d/driver" % i, objects + ["next/driver.o"])
                file = [p[3] for p in self.m.plugins if p[0] == "today" and p[2] == "full"][0]
                agreed = "%d.%d" % self.m.today
                self.queued.append((what, check, program, ["full"], file, "full", agreed, "next", [text]))

    def build(self):
        root, work = self.m.args.root, self.m.work
        work.copy(os.path.join(root, "tests/plugins/short.c"), "mutants/plugins/short.c")
        work.copy(os.path.join(root, "tests/abi/full.c"), "mutants/abi/full.c")
        self.short = work.plugin("mutants/short", "next/abi", ["mutants/plugins/short.c"])
        self.queued.append(("what is not broken", "short", self.short_test("next", self.m.objects["next"]), [self.short],
                          None, None, None, "next", None))
        self.plugins()
        self.structs()
        self.cores()
        work.run()

    def run(self):
        references = {}
        for what, check, program, arguments, file, name, agreed, core, texts in self.queued:
            result = matrix.run(program, arguments, file)
            if check == "matrix":
                if core not in references:
                    references[core] = matrix.run(self.drivers[core], ["reference"])
                complaints = matrix.problems(result, references[core], name, agreed)
            else:
                complaints = result.text.splitlines() if result.status else []
            if texts is None:
                self.failures.pass_(what, check, complaints)
            else:
                for text in texts:
                    self.failures.expect(what, check, complaints, text)


def main():
    m = matrix.Matrix(matrix.parse(sys.argv[1:]))
    failures = Failures()
    with m.work.locked():
        m.make()
        Headers(m, failures).run()
        cells = Cells(m, failures)
        cells.build()
        cells.run()
    print("%d mutants" % failures.count)
    for text in failures.texts:
        print("mutants: " + text)
    sys.exit(1 if failures.texts else 0)


if __name__ == "__main__":
    main()
