#!/usr/bin/env python3
"""Makes the golden vectors of packages/conformance/golden with PyTorch in float64.

    python3 tools/golden/generate.py                    # all files, about a minute
    python3 tools/golden/generate.py --only attention   # or philox, linear, mha
    python3 tools/golden/generate.py --out DIR          # somewhere else
    python3 tools/golden/generate.py --verify           # writes nothing: checks the definition and the committed files

Needs torch (1.13 or later) and numpy, no network. Inputs come from the contract's Philox and not from torch, so they are the same
bits with every version. README.md beside this file describes the format.
"""
import argparse
import os
import sys

import torch

import attention_cases
import mha_cases
import other_cases
from store import write_json, write_safetensors

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "..", "packages", "conformance", "golden")
PARTS = ["philox", "linear", "attention", "mha"]


def make(part, out):
    def save(meta, tensors):
        write_json(os.path.join(out, f"{part}.json"), {"torch": torch.__version__, **meta})
        write_safetensors(os.path.join(out, f"{part}.safetensors"), tensors)

    if part == "philox":
        answers, cases, tensors = other_cases.solve_philox()
        save({"answers": answers, "cases": cases}, tensors)
    elif part == "linear":
        cases, tensors = other_cases.solve_linear()
        save({"cases": cases}, tensors)
    elif part == "attention":
        cases, tensors = attention_cases.solve()
        save({"cases": cases}, tensors)
    elif part == "mha":
        cases, tensors, flash, pytorch = mha_cases.solve()
        weights = {"case": "module", "flashAttn": "mha-flash-attn.safetensors", "pytorch": "mha-pytorch.safetensors"}
        save({"naming": mha_cases.NAMING, "weights": weights, "cases": cases}, tensors)
        write_safetensors(os.path.join(out, weights["flashAttn"]), flash, {"format": "pt"})
        write_safetensors(os.path.join(out, weights["pytorch"]), pytorch, {"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=GOLDEN, help="folder to write to")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--oracle", default=os.path.join(HERE, "..", "..", "..", "shared", "oracle", "torch"), help="PyTorch's cases, for --verify; skipped by name if absent")
    args = parser.parse_args()
    if args.verify:
        import verify

        sys.exit(verify.run(args.out, args.oracle))
    os.makedirs(args.out, exist_ok=True)
    for part in [args.only] if args.only else PARTS:
        make(part, args.out)
    total = 0
    for name in sorted(os.listdir(args.out)):
        size = os.path.getsize(os.path.join(args.out, name))
        total += size
        print(f"{size:9d}  {name}")
    print(f"{total:9d}  bytes in all, torch {torch.__version__}")


if __name__ == "__main__":
    main()
