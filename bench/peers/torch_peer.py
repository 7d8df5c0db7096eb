#!/usr/bin/env python3
"""PyTorch on the same work as `ds bench ops` and `ds bench train`, for the ratio beside ours.

usage: torch_peer.py ops   --rows R --cols C --attention B,H,T,D --dtype bf16|f32 [--seconds S]
       torch_peer.py train --batch B --length T [--model 124m|1.5b] [--dtype bf16|f32] [--steps N] [--eager]

ops writes one JSON object: {"torch": VERSION, "device": NAME, "us": {OP: MICROSECONDS}}. train writes
"tokens/s: X" a step. A compiled GPT-2 (Radford et al. 2019) with f32 parameters under autocast and the
fused AdamW is what PyTorch's users run.
"""
import argparse
import json
import math
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

SIZES = {'124m': (12, 12, 768), '1.5b': (48, 25, 1600), 'tiny': (2, 2, 32)}
VOCAB = 50257


def sync(device):
    if device == 'cuda':
        torch.cuda.synchronize()


def microseconds(device, seconds, call):
    """The median of three groups of calls; what is made once is made before."""
    def group(calls):
        sync(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        sync(device)
        return (time.perf_counter() - start) / calls
    group(2)
    once = group(2)
    calls = 1000 if once * 1000 <= seconds else 1 + int(seconds / once)
    return 1e6 * sorted(group(calls) for _ in range(3))[1]


def forward_ops(x, y, w, ids, table, q, k, v):
    cols = x.shape[1]
    return {
        'add': lambda: x + y,
        'activation': lambda: F.gelu(x, approximate='tanh'),
        'swiglu': lambda: F.silu(x) * y,
        'layer_norm': lambda: F.layer_norm(x, (cols,), w, w),
        'rms_norm': lambda: F.rms_norm(x, (cols,), w),
        'softmax': lambda: torch.softmax(x, -1),
        'cross_entropy': lambda: F.cross_entropy(x, ids),
        'embedding': lambda: F.embedding(ids, table),
        'reduce_rows': lambda: x.sum(0, dtype=torch.float32),
        'attention': lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }


BACKWARD = ['activation', 'swiglu', 'layer_norm', 'rms_norm', 'cross_entropy', 'embedding', 'attention']


def run_ops(args, device, dtype):
    b, h, t, d = (int(n) for n in args.attention.split(','))
    make = lambda *shape: (torch.rand(*shape, device=device) - 0.5).to(dtype).requires_grad_()
    x, y, table, w = make(args.rows, args.cols), make(args.rows, args.cols), make(args.rows, args.cols), make(args.cols)
    ids = (torch.arange(args.rows, device=device) * 7919 % min(args.rows, args.cols))
    # [B,T,H,D] in memory, as ours
    q, k, v = (make(b, t, h, d).detach().transpose(1, 2).requires_grad_() for _ in range(3))
    out = {}
    for name, call in forward_ops(x, y, w, ids, table, q, k, v).items():
        with torch.no_grad():
            out[name] = microseconds(device, args.seconds, call)
        if name in BACKWARD:
            result = call()
            grad = torch.ones_like(result)
            inputs = [z for z in (q, k, v)] if name == 'attention' else \
                [table] if name == 'embedding' else \
                [z for z in (x, y, w) if z is not y or name == 'swiglu']
            inputs = [z for z in inputs if z is not w or name.endswith('norm')]
            out[name + '_backward'] = microseconds(
                device, args.seconds,
                lambda: torch.autograd.grad(result, inputs, grad, retain_graph=True))
    p = torch.rand(args.rows * args.cols, device=device, requires_grad=True)
    p.grad = torch.rand_like(p)
    adam = torch.optim.AdamW([p], fused=device == 'cuda')
    out['adamw'] = microseconds(device, args.seconds, adam.step)
    name = torch.cuda.get_device_name() if device == 'cuda' else 'cpu'
    print(json.dumps({'torch': torch.__version__, 'device': name, 'us': out}))


class Block(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.fcproj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (z.view(batch, length, self.heads, -1).transpose(1, 2)
                   for z in self.qkv(self.norm_1(x)).split(width, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.fcproj(F.gelu(self.fc(self.norm_2(x)), approximate='tanh'))


class GPT2(nn.Module):
    def __init__(self, layers, heads, width):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(1024, width)
        self.blocks = nn.ModuleList(Block(heads, width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.apply(lambda m: nn.init.normal_(m.weight, std=0.02) if hasattr(m, 'weight') and m.weight.dim() > 1 else None)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[:ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def run_train(args, device, dtype):
    torch.manual_seed(1)
    torch.set_float32_matmul_precision('highest')
    model = GPT2(*SIZES[args.model]).to(device)
    step_model = model if args.eager else torch.compile(model)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == 'cuda')
    ids = torch.randint(VOCAB, (args.batch, args.length + 1), device=device)
    for step in range(args.steps + 3):
        sync(device)
        start = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = step_model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        assert math.isfinite(loss.item())
        if step >= 3:  # compiling and first touches
            print(f'tokens/s: {args.batch * args.length / (time.perf_counter() - start):.6g}', flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('what', choices=['ops', 'train'])
    p.add_argument('--rows', type=int, default=4096)
    p.add_argument('--cols', type=int, default=1024)
    p.add_argument('--attention', default='1,12,1024,64')
    p.add_argument('--dtype', default='bf16', choices=['bf16', 'f32'])
    p.add_argument('--seconds', type=float, default=0.05)
    p.add_argument('--batch', type=int, default=4)
    p.add_argument('--length', type=int, default=1024)
    p.add_argument('--model', default='124m', choices=sorted(SIZES))
    p.add_argument('--steps', type=int, default=10)
    p.add_argument('--eager', action='store_true')
    args = p.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = torch.bfloat16 if args.dtype == 'bf16' else torch.float32
    (run_ops if args.what == 'ops' else run_train)(args, device, dtype)


if __name__ == '__main__':
    main()
