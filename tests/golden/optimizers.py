#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes optimizers.json: what torch.optim does to five parameters in twenty steps, in fp64 and in fp32.

Run by hand, with PyTorch from PyPI, when a case is added:  python3 tests/golden/optimizers.py
"""
import json
import pathlib
import random
import re

import torch

STEPS = 20
# The last parameter sees gradients of 1e-6, where epsilon counts.
PARAMETERS = [0.75, -1.5, 3.0e-3, 40.0, -0.2]
SCALES = [1.0, 0.03, 5.0, 200.0, 1e-6]

CASES = {
    "sgd": (torch.optim.SGD, {"lr": 0.01}),
    "sgd_weight_decay": (torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "momentum_dampening": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "dampening": 0.4}),
    "momentum_weight_decay": (
        torch.optim.SGD,
        {"lr": 0.01, "momentum": 0.8, "dampening": 0.1, "weight_decay": 0.05},
    ),
    "nesterov": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "nesterov_weight_decay": (
        torch.optim.SGD,
        {"lr": 0.01, "momentum": 0.95, "nesterov": True, "weight_decay": 0.2},
    ),
    "rms_prop": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.99, "eps": 1e-8}),
    "rms_prop_weight_decay": (
        torch.optim.RMSprop,
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "weight_decay": 0.1},
    ),
    "rms_prop_momentum": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.95, "eps": 1e-8, "momentum": 0.9}),
    "rms_prop_centered": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "centered": True}),
    "rms_prop_all": (
        torch.optim.RMSprop,
        {"lr": 0.005, "alpha": 0.95, "eps": 1e-4, "centered": True, "momentum": 0.8, "weight_decay": 0.02},
    ),
    "adam": (torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}),
    "adam_weight_decay": (
        torch.optim.Adam,
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
    "adamw_weight_decay": (
        torch.optim.AdamW,
        {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
}


def trajectory(kind, options, gradients, dtype):
    """The parameters after each step."""
    parameter = torch.nn.Parameter(torch.tensor(PARAMETERS, dtype=dtype))
    optimizer = kind([parameter], foreach=False, **options)
    steps = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        steps.append(parameter.detach().tolist())
    return steps


def main():
    torch.set_num_threads(1)
    generator = random.Random(20)
    # Values of fp32, so that both precisions see the same.
    global PARAMETERS
    PARAMETERS = torch.tensor(PARAMETERS, dtype=torch.float32).tolist()
    gradients = [
        torch.tensor([generator.uniform(-1, 1) * scale for scale in SCALES], dtype=torch.float32).tolist()
        for _ in range(STEPS)
    ]
    gradients[7] = [0.0] * len(SCALES)
    golden = {
        "torch": torch.__version__.split("+")[0],
        "parameters": PARAMETERS,
        "gradients": gradients,
        "cases": {
            name: {
                "kind": kind.__name__,
                "options": options,
                "fp64": trajectory(kind, options, gradients, torch.float64),
                "fp32": trajectory(kind, options, gradients, torch.float32),
            }
            for name, (kind, options) in CASES.items()
        },
    }
    text = re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda numbers: "[" + " ".join(numbers[1].split()) + "]",
                  json.dumps(golden, indent=1))  # a line for each step
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


main()
