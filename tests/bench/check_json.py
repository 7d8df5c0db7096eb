#!/usr/bin/env python3
"""Runs one benchmark on sizes too small to tell anything, and looks at its JSON: one object, the
machine's description, results with every field that users read. Says nothing about speed.

usage: check_json.py DS BENCHMARK RESULTS [ARGUMENT]...      RESULTS: how many are expected
LAUNCH in the environment: what starts several ranks, such as "mpirun -n 2".
"""
import json
import math
import os
import subprocess
import sys

SPREAD = {'median', 'min', 'max'}
FIELDS = {
    'comm': {'op': str, 'dtype': str, 'ranks': float, 'bytes': float, 'us': SPREAD,
             'algorithm_gbytes_per_s': SPREAD, 'bus_gbytes_per_s': SPREAD},
    'dispatch': {'ns_through_core': SPREAD, 'ns_direct': SPREAD, 'ns_dispatch': SPREAD},
    'gemm': {'layer': str, 'pass': str, 'dtype': str, 'm': float, 'n': float, 'k': float,
             'gflops': SPREAD, 'peak_fraction': float},
    'quant': {'form': str, 'dtype': str, 'm': float, 'rows': float, 'cols': float,
              'group': float, 'bytes': float, 'gb_s': SPREAD, 'gflops': SPREAD},
    'ops': {'op': str, 'dtype': str, 'bytes': float, 'us': SPREAD, 'gb_s': SPREAD,
            'copy_fraction': SPREAD},
    'train': {'dtype': str, 'batch': float, 'seq_len': float, 'ms_per_step': SPREAD,
              'tokens_per_s': float, 'flops_per_step': float, 'gflops': SPREAD,
              'peak_fraction': float, 'outside_backend_fraction': float,
              'device_allocs': float, 'page_faults': float, 'fallback_ops': float},
    'decode': {'dtype': str, 'tokens_per_s': SPREAD, 'weight_bytes': float, 'weight_gb_s': SPREAD,
               'read_fraction': float, 'prompt_gflops': SPREAD, 'gemm_gflops': SPREAD,
               'gemm_fraction': float, 'peak_fraction': float},
}
MACHINE = {'backend': str, 'cpu': str, 'threads': float, 'peak_f32_gflops': SPREAD,
           'read_gb_s': SPREAD}


def check(where, value, kind):
    if kind is SPREAD:
        assert isinstance(value, dict) and set(value) == SPREAD, f'{where} is {value}'
        assert value['min'] <= value['median'] <= value['max'], f'{where} is {value}'
    elif kind is float:
        assert isinstance(value, (int, float)) and math.isfinite(value), f'{where} is {value}'
    else:
        assert isinstance(value, kind) and value, f'{where} is {value!r}'


def main():
    ds, name, count, arguments = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    launch = os.environ.get('LAUNCH', '').split()
    run = subprocess.run(launch + [ds, 'bench', name, '--json'] + arguments, capture_output=True, text=True)
    assert run.returncode == 0, f'exit code {run.returncode}: {run.stderr}'
    report = json.loads(run.stdout)
    assert report['benchmark'] == name, report['benchmark']
    for key, kind in MACHINE.items():
        check(f'machine.{key}', report['machine'][key], kind)
    assert len(report['results']) == count, f"{len(report['results'])} results, wanted {count}"
    for i, result in enumerate(report['results']):
        for key, kind in FIELDS[name].items():
            check(f'results[{i}].{key}', result[key], kind)
        if name == 'comm':  # NCCL's definitions, for two ranks
            factor = {'allreduce': 1, 'broadcast': 1}.get(result['op'], 0.5)
            alg, bus = result['algorithm_gbytes_per_s'], result['bus_gbytes_per_s']
            assert abs(alg['max'] * result['us']['min'] * 1e3 / result['bytes'] - 1) < 1e-3, result
            assert abs(bus['median'] / alg['median'] / factor - 1) < 1e-6, result
        if name == 'train':  # counted, so it must hold on any machine
            assert result['device_allocs'] == 0, result
            assert (result['host_allocs'] or {'own_calls': 0})['own_calls'] == 0, result
        if name == 'train' and '--peer' in arguments:
            assert abs(result['peer_ratio'] * 1e6 / result['tokens_per_s'] - 1) < 1e-6, result


main()
