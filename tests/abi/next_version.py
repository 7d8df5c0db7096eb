"""next.py - the version after today's, as if somebody had appended to everything that may grow.

Derived from today's header: minor + 1, a function at the end of every table, a field at the end of
every other growing struct, a value in every enum, an op. Core fills what it hands out with POISON, an
address where nothing is, so that whoever uses a field that it can't know crashes.
"""
import os
import re

import layout

POISON = "((void *)(uintptr_t)0xdead000000000ba5)"


def replace_once(text, pattern, new, what):
    out, n = re.subn(pattern, new, text, flags=re.S)
    if n != 1:
        raise ValueError("%s: \"%s\" is there %d times" % (what, pattern, n))
    return out


def appended_field(fields):
    if any(name == "base" for name, _ in fields):
        return "ds_status (*next)(ds_error *err);"
    if all(re.fullmatch(r"u?int32_t", text) for _, text in fields):
        return "int32_t next;"  # no pointer: that would raise the alignment
    return "const void *next;"


def append_to_structs(text, header):
    for name, kind, fields in header.structs:
        if name not in layout.FIXED:
            text = replace_once(text, r"\n\} %s;" % name,
                                "\n  %s\n} %s;" % (appended_field(fields), name), "ds_abi.h")
    return text


def append_to_enums(text, today):
    """The next number; of flags, the next bit."""
    for i, (title, (_, lines)) in enumerate((t, b) for t, b in today.blocks.items() if t.startswith("enum ")):
        values = {name: int(value) for name, value in (line.split(" = ") for line in lines)}
        if title == "enum ds_op_id":
            continue
        flags = title.startswith("enum the enum of")
        value = 1 << max(values.values()).bit_length() if flags else max(values.values()) + 1
        last = list(values)[-1]
        text = replace_once(text, r"(\b%s\s*=\s*[^,{}]*?)(\s*\n\}[^;]*;)" % last,
                            r"\1,\n  DS_NEXT_%s = %d\2" % (last[3:], value), "ds_abi.h")
    return text


def header(abi, compiler):
    """{name: text} of the next ds_abi.h and ds_ops.def."""
    today = layout.Layout(layout.printed(abi, compiler))
    with open(os.path.join(abi, "ds_abi.h"), encoding="utf-8") as f:
        text = f.read()
    with open(os.path.join(abi, "ds_ops.def"), encoding="utf-8") as f:
        ops = f.read()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = replace_once(text, r"#define DS_ABI_MINOR \d+", "#define DS_ABI_MINOR %d" % (today.version[1] + 1), "ds_abi.h")
    text = append_to_enums(append_to_structs(text, layout.Header(abi)), today)
    ids = [int(title.split()[2]) for title in today.lines if title.startswith("op ")]
    return {"ds_abi.h": text, "ds_ops.def": ops + "DS_OP(%d, NEXT, next, 1, 1, 0)\n" % (max(ids) + 1)}


NEXT_OP = """
#include "backend/reference/element.h"
#include "backend/reference/op.h"

static ds_status next_run(const ds_reference_args *a, ds_error *err) {
  (void)err;
  for (int64_t i = 0; i < ds_reference_dim(a, 'N'); i++)
    ds_element_put(ds_reference_out(a, 0), i, 2 * (double)ds_element_get(ds_reference_in(a, 0), i), 0);
  return DS_OK;
}

const ds_reference_op ds_reference_op_next = {.in = {{"x", "N", DS_REFERENCE_X, 0, 0}},
                                              .out = {{"y", "N", DS_REFERENCE_X, 0, 0}},
                                              .run = next_run};
"""


def give_poison(texts, table, kind):
    """Wherever core hands a plugin's stream a descriptor, it hands a copy with the new field."""
    call = re.compile(r"(->%s->run|\b%s->run)\(b->stream, ([^,]+)," % (table, table))
    found = [path for path in texts if path.startswith("backend/") and path.count("/") == 1 and call.search(texts[path])]
    if not found:
        raise ValueError("core calls no %s->run(b->stream, ...) any more: tell next_version.py how it does" % table)
    for path in found:
        text = call.sub(r"\1(b->stream, appended_%s(\2)," % table, texts[path])
        texts[path] = ('#include "ds_abi.h"\n'
                       "static inline const %s *appended_%s(const %s *given) {\n"
                       "  static _Thread_local %s all;\n  all = *given;\n  all.next = %s;\n  return &all;\n}\n"
                       % (kind, table, kind, kind, POISON)) + text


def core(texts):
    """{path: text} of today's core -> of one that gives poison in what is new, and has the new op."""
    out = dict(texts)
    hosts = 0
    for path in out:
        out[path], n = re.subn(r"\bhost_free\}", "host_free, %s}" % POISON, out[path])
        hosts += n
    if hosts == 0:
        raise ValueError("core fills no ds_host with {..., host_free} any more: tell next_version.py how it does")
    for table, kind in (("gemm", "ds_gemm"), ("ops", "ds_op")):
        give_poison(out, table, kind)
    out["backend/reference/next_op.c"] = NEXT_OP
    return out
