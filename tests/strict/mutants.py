"""Seeded mistakes in core, each of which must be found on the strict plugin.

A mutant is one line of one file of core, replaced in a copy; the line must be there as often as is
said (None: at least once), or this fails. The copy is compiled and linked with the rest of core to test programs, of which
one at least must fail, or the mutant has survived. The core as it is must pass them all.

Usage: mutants.py SOURCE-ROOT CORE-ARCHIVE PLUGIN-FOLDER SCRATCH-FOLDER INCLUDES LIBS CC...
INCLUDES and LIBS are options of the compiler with spaces between them."""

import os
import shutil
import subprocess
import sys

SOURCE, ARCHIVE, PLUGINS, SCRATCH, INCLUDES, LIBS = sys.argv[1:7]
CC = sys.argv[7:]
MODELS = os.path.join(SOURCE, "tests/golden/models")
LIMIT = 120  # seconds; only bounds hangs

TABLES = ["", '"tables": "none"', '"tables": "gemm"']
ACCESSIBLE = [o + (", " if o else "") + '"accessible": true' for o in TABLES]


def engines(*options):
    return [("test_engines", [MODELS, SCRATCH + "/run", o]) for o in options]


def models(*options):
    return [("test_models", [MODELS, "strict", PLUGINS, "f32"], o) for o in options]


def training(*options):
    return [("test_training", [MODELS, "strict"], o) for o in options]


FAILURES = [("test_failures", [MODELS, SCRATCH + "/run", "12"])]
GRAPHS = [("test_graphs", [MODELS, SCRATCH + "/run"])]
OFFLOAD = [("test_offload", [SCRATCH])]
ALL = (engines(*TABLES, *ACCESSIBLE) + models(*TABLES) + training(*TABLES) + FAILURES + GRAPHS +
       OFFLOAD)

# name, file below core/, line (without indentation), how often it is there, its replacement, programs
MUTANTS = [
    ("memory is freed without a wait", "backend/device.c",
     "ds_status ignored = b->plugin->device->stream_sync(b->stream, NULL);", 1,
     "ds_status ignored = DS_OK;", training("")),
    ("the backend is closed without a wait", "backend/device.c",
     "ds_status ignored = t->stream_sync(b->stream, NULL); /* nobody is left to be told */", 1,
     "ds_status ignored = DS_OK;", engines("")),
    ("the workspace is freed while an op uses it", "backend/dispatch.c",
     "ds_backend_free(b, b->workspace, before); /* first, so that there are never two */", 1,
     "b->plugin->device->free(b->device, b->workspace);", models("")),
    ("the workspace does not grow", "backend/dispatch.c",
     "if (bytes > b->workspace_size) DS_TRY(grow_workspace(b, bytes, e));", 1,
     "if (b->workspace_size == 0) DS_TRY(grow_workspace(b, bytes, e));", models("")),
    ("products run on a stream that nothing orders", "backend/dispatch.c",
     "ds_status status = b->plugin->gemm ? b->plugin->gemm->run(b->stream, g, &e) : "
     "DS_ERR_UNSUPPORTED;", 1,
     "static ds_stream *other; ds_status status = other ? DS_OK : "
     "b->plugin->device->stream_create(b->device, &other, &e); "
     "if (status == DS_OK) status = b->plugin->gemm->run(other, g, &e);", models("")),
    ("the reference reads memory whose work is under way", "backend/stage.c",
     "ds_status status = t->stream_sync(b->stream, &e);", 1, "ds_status status = DS_OK;",
     engines(*ACCESSIBLE[1:])),
    ("the host reads device memory", "zero/reduce.c",
     "return ds_backend_download(z->host, sum, z->squares, sizeof *sum, err);", 1,
     "*sum = *z->squares; return DS_OK;", training('"tables": "none"')),
    ("device memory leaks", "train/engine.c",
     "if (e->norm_sum) ds_backend_free(e->backend, e->norm_sum, sizeof(ds_step_scalars));", 1, "",
     training("")),
    ("a gradient is added to what was never written", "ops/tape.c",
     "DS_TRY(ds_backend_fill(ctx->backend, g.data, 0, ds_tensor_bytes(&g), err));", 1, "",
     models("")),
    ("a recycled block of the arena is handed out twice", "backend/arena.c",
     "*out = s->blocks[--s->count];", 1, "*out = s->blocks[s->count - 1];", models("")),
    ("the key-value cache is too small", "infer/kv_cache.c",
     "c->bytes = plane_bytes(c) * 2 * (size_t)info->n_layers;", 1,
     "c->bytes = plane_bytes(c) * (size_t)info->n_layers;", models("")),
    ("a stream is kept though it died", "backend/device.c", "b->stream = fresh;", 1, "", FAILURES),
    ("a packed weight outlives the stream that was to write it", "infer/generate.c",
     "if (died) ds_ctx_drop_packed(e->ctx);", 1, "", FAILURES),
    ("an update that failed halfway is forgotten", "train/step.c", "e->halfway = true;", 1, "",
     [("test_failures", [MODELS, SCRATCH + "/run", "60"])]),
    ("the engine goes on after its stream died", "train/failure.c",
     "spoil(e, status, from, died || e->halfway);", 1, "", FAILURES),
    ("memory goes that a recording names", "backend/device.c",
     "ds_record_drop(b); /* recorded work may name it */", 1, "", GRAPHS),
    ("a batch is not uploaded before its launch", "train/recorded.c",
     "DS_TRY(upload_inputs(e, k, batch, err));", 1, "", GRAPHS),
    ("a launch checks no ids", "train/recorded.c",
     "if (most > k->most[i] || (least < 0 && least != k->least[i])) return false;", 1, "", GRAPHS),
    ("a launched update goes by an old schedule", "train/recorded_update.c",
     "DS_TRY(upload_schedule(e, err));", 1, "if (e->global_steps < 2) DS_TRY(upload_schedule(e, err));",
     GRAPHS),
    ("a seed of gradients is recorded as host data", "ops/tape.c",
     "if (ds_record_under_way(ctx->backend)) /* gradients are added to in place: set at each launch */", 1,
     "if (0)", GRAPHS),
    ("weights are read before they have come", "zero/gather.c",
     "if (z->side) DS_TRY(ds_mark_wait(u->gathered, NULL, err));", 1, "", OFFLOAD),
    ("a buffer is lent while it is in use", "zero/buffers.c",
     "DS_TRY(ds_mark_wait(b->used, on, err));", 1, ";", OFFLOAD),
    ("gradients leave before they are complete", "zero/reduce.c",
     "if (z->side) DS_TRY(ds_side_follow(z->side, err));", None, "", OFFLOAD),
    ("weights go to the device while it reads them", "zero/update.c",
     "if (z->side) DS_TRY(ds_side_follow(z->side, err));", 1, "", OFFLOAD),
    ("parameters are read into a buffer that is still sent", "zero/offload.c",
     "return ds_mark_set(z->reads[i].used, z->side, err);", 1, "return DS_OK;", OFFLOAD),
    ("a stage is read before its slice was written", "zero/update.c",
     "DS_TRY(ds_disk_wait(z->disk, wanted, err));", 1, "", OFFLOAD),
    ("a recording that is given up goes on", "backend/record.c", "end_unwanted(b);", 1, "", GRAPHS),
]


def compile_file(path, out, where):
    flags = ["-std=c11", "-O1", "-w", "-fPIC", "-D_GNU_SOURCE", "-I" + SOURCE + "/abi",
             "-I" + SOURCE + "/core", "-I" + SOURCE + "/tests/unit", "-iquote", where,
             '-DSTRICT_PLUGIN_DIR="%s"' % PLUGINS,
             '-DDS_PLUGIN_DIR="/nowhere"', '-DDS_PLUGIN_DIR_FROM_BIN="nowhere"', '-DDS_VERSION="0"']
    subprocess.run(CC + flags + INCLUDES.split() + ["-c", path, "-o", out], check=True)


def programs():
    """Objects of the test programs."""
    out = {}
    for path in ["strict/test_engines.c", "strict/test_failures.c", "strict/test_graphs.c", "strict/test_offload.c",
                 "golden/test_models.c",
                 "golden/test_training.c"]:
        name = os.path.basename(path)[:-2]
        out[name] = os.path.join(SCRATCH, name + ".o")
        full = os.path.join(SOURCE, "tests", path)
        compile_file(full, out[name], os.path.dirname(full))
    return out


def run(program, args, strict):
    """None, or what a failing program said."""
    env = dict(os.environ, DS_PLUGIN_PATH=PLUGINS, DS_STRICT='{"abort": true}')
    if strict:
        env["DS_STRICT"] = '{"abort": true, %s}' % strict
    try:
        done = subprocess.run([program] + args, env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return "it hangs"
    if done.returncode == 0:
        return None
    said = done.stdout.decode(errors="replace").strip().split("\n")
    told = [line for line in said if "violation" in line] or said
    return "exit code %d: %s" % (done.returncode, told[0][:160])


def first_failure(objects, mutated, runs):
    linked = set()
    for name, args, *strict in runs:
        program = os.path.join(SCRATCH, name)
        if name not in linked:
            subprocess.run(CC + [objects[name]] + mutated + [ARCHIVE, "-o", program] +
                           LIBS.split() + ["-pthread"], check=True)
            linked.add(name)
        failure = run(program, args, *(strict or [""]))
        if failure:
            return name + ": " + failure
    return None


def mutate(path, line, count, replacement):
    with open(os.path.join(SOURCE, "core", path), encoding="utf-8") as f:
        lines = f.read().split("\n")
    found = [i for i, text in enumerate(lines) if text.strip() == line]
    if len(found) != count and not (count is None and found):
        return None
    for i in found:
        lines[i] = replacement
    copy = os.path.join(SCRATCH, os.path.basename(path))
    with open(copy, "w", encoding="utf-8") as f:
        f.write("\n".join(lines))
    compile_file(copy, copy[:-2] + ".o", SCRATCH)
    return copy[:-2] + ".o"


def main():
    shutil.rmtree(SCRATCH, ignore_errors=True)
    os.makedirs(SCRATCH)
    objects = programs()
    wrong = 0
    failure = first_failure(objects, [], ALL)
    if failure:
        print("the core as it is: " + failure)
        wrong += 1
    for name, path, line, count, replacement, runs in MUTANTS:
        mutated = mutate(path, line, count, replacement)
        if not mutated:
            failure = None
            print("STALE: core/%s has not %d times the line: %s" % (path, count, line))
        else:
            failure = first_failure(objects, [mutated], runs)
            print("%s: %s: %s" % ("found" if failure else "SURVIVED", name, failure))
        wrong += failure is None
    print("%d mutants, %d wrong" % (len(MUTANTS), wrong))
    shutil.rmtree(SCRATCH, ignore_errors=True)
    return 1 if wrong else 0


sys.exit(main())
