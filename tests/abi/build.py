"""build.py - cores and plugins of other versions, built out of tree.

A folder of work gets one ninja file for everything asked for, so that what has not changed is not
built again. Tests that run side by side share the folder behind a lock.
"""
import contextlib
import fcntl
import os
import re
import shlex
import subprocess
import sys
import tarfile

import layout
import next_version

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
CORE = ["-DDS_PLUGIN_DIR=\\\"/nonexistent\\\"", "-DDS_PLUGIN_DIR_FROM_BIN=\\\"nonexistent\\\"",
        "-DDS_VERSION=\\\"frozen\\\""]
LIBRARIES = ["libcjson", "libpcre2-8"]


def write(path, data):
    """Leaves a file that has these bytes alone, so that ninja does too."""
    data = data.encode() if isinstance(data, str) else data
    if os.path.exists(path):
        with open(path, "rb") as f:
            if f.read() == data:
                return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def pkg_config(what, names):
    return subprocess.run(["pkg-config", what, *names], check=True, stdout=subprocess.PIPE).stdout.decode().split()


def tree(folder):
    """Paths of the C files below a folder, relative to it."""
    return sorted(os.path.relpath(os.path.join(path, n), folder)
                  for path, _, names in os.walk(folder) for n in names if n.endswith((".c", ".h")))


def core_flags(name):
    return ["-I%s/abi" % name, "-I%s/src/core" % name, *CORE, *pkg_config("--cflags", LIBRARIES)]


def write_tree(folder, files):
    """Files {path: bytes or text} below a folder, and no other C files there."""
    for path in tree(folder):
        if path not in files:
            os.remove(os.path.join(folder, path))
    for path, data in files.items():
        write(os.path.join(folder, path), data)


class Work:
    """What is to be built in a folder. compiler: a command; extra: its flags (sanitizers)."""

    def __init__(self, folder, root, compiler, extra=()):
        self.folder, self.root, self.compiler = folder, root, list(compiler)
        self.extra, self.rules = list(extra), []
        os.makedirs(folder, exist_ok=True)

    @contextlib.contextmanager
    def locked(self):
        with open(os.path.join(self.folder, "lock"), "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield

    # ---- what to build. Paths given are relative to the folder, so that a compiler cache knows the
    # command again; a path that comes back is whole.

    def object(self, source, out, flags):
        self.rules.append("build %s: compile %s\n  flags = %s" % (out, source, " ".join(flags)))
        return out

    def core(self, name):
        """The objects of the core in NAME/src/core, made for the header in NAME/abi."""
        sources = name + "/src/core"
        return [self.object("%s/%s" % (sources, p), "%s/%s.o" % (name, p[:-2].replace("/", "_")), core_flags(name))
                for p in tree(os.path.join(self.folder, sources)) if p.endswith(".c")]

    def driver(self, name, core, source, flags=()):
        """A program of one source, with the objects of a core."""
        out = "%s/%s" % (name, os.path.basename(source)[:-2])
        return self.program(out, core + [self.object(source, out + ".o", [*core_flags(name), *flags])])

    def program(self, out, objects):
        libraries = pkg_config("--libs", LIBRARIES) + ["-lm", "-ldl", "-lpthread"]
        self.rules.append("build %s: link %s\n  flags = %s" % (out, " ".join(objects), " ".join(libraries)))
        return os.path.join(self.folder, out)

    def plugin(self, name, headers, sources, flags=(), libraries=()):
        """NAME.so made for the header in a folder."""
        objects = [self.object(s, "%s.p/%s.o" % (name, os.path.basename(s)[:-2]), ["-I" + headers, *flags])
                   for s in sources]
        self.rules.append("build %s.so: link %s\n  flags = -shared %s"
                          % (name, " ".join(objects), " ".join([*libraries, "-lm"])))
        return os.path.join(self.folder, name + ".so")

    def run(self):
        command = " ".join(shlex.quote(c) for c in self.compiler)
        extra = " ".join(self.extra)
        text = ("rule compile\n  command = %s %s %s $flags -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n"
                "  deps = gcc\nrule link\n  command = %s %s $in $flags -o $out\n%s\n"
                % (command, " ".join(FLAGS), extra, command, extra, "\n".join(dict.fromkeys(self.rules))))
        write(os.path.join(self.folder, "build.ninja"), text)
        done = subprocess.run(["ninja", "-C", self.folder, "-j2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            sys.exit("can't build in %s:\n%s" % (self.folder, done.stdout.decode()[-4000:]))

    # ---- sources

    def copy(self, source, out):
        with open(source, "rb") as f:
            write(os.path.join(self.folder, out), f.read())
        return out

    def unpack(self, frozen, name):
        """A frozen version: NAME/abi, NAME/src/core, and its own plugins and driver in NAME/src."""
        for file in ("ds_abi.h", "ds_ops.def"):
            self.copy(os.path.join(frozen, file), "%s/abi/%s" % (name, file))
        for file in ("minimal.c", "full.c", "driver.c"):
            self.copy(os.path.join(frozen, file), "%s/src/%s" % (name, file))
        archive, files = os.path.join(frozen, "core.tar.xz"), {}
        with tarfile.open(archive, "r:xz") as tar:
            for member in tar.getmembers():
                if not member.isfile() or not re.fullmatch(r"core(/\w+)+\.[ch]", member.name):
                    raise ValueError("%s holds %s" % (archive, member.name))
                files[os.path.relpath(member.name, "core")] = tar.extractfile(member).read()
        write_tree(os.path.join(self.folder, name, "src", "core"), files)

    def derive_next(self):
        """The next version's header in next/abi, and today's core made for it in next/src/core."""
        for name, text in next_version.header(os.path.join(self.root, "abi"), self.compiler).items():
            write(os.path.join(self.folder, "next/abi", name), text)
        core = os.path.join(self.root, "core")
        texts = {p: read(os.path.join(core, p)) for p in tree(core)}
        write_tree(os.path.join(self.folder, "next/src/core"), next_version.core(texts))
