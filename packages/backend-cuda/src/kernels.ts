/** The kernel table: facts that the planner chooses by, and the launches that a plan becomes. */
import {
  bytesPerElement,
  FLOAT_DTYPES,
  keepScale,
  keepThreshold,
  SCORE_STEPS,
  step,
  EVERYTHING,
  type AttentionProblem,
  type CastProblem,
  type FloatDType,
  type KernelRow,
  type LinearProblem,
  type Plan,
  type Tile,
} from "@fa/core";
import { DTYPE, FAMILY, type FamilyName } from "./abi.ts";
import { at, launchOf, type Launch, type TensorAt } from "./device.ts";

/** A kernel with what makes it run. */
export interface CudaRow extends KernelRow {
  readonly launches: (plan: Plan<never>) => Launch[];
}

/** A kernel's tunables; native/kernels has the same, which a test compares. */
export interface AttentionTile {
  readonly op: "attention" | "attentionBackward";
  readonly family: FamilyName;
  /** Bytes of an element. */
  readonly bytes: 2 | 4;
  /** The most that D and Dv may be. */
  readonly headDim: number;
  readonly tile: Tile;
  readonly sharedBytes: number;
}

const decode = (bytes: 2 | 4, headDim: number, sharedBytes: number) =>
  ({ op: "attention", family: "decode", bytes, headDim, tile: { q: 8, kv: 16 }, sharedBytes }) as const;
const generic = (op: AttentionTile["op"], bytes: 2 | 4, headDim: number, tile: Tile, sharedBytes: number) =>
  ({ op, family: "generic", bytes, headDim, tile, sharedBytes }) as const;

const hopper = (family: "hopper" | "hopperShort" | "hopperGeneral", headDim: number, tile: Tile, sharedBytes: number) =>
  ({ op: "attention", family, bytes: 2, headDim, tile, sharedBytes }) as const;

/** Rows of the attention kernels, in the order in which they are tried: the special before the general, the small before the large. */
export const ATTENTION_TILES: readonly AttentionTile[] = [
  decode(4, 64, 16_896),
  decode(4, 128, 33_280),
  decode(4, 256, 66_048),
  decode(2, 64, 16_896),
  decode(2, 128, 33_280),
  decode(2, 256, 66_048),
  hopper("hopperShort", 64, { q: 128, kv: 64 }, 82_944),
  hopper("hopper", 64, { q: 192, kv: 128 }, 115_712),
  hopper("hopper", 96, { q: 128, kv: 128 }, 197_632),
  hopper("hopper", 128, { q: 128, kv: 128 }, 197_632),
  hopper("hopper", 192, { q: 128, kv: 112 }, 222_208),
  hopper("hopperShort", 256, { q: 128, kv: 64 }, 197_632),
  hopper("hopper", 256, { q: 128, kv: 80 }, 230_400),
  hopper("hopperGeneral", 64, { q: 128, kv: 64 }, 66_560),
  hopper("hopperGeneral", 96, { q: 128, kv: 64 }, 132_096),
  hopper("hopperGeneral", 128, { q: 128, kv: 64 }, 132_096),
  hopper("hopperGeneral", 192, { q: 128, kv: 64 }, 148_480),
  hopper("hopperGeneral", 256, { q: 128, kv: 32 }, 132_096),
  generic("attention", 4, 64, { q: 128, kv: 32 }, 49_152),
  generic("attention", 4, 128, { q: 128, kv: 32 }, 98_304),
  generic("attention", 4, 256, { q: 32, kv: 32 }, 98_304),
  generic("attention", 2, 64, { q: 128, kv: 64 }, 32_768),
  generic("attention", 2, 128, { q: 128, kv: 64 }, 65_536),
  generic("attention", 2, 256, { q: 64, kv: 64 }, 98_304),
  generic("attentionBackward", 4, 64, { q: 64, kv: 32 }, 49_152),
  generic("attentionBackward", 4, 128, { q: 64, kv: 32 }, 98_304),
  generic("attentionBackward", 4, 256, { q: 32, kv: 16 }, 98_304),
  generic("attentionBackward", 2, 64, { q: 64, kv: 32 }, 24_576),
  generic("attentionBackward", 2, 128, { q: 64, kv: 32 }, 49_152),
  generic("attentionBackward", 2, 256, { q: 64, kv: 32 }, 98_304),
];

/** What the kernels of a family have in common. */
interface Family extends Pick<KernelRow, "needs" | "steps" | "maxRows" | "takesMask"> {
  /** The least D and Dv, of which both are multiples. */
  readonly step: number;
  readonly refuses?: (problem: AttentionProblem, tile: Tile, processors: number) => string | undefined;
}
// TMA copies rows of multiples of 16 bytes, by maps whose boxes are the tile.
const HOPPER: Family = {
  needs: ["sm_90a"],
  steps: ["scale", "visibility"],
  takesMask: false,
  step: 8,
  refuses: hopperRefuses,
};
const SHORT_KEYS = 1024;
const FAMILIES: Readonly<Record<FamilyName, Family>> = {
  generic: { needs: [], steps: SCORE_STEPS, step: 1 },
  decode: { needs: [], steps: SCORE_STEPS, maxRows: 16, step: 1 },
  hopper: HOPPER,
  // Few keys of which rows see different numbers: what happens at the ends of a tile counts.
  hopperShort: {
    ...HOPPER,
    refuses: (problem, tile, processors) =>
      hasBand(problem) && problem.Skv <= SHORT_KEYS
        ? hopperRefuses(problem, tile, processors)
        : `takes a causal mask or a window over at most ${SHORT_KEYS} keys`,
  },
  hopperGeneral: {
    ...HOPPER,
    steps: SCORE_STEPS.filter((kind) => kind !== "bias"),
  },
};

function hasBand({ program, Sq, Skv }: AttentionProblem): boolean {
  const { lo, hi } = step(program, "visibility")?.band ?? EVERYTHING;
  return lo + (Sq - 1) > 0 || hi < Skv - 1;
}

/** Keys from which on it pays to split them, for a device that would stand idle otherwise. */
const MANY_KEYS = 1024;

function hopperRefuses(
  { B, H, Sq, Skv, blockSize }: AttentionProblem,
  tile: Tile,
  processors: number,
): string | undefined {
  const { q = tile.q, kv = tile.kv } = blockSize;
  if (q !== tile.q || kv !== tile.kv) return `has tiles of ${tile.q} x ${tile.kv} only`;
  if (Skv === 0) return "takes at least one key";
  // It does not split keys.
  const tiles = B * H * Math.ceil(Sq / tile.q);
  if (Skv >= MANY_KEYS && 4 * tiles <= processors) return `would have ${tiles} tiles for ${processors} multiprocessors`;
  return undefined;
}

/** A piece of split keys has at least so many: below, starting it costs more than it saves. */
const FEWEST_KEYS_A_SPLIT = { decode: 128, other: 256 };
/** native/kernels has the same two, which a test compares. */
export const MOST_SPLITS = 128;
export const MOST_COUNTERS = 4096;
/** Blocks a multiprocessor that keep it busy. */
const BLOCKS_A_PROCESSOR = { decode: 1, other: 2 };
/** Part of the device that may stand idle, on average, while decode runs. */
const IDLE = 0.05;

/** Alignment of the parts of a workspace, in bytes. */
const ALIGNMENT = 256;

/** Memory beside the tensors, handed out part by part. */
class Workspace {
  bytes = 0;

  take(bytes: number): TensorAt {
    const offset = this.bytes;
    this.bytes = offset + Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    return at("workspace", offset);
  }
}

/** How attention's rows and keys are shared out among blocks. */
export interface Sharing {
  /** Query heads that share a key head and go into one block of rows. */
  readonly group: number;
  readonly splits: number;
}

/** A few rows: the heads of a group become rows of one block. Few blocks: the keys are split until the device is busy. */
export function sharingOf(problem: AttentionProblem, family: FamilyName, tile: Tile, processors: number): Sharing {
  if (family.startsWith("hopper")) return { group: 1, splits: 1 };
  const { B, H, Hkv, Sq, Skv } = problem;
  const group = family === "decode" || (H > Hkv && Sq * (H / Hkv) <= tile.q) ? H / Hkv : 1;
  const blocks = Math.max(B * (H / group) * Math.ceil((group * Sq) / tile.q), 1);
  const kind = family === "decode" ? "decode" : "other";
  const slots = BLOCKS_A_PROCESSOR[kind] * processors;
  const possible = Math.max(1, Math.min(Math.floor(Skv / FEWEST_KEYS_A_SPLIT[kind]), MOST_SPLITS));
  if (family !== "decode") return { group, splits: Math.max(1, Math.min(Math.floor(slots / blocks), possible)) };
  if (blocks > MOST_COUNTERS) return { group, splits: 1 };
  // The fewest pieces that leave the device busy to the end, or else those that come closest to it.
  let splits = 1;
  let busiest = 0;
  for (let n = 1; n <= possible && busiest < 1 - IDLE; n++) {
    const busy = (blocks * n) / (Math.ceil((blocks * n) / slots) * slots);
    if (busy > busiest) [splits, busiest] = [n, busy];
  }
  return { group, splits };
}

/** float8 is read by no attention kernel: its tensors become bfloat16 first, which holds each of its numbers. */
const COMPUTED_AS: Readonly<Record<FloatDType, FloatDType>> = {
  float32: "float32",
  float16: "float16",
  bfloat16: "bfloat16",
  float8e4m3: "bfloat16",
};

/** @param processors multiprocessors of the device */
export function kernelTable(processors: number): CudaRow[] {
  const attention = ATTENTION_TILES.map(({ op, family, bytes, headDim, tile, sharedBytes }): CudaRow => {
    const name = `${op === "attention" ? "forward" : "backward"}-${bytes === 4 ? "float32" : "half"}-d${headDim}`;
    const { step: multipleOf, refuses, ...facts } = FAMILIES[family];
    return {
      id: family === "generic" ? name : `${family}-${name}`,
      op,
      dtypes: bytes === 4 ? ["float32"] : ["float16", "bfloat16", "float8e4m3"],
      headDim: { min: multipleOf, max: headDim, multipleOf },
      ...facts,
      refuses: refuses && ((problem) => refuses(problem as AttentionProblem, tile, processors)),
      tile,
      maxTile: tile,
      sharedBytes: () => sharedBytes,
      splits: (problem, planned) => layoutOf(problem as AttentionProblem, family, planned, processors).splits,
      workspaceBytes: (problem, planned) =>
        layoutOf(problem as AttentionProblem, family, planned, processors).workspaceBytes,
      launches: (plan: Plan<AttentionProblem>) => attentionLaunches(plan, family, processors),
    };
  });
  const plain = { dtypes: FLOAT_DTYPES, needs: [], tile: { q: 64, kv: 64 }, maxTile: { q: 64, kv: 64 } };
  const none = (): number => 0;
  return [
    ...attention,
    { ...plain, id: "cast", op: "cast", workspaceBytes: none, launches: castLaunches },
    { ...plain, id: "linear", op: "linear", workspaceBytes: none, launches: linearLaunches },
    {
      ...plain,
      id: "linear-backward",
      op: "linearBackward",
      workspaceBytes: (problem) => {
        const { M, N, split, dtype } = problem as LinearProblem;
        return split.length > 1 ? M * N * bytesPerElement(dtype) : 0;
      },
      launches: linearBackwardLaunches,
    },
  ];
}

/** Where attention's operands and intermediate results lie, and how its work is shared out. */
function layoutOf(problem: AttentionProblem, family: FamilyName, tile: Tile, processors: number) {
  const { op, dtype, B, H, Hkv, Sq, Skv, D, Dv } = problem;
  const computedAs = COMPUTED_AS[dtype];
  const backward = op === "attentionBackward";
  const workspace = new Workspace();
  const operand = (name: string, elements: number) => {
    const from = at(name);
    return { from, elements, at: computedAs === dtype ? from : workspace.take(elements * bytesPerElement(computedAs)) };
  };
  const operands = {
    q: operand("q", B * H * Sq * D),
    k: operand("k", B * Hkv * Skv * D),
    v: operand("v", B * Hkv * Skv * Dv),
  };
  const { group, splits } = backward ? { group: 1, splits: 1 } : sharingOf(problem, family, tile, processors);
  const rows = B * H * Sq;
  return {
    computedAs,
    operands,
    group,
    splits,
    delta: backward ? workspace.take(4 * rows) : undefined,
    partial: splits > 1 ? workspace.take(4 * splits * rows * Dv) : undefined,
    partialLse: splits > 1 ? workspace.take(4 * splits * rows) : undefined,
    workspaceBytes: workspace.bytes,
  };
}

function attentionLaunches(
  { problem, tile }: Plan<AttentionProblem>,
  family: FamilyName,
  processors: number,
): Launch[] {
  const { op, B, H, Hkv, Sq, Skv, D, Dv, layout, program } = problem;
  const { computedAs, operands, group, splits, delta, partial, partialLse } = layoutOf(
    problem,
    family,
    tile,
    processors,
  );
  const launches = Object.values(operands)
    .filter((operand) => operand.at !== operand.from)
    .map((operand) => castLaunch(operand.from, operand.at, problem.dtype, computedAs, operand.elements));
  const bias = step(program, "bias");
  const alibi = step(program, "alibi");
  const visibility = step(program, "visibility");
  const sinks = step(program, "sinks");
  const dropout = step(program, "dropout");
  const { band = EVERYTHING, mask } = visibility ?? {};
  const common = {
    q: operands.q.at,
    k: operands.k.at,
    v: operands.v.at,
    out: at("out"),
    lse: at("lse"),
    bias: bias && at("bias"),
    mask: mask && at("mask"),
    alibi: alibi && at("alibiSlopes"),
    sinks: sinks && at("sinks"),
    family: FAMILY[family],
    dtype: DTYPE[computedAs],
    b: B,
    h: H,
    hkv: Hkv,
    sq: Sq,
    skv: Skv,
    d: D,
    dv: Dv,
    bshd: layout === "bshd",
    tileQ: tile.q,
    tileKv: tile.kv,
    group,
    splits,
    scale: step(program, "scale")!.scale,
    softcap: step(program, "softcap")?.cap,
    bandLo: band.lo,
    bandHi: band.hi,
    biasDtype: bias && DTYPE[bias.dtype],
    biasBatch: bias?.operand.strides[0],
    biasHead: bias?.operand.strides[1],
    biasRow: bias?.operand.strides[2],
    biasColumn: bias?.operand.strides[3],
    maskBatch: mask?.strides[0],
    maskHead: mask?.strides[1],
    maskRow: mask?.strides[2],
    maskColumn: mask?.strides[3],
    alibiDtype: alibi && DTYPE[alibi.dtype],
    alibiPerBatch: alibi?.perBatch,
    sinksDtype: sinks && DTYPE[sinks.dtype],
    dropout: dropout !== undefined,
    dropoutThreshold: dropout && keepThreshold(dropout.p),
    dropoutScale: dropout && keepScale(dropout.p),
    dropoutSeedLow: dropout?.seedLow,
    dropoutSeedHigh: dropout?.seedHigh,
    dropoutOffset: dropout?.offset,
  };
  launches.push(
    op === "attention"
      ? launchOf("forward", { ...common, partial, partialLse })
      : launchOf("backward", {
          ...common,
          dout: at("dout"),
          dq: at("dq"),
          dk: at("dk"),
          dvOut: at("dv"),
          dbias: bias && at("dbias"),
          dsinks: sinks && at("dsinks"),
          delta,
        }),
  );
  return launches;
}

function castLaunch(x: TensorAt, y: TensorAt, from: FloatDType, to: FloatDType, elements: number): Launch {
  return launchOf("cast", { x, y, from: DTYPE[from], to: DTYPE[to], elements });
}

function castLaunches({ problem }: Plan<CastProblem>): Launch[] {
  return [castLaunch(at("x"), at("y"), problem.dtype, problem.resultDType, problem.elements)];
}

/** y [M, width] = x [M, K] W[first .. first + width, K]^T + bias, one a result. */
function linearLaunches({ problem }: Plan<LinearProblem>): Launch[] {
  const { M, K, dtype, split, bias } = problem;
  const bytes = bytesPerElement(dtype);
  let first = 0;
  return split.map((width, part) => {
    const launch = launchOf("matmul", {
      a: at("x"),
      aRow: K,
      aColumn: 1,
      b: at("weight", first * K * bytes),
      bRow: 1,
      bColumn: K,
      c: at(`y${part}`),
      cRow: width,
      cColumn: 1,
      bias: bias ? at("bias", first * bytes) : undefined,
      m: M,
      n: width,
      k: K,
      dtype: DTYPE[dtype],
    });
    first += width;
    return launch;
  });
}

/** dx [M, K] = dy W, dweight [N, K] = dy^T x, dbias [N] = column sums of dy; dy [M, N] is put together from its parts. */
function linearBackwardLaunches({ problem }: Plan<LinearProblem>): Launch[] {
  const { M, N, K, split } = problem;
  const bytes = bytesPerElement(problem.dtype);
  const dtype = DTYPE[problem.dtype];
  const launches: Launch[] = [];
  let dy = at("dy0");
  if (split.length > 1) {
    dy = at("workspace");
    let first = 0;
    for (const [part, columns] of split.entries()) {
      const to = at(dy.tensor, dy.offset + first * bytes);
      const width = columns * bytes;
      launches.push(
        launchOf("gather", { from: at(`dy${part}`), fromPitch: width, to, toPitch: N * bytes, width, rows: M }),
      );
      first += columns;
    }
  }
  const weight = { b: at("weight"), bRow: K, bColumn: 1 };
  const x = { b: at("x"), bRow: K, bColumn: 1 };
  launches.push(
    launchOf("matmul", {
      a: dy,
      aRow: N,
      aColumn: 1,
      ...weight,
      c: at("dx"),
      cRow: K,
      cColumn: 1,
      m: M,
      n: K,
      k: N,
      dtype,
    }),
    launchOf("matmul", {
      a: dy,
      aRow: 1,
      aColumn: N,
      ...x,
      c: at("dweight"),
      cRow: K,
      cColumn: 1,
      m: N,
      n: K,
      k: M,
      dtype,
    }),
    launchOf("columnSums", { x: dy, out: at("dbias"), m: M, n: N, dtype }),
  );
  return launches;
}
