#!/usr/bin/env python3
"""Writes schedule_tables.h and adam_table.h: learning rates and AdamW trajectories from the published
formulas in float64, with nothing of this library in them.   ./make_tables.py"""
import math
import os

HERE = os.path.dirname(os.path.abspath(__file__))
UPDATES = [0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 15, 19, 20, 21, 22, 25, 29, 30, 31, 35, 40, 41, 50, 99]
BASE = 0.02


def gamma(kind, i, w):
    return math.log(i + 1) / math.log(w) if kind == "log" else i / w


def warmup(u, lo, hi, w, kind, total=None):
    i, w = u - 1, max(2, w)
    if i < 0:
        return lo
    if i < w:
        g = gamma(kind, i, w)
    else:
        g = 1.0 if total is None else max(0.0, (total - i) / max(1.0, total - w))
    return lo + (hi - lo) * g


def cosine(u, wmin, cmin, w, total, kind):
    i, w = u - 1, max(2, w)
    if i < 0:
        return 0.0
    if i < w:
        r = wmin + (1 - wmin) * gamma(kind, i, w)
    else:
        p = min(1.0, (i - w + 1) / max(1, total - w))
        r = cmin + (1 - cmin) * (1 + math.cos(math.pi * p)) / 2
    return BASE * r


def range_test(u, lo, size, rate, stair):
    x = u / size
    return lo * (1 + rate * (math.floor(x) if stair else x))


def one_cycle_height(b, first, second):
    x = b % (first + second)
    return x / first if x <= first else (first + second - x) / second


def one_cycle(u, lo, hi, first, second, decay_rate, decay_step):
    i = u - 1
    if i < first + second:
        return lo + (hi - lo) * one_cycle_height(u, first, second)
    d = i - (first + second) + 1
    return lo / (1 + decay_rate * d / decay_step)


def one_cycle_momentum(u, lo, hi, first, second, decay_rate, decay_step):
    i = u - 1
    if i < 0:
        return lo
    if i < first + second:
        return hi - (hi - lo) * one_cycle_height(u, first, second)
    return hi * (1 + decay_rate * (i - (first + second) + 1) / decay_step)


def table(out, name, f):
    out.write("static const double %s[] = {\n" % name)
    for u in UPDATES:
        out.write("    %r,\n" % f(u))
    out.write("};\n")


with open(os.path.join(HERE, "schedule_tables.h"), "w") as out:
    out.write("/* Made by make_tables.py. */\n#ifndef DS_TEST_SCHEDULE_TABLES_H\n"
              "#define DS_TEST_SCHEDULE_TABLES_H\n\n")
    out.write("enum { TABLE_SIZE = %d };\n#define TABLE_BASE_LR %r\n" % (len(UPDATES), BASE))
    out.write("static const int table_updates[TABLE_SIZE] = {%s};\n" % ", ".join(map(str, UPDATES)))
    table(out, "warmup_log", lambda u: warmup(u, 0.001, 0.02, 10, "log"))
    table(out, "warmup_linear", lambda u: warmup(u, 0.001, 0.02, 10, "linear"))
    table(out, "warmup_one", lambda u: warmup(u, 0.0, 0.02, 1, "log"))
    table(out, "warmup_decay", lambda u: warmup(u, 0.001, 0.01, 10, "log", 30))
    table(out, "warmup_decay_short", lambda u: warmup(u, 0.0, 0.01, 10, "linear", 5))
    table(out, "warmup_cosine", lambda u: cosine(u, 0.1, 0.01, 10, 30, "linear"))
    table(out, "warmup_cosine_log", lambda u: cosine(u, 0.0, 0.0001, 5, 40, "log"))
    table(out, "range_test", lambda u: range_test(u, 0.001, 10, 1.5, False))
    table(out, "range_test_stairs", lambda u: range_test(u, 0.001, 10, 1.5, True))
    table(out, "one_cycle", lambda u: one_cycle(u, 0.001, 0.02, 10, 20, 0.5, 4))
    table(out, "one_cycle_beta1", lambda u: one_cycle_momentum(u, 0.8, 0.9, 10, 20, 0.01, 4))
    out.write("\n#endif\n")


def adam(decoupled, steps=25, n=6, lr=0.01, b1=0.85, b2=0.97, eps=1e-7, wd=0.2, scale=0.5):
    p = [0.3 * math.sin(1.7 * k + 1) for k in range(n)]
    m, v, rows = [0.0] * n, [0.0] * n, []
    for t in range(1, steps + 1):
        for k in range(n):
            g = scale * math.cos(0.9 * k + 0.3 * t) + (0 if decoupled else wd * p[k])
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g * g
            mh, vh = m[k] / (1 - b1 ** t), v[k] / (1 - b2 ** t)
            p[k] -= lr * (mh / (math.sqrt(vh) + eps) + (wd * p[k] if decoupled else 0))
        if t in (1, 2, 10, 25):
            rows.append(list(p))
    return rows


with open(os.path.join(HERE, "adam_table.h"), "w") as out:
    out.write("/* Made by make_tables.py: parameters after 1, 2, 10 and 25 steps. */\n"
              "#ifndef DS_TEST_ADAM_TABLE_H\n#define DS_TEST_ADAM_TABLE_H\n\n")
    for name, decoupled in (("adamw_table", True), ("adam_l2_table", False)):
        out.write("static const double %s[4][6] = {\n" % name)
        for row in adam(decoupled):
            out.write("    {%s},\n" % ", ".join("%.17g" % x for x in row))
        out.write("};\n")
    out.write("\n#endif\n")
