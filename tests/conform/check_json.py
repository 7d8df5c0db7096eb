#!/usr/bin/env python3
"""check_json.py DS PLUGIN FOLDER - `ds conform --json` is one document that holds together, and
--expect does what its help says."""
import json
import os
import subprocess
import sys

DS, PLUGIN, FOLDER = sys.argv[1:4]
OUTCOMES = {"PASS": "passed", "FAIL": "failed", "UNSUPPORTED": "unsupported",
            "XFAIL": "expected_failures", "XPASS": "unexpected_passes"}
KEYS = {"section", "name", "dtype", "outcome", "cases", "unsupported", "failed", "max_error",
        "tolerance", "message"}


def run(code, *options):
    """The document of a run that must end with this exit code."""
    p = subprocess.run([DS, "conform", PLUGIN, "--json", "--cases", "4", *options],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.returncode == code, (options, p.returncode, p.stdout[-2000:], p.stderr)
    document = json.loads(p.stdout)
    totals = dict.fromkeys(OUTCOMES.values(), 0)
    for check in document["checks"]:
        assert set(check) == KEYS, check
        totals[OUTCOMES[check["outcome"]]] += 1
        assert (check["failed"] > 0) == (check["outcome"] in ("FAIL", "XFAIL")), check
        assert check["message"] or check["outcome"] not in ("FAIL", "XFAIL", "XPASS"), check
        assert 0 <= check["unsupported"] <= max(check["cases"], 1), check
    assert document["totals"] == totals, (document["totals"], totals)
    return document


def outcome(document, name):
    found = {c["outcome"] for c in document["checks"] if c["section"] + "/" + c["name"] == name}
    assert len(found) == 1, (name, found)
    return found.pop()


def expect(text):
    path = os.path.join(FOLDER, "known.expect")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


# The plugin has one bug: argmax gives the last of equals.
os.makedirs(FOLDER, exist_ok=True)
d = run(1, "--section", "ops")
assert d["plugin"] == "buggy" and d["version"] == "1.0" and d["device"] and d["seed"] == 1
assert {c["section"] for c in d["checks"]} == {"ops"}
assert outcome(d, "ops/argmax") == "FAIL" and outcome(d, "ops/softmax") == "PASS"
errors = [c for c in d["checks"] if c["name"] == "softmax" and c["dtype"] == "f32"]
assert 0 < errors[0]["max_error"] < 1e-5 and 0 < errors[0]["tolerance"] < 1e-4
d = run(0, "--section", "ops", "--op", "softmax")
assert d == run(0, "--section", "ops", "--op", "softmax"), "one seed gives one report"
assert d != run(0, "--section", "ops", "--op", "softmax", "--seed", "7")

d = run(0, "--section", "ops", "--op", "argmax", "--expect", expect("# known\n\nops/argmax  ties, to be done\n"))
assert outcome(d, "ops/argmax") == "XFAIL"
assert "ties, to be done" in [c for c in d["checks"] if c["name"] == "argmax"][0]["message"]
d = run(0, "--section", "ops", "--op", "argmax", "--expect", expect("ops/argm*\tall of it\n"))
assert outcome(d, "ops/argmax") == "XFAIL"
d = run(0, "--section", "ops", "--op", "argmax", "--expect",
        expect("ops/argmax/f32  one\nops/argmax/bf16  other\nops/argmax/f16  third\n"))
assert outcome(d, "ops/argmax") == "XFAIL"
d = run(1, "--section", "ops", "--op", "argmax", "--expect", expect("ops/argmax/f32  only one\n"))
assert {c["outcome"] for c in d["checks"] if c["name"] == "argmax"} == {"XFAIL", "FAIL"}
d = run(1, "--section", "ops", "--expect", expect("ops/argmax  ties\nops/mean  not so\n"))
assert outcome(d, "ops/mean") == "XPASS" and "not so" in str(d)
d = run(0, "--section", "gemm", "--expect", expect("gemm/packed  there is none\n"))
assert outcome(d, "gemm/packed") == "UNSUPPORTED"
d = run(1, "--section", "ops", "--op", "argmax")
assert {c["name"] for c in d["checks"]} == {"argmax"} and len(d["checks"]) == 3
print("ok")
