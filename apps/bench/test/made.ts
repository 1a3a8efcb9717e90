import { expect } from "vitest";
import { createAttention, type Attention } from "@fa/core";
import { referenceWith, tiledAttention, tiledAttentionBackward, type Algorithms } from "@fa/core/reference";
import { sweepCases } from "../src/cases.ts";
import type { Outcome, ResultsFile } from "../src/results.ts";
import type { Terminal } from "../src/terminal.node.ts";

/** Results as a run makes them; no number here was measured. */
export function madeResults(changes: Partial<ResultsFile> = {}): ResultsFile {
  const sweep = { sizes: [128, 4096], heads: 8, dim: 64, dtype: "float32" } as const;
  return {
    schema: "fa-bench",
    version: 1,
    machine: { name: "a machine", cpu: "a processor", cores: 2, platform: "linux-x64", runtime: "node 26.0.0" },
    date: "2026-01-02T03:04:05.678Z",
    commit: "0123456789ab",
    backend: { name: "wasm", device: "a device" },
    candidates: [{ name: "wasm", ok: true, taken: true, reason: "the first that works" }],
    roof: { gflops: 64, what: "made for a test" },
    complete: true,
    outcomes: sweepCases(sweep).map(({ facts }): Outcome => ({
      ...facts,
      outcome: "measured",
      verification: {
        ok: true,
        against: "float64 reference, all rows",
        maxError: 2e-7,
        meanSquareError: 4e-14,
        ofTolerance: 0.1,
        worst: "out",
      },
      timing: {
        medianMs: facts.flops / 32e6,
        lowMs: facts.flops / 33e6,
        highMs: facts.flops / 31e6,
        firstMs: facts.flops / 16e6,
        samples: 9,
        callsPerSample: 2,
      },
      peakBytes: 3 * 2 ** 20,
    })),
    ...changes,
  };
}

/** A terminal that keeps what it was told. */
export function recorder(): Terminal & { readonly printed: string[]; readonly complaints: string[] } {
  const printed: string[] = [];
  const complaints: string[] = [];
  return {
    isTTY: false,
    printed,
    complaints,
    print: (text) => void printed.push(text),
    complain: (text) => void complaints.push(text),
  };
}

/** Opens the reference with a fault in its forward. */
export function openWith(attention: Algorithms["attention"]): () => Promise<Attention> {
  const provider = referenceWith({ attention, attentionBackward: tiledAttentionBackward }, "faulty");
  return () => createAttention({ backends: [provider] });
}

export const openReference: () => Promise<Attention> = openWith(tiledAttention);

export function expectOneLine(texts: readonly string[], pattern: RegExp): void {
  expect(texts.join("\n")).toMatch(pattern);
  expect(texts.join("\n")).not.toMatch(/^\s+at /m);
}
