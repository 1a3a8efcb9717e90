import {
  countFlops,
  EVERYTHING,
  FLOAT_DTYPES,
  keyRange,
  SCORE_STEPS,
  step,
  type AttentionProblem,
  type Plan,
} from "@fa/core";
import { FEATURES } from "../adapter.ts";
import type { ShaderParams } from "../wgsl.ts";
import { sharedWordsBytes, tensorParams, tensorWords } from "./forward.ts";
import { piecesOf, type Piece } from "./pieces.ts";
import { Words, type DeviceLimits, type Pass, type WebgpuRow } from "./row.ts";
import { headBuffers, headTermsBytes, headTermsPasses, scoreParams, scoreUnits, scoreWords } from "./score.ts";

/** How keys are split over workgroups, and what they leave is joined. */
interface SplitTuning {
  /** Query rows of a key head that a workgroup takes, at most: a block. */
  readonly rows: number;
  /** Workgroups that the keys are split for: no more than a large card runs side by side. */
  readonly workgroups: number;
  /** Keys of a piece, at least, and what they are a multiple of. */
  readonly least: number;
  readonly grain: number;
  /** How many times four parts a thread joins at once, and how many such slices threads join side by side: a set. */
  readonly quadsTaken: number;
  readonly slices: number;
}

/** Query rows of a key head, at most. */
const MAX_ROWS = 16;

/** What can be tuned of `decode.wgsl`, all of it. */
const TUNING = {
  rows: MAX_ROWS,
  /** Threads of a workgroup. */
  threads: 128,
  /** Threads that share a key of a tile, at most; fewer where a row of k has fewer units. */
  lanes: 16,
  /** Keys of a tile that a thread has a share of. */
  keys: 2,
  /** Elements of k, and of v, that a thread has on their way at a time. */
  ahead: 16,
  /** Vectors of acc that a thread brings in at a time, when those of all groups of keys are summed. */
  turn: 2,
  workgroups: 512,
  least: 64,
  grain: 8,
  quadsTaken: 1,
  slices: 1,
} as const;

/** The same of `decode-subgroups.wgsl`. */
const SUBGROUP_TUNING = {
  rows: 4,
  /** Lanes that share a key, at most. */
  lanes: 16,
  /** Units of k, and of v, that a lane has on their way at a time. */
  ahead: 8,
  /** Subgroups of a workgroup, and its threads, at most. */
  subgroups: 8,
  threads: 256,
  /** One for each multiprocessor of a large card: it has registers for no second one. */
  workgroups: 128,
  least: 128,
  grain: 8,
  quadsTaken: 2,
  slices: 2,
} as const;

/** How the keys that some row sees are split: by the shape alone, so that the bits of a result do not depend on the device. */
interface Split {
  readonly splits: number;
  /** Keys of each. */
  readonly splitKeys: number;
  /** Parts of a key head that `lib/parts.wgsl` joins, those it makes on the way too, and counters of its sets. */
  readonly parts: number;
  readonly counters: number;
}

function splitOf(problem: AttentionProblem, tuning: SplitTuning): Split {
  const { B, Hkv, Sq, Skv, program } = problem;
  const { workgroups, least, grain, quadsTaken, slices } = tuning;
  const { begin, end } = keyRange(step(program, "visibility")?.band ?? EVERYTHING, 0, Sq, Skv);
  const most = Math.max(1, Math.floor(workgroups / Math.max(1, B * Hkv * blocksOf(problem, tuning))));
  const splitKeys = Math.max(least, Math.ceil((end - begin) / most / grain) * grain);
  const splits = Math.max(1, Math.ceil((end - begin) / splitKeys));
  const fan = 4 * quadsTaken * slices;
  let [parts, counters] = [0, 0];
  for (let left = splits; left > 0;) {
    const sets = Math.ceil(left / fan);
    parts += left;
    counters += sets;
    left = left > fan ? sets : 0;
  }
  return { splits, splitKeys, parts, counters };
}

function rowsOf({ H, Hkv, Sq }: AttentionProblem): number {
  return (H / Hkv) * Sq;
}

/** Blocks of rows that share a key head. Each reads the keys, all but one from a cache. */
function blocksOf(problem: AttentionProblem, { rows }: SplitTuning): number {
  return Math.ceil(rowsOf(problem) / rows);
}

/** Vectors of four rows. */
function vectorsOf(problem: AttentionProblem): number {
  return Math.ceil(rowsOf(problem) / 4);
}

/** Where the parts begin in `state`, and words of them all. */
function stateOf(problem: AttentionProblem, tuning: SplitTuning): { readonly first: number; readonly words: number } {
  const { B, Hkv, Dv } = problem;
  const { parts, counters } = splitOf(problem, tuning);
  const blocks = B * Hkv * blocksOf(problem, tuning);
  const first = blocks * counters;
  const rows = Math.min(rowsOf(problem), tuning.rows);
  return { first, words: first + blocks * parts * rows * (4 * Math.ceil(Dv / 4) + 2) };
}

/** The least power of two from 32 on that is not below. */
function powerOf2(size: number): number {
  return Math.max(32, 2 ** Math.ceil(Math.log2(size)));
}

function decodeParams(problem: AttentionProblem, bound: ReadonlySet<string>) {
  const { threads, keys: keysK, ahead, turn, quadsTaken, slices } = TUNING;
  const tensor = tensorParams(problem);
  const unit = tensor.UNIT;
  // Shaders differ by powers of two of D and Dv only.
  const depth = powerOf2(problem.D);
  const columns = powerOf2(problem.Dv);
  const lanes = Math.min(TUNING.lanes, depth / unit);
  const keys = (threads * keysK) / lanes;
  const rows4 = vectorsOf(problem);
  const stride = unit * rows4 + 1;
  // Groups of keys at least and at most: below a power of two of columns there are more.
  const groups = (units: number): number => Math.min(keys, Math.floor(threads / units));
  // What a thread has of a tile, and how much of it at a time: units of each of its keys, and rows of v.
  const unitsK = Math.ceil(depth / unit / lanes);
  const batchK = Math.min(unitsK, ahead / unit / keysK);
  const keysV = Math.ceil(keys / groups(columns / unit));
  const batchV = Math.min(keysV, ahead / unit);
  return {
    ...scoreParams(problem),
    ...tensor,
    RAW: scoreUnits(problem).raw,
    NEGATIVE: scoreUnits(problem).negative,
    THREADS: threads,
    KEYS: keys,
    KEY_WORDS: Math.ceil(keys / 32),
    LANES: lanes,
    ROWS4: rows4,
    QS: stride,
    Q_VECTORS: Math.max(unitsK * lanes * stride, columns),
    KEYS_K: keysK,
    BATCH_K: batchK,
    K_ROUNDS: Math.ceil(unitsK / batchK),
    BATCH_V: batchV,
    V_ROUNDS: Math.ceil(keysV / batchV),
    SUMS: Math.max(lanes * keys, threads * turn),
    TURN: Math.min(unit, turn),
    COLUMNS: columns,
    WHOLE: problem.D === depth,
    GROUPS: columns === 32 ? keys : groups(columns / unit / 2),
    QUADS_TAKEN: quadsTaken,
    SLICES: slices,
    ...bindings(problem, bound),
  } satisfies ShaderParams;
}

/** Params of the bindings behind `state`. */
function bindings(problem: AttentionProblem, bound: ReadonlySet<string>): ShaderParams {
  const { BIAS, MASK } = scoreParams(problem);
  let binding = 5;
  const next = (present: unknown): number => (present ? ++binding : 0);
  return {
    LSE: bound.has("lse"),
    LSE_BINDING: next(bound.has("lse")),
    BIAS_BINDING: next(BIAS),
    MASK_BINDING: next(MASK),
    HEAD_BINDING: next(headBuffers(problem).length),
  };
}

function subgroupParams(problem: AttentionProblem, subgroupSize: number, bound: ReadonlySet<string>) {
  const { lanes: mostLanes, ahead, quadsTaken, slices, ...most } = SUBGROUP_TUNING;
  const tensor = tensorParams(problem);
  const unit = tensor.UNIT;
  const columns = powerOf2(problem.Dv);
  const units = Math.max(powerOf2(problem.D), columns) / unit;
  const lanes = Math.min(mostLanes, units, subgroupSize);
  // A row of the scores each lane.
  const rows = 2 ** Math.ceil(Math.log2(Math.min(rowsOf(problem), most.rows)));
  const unitsOfLane = units / lanes;
  const keys = Math.max(1, Math.floor(ahead / unitsOfLane));
  const subgroups = Math.min(most.subgroups, most.threads / subgroupSize);
  const threads = subgroups * subgroupSize;
  return {
    ...scoreParams(problem),
    ...tensor,
    RAW: scoreUnits(problem).raw,
    NEGATIVE: scoreUnits(problem).negative,
    THREADS: threads,
    SUBGROUPS: subgroups,
    LANES: lanes,
    LOG_LANES: Math.log2(lanes),
    LOG_ROW_LANES: Math.log2(lanes / rows),
    TEAMS: threads / lanes,
    ROWS: rows,
    BLOCKS: blocksOf(problem, SUBGROUP_TUNING),
    KEYS: keys,
    UNITS: unitsOfLane,
    VALUES: Math.max(1, (rows * keys) / lanes),
    COPIES: Math.max(1, lanes / (rows * keys)),
    VECTORS: (units * unit) / 4,
    ACC_VECTORS: Math.max((subgroups * rows * units * unit) / 4, threads),
    COLUMNS: columns,
    // Units of k that lanes read end at D.
    WHOLE: problem.D === units * unit,
    QUADS_TAKEN: quadsTaken,
    SLICES: slices,
    ...bindings(problem, bound),
  } satisfies ShaderParams;
}

interface Shader {
  readonly file: string;
  readonly params: ShaderParams;
  /** Keys of a tile. */
  readonly keys: number;
  readonly tuning: SplitTuning;
}

function passesOf(
  { problem, tile }: Plan<AttentionProblem>,
  limits: DeviceLimits,
  bound: ReadonlySet<string>,
  { file, params, keys, tuning }: Shader,
): readonly Pass[] {
  const { B, Hkv, Sq, program } = problem;
  if (B * Sq === 0) return [];
  const names = ["q", "k", "v", "out"];
  const extras: string[] = [];
  if (bound.has("lse")) extras.push("lse");
  if (step(program, "bias")) extras.push("bias");
  if (step(program, "visibility")?.mask) extras.push("mask");
  const pieces = piecesOf(problem, [...names, ...extras], limits, Infinity);
  const flops = countFlops(problem);
  const made = headTermsPasses(problem);
  for (const piece of pieces) {
    const heads = (piece.batch.to - piece.batch.from) * (piece.head.to - piece.head.from);
    const seen = (name: string) => (pieces.length === 1 ? { name } : piece.windows[name]);
    made.push({
      shader: file,
      params,
      uniforms: decodeWords(problem, piece, Math.min(tile.kv, keys), tuning).build(),
      buffers: [
        ...names.map(seen),
        { name: "state" },
        ...extras.map(seen),
        ...headBuffers(problem).map((name) => ({ name })),
      ],
      stateBytes: Math.max(1, stateOf(problem, tuning).words) * 4,
      workgroups: heads * blocksOf(problem, tuning) * splitOf(problem, tuning).splits,
      flops: (flops * heads) / (B * Hkv),
    });
  }
  return made;
}

function decodeWords(problem: AttentionProblem, piece: Piece, tileKeys: number, tuning: SplitTuning): Words {
  const { H, Hkv, Sq, Skv, D, Dv } = problem;
  const { windows, batch, head } = piece;
  const { splits, splitKeys, parts, counters } = splitOf(problem, tuning);
  const { toExponent, toLogit } = scoreUnits(problem);
  const words = scoreWords(new Words(), problem, {
    bias: windows["bias"]?.first ?? 0,
    mask: windows["mask"]?.first ?? 0,
  })
    .u32(batch.from, head.from, head.to - head.from)
    .u32(H / Hkv, Hkv, Sq, Skv, D, Dv, splits, splitKeys, tileKeys)
    .u32(counters, parts, stateOf(problem, tuning).first)
    .f32(toExponent, toLogit);
  return tensorWords(words, problem, windows, ["q", "k", "v", "out"]).u32(windows["lse"]?.first ?? 0);
}

function sharedBytes(problem: AttentionProblem): number {
  const { Q_VECTORS, SUMS, KEYS, KEY_WORDS, ROWS4, GROUPS, COLUMNS } = decodeParams(problem, new Set());
  const words = [(4 * ROWS4 * COLUMNS) / 32, 2 * KEY_WORDS, 1, 1, step(problem.program, "dropout") ? KEYS : 0];
  return (Q_VECTORS + SUMS + KEYS * ROWS4 + 2 * GROUPS) * 16 + sharedWordsBytes(words);
}

function subgroupSharedBytes(problem: AttentionProblem): number {
  // With subgroups of any other size it is no more.
  const { SUBGROUPS, ROWS, ACC_VECTORS, COLUMNS, THREADS } = subgroupParams(problem, 32, new Set());
  const words = [SUBGROUPS * ROWS, SUBGROUPS * ROWS, ROWS, (ROWS * COLUMNS) / 32, 1, 1, 2 * THREADS];
  return ACC_VECTORS * 16 + sharedWordsBytes(words);
}

/** Bytes of a tensor that every device shows to a shader. */
const LEAST_BINDING_BYTES = 2 ** 27;

function refuses(problem: AttentionProblem, tuning: SplitTuning): string | undefined {
  const { program } = problem;
  // Every device shows eight tensors.
  if (step(program, "bias") && step(program, "visibility")?.mask && headBuffers(problem).length > 0)
    return "does not apply bias and mask together with ALiBi or sinks";
  if (stateOf(problem, tuning).words * 4 > LEAST_BINDING_BYTES)
    return "keeps parts of all heads in one binding, which they exceed";
  return undefined;
}

/** Facts of a row that splits keys. */
function splitting(tuning: SplitTuning) {
  return {
    op: "attention",
    dtypes: FLOAT_DTYPES,
    steps: SCORE_STEPS,
    refuses: (problem) => refuses(problem as AttentionProblem, tuning),
    splits: (problem) => splitOf(problem as AttentionProblem, tuning).splits,
    workspaceBytes: (problem) => headTermsBytes(problem as AttentionProblem),
  } as const satisfies Partial<WebgpuRow<AttentionProblem>>;
}

/** Keys of D up to 32; a tile of wider heads has fewer. */
const TILE = { q: MAX_ROWS, kv: 64 };

/** Attention of few query rows: k and v are read once, by as many workgroups as fill the card. */
export const DECODE: WebgpuRow<AttentionProblem> = {
  ...splitting(TUNING),
  id: "decode",
  headDim: { min: 1, max: 256 },
  maxRows: MAX_ROWS,
  needs: [],
  tile: TILE,
  maxTile: TILE,
  sharedBytes: (problem) => sharedBytes(problem as AttentionProblem),
  passes(plan, limits, bound) {
    const params = decodeParams(plan.problem, bound);
    return passesOf(plan, limits, bound, { file: "decode.wgsl", params, keys: params.KEYS, tuning: TUNING });
  },
};

/** A block of rows, of which a lane has columns in registers, and keys of D up to 32. */
const SUBGROUP_TILE = { q: 4, kv: 512 };

/** The same for narrower heads, without a barrier in the loop over keys. */
export const DECODE_SUBGROUPS: WebgpuRow<AttentionProblem> = {
  ...splitting(SUBGROUP_TUNING),
  id: "decode-subgroups",
  headDim: { min: 1, max: 128 },
  maxRows: MAX_ROWS,
  needs: [FEATURES.subgroupIds],
  tile: SUBGROUP_TILE,
  maxTile: SUBGROUP_TILE,
  sharedBytes: (problem) => subgroupSharedBytes(problem as AttentionProblem),
  passes(plan, limits, bound) {
    const params = subgroupParams(plan.problem, limits.subgroupMinSize, bound);
    const keys = params.TEAMS * params.KEYS;
    return passesOf(plan, limits, bound, {
      file: "decode-subgroups.wgsl",
      params,
      keys,
      tuning: SUBGROUP_TUNING,
    });
  },
};
