#!/usr/bin/env python3
"""mutate.py SOURCE OLD NEW OUTPUT - SOURCE with OLD, which stands there exactly once, replaced by NEW: a mistake that a test
must find. If OLD is no longer there the mutant is stale, which is an error."""
import sys

source, old, new, output = sys.argv[1:]
text = open(source).read()
if text.count(old) != 1:
    sys.exit(f"mutate.py: STALE: {source} has {text.count(old)} times {old!r}; adapt the mutant")
open(output, "w").write(text.replace(old, new))
