/** What is measured, as data: no tensor, no device, nothing run yet. */
import {
  attentionProblem,
  countFlops,
  linearProblem,
  step,
  type AttentionOptionsOf,
  type AttentionProblem,
  type FloatDType,
  type TensorSpec,
} from "@fa/core";
import type { GoldenModule } from "./golden.ts";

/** Where a case stands in tables and results. */
export const GROUPS = ["tutorial", "module", "sweep"] as const;
export type Group = (typeof GROUPS)[number];

export const PASSES = ["forward", "fwd+bwd"] as const;
export type Pass = (typeof PASSES)[number];

/** The facts of a case that results files carry. */
export interface CaseFacts {
  /** Unique in a run and stable over runs: "sweep/1024/causal". */
  readonly id: string;
  readonly title: string;
  readonly group: Group;
  readonly pass: Pass;
  readonly dtype: FloatDType;
  readonly B: number;
  readonly H: number;
  readonly S: number;
  readonly D: number;
  readonly causal: boolean;
  /** Multiplications and additions of visible pairs, and of the projections. */
  readonly flops: number;
  /** What the B x H x Sq x Skv float32 scores would take, if they were stored. */
  readonly scoresBytes: number;
}

export interface AttentionCase {
  readonly kind: "attention";
  readonly facts: CaseFacts;
  readonly inputs: Readonly<Record<"q" | "k" | "v", TensorSpec>>;
  readonly options: AttentionOptionsOf<never>;
  readonly problem: AttentionProblem;
}

export interface ModuleCase {
  readonly kind: "module";
  readonly facts: CaseFacts;
  readonly golden: GoldenModule;
}

export type Case = AttentionCase | ModuleCase;

/** The case of the widely copied tutorials: [B, N, D] inputs, blocks of 64, plain and with dropout. */
export function tutorialCases(): Case[] {
  const shape = [2, 256, 64];
  const block = { blockSize: 64 };
  return [
    attentionCase("tutorial", "plain", "[2, 256, 64] block 64", shape, "float32", block),
    attentionCase("tutorial", "dropout", "[2, 256, 64] dropout 0.1", shape, "float32", {
      ...block,
      dropout: { p: 0.1, seed: 42 },
    }),
  ];
}

export interface SweepOptions {
  readonly sizes: readonly number[];
  readonly heads: number;
  readonly dim: number;
  readonly dtype: FloatDType;
}

/**
 * Every size with causal off and on, B = 1.
 * @throws FaError for sizes that attention refuses
 */
export function sweepCases({ sizes, heads, dim, dtype }: SweepOptions): Case[] {
  return sizes.flatMap((S) =>
    [false, true].map((causal) => {
      const name = causal ? "causal" : "full";
      return attentionCase("sweep", `${S}/${name}`, `S ${S}, ${name}`, [1, heads, S, dim], dtype, { causal });
    }),
  );
}

function attentionCase(
  group: Group,
  name: string,
  title: string,
  shape: readonly number[],
  dtype: FloatDType,
  options: AttentionOptionsOf<never>,
): AttentionCase {
  const spec = { shape, dtype };
  const inputs = { q: spec, k: spec, v: spec };
  const problem = attentionProblem(inputs, options);
  const { B, H, Sq, Skv, D, program } = problem;
  const facts: CaseFacts = {
    id: `${group}/${name}`,
    title,
    group,
    pass: "forward",
    dtype,
    B,
    H,
    S: Sq,
    D,
    causal: step(program, "visibility") !== undefined,
    flops: countFlops(problem),
    scoresBytes: B * H * Sq * Skv * 4,
  };
  return { kind: "attention", facts, inputs, options, problem };
}

/** FlashMHA on golden inputs, forward alone and with its backward. */
export function moduleCases(golden: GoldenModule): Case[] {
  const { B, S, E } = golden;
  const { numHeads: H, causal } = golden.options;
  return PASSES.map((pass) => {
    const facts: CaseFacts = {
      id: `module/${golden.name}/${pass}`,
      title: `[${B}, ${S}, ${E}] ${H} heads, ${pass}`,
      group: "module",
      pass,
      dtype: "float32",
      B,
      H,
      S,
      D: E / H,
      causal,
      flops: moduleFlops(golden, pass),
      scoresBytes: B * H * S * S * 4,
    };
    return { kind: "module", facts, golden };
  });
}

/** The fused projection, attention, and the output projection. */
function moduleFlops({ B, S, E, options }: GoldenModule, pass: Pass): number {
  const { numHeads, numHeadsKv, causal } = options;
  const dtype = "float32" as const;
  const D = E / numHeads;
  const spec = (heads: number): TensorSpec => ({ shape: [B, heads, S, D], dtype });
  const qkv = { q: spec(numHeads), k: spec(numHeadsKv), v: spec(numHeadsKv) };
  const x = { shape: [B, S, E], dtype };
  const widths = [E + 2 * numHeadsKv * D, E];
  const total = (attention: AttentionProblem["op"], linear: "linear" | "linearBackward"): number =>
    widths.reduce(
      (sum, N) => sum + countFlops(linearProblem(linear, { x, weight: { shape: [N, E], dtype } }, undefined, linear)),
      countFlops(attentionProblem(qkv, { causal }, attention)),
    );
  const forward = total("attention", "linear");
  return pass === "forward" ? forward : forward + total("attentionBackward", "linearBackward");
}
