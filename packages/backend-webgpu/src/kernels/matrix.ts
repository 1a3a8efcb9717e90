import { countFlops, rowStrides, step, type AttentionProblem, type Plan } from "@fa/core";
import type { ShaderParams } from "../wgsl.ts";
import { FEATURES } from "../adapter.ts";
import { piecesOf, type Piece } from "./pieces.ts";
import { Words, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";
import { scoreParams, scoreWords } from "./score.ts";

/** Keys of a tile: the matrices are 16 by 16. */
const TILE_KEYS = 16;
/** Lanes of a subgroup. */
const LANES = 32;
/** Elements of a chunk of 16 bytes, in which tensors are read and written. */
const CHUNK = 8;
/** Keys and values that run side by side share the cache of the device. */
const CACHED_BYTES = 2 ** 25;
/** Least exponent of the power of two that q takes from the scale, so that q keeps its bits. */
const LEAST_Q_SCALE = -8;
/** Beyond it, differences of products weigh nothing or everything; and with it their exponents stay finite. */
const LARGEST_EXPONENT_SCALE = 2 ** 86;

/** How a row of the table divides its work: what can be tuned of `matrix.wgsl`, all of it. */
export interface MatrixTuning {
  /** Subgroups of a workgroup, and tiles of 16 rows that each takes. */
  readonly subgroups: number;
  readonly rowTiles: number;
  /** Tiles of keys that a turn of the fast loop takes: the compiler schedules across them. */
  readonly unroll: number;
  /** Probabilities have memory of their own, l and max lie beside the scores; otherwise the other way round, in float32. */
  readonly apart: boolean;
  /** Scores are kept in float16. */
  readonly float16Scores: boolean;
}

/**
 * Rows of the table: the largest head dim that each takes, and its tuning. On the one GPU that this was tuned on, workgroups of
 * one multiprocessor share 48 KiB of memory, so two of four subgroups fit at D = 64 (three with scores in float16), and at D = 128 one of eight (two of four).
 */
const TUNING: Readonly<Record<string, { readonly maxHeadDim: number; readonly tuning: MatrixTuning }>> = {
  "matrix-float16-scores-64": {
    maxHeadDim: 64,
    tuning: { subgroups: 4, rowTiles: 2, unroll: 8, apart: false, float16Scores: true },
  },
  "matrix-float16-scores-128": {
    maxHeadDim: 128,
    tuning: { subgroups: 4, rowTiles: 2, unroll: 4, apart: false, float16Scores: true },
  },
  "matrix-64": {
    maxHeadDim: 64,
    tuning: { subgroups: 4, rowTiles: 2, unroll: 8, apart: false, float16Scores: false },
  },
  "matrix-128": {
    maxHeadDim: 128,
    tuning: { subgroups: 8, rowTiles: 2, unroll: 8, apart: true, float16Scores: false },
  },
  "matrix-256": {
    maxHeadDim: 256,
    tuning: { subgroups: 8, rowTiles: 1, unroll: 2, apart: true, float16Scores: false },
  },
};

/** What a shader is compiled for: everything of a problem that does not change with its lengths. */
export function matrixParams(
  problem: AttentionProblem,
  { subgroups, rowTiles, unroll, apart, float16Scores }: MatrixTuning,
  bound: ReadonlySet<string>,
): ShaderParams {
  const { D, Dv, Hkv, Skv, layout } = problem;
  const params = scoreParams(problem);
  const threads = subgroups * LANES;
  const [kChunks, vChunks] = [D / CHUNK, Dv / CHUNK];
  // Chunks of a row of scores: 4 in float32, and beside them P or l and max, 2 each; 2 in float16, then P, then l and max.
  const scoreStride = float16Scores ? 5 : 6;
  return {
    ...params,
    SUBGROUPS: subgroups,
    ROW_TILES: rowTiles,
    THREADS: threads,
    K_CHUNKS: kChunks,
    V_CHUNKS: vChunks,
    K_STEPS: Math.ceil(kChunks / 2),
    V_STEPS: Math.ceil(vChunks / 2),
    K_ROW: rowStrides(layout, Hkv, Skv, D).row / CHUNK,
    V_ROW: rowStrides(layout, Hkv, Skv, Dv).row / CHUNK,
    K_ITEMS: Math.ceil((TILE_KEYS * kChunks) / threads),
    V_ITEMS: Math.ceil((TILE_KEYS * vChunks) / threads),
    UNROLL: unroll,
    SCORE_STRIDE: scoreStride,
    P_APART: apart,
    P_STRIDE: apart ? 3 : scoreStride,
    P_AT: float16Scores ? 2 : 4,
    STATE_APART: !apart && !float16Scores,
    F16_SCORES: float16Scores,
    // Which lanes share a row, so that eight lanes side by side touch eight banks.
    HALF_LANE: float16Scores ? 8 : 4,
    LSE: bound.has("lse"),
    SINKS_BINDING: bound.has("lse") ? 6 : 5,
  };
}

/** Bytes of workgroup memory. */
function sharedBytes({ D, Dv }: AttentionProblem, { subgroups, rowTiles, apart, float16Scores }: MatrixTuning): number {
  const rows = 16 * subgroups * rowTiles;
  const stride = (dim: number): number => 2 * Math.ceil(dim / 16) + 1;
  const beside = float16Scores ? 5 : 6;
  const apartFromScores = apart ? 3 * rows : float16Scores ? 0 : subgroups * LANES;
  const chunks = TILE_KEYS * (stride(D) + stride(Dv)) + rows * beside + apartFromScores;
  return 16 * chunks + Math.ceil(rows / 128) * 16 + 32;
}

function words(problem: AttentionProblem, piece: Piece, tile: Plan["tile"], { float16Scores }: MatrixTuning): Words {
  const { H, Hkv, Sq, Skv, D, Dv, layout, program } = problem;
  const { batch, head, row, windows } = piece;
  const group = H / Hkv;
  const { scale } = step(program, "scale")!;
  const exponent = Math.max(Math.min(Math.floor(Math.log2(Math.abs(scale))), 0), LEAST_Q_SCALE);
  const qScale = float16Scores ? 2 ** exponent : 1;
  const heads = (head.to - head.from) * group;
  const cached = Math.floor(CACHED_BYTES / Math.max(1, Skv * (D + Dv) * 2));
  const made = new Words()
    .u32(batch.from, head.from * group, heads, (batch.to - batch.from) * heads)
    .u32(row.from, row.to, group, Skv, tile.q, tile.kv, Math.ceil((row.to - row.from) / tile.q))
    .u32(Math.max(1, cached) * group)
    .f32(Math.min((Math.abs(scale) / qScale) * Math.LOG2E, LARGEST_EXPONENT_SCALE), Math.abs(scale) / qScale)
    .u32(scale < 0 ? 0x80008000 : 0)
    .f32(qScale);
  const tensors = {
    q: rowStrides(layout, H, Sq, D),
    k: rowStrides(layout, Hkv, Skv, D),
    v: rowStrides(layout, Hkv, Skv, Dv),
    out: rowStrides(layout, H, Sq, Dv),
  };
  for (const [name, strides] of Object.entries(tensors)) {
    made.u32(strides.batch / CHUNK, strides.head / CHUNK, strides.row / CHUNK, windows[name].first / CHUNK);
  }
  return scoreWords(made.u32(H * Sq, Sq, windows["lse"]?.first ?? 0, 0), problem);
}

function passes(
  { problem, tile }: Plan<AttentionProblem>,
  limits: DeviceLimits,
  bound: ReadonlySet<string>,
  tuning: MatrixTuning,
): Pass[] {
  const { B, H, Hkv, Sq, program } = problem;
  if (B * Sq === 0) return [];
  const names = ["q", "k", "v", "out", ...(bound.has("lse") ? ["lse"] : [])];
  const pieces = piecesOf(problem, names, limits, tile.q);
  const flops = countFlops(problem);
  return pieces.map((piece) => {
    const rows = piece.row.to - piece.row.from;
    const heads = ((piece.batch.to - piece.batch.from) * (piece.head.to - piece.head.from) * H) / Hkv;
    return {
      shader: "matrix.wgsl",
      params: matrixParams(problem, tuning, bound),
      uniforms: words(problem, piece, tile, tuning).build(),
      buffers: [
        ...names.map((name) => (pieces.length === 1 ? { name } : piece.windows[name])),
        ...(step(program, "sinks") ? [{ name: "sinks" }] : []),
      ],
      workgroups: Math.ceil(rows / tile.q) * heads,
      flops: (flops * rows * heads) / (B * H * Sq),
    };
  });
}

/** A row of the table for head dims up to `maxHeadDim`. */
export function matrixRow(id: string, maxHeadDim: number, tuning: MatrixTuning): WebgpuRow<AttentionProblem> {
  const tile = { q: 16 * tuning.subgroups * tuning.rowTiles, kv: TILE_KEYS };
  return {
    id,
    op: "attention",
    dtypes: ["float16"],
    headDim: { min: CHUNK, max: maxHeadDim, multipleOf: CHUNK },
    steps: ["scale", "visibility", "sinks"],
    takesMask: false,
    scores: tuning.float16Scores ? "float16" : "float32",
    needs: [FEATURES.matrix, ...(tuning.float16Scores ? [FEATURES.float16Scores] : [])],
    tile,
    maxTile: tile,
    sharedBytes: (problem) => sharedBytes(problem as AttentionProblem, tuning),
    workspaceBytes: () => 0,
    passes: (plan, limits, bound) => passes(plan, limits, bound, tuning),
  };
}

/** Attention in float16 on subgroup matrices, float32 scores and sums; with "float16-scores", scores in float16. */
export const MATRIX: readonly WebgpuRow<AttentionProblem>[] = Object.entries(TUNING).map(
  ([id, { maxHeadDim, tuning }]) => matrixRow(id, maxHeadDim, tuning),
);
