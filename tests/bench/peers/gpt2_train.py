#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One optimizer step of GPT-2 124M in PyTorch on the CPU: the peer of train_step_bench.

pip install torch --index-url https://download.pytorch.org/whl/cpu (or torch from PyPI), then
    gpt2_train.py [fp32|bf16] [micro-batch] [T] [steps] [threads]
Prints tokens/s of the best step, eager and compiled. bf16: weights and activations as autocast has them, fp32 master
weights, as PyTorch's users train.
"""
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, LAYERS, HEADS, CHANNELS = 50257, 12, 12, 768


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.out = nn.Linear(CHANNELS, CHANNELS)
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.up = nn.Linear(CHANNELS, 4 * CHANNELS)
        self.down = nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, CHANNELS // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(CHANNELS, dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, CHANNELS))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, CHANNELS)
        self.positions = nn.Embedding(length, CHANNELS)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(CHANNELS)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY).float(), targets.view(-1))


def best_step(model, optimizer, ids, targets, steps, bf16):
    best = float("inf")
    for step in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds = time.perf_counter() - start
        print(f"  step {step + 1}: loss {loss.item():.4f}, {seconds:.3f} s", flush=True)
        if step > 0:
            best = min(best, seconds)
    return best


def main():
    argument = lambda i, otherwise: sys.argv[i] if len(sys.argv) > i else otherwise
    bf16 = argument(1, "bf16") == "bf16"
    batch, length, steps = int(argument(2, "4")), int(argument(3, "1024")), int(argument(4, "4"))
    torch.set_num_threads(int(argument(5, "2")))
    torch.manual_seed(1337)
    ids = torch.randint(VOCABULARY, (batch, length + 1))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {'bf16' if bf16 else 'fp32'}")
    for name in ("eager", "compiled"):
        model = Model(length)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        run = torch.compile(model) if name == "compiled" else model
        seconds = best_step(run, optimizer, ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), steps, bf16)
        print(f"{name}: {batch * length / seconds:.0f} tokens/s")


main()
