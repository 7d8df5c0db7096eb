"""A Python program as the host: the library is loaded privately (RTLD_LOCAL, as ctypes does), lists
its backends, and generates with a model of random weights, on each backend that can be opened.

    host.py LIBDSCORE.SO [PLUGIN...]     plugins that must be found beside it
"""
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("message", ctypes.c_char * 1024)]


class Candidate(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("name", ctypes.c_char_p), ("version", ctypes.c_char_p),
                ("path", ctypes.c_char_p), ("priority", ctypes.c_int32), ("state", ctypes.c_char_p),
                ("reason", ctypes.c_char_p), ("device", ctypes.c_char_p)]


class InitInferenceArgs(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("model", ctypes.c_void_p),
                ("checkpoint", ctypes.c_char_p), ("config", ctypes.c_char_p),
                ("kwargs", ctypes.c_char_p), ("log", ctypes.c_void_p), ("log_ctx", ctypes.c_void_p)]


class GenerateArgs(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("max_new_tokens", ctypes.c_int64),
                ("min_new_tokens", ctypes.c_int64), ("temperature", ctypes.c_double),
                ("top_k", ctypes.c_int64), ("top_p", ctypes.c_double), ("seed", ctypes.c_uint64),
                ("eos_token", ctypes.c_int32), ("on_token", ctypes.c_void_p),
                ("on_token_ctx", ctypes.c_void_p)]


MODEL = json.dumps({
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 256,
    "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": True})

os.environ.pop("DS_BACKEND", None)
os.environ.pop("DS_PLUGIN_PATH", None)
# By a relative path, as from a build folder: its plugins are found, the current folder is not searched.
os.chdir(os.path.dirname(sys.argv[1]))
ds = ctypes.CDLL("./" + os.path.basename(sys.argv[1]), mode=os.RTLD_LOCAL)
os.chdir("/")
err = Error()


def call(name, *args):
    if getattr(ds, name)(*args, ctypes.byref(err)) != 0:
        sys.exit("%s: %s" % (name, err.message.decode()))


def backends():
    found, count = ctypes.POINTER(Candidate)(), ctypes.c_size_t()
    call("ds_backend_list", None, ctypes.byref(found), ctypes.byref(count))
    names = [(found[i].name, found[i].state) for i in range(count.value)]
    ds.ds_backend_list_destroy(found, count)
    return names


def logits(backend):
    """Of a fixed prompt: random weights have a fixed seed, so all backends give the same numbers."""
    model, engine = ctypes.c_void_p(), ctypes.c_void_p()
    call("ds_model_from_config", MODEL.encode(), ctypes.byref(model))
    args = InitInferenceArgs(size=ctypes.sizeof(InitInferenceArgs), model=model,
                             config=json.dumps({"backend": backend}).encode())
    call("ds_init_inference", ctypes.byref(args), ctypes.byref(engine))
    prompt = (ctypes.c_int32 * 5)(1, 2, 3, 5, 8)
    out, vocabulary = ctypes.POINTER(ctypes.c_float)(), ctypes.c_int64()
    call("ds_inference_forward", engine, prompt, ctypes.c_size_t(5), ctypes.byref(out),
         ctypes.byref(vocabulary))
    numbers = out[0:5 * vocabulary.value]
    ctypes.CDLL(None).free(out)
    how = GenerateArgs(ctypes.sizeof(GenerateArgs), 6, -1, 0.0, 0, 1.0, 0, -2, None, None)
    tokens, count = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
    call("ds_inference_generate", engine, prompt, ctypes.c_size_t(5), ctypes.byref(how),
         ctypes.byref(tokens), ctypes.byref(count))
    assert count.value == 6 and all(0 <= tokens[i] < 256 for i in range(count.value))
    ctypes.CDLL(None).free(tokens)
    ds.ds_inference_destroy(engine)
    ds.ds_model_destroy(model)
    return numbers


# Python's own signal handler and its other threads don't mind the probe's child, nor it them.
signal.signal(signal.SIGCHLD, lambda number, frame: None)
stop = threading.Event()
busy = threading.Thread(target=lambda: [json.dumps(list(range(1000))) for _ in iter(stop.is_set, True)])
busy.start()
names = backends()
stop.set()
busy.join()
print(names)
assert (b"reference", b"chosen") in names or (b"reference", b"available") in names, names
assert sum(state == b"chosen" for _, state in names) == 1, names
assert set(sys.argv[2:]) <= {name.decode() for name, state in names if state != b"rejected"}, names
usable = [name.decode() for name, state in names if state != b"rejected"]
expected = logits("reference")
for name in usable:
    worst = max(abs(a - b) for a, b in zip(logits(name), expected))
    print(name, "differs from the reference by at most", worst)
    assert len(expected) == 5 * 256 and worst < 1e-3 * max(map(abs, expected)), (name, worst)
assert subprocess.run(["true"]).returncode == 0
