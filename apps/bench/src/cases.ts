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
import { attentionBytes, moduleBytes } from "./traffic.ts";

/** Where a case stands in tables and results. */
export const GROUPS = ["tutorial", "module", "sweep", "contest", "run"] as const;
export type Group = (typeof GROUPS)[number];

export const PASSES = ["forward", "backward", "fwd+bwd"] as const;
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
  readonly Hkv: number;
  readonly Sq: number;
  readonly Skv: number;
  readonly D: number;
  readonly Dv: number;
  readonly causal: boolean;
  /** Multiplications and additions of visible pairs, and of the projections. */
  readonly flops: number;
  /** The least that memory has to move: every input that is needed read once, every result written once. */
  readonly bytes: number;
  /** What the B x H x Sq x Skv float32 scores would take, if they were stored. */
  readonly scoresBytes: number;
}

/** Options of a case: those whose tensors `numbersOf` can make. */
export type CaseOptions = Omit<AttentionOptionsOf<TensorSpec>, "layout">;

export interface AttentionCase {
  readonly kind: "attention";
  readonly facts: CaseFacts;
  readonly inputs: Readonly<Record<"q" | "k" | "v", TensorSpec & { readonly dtype: FloatDType }>>;
  /** Tensors among them as specs; their numbers come with those of q, k and v (`numbersOf`). */
  readonly options: CaseOptions;
  /** Of the op that is measured: attention, or attentionBackward where the pass is backward. */
  readonly problem: AttentionProblem;
  /** Key j is 1 + 9 j / Skv times as large: the running maximum of a row rises all along. */
  readonly ramped: boolean;
  /** Of ours on a GPU. */
  readonly timed: GpuTimed;
}

/**
 * How the time of a call is found on a GPU, from chains of calls: enqueued one by one and then waited for; or each one's
 * result the next one's queries, recorded and submitted piece by piece; or recorded whole, and only the device timed.
 */
export type GpuTimed = "calls" | "recorded" | "device";

export interface ModuleCase {
  readonly kind: "module";
  readonly facts: CaseFacts;
  readonly golden: GoldenModule;
}

export type Case = AttentionCase | ModuleCase;

/** The case of the widely copied tutorials: [B, N, D] inputs, blocks of 64, plain and with dropout. */
export function tutorialCases(): Case[] {
  const base = { group: "tutorial", q: [2, 256, 64] } as const;
  const block = { blockSize: 64 };
  return [
    attentionCase({ ...base, name: "plain", title: "[2, 256, 64] block 64", options: block }),
    attentionCase({
      ...base,
      name: "dropout",
      title: "[2, 256, 64] dropout 0.1",
      options: { ...block, dropout: { p: 0.1, seed: 42 } },
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
      const kind = causal ? "causal" : "full";
      const [name, title] = [`${S}/${kind}`, `S ${S}, ${kind}`];
      return attentionCase({ group: "sweep", name, title, q: [1, heads, S, dim], dtype, options: { causal } });
    }),
  );
}

export interface AttentionSpec {
  readonly group: Group;
  /** Unique in the group. */
  readonly name: string;
  readonly title: string;
  /** Shape of q. */
  readonly q: readonly number[];
  /** Shape of k and v; that of q unless given. */
  readonly kv?: readonly number[];
  /** Of v, where it is not that of k. */
  readonly Dv?: number;
  readonly dtype?: FloatDType;
  readonly pass?: "forward" | "backward";
  readonly options?: CaseOptions;
  readonly ramped?: boolean;
  readonly timed?: GpuTimed;
}

/** @throws FaError for what attention refuses */
export function attentionCase(spec: AttentionSpec): AttentionCase {
  const { group, name, title, q: shape, kv = shape, dtype = "float32", pass = "forward", options = {} } = spec;
  const { ramped = false, timed = "calls", Dv: dimOfV = kv.at(-1)! } = spec;
  const inputs = { q: { shape, dtype }, k: { shape: kv, dtype }, v: { shape: [...kv.slice(0, -1), dimOfV], dtype } };
  const problem = attentionProblem(inputs, options, pass === "forward" ? "attention" : "attentionBackward");
  const { B, H, Hkv, Sq, Skv, D, Dv, program } = problem;
  const facts: CaseFacts = {
    id: `${group}/${name}`,
    title,
    group,
    pass,
    dtype,
    B,
    H,
    Hkv,
    Sq,
    Skv,
    D,
    Dv,
    causal: step(program, "visibility") !== undefined,
    flops: countFlops(problem),
    bytes: attentionBytes(problem),
    scoresBytes: B * H * Sq * Skv * 4,
  };
  return { kind: "attention", facts, inputs, options, problem, ramped, timed };
}

/** FlashMHA on golden inputs, forward alone and with its backward. */
export function moduleCases(golden: GoldenModule): Case[] {
  const { B, S, E } = golden;
  const { numHeads: H, numHeadsKv: Hkv, causal } = golden.options;
  return (["forward", "fwd+bwd"] as const).map((pass) => {
    const facts: CaseFacts = {
      id: `module/${golden.name}/${pass}`,
      title: `[${B}, ${S}, ${E}] ${H} heads, ${pass}`,
      group: "module",
      pass,
      dtype: "float32",
      B,
      H,
      Hkv,
      Sq: S,
      Skv: S,
      D: E / H,
      Dv: E / H,
      causal,
      flops: moduleFlops(golden, pass),
      bytes: moduleBytes(golden.options, B * S, pass),
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
