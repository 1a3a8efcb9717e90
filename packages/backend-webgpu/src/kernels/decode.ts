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
  /** Parts that are joined at once. */
  readonly fan: number;
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
  fan: 4,
} as const;

/** The same of `decode-subgroups.wgsl`. */
interface SubgroupTuning extends SplitTuning {
  /** Lanes that share a key, at most. */
  readonly lanes: number;
  /** Units of k, and of v, that a lane has on their way at a time, and with a block of four rows, whose acc takes more registers. */
  readonly ahead: number;
  readonly aheadOfFour: number;
  /** It asks for none behind the last key, which takes registers too. */
  readonly skip: boolean;
  /** Subgroups of a workgroup, and its threads, at most. */
  readonly subgroups: number;
  readonly threads: number;
}

/** What both have in common: one workgroup for each multiprocessor of a large card, as it has registers for no second one. */
const COMMON = { rows: 4, lanes: 16, workgroups: 128, least: 128, grain: 8, fan: 16 } as const;

/** Rows of the table on subgroups, best first: the second takes half as much workgroup memory. */
const SUBGROUP_TUNING: Readonly<Record<string, SubgroupTuning>> = {
  "decode-subgroups-16": { ...COMMON, ahead: 4, aheadOfFour: 2, skip: false, subgroups: 16, threads: 512 },
  "decode-subgroups-8": { ...COMMON, ahead: 8, aheadOfFour: 8, skip: true, subgroups: 8, threads: 256 },
};

/** How the keys that some row sees are split: by the shape alone, so that the bits of a result do not depend on the device. */
interface Split {
  readonly splits: number;
  /** Keys of each. */
  readonly splitKeys: number;
}

/** Pieces at most, however many keys there are: a growing cache compiles nothing. */
function mostSplits(problem: AttentionProblem, tuning: SplitTuning): number {
  const { B, Hkv } = problem;
  return Math.max(1, Math.floor(tuning.workgroups / Math.max(1, B * Hkv * blocksOf(problem, tuning))));
}

function splitOf(problem: AttentionProblem, tuning: SplitTuning): Split {
  const { Sq, Skv, program } = problem;
  const { least, grain } = tuning;
  const { begin, end } = keyRange(step(program, "visibility")?.band ?? EVERYTHING, 0, Sq, Skv);
  const most = mostSplits(problem, tuning);
  const splitKeys = Math.max(least, Math.ceil((end - begin) / most / grain) * grain);
  const splits = Math.max(1, Math.ceil((end - begin) / splitKeys));
  return { splits, splitKeys };
}

function rowsOf({ H, Hkv, Sq }: AttentionProblem): number {
  return (H / Hkv) * Sq;
}

/** Blocks of rows that share a key head. Each reads the keys, all but one from a cache. */
function blocksOf(problem: AttentionProblem, { rows }: SplitTuning): number {
  return Math.ceil(rowsOf(problem) / rows);
}

/** Rows of a block, made a power of two: of the scores each lane has one. */
function blockRowsOf(problem: AttentionProblem, { rows }: SplitTuning): number {
  return 2 ** Math.ceil(Math.log2(Math.min(rowsOf(problem), rows)));
}

/** Vectors of four rows. */
function vectorsOf(problem: AttentionProblem): number {
  return Math.ceil(rowsOf(problem) / 4);
}

/** What is in `state`. */
interface State {
  /** Of a key head: counters, and parts that are joined, those made on the way too. */
  readonly counters: number;
  readonly parts: number;
  /** Where the parts begin, and words of it all. */
  readonly first: number;
  readonly words: number;
}

/** `lib/join.wgsl`: all rows of a key head together, level by level. */
function partsOf(problem: AttentionProblem): State {
  const { B, Hkv, Dv } = problem;
  const { fan } = TUNING;
  let [parts, counters] = [0, 0];
  for (let left = splitOf(problem, TUNING).splits; left > 0;) {
    const sets = Math.ceil(left / fan);
    parts += left;
    counters += sets;
    left = left > fan ? sets : 0;
  }
  const first = B * Hkv * counters;
  const words = first + B * Hkv * parts * rowsOf(problem) * (4 * Math.ceil(Dv / 4) + 2);
  return { counters, parts, first, words };
}

/** `lib/join-subgroups.wgsl`: chunks of as many columns as a subgroup has lanes. */
function chunksOf(problem: AttentionProblem, tuning: SubgroupTuning, lanes: number): State {
  const { splits } = splitOf(problem, tuning);
  const counters = (blockRowsOf(problem, tuning) * powerOf2(problem.Dv)) / lanes;
  const parts = counters * splits;
  const blocks = problem.B * problem.Hkv * blocksOf(problem, tuning);
  return { counters, parts, first: blocks * counters, words: blocks * (counters + parts * (lanes + 2)) };
}

/** Columns that the narrowest rows are made. */
const LEAST_COLUMNS = 32;

/** The least power of two from there on that is not below. */
function powerOf2(size: number): number {
  return Math.max(LEAST_COLUMNS, 2 ** Math.ceil(Math.log2(size)));
}

function decodeParams(problem: AttentionProblem, bound: ReadonlySet<string>) {
  const { threads, keys: keysK, ahead, turn, fan } = TUNING;
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
    FAN: fan,
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

function subgroupParams(
  problem: AttentionProblem,
  tuning: SubgroupTuning,
  subgroupSize: number,
  bound: ReadonlySet<string>,
) {
  const { lanes: mostLanes, ahead, aheadOfFour, skip, fan, ...most } = tuning;
  const tensor = tensorParams(problem);
  const unit = tensor.UNIT;
  const columns = powerOf2(problem.Dv);
  const units = Math.max(powerOf2(problem.D), columns) / unit;
  // Larger subgroups are taken for several: a chunk is no wider than a row.
  const size = Math.min(subgroupSize, LEAST_COLUMNS);
  const lanes = Math.min(mostLanes, units, size);
  const rows = blockRowsOf(problem, tuning);
  const unitsOfLane = units / lanes;
  const keys = Math.max(1, Math.floor((rows === 4 ? aheadOfFour : ahead) / unitsOfLane));
  const subgroups = Math.min(most.subgroups, most.threads / size);
  const threads = subgroups * size;
  // Lanes that have m and l of subgroups, or of parts, side by side: one or several each.
  const [across, acrossParts] = [Math.min(size, subgroups), Math.min(size, fan)];
  return {
    ...scoreParams(problem),
    ...tensor,
    RAW: scoreUnits(problem).raw,
    NEGATIVE: scoreUnits(problem).negative,
    THREADS: threads,
    SUBGROUPS: subgroups,
    SIZE: size,
    LANES: lanes,
    LOG_LANES: Math.log2(lanes),
    LOG_ROW_LANES: Math.log2(lanes / rows),
    LOG_TEAMS: Math.log2(size / lanes),
    TEAMS: threads / lanes,
    ROWS: rows,
    BLOCKS: blocksOf(problem, tuning),
    KEYS: keys,
    SKIP: skip,
    UNITS: unitsOfLane,
    VALUES: Math.max(1, (rows * keys) / lanes),
    COPIES: Math.max(1, lanes / (rows * keys)),
    VECTORS: (units * unit) / 4,
    COLUMNS: columns,
    CHUNKS: (rows * columns) / size,
    OWN_SHARES: subgroups / across,
    LOG_OWN: Math.log2(across),
    TAKEN: fan,
    SHARES: fan / acrossParts,
    ONE_SET: mostSplits(problem, tuning) <= fan,
    LOG_TAKEN: Math.log2(acrossParts),
    // Units of k that lanes read end at D.
    WHOLE: problem.D === units * unit,
    ...bindings(problem, bound),
  } satisfies ShaderParams;
}

interface Shader {
  readonly file: string;
  readonly params: ShaderParams;
  /** Keys of a tile. */
  readonly keys: number;
  readonly tuning: SplitTuning;
  readonly state: State;
}

function passesOf(
  { problem, tile }: Plan<AttentionProblem>,
  limits: DeviceLimits,
  bound: ReadonlySet<string>,
  { file, params, keys, tuning, state }: Shader,
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
  const across = blocksOf(problem, tuning) * splitOf(problem, tuning).splits;
  for (const piece of pieces) {
    const [batches, heads] = [piece.batch.to - piece.batch.from, piece.head.to - piece.head.from];
    const seen = (name: string) => (pieces.length === 1 ? { name } : piece.windows[name]);
    made.push({
      shader: file,
      params,
      uniforms: decodeWords(problem, piece, Math.min(tile.kv, keys), tuning, state).build(),
      buffers: [
        ...names.map(seen),
        { name: "state" },
        ...extras.map(seen),
        ...headBuffers(problem).map((name) => ({ name })),
      ],
      stateBytes: Math.max(1, state.words) * 4,
      workgroups: across * heads * batches,
      grid: [across, heads, batches],
      flops: (flops * heads * batches) / (B * Hkv),
    });
  }
  return made;
}

function decodeWords(
  problem: AttentionProblem,
  piece: Piece,
  tileKeys: number,
  tuning: SplitTuning,
  { counters, parts, first }: State,
): Words {
  const { H, Hkv, Sq, Skv, D, Dv } = problem;
  const { windows, batch, head } = piece;
  const { splits, splitKeys } = splitOf(problem, tuning);
  const { toExponent, toLogit } = scoreUnits(problem);
  const words = scoreWords(new Words(), problem, {
    bias: windows["bias"]?.first ?? 0,
    mask: windows["mask"]?.first ?? 0,
  })
    .u32(batch.from, head.from, head.to - head.from)
    .u32(H / Hkv, Hkv, Sq, Skv, D, Dv, splits, splitKeys, tileKeys)
    .u32(counters, parts, first)
    .f32(toExponent, toLogit);
  return tensorWords(words, problem, windows, ["q", "k", "v", "out"]).u32(windows["lse"]?.first ?? 0);
}

function sharedBytes(problem: AttentionProblem): number {
  const { Q_VECTORS, SUMS, KEYS, KEY_WORDS, ROWS4, GROUPS, COLUMNS } = decodeParams(problem, new Set());
  const words = [(4 * ROWS4 * COLUMNS) / 32, 2 * KEY_WORDS, 1, 1, step(problem.program, "dropout") ? KEYS : 0];
  return (Q_VECTORS + SUMS + KEYS * ROWS4 + 2 * GROUPS) * 16 + sharedWordsBytes(words);
}

function subgroupSharedBytes(problem: AttentionProblem, tuning: SubgroupTuning): number {
  // With subgroups of any other size it is no more.
  const { SUBGROUPS, ROWS, VECTORS, COLUMNS } = subgroupParams(problem, tuning, 32, new Set());
  return SUBGROUPS * ROWS * VECTORS * 16 + sharedWordsBytes([2 * SUBGROUPS * ROWS, (ROWS * COLUMNS) / 32, 1]);
}

/** Bytes of a tensor that every device shows to a shader. */
const LEAST_BINDING_BYTES = 2 ** 27;

function refuses(problem: AttentionProblem, { words }: State): string | undefined {
  const { program } = problem;
  // Every device shows eight tensors.
  if (step(program, "bias") && step(program, "visibility")?.mask && headBuffers(problem).length > 0)
    return "does not apply bias and mask together with ALiBi or sinks";
  if (words * 4 > LEAST_BINDING_BYTES) return "keeps parts of all heads in one binding, which they exceed";
  return undefined;
}

/** Facts of a row that splits keys. */
function splitting(tuning: SplitTuning, stateOf: (problem: AttentionProblem) => State) {
  return {
    op: "attention",
    dtypes: FLOAT_DTYPES,
    steps: SCORE_STEPS,
    refuses: (problem) => refuses(problem as AttentionProblem, stateOf(problem as AttentionProblem)),
    splits: (problem) => splitOf(problem as AttentionProblem, tuning).splits,
    workspaceBytes: (problem) => headTermsBytes(problem as AttentionProblem),
  } as const satisfies Partial<WebgpuRow<AttentionProblem>>;
}

/** Keys of D up to 32; a tile of wider heads has fewer. */
const TILE = { q: MAX_ROWS, kv: 64 };

/** Attention of few query rows: k and v are read once, by as many workgroups as fill the card. */
export const DECODE: WebgpuRow<AttentionProblem> = {
  ...splitting(TUNING, partsOf),
  id: "decode",
  headDim: { min: 1, max: 256 },
  maxRows: MAX_ROWS,
  needs: [],
  tile: TILE,
  maxTile: TILE,
  sharedBytes: (problem) => sharedBytes(problem as AttentionProblem),
  passes(plan, limits, bound) {
    const params = decodeParams(plan.problem, bound);
    return passesOf(plan, limits, bound, {
      file: "decode.wgsl",
      params,
      keys: params.KEYS,
      tuning: TUNING,
      state: partsOf(plan.problem),
    });
  },
};

/** A block of rows, of which a lane has columns in registers, and keys of D up to 32. */
const SUBGROUP_TILE = { q: 4, kv: 512 };

/** Lanes of the smallest subgroups there are: with them parts take most words. */
const LEAST_LANES = 4;

/** The same for narrower heads, without a barrier in the loop over keys. */
export const DECODE_SUBGROUPS: readonly WebgpuRow<AttentionProblem>[] = Object.entries(SUBGROUP_TUNING).map(
  ([id, tuning]) => ({
    ...splitting(tuning, (problem) => chunksOf(problem, tuning, LEAST_LANES)),
    id,
    headDim: { min: 1, max: 128 },
    maxRows: MAX_ROWS,
    needs: [FEATURES.subgroupIds],
    tile: SUBGROUP_TILE,
    maxTile: SUBGROUP_TILE,
    sharedBytes: (problem) => subgroupSharedBytes(problem as AttentionProblem, tuning),
    passes(plan, limits, bound) {
      const params = subgroupParams(plan.problem, tuning, limits.subgroupMinSize, bound);
      const keys = params.TEAMS * params.KEYS;
      const state = chunksOf(plan.problem, tuning, params.SIZE);
      return passesOf(plan, limits, bound, { file: "decode-subgroups.wgsl", params, keys, tuning, state });
    },
  }),
);
