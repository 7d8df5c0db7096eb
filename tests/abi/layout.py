#!/usr/bin/env python3
"""The layout of an ABI header, and whether one layout only appends to another.

    layout.py print ABI-FOLDER COMPILER...    what stands where: every field, number, op, signature
    layout.py types ABI-FOLDER                C source that uses every type, for abidiff
    layout.py compare OLD NEW                 exit 0: NEW only appends to OLD; 1: each break on a line
    layout.py check ABI-FOLDER FROZEN COMPILER...
                                              ABI-FOLDER against every version frozen in FROZEN

Names come from the header's text, numbers from the compiler. A field that the parser missed would
leave a hole in its struct, which is an error, so none can be forgotten.
"""
import os
import re
import subprocess
import sys
import tempfile

# These never grow: they are embedded by value, or filled by a side that can't know how much room
# there is, or stand in a file.
FIXED = {"ds_error", "ds_tensor", "ds_table", "ds_version_range", "ds_note", "ds_note_section", "ds_attr"}


# ---- reading a header

def squeeze(text):
    return re.sub(r"\s*([(),*\[\]])\s*", r"\1", re.sub(r"\s+", " ", text)).strip()


def split(text, separator):
    """At separators outside of brackets."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += c in "({["
        depth -= c in ")}]"
        if c == separator and depth == 0:
            parts.append(text[begin:i])
            begin = i + 1
    return [p.strip() for p in parts + [text[begin:]] if p.strip()]


def unnamed(parameter):
    """The type of a parameter: "const void *src" -> "const void*"."""
    words = re.match(r"^(.*[\s*])(\w+)$", parameter.strip())
    return squeeze(words.group(1) if words else parameter)


def signature(result, parameters):
    return "%s(%s)" % (squeeze(result), ",".join(unnamed(p) for p in split(parameters, ",")))


def fields_of(body):
    """[(name, type)] of a struct's body; several declarators of one type count one by one."""
    out = []
    for declaration in split(body.replace("DS_MUST_USE", ""), ";"):
        function = re.match(r"^(.*?)\(\s*\*\s*(\w+)\s*\)\s*\((.*)\)$", declaration, re.S)
        if function:
            out.append((function.group(2), "function " + signature(function.group(1), function.group(3))))
            continue
        declarators = split(declaration, ",")
        first = re.match(r"^(.*[\s*])(\w+)((?:\s*\[\w+\])*)$", declarators[0], re.S)
        if not first:
            raise ValueError("can't read the field \"%s\"" % squeeze(declaration))
        base = re.match(r"^(.*?\w)\s*(\**)\s*$", first.group(1), re.S).group(1)
        for i, declarator in enumerate(declarators):
            text = declarator[len(base):] if i == 0 else declarator
            parts = re.match(r"^(.*?)(\w+)((?:\s*\[\w+\])*)$", text, re.S)
            out.append((parts.group(2), squeeze(base + " " + parts.group(1) + parts.group(3))))
    return out


class Header:
    def __init__(self, folder):
        with open(os.path.join(folder, "ds_abi.h"), encoding="utf-8") as f:
            text = re.sub(r"/\*.*?\*/", " ", f.read(), flags=re.S)
        with open(os.path.join(folder, "ds_ops.def"), encoding="utf-8") as f:
            ops = re.sub(r"/\*.*?\*/", " ", f.read(), flags=re.S)
        text = text.replace("\\\n", " ")
        self.macros = re.findall(r"^#define (DS_\w+)[ \t]+\S", text, re.M)
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        self.structs = [(m[1], m[0], fields_of(m[2])) for m in
                        re.findall(r"typedef (struct|union) \w+ \{(.*?)\} (\w+);", text, re.S)
                        for m in [(m[0], m[2], m[1])]]
        self.opaque = re.findall(r"typedef struct (\w+) \1;", text)
        self.enums = []
        for tagged, body, name in re.findall(r"\benum (\w* ?)\{(.*?)\}\s*(\w*);", text, re.S):
            names = re.findall(r"(?:^|,)\s*(DS_\w+)", body)
            self.enums.append((name or "the enum of " + names[0], name, names))
        self.functions = [(name, signature(result, parameters)) for result, name, parameters in
                          re.findall(r"typedef ([\w\s*]+?)\s*\b(\w+)\(([^()]*)\);", text, re.S)]
        self.exports = re.findall(r"DS_EXPORT (\w+) (\w+);", text)
        self.ops = re.findall(r"^DS_OP\((.*)\)$", ops, re.M)
        if len(re.findall(r"^\s*DS_OP\b", ops, re.M)) != len(self.ops):
            raise ValueError("ds_ops.def has a line that can't be read")
        self.check_complete(text)

    def check_complete(self, text):
        """What is declared must have been read as something."""
        known = {s[0] for s in self.structs} | {e[1] for e in self.enums} | set(self.opaque)
        known |= {f[0] for f in self.functions}
        declared = set(re.findall(r"^typedef\b[^;{]*\b(\w+)\s*(?:\{|;|\()", text, re.M))
        declared |= set(re.findall(r"^\} (\w+);", text, re.M))
        if declared - known:
            raise ValueError("can't read the declaration of %s" % ", ".join(sorted(declared - known)))


# ---- asking the compiler

def program(header):
    """C source that prints the layout."""
    out = ['#include "ds_abi.h"', "#include <stdio.h>",
           "static size_t end, widest;",
           "static int holes;",
           "static void field(const char *type, const char *name, size_t at, size_t size, size_t align) {",
           "  size_t want = (end + align - 1) / align * align;",
           '  if (at != want && at != 0) { holes++; fprintf(stderr, "%s: something unread stands before %s\\n", type, name); }',
           "  if (at + size > end) end = at + size;",
           "  if (align > widest) widest = align;",
           "}",
           "static void done(const char *type, size_t size) {",
           '  if (size != (end + widest - 1) / widest * widest) { holes++; fprintf(stderr, "%s: something unread stands at its end\\n", type); }',
           "  end = widest = 0;",
           "}",
           "int main(void) {"]
    for name, kind, fields in header.structs:
        out.append('printf("%s %s: %%zu bytes, aligned %%zu\\n", sizeof(%s), _Alignof(%s));' % (kind, name, name, name))
        for field, text in fields:
            at, size = "offsetof(%s, %s)" % (name, field), "sizeof(((%s *)0)->%s)" % (name, field)
            out.append('printf("  %%zu %s: %%zu bytes, %s\\n", %s, %s);' % (field, text, at, size))
            out.append('field("%s", "%s", %s, %s, __alignof__(((%s *)0)->%s));' % (name, field, at, size, name, field))
        out.append('done("%s", sizeof(%s));' % (name, name))
    for title, name, names in header.enums:
        size = "sizeof(%s)" % name if name else "sizeof(%s)" % names[0]
        out.append('printf("enum %s: %%zu bytes\\n", %s);' % (title, size))
        for n in names:
            out.append('printf("  %s = %%lld\\n", (long long)%s);' % (n, n))
    for name in header.macros:
        if name in ("DS_MUST_USE", "DS_EXPORT"):
            continue
        kind = '_Generic((%s), char *: "%%s", default: "%%lld")' % name
        value = '_Generic((%s), char *: (%s), default: (long long)(%s))' % (name, name, name)
        out.append('printf("number %s = "); printf(%s, %s); printf("\\n");' % (name, kind, value))
    for op in header.ops:
        number, upper, lower, n_in, n_out, n_attr = split(op, ",")
        out.append('printf("op %s %%d: %s, %s in, %s out, %s attributes\\n", (int)DS_OP_%s);'
                   % (lower, upper, n_in, n_out, n_attr, upper))
        out.append('if (DS_OP_%s != (%s)) holes++, fprintf(stderr, "op %s: its id is not its line\'s\\n");' % (upper, number, lower))
    for name, text in header.functions:
        out.append('puts("function type %s: %s");' % (name, text))
    for kind, name in header.exports:
        out.append('puts("export %s: %s");' % (name, kind))
    for name in header.opaque:
        out.append('puts("opaque %s");' % name)
    return "\n".join(out + ["return holes != 0;", "}", ""])


def printed(folder, compiler):
    header = Header(folder)
    with tempfile.TemporaryDirectory() as work:
        exe = os.path.join(work, "layout")
        subprocess.run([*compiler, "-std=c11", "-w", "-I", folder, "-x", "c", "-", "-o", exe],
                       input=program(header).encode(), check=True)
        return subprocess.run([exe], check=True, stdout=subprocess.PIPE).stdout.decode()


def types(folder):
    """C source with a variable of every type, so that its debug information has them all."""
    header = Header(folder)
    out = ['#include "ds_abi.h"']
    names = [s[0] for s in header.structs] + [e[1] for e in header.enums if e[1]]
    out += ["extern %s *use_%s;\n%s *use_%s;" % (n, n, n, n) for n in names]
    for name, _ in header.functions:  # the typed pointer: behind a void * nothing would be compared
        out.append("extern %s *use_%s;\n%s *use_%s;" % (name, name, name, name))
    return "\n".join(out) + "\n"


# ---- comparing

class Layout:
    """Blocks (structs, enums) with their lines, and single lines (numbers, ops, signatures)."""

    def __init__(self, text):
        self.blocks, self.lines, self.numbers, block = {}, {}, {}, None
        for line in text.splitlines():
            if line.startswith("  "):
                block.append(line.strip())
            elif re.match(r"(struct|union|enum) ", line):
                title, rest = line.split(": ", 1)
                block = []
                self.blocks[title] = (rest, block)
            elif line.startswith("number "):
                name, value = line[len("number "):].split(" = ", 1)
                self.numbers[name] = value
            else:
                title, _, rest = line.partition(": ")
                self.lines[title] = rest

    @property
    def version(self):
        return (int(self.numbers["DS_ABI_MAJOR"]), int(self.numbers["DS_ABI_MINOR"]))

    @property
    def compat(self):
        return int(self.numbers["DS_ABI_COMPAT_MINOR"])


def struct_breaks(title, old, new, complain):
    name = title.split()[1]
    old_size, old_align = map(int, re.match(r"(\d+) bytes, aligned (\d+)", old[0]).groups())
    new_size, new_align = map(int, re.match(r"(\d+) bytes, aligned (\d+)", new[0]).groups())
    parse = lambda lines: {m[1]: (int(m[0]), m[2]) for m in
                           (re.match(r"(\d+) (\w+): (.*)", line).groups() for line in lines)}
    before, after = parse(old[1]), parse(new[1])
    for field, (at, what) in before.items():
        if field not in after:
            complain("%s.%s is gone" % (name, field))
        elif after[field][0] != at:
            complain("%s.%s stood at byte %d and stands at %d" % (name, field, at, after[field][0]))
        elif after[field][1] != what:
            complain("%s.%s was %s and is %s" % (name, field, what, after[field][1]))
    for field, (at, _) in after.items():
        if field in before:
            continue
        if name in FIXED:
            complain("%s.%s is new, but %s never grows" % (name, field, name))
        elif at < old_size:
            complain("%s.%s is new, but stands at byte %d, not behind the %d that there were"
                     % (name, field, at, old_size))
    if new_align != old_align:
        complain("%s was aligned to %d and is to %d" % (name, old_align, new_align))
    if new_size != old_size and (name in FIXED or new_size < old_size):
        complain("%s had %d bytes and has %d" % (name, old_size, new_size))


def enum_breaks(title, old, new, complain):
    if old[0] != new[0]:
        complain("%s had %s and has %s" % (title, old[0], new[0]))
    before = dict(line.split(" = ") for line in old[1])
    after = dict(line.split(" = ") for line in new[1])
    for name, value in before.items():
        if name not in after:
            complain("%s is gone" % name)
        elif after[name] != value:
            complain("%s was %s and is %s" % (name, value, after[name]))
    taken = {value: name for name, value in before.items()}
    for name, value in after.items():
        if name not in before and value in taken:
            complain("%s is new, but takes the %s of %s" % (name, value, taken[value]))
        taken.setdefault(value, name)


def op_breaks(old, new, complain):
    ids = {}
    for title in new.lines:
        if title.startswith("op "):
            _, name, number = title.split()
            if number in ids:
                complain("op %s takes the id %s of %s" % (name, number, ids[number]))
            ids.setdefault(number, name)
    for title, rest in old.lines.items():
        if title.startswith("op ") and title not in new.lines:
            name, number = title.split()[1:]
            complain("op %s had the id %s, which is %s now" % (name, number, ids.get(number, "nobody's")))


def breaks(old, new):
    """What NEW does to OLD other than append, a text each."""
    out = []
    for title, block in old.blocks.items():
        if title not in new.blocks:
            out.append("%s is gone" % title)
        elif title.startswith("enum "):
            enum_breaks(title, block, new.blocks[title], out.append)
        else:
            struct_breaks(title, block, new.blocks[title], out.append)
    op_breaks(old, new, out.append)
    for title, rest in old.lines.items():
        if title in new.lines and new.lines[title] != rest:
            out.append("%s was \"%s\" and is \"%s\"" % (title, rest, new.lines[title]))
        elif title not in new.lines and not title.startswith("op "):
            out.append("%s is gone" % title)
    for name, value in old.numbers.items():
        if name.startswith("DS_ABI_"):
            continue
        if new.numbers.get(name) != value:
            out.append("%s was %s and is %s" % (name, value, new.numbers.get(name, "gone")))
    return out


def read_layout(path):
    with open(path, encoding="utf-8") as f:
        return Layout(f.read())


def frozen_versions(folder):
    """[(version, folder)] of what is frozen, oldest first."""
    names = [n for n in os.listdir(folder) if re.fullmatch(r"\d+\.\d+", n)]
    return sorted((tuple(map(int, n.split("."))), os.path.join(folder, n)) for n in names)


def spoken_versions(today, folder):
    """Those that today's still speaks."""
    return [(v, f) for v, f in frozen_versions(folder) if v[0] == today.version[0] and v[1] >= today.compat]


def version_breaks(today, frozen):
    """The rules for DS_ABI_MINOR and DS_ABI_COMPAT_MINOR; frozen: [(version, Layout)], oldest first."""
    out = []
    name = "%d.%d" % today.version
    same = [layout for version, layout in frozen if version == today.version]
    if not same:
        out.append("ABI %s is not frozen: run scripts/freeze-abi %s" % (name, name))
    else:
        changed = breaks(same[0], today) or [b.replace(" is gone", " is new") for b in breaks(today, same[0])]
        if same[0].compat != today.compat:
            changed.append("DS_ABI_COMPAT_MINOR was %d and is %d" % (same[0].compat, today.compat))
        out += ["%s is frozen, but: %s; what is new takes a new DS_ABI_MINOR" % (name, c) for c in changed]
    chain = [(v, l) for v, l in frozen if v < today.version] + [(today.version, today)]
    for (old_version, old), (version, new) in zip(chain, chain[1:]):
        if version[0] == old_version[0] and new.compat not in (old.compat, version[1]):
            out.append("DS_ABI_COMPAT_MINOR goes from %d to %d in %d.%d: it stays, or becomes the new minor"
                       % (old.compat, new.compat, *version))
    for version, old in frozen:
        if version < today.version and version[0] == today.version[0] and version[1] >= today.compat:
            out += ["%d.%d -> %s: %s" % (*version, name, b) for b in breaks(old, today)]
    return out


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    mode, args = sys.argv[1], sys.argv[2:]
    if mode == "print":
        sys.stdout.write(printed(args[0], args[1:]))
        return
    if mode == "types":
        sys.stdout.write(types(args[0]))
        return
    if mode == "compare":
        found = breaks(read_layout(args[0]), read_layout(args[1]))
    elif mode == "check":
        frozen = [(v, read_layout(os.path.join(f, "layout.txt"))) for v, f in frozen_versions(args[1])]
        found = version_breaks(Layout(printed(args[0], args[2:])), frozen)
    else:
        sys.exit(__doc__)
    for text in found:
        print("layout: " + text)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
