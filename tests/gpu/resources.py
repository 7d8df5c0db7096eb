#!/usr/bin/env python3
"""Registers, shared memory and spills of the kernels, as their compilers say.

usage: resources.py TABLE COMPILER USAGE...           checks; exit 0: all holds
       resources.py --write TABLE COMPILER USAGE...   writes the table's lines of this compiler

USAGE: what plugins/gpu/compile.sh kept of nvcc's -Xptxas -v or clang's -Rpass-analysis=kernel-resource-usage.
A kernel that spills registers to memory fails, unless the table allows it by a line
    allow TARGET KERNEL  why
The figures are compared where the table was made by the same compiler: a kernel that grew deserves a look before
the table is written anew.
"""
import re
import subprocess
import sys


def entries_of_ptxas(text):
    for match in re.finditer(
            r"Compiling entry function '(\S+)' for '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
            r'.*?Used (\d+) registers([^\n]*)', text, re.DOTALL):
        shared = re.search(r'(\d+) bytes smem', match[6])
        yield match[2], match[1], int(match[5]), int(shared[1]) if shared else 0, int(match[3]) + int(match[4])


def entries_of_clang(text):
    target = ''
    for part in re.split(r'remark: Function Name: ', text)[1:]:
        def number(name):
            return int(re.search(name + r'[^:\n]*: (\d+)', part)[1])
        found = re.search(r'\[gpu-target=(\S+)\]', part)
        target = found[1] if found else 'amd'
        spilled = number('SGPRs Spill') + number('VGPRs Spill')
        yield target, part.split()[0], number('VGPRs') + number('AGPRs'), number('LDS Size'), spilled


def short_names(mangled):
    """Names without template arguments and parameters: one line of the table for all forms of a kernel."""
    out = subprocess.run(['c++filt', '-p'], input='\n'.join(mangled), capture_output=True, text=True, check=True).stdout
    names = {}
    for name, plain in zip(mangled, out.split('\n')):
        depth, kept = 0, ''
        for c in plain.replace('(anonymous namespace)::', ''):
            depth += (c == '<') - (c == '>')
            kept += c if depth == 0 and c != '>' else ''
        names[name] = kept.split()[-1]
    return names


def table_of(usage_files):
    entries = []
    for path in usage_files:
        with open(path, encoding='utf-8', errors='replace') as f:
            text = f.read()
        entries += list(entries_of_ptxas(text)) + list(entries_of_clang(text))
    names = short_names([e[1] for e in entries])
    table = {}
    for target, mangled, registers, shared, spilled in entries:
        row = table.setdefault((target, names[mangled]), [0, 0, 0, 0])
        row[0] += 1
        row[1] = max(row[1], registers)
        row[2] = max(row[2], shared)
        row[3] += spilled
    return table


def main():
    args = sys.argv[1:]
    write = args[:1] == ['--write']
    path, compiler, *usage = args[write:]
    found = table_of(usage)
    if not found:
        sys.exit('no kernels: ' + ' '.join(usage))
    targets = {target for target, _ in found}
    with open(path, encoding='utf-8') as f:
        lines = f.read().splitlines()
    allowed = {tuple(line.split()[1:3]) for line in lines if line.startswith('allow ')}
    header = 'compiler %s  %s' % (' '.join(sorted(targets)), compiler)
    rows = ['%s %s  %d forms, %d registers, %d shared, %d spilled' % (*key, *row) for key, row in sorted(found.items())]
    if write:
        kept = [line for line in lines if line.startswith('#') or line.startswith('allow ')]
        other = [line for line in lines if line not in kept and not any(
            line.startswith(t + ' ') or line.startswith('compiler %s ' % t) for t in targets)]
        with open(path, 'w', encoding='utf-8') as f:
            f.write('\n'.join(kept + sorted(other + rows + [header])) + '\n')
        return 0
    code = 0
    for key, row in sorted(found.items()):
        if row[3] and key not in allowed:
            print('%s for %s spills %d bytes or registers' % (key[1], key[0], row[3]))
            code = 1
    for key in sorted(allowed):
        if key in found and not found[key][3]:
            print('%s for %s spills nothing: take its line "allow" away' % (key[1], key[0]))
            code = 1
    if header in lines:
        changed = set(rows) ^ {line for line in lines if line.split(' ')[0] in targets}
        for line in sorted(changed):
            print('%s %s' % ('now: ' if line in rows else 'table:', line))
        if changed:
            print('as it should be? then: tests/gpu/resources.py --write (ninja gpu-resources)')
            code = 1
    else:
        print('the table is of another compiler than %s: only spills are checked' % compiler)
    return code


if __name__ == '__main__':
    sys.exit(main())
