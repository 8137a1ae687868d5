#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/rope.json: rotary frequencies and rotated vectors as Hugging Face transformers computes them.

Needs torch and transformers (an oracle only); run by hand, never by a build or a test.
"""

import json
import pathlib

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as apply_interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as apply_halves

HEAD = 16
POSITIONS = [0, 1, 5, 100]

CASES = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, 10000.0, 64, 64),
    "dynamic, short": ({"rope_type": "dynamic", "factor": 2.0}, 10000.0, 64, 64),
    "dynamic, long": ({"rope_type": "dynamic", "factor": 2.0}, 10000.0, 64, 200),
    "yarn": ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}, 10000.0, 2048, 2048),
    "yarn, mscale": (
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "mscale": 0.707,
            "mscale_all_dim": 1.5,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "truncate": False,
        },
        50000.0,
        163840,
        163840,
    ),
    "yarn, attention factor": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 1.25},
        1000000.0,
        2048,
        2048,
    ),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        500000.0,
        131072,
        131072,
    ),
}


def frequencies(parameters, base, length, positions):
    config = LlamaConfig(
        hidden_size=2 * HEAD,
        num_attention_heads=2,
        head_dim=HEAD,
        max_position_embeddings=length,
        rope_parameters={"rope_theta": base, **parameters},
    )
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"), seq_len=positions)


def main():
    torch.manual_seed(1)
    cases = []
    for name, (parameters, base, length, positions) in CASES.items():
        inverse, attention = frequencies(parameters, base, length, positions)
        cases.append(
            {
                "name": name,
                "base": base,
                "length": length,
                "positions": positions,
                "parameters": parameters,
                "frequencies": [float(f) for f in inverse],
                "attention_factor": float(attention),
            }
        )
    x = torch.randn(1, len(POSITIONS), 2, HEAD)  # B, T, H, D
    inverse = 1.0 / (10000.0 ** (torch.arange(0, HEAD, 2, dtype=torch.float32) / HEAD))
    angles = torch.tensor(POSITIONS, dtype=torch.float32)[:, None] * inverse[None, :]
    twice = torch.cat([angles, angles], dim=-1)[None]
    halves, _ = apply_halves(x, x, twice.cos(), twice.sin(), unsqueeze_dim=2)
    interleaved = apply_interleaved(x, angles.sin()[None], angles.cos()[None])
    golden = {
        "made_by": f"tests/golden/rope.py with transformers {transformers.__version__}, torch {torch.__version__}",
        "cases": cases,
        "rotation": {
            "ids": POSITIONS,
            "x": x.flatten().tolist(),
            "halves": halves.flatten().tolist(),
            "interleaved": interleaved.flatten().tolist(),
        },
    }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
