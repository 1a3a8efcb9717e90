import { countFlops, FLOAT_DTYPES, SCORE_STEPS, step, type AttentionProblem, type Plan, type Tile } from "@fa/core";
import type { ShaderParams } from "../wgsl.ts";
import { sharedWordsBytes, tensorParams, tensorWords } from "./forward.ts";
import { piecesOf, type Piece } from "./pieces.ts";
import { Words, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";
import { headBuffers, scoreParams, scoreUnits, scoreWords, withoutSteps } from "./score.ts";

/** Threads of a workgroup, and of the pass that joins the parts: a power of two, and no fewer than there are pieces. */
const THREADS = 128;
const COMBINE_THREADS = 256;
/** Keys of a tile, and threads that share one. */
const KEYS = 64;
const LANES = 8;
/** Units of k and v that a thread has on their way at a time. */
const BATCH = 4;
/** Query rows of a key head, at most. */
const MAX_ROWS = 16;
/** Workgroups that the keys are split for: enough to fill a large card. */
const WORKGROUPS = 512;
/** Bytes of workgroup memory that every device has. */
const LEAST_SHARED_BYTES = 16384;
/** Pieces that the keys may be split into. */
const MAX_SPLITS = COMBINE_THREADS;

/** How the keys are split: by the shape alone, so that the bits of the result do not depend on the device. */
function splitOf({ B, Hkv, Skv }: AttentionProblem): { readonly splits: number; readonly splitKeys: number } {
  const tiles = Math.max(1, Math.ceil(Skv / KEYS));
  const wanted = Math.min(Math.ceil(WORKGROUPS / Math.max(1, B * Hkv)), MAX_SPLITS, tiles);
  const splitKeys = Math.ceil(tiles / wanted) * KEYS;
  return { splits: Math.max(1, Math.ceil(Skv / splitKeys)), splitKeys };
}

/** Words of a row's part of the workspace: acc [Dv], m, l. */
function partWords({ Dv }: AttentionProblem): number {
  return Math.ceil(Dv / 4) * 4 + 4;
}

function rowsOf({ H, Hkv, Sq }: AttentionProblem): number {
  return (H / Hkv) * Sq;
}

function workspaceBytes(problem: AttentionProblem): number {
  const { B, Hkv } = problem;
  return B * Hkv * splitOf(problem).splits * rowsOf(problem) * partWords(problem) * 4;
}

/** The least power of two from 32 on that is not below. */
function powerOf2(size: number): number {
  return Math.max(32, 2 ** Math.ceil(Math.log2(size)));
}

function decodeParams(problem: AttentionProblem): ShaderParams {
  const tensor = tensorParams(problem);
  const keysK = (KEYS * LANES) / THREADS;
  // Shaders differ by powers of two of D and Dv only.
  const depth = powerOf2(problem.D);
  const rows4 = Math.ceil(rowsOf(problem) / 4);
  const columns = powerOf2(problem.Dv);
  const turn =
    [8, 4, 2].find(
      (each) => each <= tensor.UNIT && sharedBytesOf(depth, tensor.UNIT, rows4, columns, each) <= LEAST_SHARED_BYTES,
    ) ?? 1;
  const params = scoreParams(problem);
  let binding = 4;
  const next = (present: unknown): number => (present ? ++binding : 0);
  return {
    ...params,
    ...tensor,
    RAW: scoreUnits(problem).raw,
    NEGATIVE: scoreUnits(problem).negative,
    THREADS,
    KEYS,
    LANES,
    ROWS4: rows4,
    QS: tensor.UNIT * rows4 + 1,
    DEPTH: depth,
    KEYS_K: keysK,
    BATCH_K: Math.min(Math.ceil(depth / tensor.UNIT / LANES), BATCH / keysK),
    BATCH_V: BATCH,
    SUMS: Math.max(LANES * KEYS, THREADS * turn),
    // Threads that hold a share of l.
    HOLDERS: Math.min(THREADS, KEYS),
    // Vectors of acc that a thread brings in at a time, when the shares of all are summed.
    TURN: turn,
    COLUMNS: columns,
    BIAS_BINDING: next(params["BIAS"]),
    MASK_BINDING: next(params["MASK"]),
    HEAD_BINDING: next(params["ALIBI"]),
  };
}

function combineParams(problem: AttentionProblem, hasLse: boolean): ShaderParams {
  const params = scoreParams(problem);
  let binding = 2;
  const next = (present: unknown): number => (present ? ++binding : 0);
  return {
    ...params,
    ...tensorParams(problem),
    THREADS: COMBINE_THREADS,
    LSE: hasLse,
    LSE_BINDING: next(hasLse),
    HEAD_BINDING: next(params["SINKS"]),
  };
}

function passes({ problem, tile }: Plan<AttentionProblem>, limits: DeviceLimits, bound: ReadonlySet<string>): Pass[] {
  const { B, H, Hkv, Sq, program } = problem;
  if (B * Sq === 0) return [];
  const { splits } = splitOf(problem);
  // Sinks only count in the end, all other steps only before.
  const scored = withoutSteps(problem, "sinks");
  const joined = withoutSteps(problem, "softcap", "bias", "alibi", "visibility");
  const hasLse = bound.has("lse");
  const inputs = ["q", "k", "v"];
  const extras: string[] = [];
  if (step(program, "bias")) extras.push("bias");
  if (step(program, "visibility")?.mask) extras.push("mask");
  const results = hasLse ? ["out", "lse"] : ["out"];
  const ofHead = splits * rowsOf(problem) * partWords(problem);
  const pieces = piecesOf(problem, [...inputs, ...extras, ...results], limits, Infinity, {
    workspace: { bytes: 4, batch: Hkv * ofHead, head: ofHead, row: 0, inner: ofHead, keys: true },
  });
  const seen = (piece: Piece, names: readonly string[]) =>
    names.map((name) => (pieces.length === 1 ? { name } : piece.windows[name]));
  const params = { decode: decodeParams(scored), combine: combineParams(joined, hasLse) };
  const flops = countFlops(problem);
  return pieces.flatMap((piece): Pass[] => {
    const heads = (piece.batch.to - piece.batch.from) * (piece.head.to - piece.head.from);
    return [
      {
        shader: "decode.wgsl",
        params: params.decode,
        uniforms: decodeWords(problem, piece, tile).build(),
        buffers: [
          ...seen(piece, [...inputs, "workspace", ...extras]),
          ...headBuffers(scored).map((name) => ({ name })),
        ],
        workgroups: heads * splits,
        flops: (flops * heads) / (B * Hkv),
      },
      {
        shader: "combine.wgsl",
        params: params.combine,
        uniforms: combineWords(problem, piece).build(),
        buffers: [...seen(piece, ["workspace", ...results]), ...headBuffers(joined).map((name) => ({ name }))],
        workgroups: (heads * H * Sq) / Hkv,
        flops: 2 * heads * ofHead,
      },
    ];
  });
}

function decodeWords(problem: AttentionProblem, piece: Piece, tile: Tile): Words {
  const { H, Hkv, Sq, Skv, D, Dv } = problem;
  const { windows, batch, head } = piece;
  const { splits, splitKeys } = splitOf(problem);
  const { toExponent } = scoreUnits(problem);
  const words = scoreWords(new Words(), problem, {
    bias: windows["bias"]?.first ?? 0,
    mask: windows["mask"]?.first ?? 0,
  })
    .u32(batch.from, head.from, head.to - head.from)
    .u32(H / Hkv, Hkv, Sq, Skv, D, Dv, splits, splitKeys, tile.kv)
    .f32(toExponent);
  return tensorWords(words, problem, windows, ["q", "k", "v"]).u32(windows["workspace"].first);
}

function combineWords(problem: AttentionProblem, piece: Piece): Words {
  const { H, Hkv, Sq, Dv } = problem;
  const { windows, batch, head } = piece;
  const { toExponent, toLogit } = scoreUnits(problem);
  const words = scoreWords(new Words(), problem)
    .u32(batch.from, head.from, head.to - head.from)
    .u32(H / Hkv, Hkv, Sq, Dv, splitOf(problem).splits)
    .f32(toExponent, toLogit);
  return tensorWords(words, problem, windows, ["out"]).u32(windows["lse"]?.first ?? 0, windows["workspace"].first);
}

function sharedBytesOf(depth: number, unit: number, rows4: number, columns: number, turn: number): number {
  const vectors = (depth / unit) * (unit * rows4 + 1) + (KEYS + 8) * rows4 + Math.max(LANES * KEYS, THREADS * turn);
  return vectors * 16 + sharedWordsBytes([(4 * rows4 * columns) / 32, KEYS / 32, 1]);
}

function sharedBytes(problem: AttentionProblem): number {
  const { DEPTH, UNIT, ROWS4, COLUMNS, TURN } = decodeParams(withoutSteps(problem, "sinks"));
  return sharedBytesOf(Number(DEPTH), Number(UNIT), Number(ROWS4), Number(COLUMNS), Number(TURN));
}

const TILE = { q: MAX_ROWS, kv: KEYS };

/** Attention of few query rows: k and v are read once, by as many workgroups as fill the card. */
export const DECODE: WebgpuRow<AttentionProblem> = {
  id: "decode",
  op: "attention",
  dtypes: FLOAT_DTYPES,
  headDim: { min: 1, max: 256 },
  maxRows: MAX_ROWS,
  steps: SCORE_STEPS,
  needs: [],
  tile: TILE,
  maxTile: TILE,
  sharedBytes: (problem) => sharedBytes(problem as AttentionProblem),
  workspaceBytes: (problem) => workspaceBytes(problem as AttentionProblem),
  passes,
};
