import { expect } from "vitest";
import { createAttention, type Attention } from "@fa/core";
import { referenceWith, tiledAttention, tiledAttentionBackward, type Algorithms } from "@fa/core/reference";
import { sweepCases, type AttentionCase } from "../src/cases.ts";
import type { MatchResult } from "../src/contest.ts";
import { CUDA_OURS, CUDA_PEER, CUDA_SCALE, CudaProgramme } from "../src/cuda-targets.ts";
import { gridCase } from "../src/matches.ts";
import {
  VERSION,
  type ContestFile,
  type Entry,
  type MeasuredEntry,
  type Outcome,
  type RunFile,
} from "../src/results.ts";
import { judged } from "../src/target.ts";
import type { Terminal } from "../src/terminal.node.ts";
import { FULL_SCALE, GPU_OURS, GPU_PEER, WebgpuProgramme } from "../src/webgpu-targets.ts";

/** Results as a run makes them; no number here was measured. */
export function madeResults(changes: Partial<RunFile> = {}): RunFile {
  const sweep = { sizes: [128, 4096], heads: 8, dim: 64, dtype: "float32" } as const;
  return {
    schema: "fa-bench",
    version: VERSION,
    kind: "run",
    machine: { name: "a machine", cpu: "a processor", cores: 2, platform: "linux-x64", runtime: "node 26.0.0" },
    date: "2026-01-02T03:04:05.678Z",
    commit: "0123456789ab",
    backend: { name: "wasm", device: "a device" },
    candidates: [{ name: "wasm", ok: true, taken: true, reason: "the first that works" }],
    roof: { gflops: 64, what: "made for a test" },
    bandwidth: { gbs: 10, what: "made for a test" },
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
        timer: "wall",
        warmUpCalls: 4,
        inputSets: 1,
      },
      peakBytes: 3 * 2 ** 20,
    })),
    ...changes,
  };
}

/** A contest as a run makes it: ours at 50 GFLOP/s, onnxruntime-web at 20 and failing at 4096. */
export function madeContest(changes: Partial<ContestFile> = {}): ContestFile {
  const {
    kind: _kind,
    backend: _backend,
    candidates: _candidates,
    outcomes: _outcomes,
    bandwidth: _bandwidth,
    ...rest
  } = madeResults();
  const measured = (contestant: string, item: AttentionCase, gflops: number): MeasuredEntry => {
    const ms = item.facts.flops / gflops / 1e6;
    return {
      ...item.facts,
      contestant,
      outcome: "measured",
      verification: {
        ok: true,
        against: "float64 reference, all rows",
        maxError: 2e-7,
        meanSquareError: 4e-14,
        ofTolerance: 0.1,
        worst: "out",
      },
      timing: { medianMs: ms, lowMs: ms, highMs: ms, firstMs: 2 * ms, samples: 5, callsPerSample: 1, timer: "wall" },
      peakBytes: contestant.startsWith("ours") ? 3 * 2 ** 20 : null,
    };
  };
  const cases = [512, 4096].flatMap((S) => [false, true].map((causal) => gridCase(S, 64, causal)));
  return {
    ...rest,
    kind: "contest",
    contestOf: "wasm",
    contestants: [
      { id: "ours/1", name: "ours", threads: 1, what: "a device", takesPart: true },
      { id: "onnxruntime-web/1", name: "onnxruntime-web", threads: 1, what: "1.2.3, wasm", takesPart: true },
      { id: "jax-js/1", name: "jax-js", threads: 1, what: "not installed: npm install @jax-js/jax", takesPart: false },
    ],
    entries: cases.flatMap((item) => [
      measured("ours/1", item, 50),
      item.facts.Sq === 4096
        ? {
            ...item.facts,
            contestant: "onnxruntime-web/1",
            outcome: "failed" as const,
            reason: "SafeIntOnOverflow: Integer overflow",
          }
        : measured("onnxruntime-web/1", item, 20),
      { ...item.facts, contestant: "jax-js/1", outcome: "skipped" as const, reason: "not installed" },
    ]),
    targets: [
      judged({
        id: "made",
        title: "a made target",
        bound: "at least",
        required: 0.8,
        unit: "share",
        how: "made for a test",
        readings: [
          { case: "one", value: 0.9 },
          { case: "other", value: 0.7 },
        ],
      }),
    ],
    ...changes,
  };
}

/** TFLOP/s of each contestant on a made GPU, whatever the case. */
export const GPU_TFLOPS: Readonly<Record<string, number>> = {
  [GPU_OURS.matrix]: 280,
  [GPU_OURS.float16Scores]: 300,
  [GPU_OURS.subgroups]: 40,
  [GPU_OURS.portable]: 30,
  [GPU_PEER]: 20,
};

/** What an entry of a GPU holds besides its case: a verified time. */
const measuredOnGpu = (ms: number, maxError: number) => ({
  outcome: "measured" as const,
  verification: {
    ok: true as const,
    against: "float64 reference, 32 rows a head",
    maxError,
    meanSquareError: 4e-8,
    ofTolerance: 0.2,
    worst: "out",
  },
  timing: {
    medianMs: ms,
    lowMs: ms,
    highMs: ms,
    firstMs: 2 * ms,
    samples: 7,
    callsPerSample: 20,
    timer: "chains" as const,
  },
  peakBytes: null,
});

/** Every match of a programme played. Copying goes at 2000 GB/s; decode takes 20 µs. */
export function playedOnGpu(
  programme: WebgpuProgramme,
  change: (entry: MeasuredEntry) => Entry = (entry) => entry,
): MatchResult[] {
  return programme.matches(true).map((match): MatchResult => {
    const entries = match.entries.map(({ contestant, item }): Entry => {
      const ms = item.facts.Sq === 1 ? 0.02 : item.facts.flops / GPU_TFLOPS[contestant] / 1e9;
      return change({
        ...item.facts,
        contestant,
        ...measuredOnGpu(ms, 3e-4),
        kernel: "made",
      });
    });
    return { match, entries, gauges: match.gauges.length > 0 ? { copy: [1.9e12, 2e12, 2.1e12] } : {} };
  });
}

/** A contest of GPUs as a run makes it. */
export function madeGpuContest(changes: Partial<ContestFile> = {}): ContestFile {
  const programme = new WebgpuProgramme(FULL_SCALE);
  const results = playedOnGpu(programme);
  const what = (id: string) => ({ id, name: id.replace("ours/", "tier "), threads: 1, what: "made", takesPart: true });
  return {
    ...madeContest(),
    contestOf: "webgpu",
    roof: { gflops: 60_000, what: "register-only multiply-add, float32" },
    gpu: { adapter: "a GPU", driver: "1.2.3", webgpu: "Dawn, npm webgpu 0.0.0", copyGBs: 2000, matrixGflops: 640_000 },
    contestants: Object.keys(GPU_TFLOPS).map(what),
    entries: results.flatMap(({ entries }) => entries),
    targets: programme.targets(results, [0.05]),
    ...changes,
  };
}

/** Every match of a programme played: ours 10 % faster than PyTorch's 500 TFLOP/s, 80 in float32; decode in 20 µs each. */
export function playedOnCuda(
  programme: CudaProgramme,
  change: (entry: MeasuredEntry) => Entry = (entry) => entry,
): MatchResult[] {
  return programme.matches(true).map((match): MatchResult => {
    const entries = match.entries.map(({ contestant, item }): Entry => {
      const slower = contestant === CUDA_OURS ? 1 : item.facts.Sq === 1 ? 1.25 : 1.1;
      const tflops = item.facts.dtype === "float32" ? 80 : 550;
      const ms = (item.facts.Sq === 1 ? 0.02 : item.facts.flops / tflops / 1e9) * slower;
      return change({
        ...item.facts,
        contestant,
        ...measuredOnGpu(ms, 3e-6),
        kernel: contestant === CUDA_OURS ? "made" : "cuDNN",
      });
    });
    return { match, entries, gauges: {} };
  });
}

/** A contest of CUDA as a run makes it. */
export function madeCudaContest(changes: Partial<ContestFile> = {}): ContestFile {
  const programme = new CudaProgramme(CUDA_SCALE);
  const results = playedOnCuda(programme);
  return {
    ...madeContest(),
    contestOf: "cuda",
    roof: { gflops: 780_000, what: "made for a test" },
    gpu: { adapter: "a GPU", driver: "1.2.3", cuda: "sm_90", copyGBs: 3000, matrixGflops: null },
    contestants: [
      { id: CUDA_OURS, name: "ours", threads: 1, what: "a GPU, sm_90", takesPart: true },
      { id: CUDA_PEER, name: "PyTorch", threads: 1, what: "1.2.3, cuDNN", takesPart: true },
    ],
    entries: results.flatMap(({ entries }) => entries),
    targets: programme.targets(results, [0.008]),
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
