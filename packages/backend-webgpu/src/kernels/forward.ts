import {
  bytesPerElement,
  countFlops,
  FLOAT_DTYPES,
  rowStrides,
  SCORE_STEPS,
  step,
  type AttentionProblem,
  type KernelRow,
  type Plan,
  type Tile,
} from "@fa/core";
import type { ShaderParams } from "../wgsl.ts";
import { dtypeCode } from "./dtypes.ts";
import { Words, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";
import { headBuffers, headTermsBytes, headTermsPasses, scoreParams, scoreUnits, scoreWords } from "./score.ts";
import { piecesOf, type Piece } from "./pieces.ts";

/** How a row of the table divides its work: what can be tuned of `forward.wgsl`, all of it. */
export interface ForwardTuning {
  /** Keys and rows of the piece of the scores that a thread holds: 4 or 8. */
  readonly side: number;
  /** Parts that a score is summed in, 1 or 2: of two fewer sums round at its full size, and they take registers. */
  readonly sums: number;
  /** Threads along keys and rows: a tile has side * tx keys and side * ty rows. */
  readonly tx: number;
  readonly ty: number;
  /** Parts of the keys of a tile, each with tx / parts threads along the columns of v, whose products with v are summed apart until the end. */
  readonly parts: number;
  /** Features of q and k staged at a time. */
  readonly features: number;
  /** Rows of v staged at a time. */
  readonly keys: number;
  /** Features, or keys, that a turn of a product's loop takes, a multiple of 4: within a turn a compiler reads ahead. Divides both of the above. */
  readonly step: number;
}

/**
 * Query rows in all up to which small tiles are best: with large ones they do not make work for all multiprocessors of a large
 * card. Measured with 132 of them.
 */
const SHORT_ROWS = 8192;

/** The same for medium tiles: those of 64 rows are then all at work at once, where half as many of 128 leave every second place empty. */
const MEDIUM_ROWS = 16384;

/** Parts that a score is summed in. Backward sums in as many: what P and lse then have of their rounding in common cancels. */
export function scoreSums({ B, H, Sq }: AttentionProblem): number {
  return B * H * Sq <= SHORT_ROWS ? TUNING["forward-short-128"].tuning.sums : TUNING["forward-128"].tuning.sums;
}

/** Rows of the table, best first: what each is for, and its tuning. */
const TUNING: Readonly<
  Record<string, Pick<KernelRow, "maxTotalRows"> & { maxHeadDim: number; tuning: ForwardTuning }>
> = {
  "forward-short-128": {
    maxTotalRows: SHORT_ROWS,
    maxHeadDim: 128,
    tuning: { side: 4, sums: 2, tx: 16, ty: 8, parts: 1, features: 32, keys: 16, step: 8 },
  },
  "forward-short-256": {
    maxTotalRows: SHORT_ROWS,
    maxHeadDim: 256,
    tuning: { side: 4, sums: 2, tx: 16, ty: 8, parts: 1, features: 32, keys: 8, step: 8 },
  },
  "forward-medium-64": {
    maxTotalRows: MEDIUM_ROWS,
    maxHeadDim: 64,
    tuning: { side: 8, sums: 1, tx: 16, ty: 8, parts: 2, features: 16, keys: 16, step: 8 },
  },
  "forward-64": {
    maxHeadDim: 64,
    tuning: { side: 8, sums: 1, tx: 8, ty: 16, parts: 1, features: 16, keys: 16, step: 8 },
  },
  "forward-128": {
    maxHeadDim: 128,
    tuning: { side: 8, sums: 1, tx: 16, ty: 8, parts: 1, features: 16, keys: 16, step: 8 },
  },
  "forward-256": {
    maxHeadDim: 256,
    tuning: { side: 8, sums: 1, tx: 16, ty: 8, parts: 1, features: 8, keys: 8, step: 8 },
  },
};

/** Rows move their max only for scores that exceed it by more than 2^8 in weight: float32 holds that without loss. */
const LAG_EXPONENT = 8;

/** What a shader is compiled for: everything of a problem that does not change with its lengths. */
export function forwardParams(
  problem: AttentionProblem,
  tuning: ForwardTuning,
  bound: ReadonlySet<string>,
): ShaderParams {
  const { Dv } = problem;
  const { side, sums, tx, ty, parts, features, keys, step: STEP } = tuning;
  const tensor = tensorParams(problem);
  const unit = tensor.UNIT;
  const [BR, BC, threads] = [side * ty, side * tx, tx * ty];
  const VX = tx / parts;
  const OC = Math.ceil(Dv / (4 * VX));
  // Eight vectors are as many as there are banks: units of all features together, stored for the same rows, shall lie in different ones.
  const [FOUR_Q, FOUR_K, FOUR_P] = [BR + 32 / features, BC + 32 / features, BR + 32 / keys];
  // Threads that stage q and k: each reads a unit of four rows.
  const Q_THREADS = (BR * features) / (4 * unit);
  const K_THREADS = (BC * features) / (4 * unit);
  // Where no thread stages both, both take the same registers.
  const Q_AT = Q_THREADS + K_THREADS <= threads ? 0 : 4;
  const V_UNITS = Math.ceil((parts * keys * 4 * OC * VX) / unit / threads);
  // Vectors of acc, a row of each thread, on their way between parts.
  const joined = parts > 1 ? OC * threads : 0;
  const params = scoreParams(problem);
  if (Math.max(Q_THREADS, K_THREADS) > threads)
    throw new Error(`threads ${tx} x ${ty} cannot share ${features} features`);
  let binding = 4;
  const next = (present: unknown): number => (present ? ++binding : 0);
  return {
    ...params,
    RAW: scoreUnits(problem).raw,
    NEGATIVE: scoreUnits(problem).negative,
    ...tensor,
    SIDE: side,
    QUADS: side / 4,
    SUMS: sums,
    // The branch costs 1 to 3 % where tiles are large.
    SKIPS: side === 4,
    TX: tx,
    TY: ty,
    BR,
    BC,
    THREADS: threads,
    CD: features,
    CK: keys,
    OC,
    PARTS: parts,
    VX,
    STEP,
    FOUR_Q,
    FOUR_K,
    FOUR_P,
    LEFT: Math.max((features / 4) * FOUR_Q, parts * (keys / 4) * FOUR_P, joined),
    RIGHT: Math.max((features / 4) * FOUR_K, parts * keys * OC * VX, (side / 4) * threads, joined),
    BAD_WORDS: Math.ceil((4 * OC * VX) / 32),
    Q_THREADS,
    K_THREADS,
    V_UNITS,
    Q_AT,
    AHEAD: Math.max(Q_AT + 4, V_UNITS),
    LSE: bound.has("lse"),
    LSE_BINDING: next(bound.has("lse")),
    BIAS_BINDING: next(params["BIAS"]),
    MASK_BINDING: next(params["MASK"]),
    HEAD_BINDING: next(headBuffers(problem).length),
  };
}

/** How tensors are read and written: params of `lib/rows.wgsl` and `lib/finish.wgsl`. */
export function tensorParams({ D, Dv, Skv, dtype, resultDType }: AttentionProblem): ShaderParams & {
  readonly UNIT: number;
} {
  const bytes = bytesPerElement(dtype);
  const resultBytes = bytesPerElement(resultDType);
  return {
    DTYPE: dtypeCode(dtype),
    OUT_DTYPE: dtypeCode(resultDType),
    PER_WORD: 4 / bytes,
    UNIT: bytes === 4 ? 4 : 8,
    VECTOR: bytes > 1 && (D * bytes) % 16 === 0 && (Dv * bytes) % 16 === 0 && Skv > 0,
    // Words that a thread writes of out at a time; 0 where threads share words.
    OUT_WORDS: Dv % 4 === 0 ? resultBytes : (Dv * resultBytes) % 4 === 0 ? 1 : 0,
  };
}

/** Strides of q, k, v and out along batch, head and row, and elements before their windows. */
export function tensorWords(
  words: Words,
  { layout, H, Hkv, Sq, Skv, D, Dv }: AttentionProblem,
  windows: Piece["windows"],
  names: readonly ("q" | "k" | "v" | "out")[],
): Words {
  const sizes = { q: [H, Sq, D], k: [Hkv, Skv, D], v: [Hkv, Skv, Dv], out: [H, Sq, Dv] } as const;
  for (const name of names) {
    const { batch, head, row } = rowStrides(layout, ...sizes[name]);
    words.u32(batch, head, row, windows[name].first);
  }
  return words;
}

function forwardWords(problem: AttentionProblem, piece: Piece, tile: Tile): Words {
  const { H, Hkv, Sq, Skv, D, Dv } = problem;
  const { windows } = piece;
  const { toLogit, toExponent } = scoreUnits(problem);
  const words = scoreWords(new Words(), problem, {
    bias: windows["bias"]?.first ?? 0,
    mask: windows["mask"]?.first ?? 0,
  })
    .u32(
      piece.batch.from,
      piece.batch.to - piece.batch.from,
      piece.head.from,
      piece.head.to - piece.head.from,
      piece.row.from,
      piece.row.to,
    )
    .u32(H / Hkv, Sq, Skv, D, Dv, tile.q, tile.kv)
    .f32(toExponent, toLogit, Math.min(LAG_EXPONENT / toExponent, 1e37));
  tensorWords(words, problem, windows, ["q", "k", "v", "out"]);
  return words.u32(windows["lse"]?.first ?? 0);
}

export function forwardPasses(
  { problem, tile }: Pick<Plan<AttentionProblem>, "problem" | "tile">,
  limits: DeviceLimits,
  bound: ReadonlySet<string>,
  tuning: ForwardTuning,
): Pass[] {
  const { B, H, Hkv, Sq, program } = problem;
  if (B * Sq === 0) return [];
  const params = forwardParams(problem, tuning, bound);
  // Columns of a tile count from a multiple of 8 keys.
  const keys = tuning.side * tuning.tx;
  const used = { q: tile.q, kv: tile.kv % 8 === 0 ? tile.kv : Math.min(tile.kv, keys - 8) };
  const names = ["q", "k", "v", "out"];
  if (bound.has("lse")) names.push("lse");
  if (step(program, "bias")) names.push("bias");
  if (step(program, "visibility")?.mask) names.push("mask");
  const pieces = piecesOf(problem, names, limits, used.q);
  const flops = countFlops(problem);
  const passes = headTermsPasses(problem);
  for (const piece of pieces) {
    const rows = piece.row.to - piece.row.from;
    const heads = ((piece.batch.to - piece.batch.from) * (piece.head.to - piece.head.from) * H) / Hkv;
    passes.push({
      shader: "forward.wgsl",
      params,
      uniforms: forwardWords(problem, piece, used).build(),
      buffers: [
        ...names.map((name) => (pieces.length === 1 ? { name } : piece.windows[name])),
        ...headBuffers(problem).map((name) => ({ name })),
      ],
      workgroups: Math.ceil(rows / used.q) * heads,
      flops: (flops * rows * heads) / (B * H * Sq),
    });
  }
  return passes;
}

function sharedBytes(problem: AttentionProblem, tuning: ForwardTuning): number {
  const params = forwardParams(problem, tuning, new Set());
  const count = (name: string): number => Number(params[name]);
  const visible = params["MASK"] ? [count("BR") * (count("BC") / 32), 1] : [];
  const words = [count("BR") * count("BAD_WORDS"), Math.ceil(count("BR") / 32) + 2, ...visible];
  return (count("LEFT") + count("RIGHT")) * 16 + sharedWordsBytes(words);
}

/** Bytes that variables of so many words take in workgroup memory: each is filled up to 16. */
export function sharedWordsBytes(words: readonly number[]): number {
  return words.reduce((sum, count) => sum + Math.ceil(count / 4) * 16, 0);
}

/** Attention of any lengths, by float32 arithmetic: no feature of the device is needed. */
export const FORWARD: readonly WebgpuRow<AttentionProblem>[] = Object.entries(TUNING).map(
  ([id, { maxHeadDim, maxTotalRows, tuning }]) => {
    const tile = { q: tuning.side * tuning.ty, kv: tuning.side * tuning.tx };
    return {
      id,
      op: "attention",
      dtypes: FLOAT_DTYPES,
      headDim: { min: 1, max: maxHeadDim },
      maxTotalRows,
      steps: SCORE_STEPS,
      needs: [],
      tile,
      maxTile: tile,
      sharedBytes: (problem) => sharedBytes(problem as AttentionProblem, tuning),
      workspaceBytes: (problem) => headTermsBytes(problem as AttentionProblem),
      passes: (plan, limits, bound) => forwardPasses(plan, limits, bound, tuning),
    };
  },
);
