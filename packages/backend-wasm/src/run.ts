/** Turns plans into workloads: chains of kernel calls over batches, heads and blocks of rows. */
import {
  bytesPerElement,
  keepScale,
  keepThreshold,
  keyRange,
  rowStrides,
  step,
  type AttentionProblem,
  type Band,
  type CastProblem,
  type FloatDType,
  type KernelRow,
  type LinearProblem,
  type Plan,
  type Problem,
  type RowStrides,
  type Tile,
} from "@fa/core";
import {
  BACKWARD_PARAMS,
  BLOCK,
  DTYPE_CODES,
  FORWARD_PARAMS,
  LINEAR_BLOCK,
  LINEAR_PARAMS,
  PART,
  sizeOf,
  writeFields,
  type Values,
} from "./abi.ts";
import type { BlockRows } from "./calibration.ts";
import type { FaWasmModule } from "./module.ts";
import { bytesOf, WorkloadBuilder, type Call, type Layout, type Workload } from "./workload.ts";
import {
  backwardPieces,
  biasGradient,
  decodePieces,
  forwardPieces,
  layOut,
  linearPieces,
  LINEAR_DEPTH,
  totalBytes,
  type BiasGradient,
  type Pieces,
} from "./workspace.ts";

/** Address of each tensor of the call; a tensor that is not there is undefined. */
export type Addresses = Readonly<Record<string, number | undefined>>;

/** Panels that are there at a time, for several threads; one thread packs head by head. */
const WAVE_BYTES = 64 * 2 ** 20;

/** Bytes beside the tensors that a kernel takes on so many threads. */
export function workspaceBytes(kernel: KernelRow, problem: Problem, tile: Tile, threads: number): number {
  switch (problem.op) {
    case "attention":
      return bytesOf((isDecode(kernel) ? decodeLayout : forwardLayout)(problem, tile, threads), threads);
    case "attentionBackward":
      return bytesOf(backwardLayout(problem, tile, threads), threads);
    case "linear":
    case "linearBackward":
      return bytesOf(linearLayout(problem, tile), threads);
    case "cast":
      return bytesOf(CAST_LAYOUT, threads);
  }
}

/** How a plan is computed. Neither changes a bit of the results: what is cut is cut by the problem alone, or cut so that no sum is. */
export interface Means {
  readonly threads: number;
  /** Of a register block. */
  readonly blockRows: BlockRows;
}

/**
 * The work of a plan.
 * @throws FaError FA_OUT_OF_MEMORY
 */
export function prepare(
  module: FaWasmModule,
  { kernel, problem, tile }: Plan,
  tensors: Addresses,
  means: Means,
): Workload {
  switch (problem.op) {
    case "attention":
      return (isDecode(kernel) ? prepareDecode : prepareForward)(module, problem, tile, tensors, means);
    case "attentionBackward":
      return prepareBackward(module, problem, tile, tensors, means);
    case "linear":
    case "linearBackward":
      return prepareLinear(module, problem, tile, tensors, means);
    case "cast":
      return prepareCast(module, problem, tensors, means);
  }
}

/** The rows for few query rows are the only ones that say how many they take. */
const isDecode = ({ maxRows }: KernelRow): boolean => maxRows !== undefined;

/** Pieces of each (batch, key head) of a wave, one set after the other, and how many sets there are. */
interface Panels {
  readonly panels: Pieces;
  readonly perWave: number;
}

function split(pieces: Pieces, names: readonly string[]): [picked: Pieces, rest: Pieces] {
  const picked: Record<string, number> = {};
  const rest: Record<string, number> = {};
  for (const name in pieces) (names.includes(name) ? picked : rest)[name] = pieces[name];
  return [picked, rest];
}

/** @param own names of the pieces of a (batch, key head)  @param few names of those that are there once */
function waveLayout(
  pieces: Pieces,
  own: readonly string[],
  few: readonly string[],
  { B, Hkv }: AttentionProblem,
  threads: number,
): Layout & Panels {
  const [panels, others] = split(pieces, own);
  const [once, scratch] = split(others, few);
  const bytes = totalBytes(panels);
  const perWave = threads === 1 ? 1 : Math.max(1, Math.min(B * Hkv, Math.floor(WAVE_BYTES / bytes)));
  return { shared: { ...once, panels: perWave * bytes }, scratch: scratch as Layout["scratch"], panels, perWave };
}

function forwardLayout(problem: AttentionProblem, tile: Tile, threads: number): Layout & Panels {
  const pieces = forwardPieces(problem, tile);
  return waveLayout(pieces, ["kColumns", "vPanels", "vFinite"], ["slopes", "sinks"], problem, threads);
}

/** A (batch, key head), where its panels are, and the heads of its group. */
interface KeyHead {
  readonly b: number;
  readonly hkv: number;
  readonly heads: readonly number[];
  readonly pointers: Values;
}

function* waves({ B, H, Hkv }: AttentionProblem, { panels, perWave }: Panels, address: number): Generator<KeyHead[]> {
  const group = H / Hkv;
  const bytes = totalBytes(panels);
  const places = Array.from({ length: Math.min(perWave, B * Hkv) }, (_, n) => layOut(panels, address + n * bytes));
  for (let begin = 0; begin < B * Hkv; begin += perWave) {
    yield Array.from({ length: Math.min(perWave, B * Hkv - begin) }, (_, n) => {
      const [b, hkv] = [Math.floor((begin + n) / Hkv), (begin + n) % Hkv];
      const heads = Array.from({ length: group }, (__, g) => hkv * group + g);
      return { b, hkv, heads, pointers: places[n] };
    });
  }
}

/** Blocks of rows, the last first: where causal makes them unequal, the longest. */
function blocksOf({ Sq }: AttentionProblem, tile: Tile): number[] {
  return Array.from({ length: Math.ceil(Sq / tile.q) }, (_, n) => n * tile.q).toReversed();
}

/** Key ranges for the end of a struct, whole tiles, enough of them that all threads find one. */
function keyRanges({ Skv }: AttentionProblem, tile: Tile, keyHeads: number, threads: number): number[][] {
  const tiles = Math.ceil(Skv / tile.kv);
  const ranges = threads === 1 ? 1 : Math.min(tiles, Math.ceil((2 * threads) / keyHeads));
  const unit = Math.ceil(tiles / ranges) * tile.kv || 1;
  return Array.from({ length: Math.ceil(Skv / unit) }, (_, n) => {
    return blockWords({ keyBegin: n * unit, keyEnd: Math.min((n + 1) * unit, Skv) });
  });
}

function prepareForward(
  module: FaWasmModule,
  problem: AttentionProblem,
  tile: Tile,
  tensors: Addresses,
  { threads, blockRows }: Means,
): Workload {
  const layout = forwardLayout(problem, tile, threads);
  return built(new WorkloadBuilder(module, FORWARD_PARAMS, BLOCK, layout, threads), (builder) => {
    const { slopes, sinks, panels } = builder.shared;
    const at = rowAddresses(problem, tensors);
    const head = headFields(module, problem, tensors, { slopes, sinks });
    builder.common(sizeFields(problem, tile), scoreFields(problem), builder.scratch, { blockRows });
    const rows = blocksOf(problem, tile).map((row) => block(problem, row, tile));
    for (const wave of waves(problem, layout, panels)) {
      const structs = wave.map(({ b, hkv, heads, pointers }) =>
        heads.map((h) => {
          const tensorsOfHead = { q: at("q", b, h), k: at("k", b, hkv), v: at("v", b, hkv), out: at("out", b, h) };
          const lse = lseAddress(problem, tensors, b, h);
          return builder.struct(pointers, head(b, h), tensorsOfHead, { lse });
        }),
      );
      builder.barrier();
      for (const [struct] of structs) {
        for (const words of keyRanges(problem, tile, wave.length, threads))
          builder.chain([{ kernel: "faForwardPack", struct, words }]);
      }
      builder.barrier();
      for (const struct of structs.flat()) {
        for (const words of rows) builder.chain([{ kernel: "faForwardRows", struct, words }]);
      }
    }
  });
}

function decodeLayout(problem: AttentionProblem, tile: Tile): Layout {
  const [shared, scratch] = split(decodePieces(problem, tile), ["slopes", "sinks"]);
  return { shared, scratch: scratch as Layout["scratch"] };
}

/** Few query rows: one call for all heads of a group. */
function prepareDecode(
  module: FaWasmModule,
  problem: AttentionProblem,
  tile: Tile,
  tensors: Addresses,
  { threads }: Means,
): Workload {
  const { B, H, Hkv, Sq, program } = problem;
  const heads = H / Hkv;
  const { q, out } = stridesOf(problem);
  const layout = decodeLayout(problem, tile);
  return built(new WorkloadBuilder(module, FORWARD_PARAMS, BLOCK, layout, threads), (builder) => {
    const { slopes, sinks } = builder.shared;
    const at = rowAddresses(problem, tensors);
    const head = headFields(module, problem, tensors, { slopes, sinks });
    const alibi = step(program, "alibi");
    const strides = {
      heads,
      qHeadStride: q.head,
      outHeadStride: out.head,
      biasHeadStride: step(program, "bias")?.operand.strides[1] ?? 0,
      maskHeadStride: step(program, "visibility")?.mask?.strides[1] ?? 0,
    };
    builder.common(sizeFields(problem, tile), scoreFields(problem), builder.scratch, strides);
    const words = block(problem, 0, { ...tile, q: Sq });
    for (let b = 0; b < B; b++) {
      for (let hkv = 0; hkv < Hkv; hkv++) {
        const h = hkv * heads;
        const tensorsOfHead = { q: at("q", b, h), k: at("k", b, hkv), v: at("v", b, hkv), out: at("out", b, h) };
        const lse = lseAddress(problem, tensors, b, h);
        const values = {
          slopes: alibi ? slopes + (alibi.perBatch ? b * H + h : h) * 4 : 0,
          sinks: step(program, "sinks") ? sinks + h * 4 : 0,
        };
        const struct = builder.struct(head(b, h), tensorsOfHead, { lse }, values);
        builder.chain([{ kernel: "faDecode", struct, words }]);
      }
    }
  });
}

/** Chains that the backward pass of a problem should have at least, so that threads find work and share it evenly. */
const BACKWARD_CHAINS = 16;
/** What the parts of dk and dv of one key head may take together. */
const PARTS_BYTES = 32 * 2 ** 20;

/**
 * Into how many parts the query rows of a (batch, key head) are cut, each with a dk and dv of its own. It decides the order
 * of sums, so it depends on nothing but the problem.
 */
function backwardParts({ B, H, Hkv, Sq }: AttentionProblem, tile: Tile, { dkAcc, dvAcc }: Pieces): number {
  const wanted = Math.ceil(BACKWARD_CHAINS / Math.max(1, B * Hkv));
  const blocks = (Math.ceil(Sq / tile.q) * H) / Hkv;
  return Math.max(1, Math.min(wanted, Math.floor(blocks / 4), Math.floor(PARTS_BYTES / (dkAcc + dvAcc + 1))));
}

interface BackwardLayout extends Layout, Panels {
  readonly parts: number;
  /** Bytes of one part. */
  readonly dkPart: number;
  readonly dvPart: number;
  /** Elements of the sums of dbias of one (batch, head) and part, where each has its own. */
  readonly ownBias: number;
}

/** Sums that each (batch, head) and part keeps for itself; what they are of is also there when there is no batch. */
function sumsOf({ B, H }: AttentionProblem, parts: number): number {
  return Math.max(B, 1) * Math.max(H, 1) * parts;
}

/** What each (batch, head) and part sums for itself, float64, to be added up in order at the end. */
function ownBiasElements(bias: BiasGradient | undefined): number {
  return bias?.double ? bias.operand.shape[2] * bias.operand.shape[3] : 0;
}

function backwardLayout(problem: AttentionProblem, tile: Tile, threads: number): BackwardLayout {
  const pieces = backwardPieces(problem, tile);
  const parts = backwardParts(problem, tile, pieces);
  const ownBias = ownBiasElements(biasGradient(problem));
  const sums = sumsOf(problem, parts);
  const all: Pieces = {
    ...pieces,
    dkAcc: parts * pieces.dkAcc,
    dvAcc: parts * pieces.dvAcc,
    dsinks: pieces.dsinks > 0 ? sums * 8 : 0,
    dbias: ownBias > 0 ? sums * ownBias * 8 : pieces.dbias,
  };
  const own = ["kColumns", "vColumns", "kPanels", "kFinite", "dkAcc", "dvAcc"];
  const layout = waveLayout(all, own, ["slopes", "sinks", "dsinks", "dbias"], problem, threads);
  return { ...layout, parts, dkPart: pieces.dkAcc, dvPart: pieces.dvAcc, ownBias };
}

/**
 * Chains of a (batch, key head): packing, then the parts of its query rows, then adding up dk and dv.
 *
 * A dbias that is as large as the scores and shared by several heads or batches is summed where it lies. There a part begins a
 * block of rows only when the head before is done with it, so that sums keep their order.
 */
function prepareBackward(
  module: FaWasmModule,
  problem: AttentionProblem,
  tile: Tile,
  tensors: Addresses,
  { threads, blockRows }: Means,
): Workload {
  const { H, Hkv } = problem;
  const layout = backwardLayout(problem, tile, threads);
  const { parts, dkPart, dvPart, ownBias } = layout;
  return built(new WorkloadBuilder(module, BACKWARD_PARAMS, BLOCK, layout, threads), (builder) => {
    const { slopes, sinks, dsinks, dbias: dbiasWork, panels } = builder.shared;
    const at = rowAddresses(problem, tensors);
    const head = headFields(module, problem, tensors, { slopes, sinks });
    const sinkStep = step(problem.program, "sinks");
    const bias = biasGradient(problem);
    const dbias = bias?.inPlace ? tensors.dbias! : dbiasWork;
    const sums = sumsOf(problem, parts);
    if (bias) clear(module, dbias, ownBias > 0 ? sums * ownBias * 8 : bias.elements * 4);
    if (sinkStep) clear(module, dsinks, sums * 8);
    const [, , biasRowStride = 0, biasKeyStride = 0] = bias?.operand.strides ?? [];
    const gradients = {
      blockRows,
      dbiasDouble: bias?.double ? 1 : 0,
      dbiasRowStride: biasRowStride,
      dbiasKeyStride: biasKeyStride,
      parts,
      dkPart: dkPart / 4,
      dvPart: dvPart / 4,
    };
    builder.common(sizeFields(problem, tile), scoreFields(problem), builder.scratch, gradients);
    const sumFields = (b: number, h: number, part: number): Values => {
      const sum = (b * H + h) * parts + part;
      const own = ownBias > 0 ? sum * ownBias * 8 : biasOffset(bias, b, h) * 4;
      return { dsink: sinkStep ? dsinks + sum * 8 : 0, dbias: bias ? dbias + own : 0 };
    };
    const all = blocksOf(problem, tile).map((row) => block(problem, row, tile));
    const rows = Array.from({ length: parts }, (_, part) => all.filter((__, n) => n % parts === part));
    const order = ownBias > 0 ? undefined : sharedBiasOrder(problem, bias);
    /** The chain of each (batch, key head) and part. */
    const chains: number[][] = [];

    for (const wave of waves(problem, layout, panels)) {
      const structs = wave.map(({ b, hkv, heads, pointers }) =>
        rows.map((_, part) =>
          heads.map((h) => {
            const { dkAcc, dvAcc } = pointers;
            const rowTensors = { q: at("q", b, h), dq: at("dq", b, h), out: at("out", b, h), dout: at("dout", b, h) };
            const keyTensors = { k: at("k", b, hkv), v: at("v", b, hkv), dk: at("dk", b, hkv), dv: at("dv", b, hkv) };
            const lse = lseAddress(problem, tensors, b, h);
            const ownParts = { dkAcc: dkAcc + part * dkPart, dvAcc: dvAcc + part * dvPart };
            const pointersOfPart = { ...pointers, ...ownParts, ...sumFields(b, h, part) };
            return builder.struct(head(b, h), rowTensors, keyTensors, { lse }, pointersOfPart);
          }),
        ),
      );
      const ranges = keyRanges(problem, tile, wave.length, threads);
      const overKeys = (kernel: "faBackwardPack" | "faBackwardFinish"): void => {
        builder.barrier();
        for (const [[struct]] of structs) for (const words of ranges) builder.chain([{ kernel, struct, words }]);
      };
      overKeys("faBackwardPack");
      builder.barrier();
      for (const [n, { b, hkv }] of wave.entries()) {
        const before = order?.before(b, hkv);
        chains[b * Hkv + hkv] = structs[n].map((ofHeads, part) => {
          const blocks = rows[part];
          const ofRows = ofHeads.flatMap((struct, g) =>
            blocks.map((words, r): Call => {
              if (before === undefined) return { kernel: "faBackwardRows", struct, words };
              // After clearing, and that block of the head before.
              const calls = 1 + (order!.acrossHeads ? ofHeads.length - 1 : g) * blocks.length + r + 1;
              return { kernel: "faBackwardRows", struct, words, after: { chain: chains[before][part], calls } };
            }),
          );
          return builder.chain([{ kernel: "faBackwardClear", struct: ofHeads[0], words: [] }, ...ofRows]);
        });
      }
      overKeys("faBackwardFinish");
    }

    return () => {
      if (sinkStep) {
        const each = module.HEAPF64.subarray(dsinks / 8, dsinks / 8 + sums);
        addUp(each, parts, (_, h) => h, problem, 1);
        module._faRound(tensors.dsinks!, DTYPE_CODES[sinkStep.dtype], dsinks, H);
      }
      if (!bias || bias.inPlace) return;
      const dtype = DTYPE_CODES[bias.dtype];
      if (ownBias > 0) {
        const each = module.HEAPF64.subarray(dbias / 8, dbias / 8 + sums * ownBias);
        addUp(each, parts, (b, h) => biasOffset(bias, b, h) / ownBias, problem, ownBias);
        module._faRound(tensors.dbias!, dtype, dbias, bias.elements);
      } else module._faCast(tensors.dbias!, dtype, dbias, DTYPE_CODES.float32, bias.elements);
    };
  });
}

function biasOffset(bias: BiasGradient | undefined, b: number, h: number): number {
  return bias ? b * bias.operand.strides[0] + h * bias.operand.strides[1] : 0;
}

/**
 * Which (batch, key head) comes before another on the same dbias, and whether that is another head of the same batch.
 * Undefined where each (batch, head) has a dbias of its own.
 */
function sharedBiasOrder({ B, H, Hkv }: AttentionProblem, bias: BiasGradient | undefined) {
  const acrossBatches = bias !== undefined && B > 1 && bias.operand.shape[0] === 1;
  const acrossHeads = bias !== undefined && H > 1 && bias.operand.shape[1] === 1;
  if (!acrossBatches && !acrossHeads) return undefined;
  const before = (b: number, hkv: number): number | undefined => {
    const n = b * Hkv + hkv;
    if (acrossHeads) return (acrossBatches ? n : hkv) > 0 ? n - 1 : undefined;
    return b > 0 ? n - Hkv : undefined;
  };
  return { acrossHeads, before };
}

/**
 * Adds up the sums of each (batch, head) and part, in that order, at the places that `target` names, in place: a target is
 * never behind what is still to be read.
 */
function addUp(
  each: Float64Array,
  parts: number,
  target: (b: number, h: number) => number,
  { B, H }: AttentionProblem,
  length: number,
): void {
  const seen = new Set<number>();
  for (let b = 0; b < B; b++) {
    for (let h = 0; h < H; h++) {
      const to = target(b, h);
      for (let part = 0; part < parts; part++) {
        const from = (b * H + h) * parts + part;
        if (!seen.has(to)) each.copyWithin(to * length, from * length, (from + 1) * length);
        else for (let n = 0; n < length; n++) each[to * length + n] += each[from * length + n];
        seen.add(to);
      }
    }
  }
}

function linearLayout(problem: LinearProblem, tile: Tile): Layout {
  const [shared, scratch] = split(linearPieces(problem, tile), ["y"]);
  return { shared, scratch: scratch as Layout["scratch"] };
}

/** No call should take much longer than the calling thread may keep other events waiting. */
const FLOPS_PER_CALL = 2 ** 28;

function prepareLinear(
  module: FaWasmModule,
  problem: LinearProblem,
  tile: Tile,
  tensors: Addresses,
  { threads, blockRows }: Means,
): Workload {
  const { op, M, N, K, split: widths } = problem;
  const forward = op === "linear";
  const layout = linearLayout(problem, tile);
  return built(new WorkloadBuilder(module, LINEAR_PARAMS, LINEAR_BLOCK, layout, threads), (builder) => {
    const { y } = builder.shared;
    widths.forEach((width, n) => {
      const data = tensors[forward ? `y${n}` : `dy${n}`]!;
      writeFields(module.HEAP32.subarray((y + n * sizeOf(PART)) / 4), PART, { data, width });
    });
    const { x, weight, bias = 0, dx = 0, dweight = 0, dbias = 0 } = tensors;
    const sizes = { M, N, K, Mc: tile.q, Nc: tile.kv, Kc: LINEAR_DEPTH, blockRows, parts: widths.length };
    const pointers = { dtype: DTYPE_CODES[problem.dtype], x: x!, weight: weight!, bias, y, dx, dweight, dbias };
    const struct = builder.struct(sizes, pointers, builder.scratch);

    /** A product by blocks: columns first, since packing a block of columns is done once for all its rows. */
    const product = (kernel: Call["kernel"], rows: number, columns: number, depth: number): void => {
      if (threads === 1) {
        builder.chain([{ kernel, struct, words: [0, rows, 0, columns] }]);
        return;
      }
      const columnBlocks = Math.ceil(columns / tile.kv);
      const enough = Math.ceil((4 * threads) / columnBlocks);
      const small = Math.ceil((2 * rows * tile.kv * depth) / FLOPS_PER_CALL);
      const rowStep = Math.ceil(Math.ceil(rows / Math.max(enough, small)) / tile.q) * tile.q;
      for (let column = 0; column < columns; column += tile.kv) {
        for (let row = 0; row < rows; row += rowStep) {
          const words = [row, Math.min(row + rowStep, rows), column, Math.min(column + tile.kv, columns)];
          builder.chain([{ kernel, struct, words }]);
        }
      }
    };
    if (forward) product("faLinear", M, N, K);
    else {
      product("faLinearGradX", M, K, N);
      product("faLinearGradWeight", N, K, M);
      const width = threads === 1 ? N : tile.kv;
      for (let n = 0; n < N; n += width)
        builder.chain([{ kernel: "faLinearGradBias", struct, words: [0, 1, n, Math.min(n + width, N)] }]);
    }
  });
}

const CAST_LAYOUT: Layout = { shared: {}, scratch: { params: 0 } };
/** Elements of a call, for several threads: some hundred microseconds. */
const CAST_STEP = 2 ** 18;

function prepareCast(
  module: FaWasmModule,
  { dtype, resultDType, elements }: CastProblem,
  tensors: Addresses,
  { threads }: Means,
): Workload {
  return built(new WorkloadBuilder(module, {}, {}, CAST_LAYOUT, threads), (builder) => {
    const [from, to] = [DTYPE_CODES[dtype], DTYPE_CODES[resultDType]];
    const [fromBytes, toBytes] = [bytesPerElement(dtype), bytesPerElement(resultDType)];
    const most = threads === 1 ? elements || 1 : CAST_STEP;
    for (let n = 0; n < elements; n += most) {
      const [target, source] = [tensors.y! + n * toBytes, tensors.x! + n * fromBytes];
      builder.chain([{ kernel: "faCast", words: [target, to, source, from, Math.min(most, elements - n)] }]);
    }
  });
}

/** A workload that has its memory back if filling it fails. `fill` gives what is to be done at the end. */
function built(builder: WorkloadBuilder, fill: (builder: WorkloadBuilder) => (() => void) | void): Workload {
  try {
    return builder.build(fill(builder) ?? undefined);
  } catch (error) {
    builder.release();
    throw error;
  }
}

function clear(module: FaWasmModule, address: number, bytes: number): void {
  module.HEAPU8.fill(0, address, address + bytes);
}

function sizeFields(problem: AttentionProblem, tile: Tile): Values {
  const { Skv, D, Dv, program } = problem;
  const strides = stridesOf(problem);
  return {
    Skv,
    D,
    Dv,
    Br: tile.q,
    Bc: tile.kv,
    dtype: DTYPE_CODES[problem.dtype],
    resultDtype: DTYPE_CODES[problem.resultDType],
    scale: step(program, "scale")!.scale,
    qStride: strides.q.row,
    kStride: strides.k.row,
    vStride: strides.v.row,
    outStride: strides.out.row,
  };
}

function stridesOf({ layout, H, Hkv, Sq, Skv, D, Dv }: AttentionProblem): Record<"q" | "k" | "v" | "out", RowStrides> {
  return {
    q: rowStrides(layout, H, Sq, D),
    k: rowStrides(layout, Hkv, Skv, D),
    v: rowStrides(layout, Hkv, Skv, Dv),
    out: rowStrides(layout, H, Sq, Dv),
  };
}

type RowTensor = "q" | "k" | "v" | "out" | "dq" | "dk" | "dv" | "dout";

/** Address of row 0 of a (batch, head) of a tensor. A gradient lies as its tensor does. */
function rowAddresses(problem: AttentionProblem, tensors: Addresses) {
  const { q, k, v, out } = stridesOf(problem);
  const strides = { q, k, v, out, dq: q, dk: k, dv: v, dout: out };
  const inputs = bytesPerElement(problem.dtype);
  const results = bytesPerElement(problem.resultDType);
  const bytes = { q: inputs, k: inputs, v: inputs, out: results, dq: results, dk: results, dv: results, dout: results };
  return (name: RowTensor, b: number, h: number): number =>
    tensors[name]! + (b * strides[name].batch + h * strides[name].head) * bytes[name];
}

/** Where lse of a (batch, head) begins; 0 when it is not asked for. */
function lseAddress({ H, Sq }: AttentionProblem, { lse }: Addresses, b: number, h: number): number {
  return lse === undefined ? 0 : lse + (b * H + h) * Sq * 4;
}

/** A side of a band that is unbounded, or beyond any distance of two positions: the sum of two still fits an i32. */
const FAR = 2 ** 30 - 1;
const clampBand = (x: number): number => Math.max(-FAR, Math.min(FAR, x));

/** The score program as far as all heads have it. */
function scoreFields({ Sq, Skv, program }: AttentionProblem): Values {
  const bias = step(program, "bias");
  const dropout = step(program, "dropout");
  const { lo, hi } = bandOf(program);
  const mask = step(program, "visibility")?.mask;
  return {
    softcap: step(program, "softcap")?.cap ?? 0,
    biasDtype: bias ? DTYPE_CODES[bias.dtype] : 0,
    biasRowStride: bias?.operand.strides[2] ?? 0,
    biasKeyStride: bias?.operand.strides[3] ?? 0,
    diagonal: Skv - Sq,
    bandLo: clampBand(lo),
    bandHi: clampBand(hi),
    maskRowStride: mask?.strides[2] ?? 0,
    maskKeyStride: mask?.strides[3] ?? 0,
    dropout: dropout ? 1 : 0,
    dropBelow: dropout ? keepThreshold(dropout.p) : 0,
    keepScale: dropout ? keepScale(dropout.p) : 1,
    seedLow: dropout?.seedLow ?? 0,
    seedHigh: dropout?.seedHigh ?? 0,
    dropoutOffset: dropout?.offset ?? 0,
  };
}

/** What a (batch, head) has of its own. Slopes and sinks are few: they become float32 once and are passed by value. */
function headFields(
  module: FaWasmModule,
  { B, H, program }: AttentionProblem,
  tensors: Addresses,
  scratch: { readonly slopes: number; readonly sinks: number },
): (b: number, h: number) => Values {
  const bias = step(program, "bias");
  const alibi = step(program, "alibi");
  const sinks = step(program, "sinks");
  const mask = step(program, "visibility")?.mask;
  if (alibi) toFloat32(module, alibi.dtype, tensors.alibiSlopes!, scratch.slopes, alibi.perBatch ? B * H : H);
  if (sinks) toFloat32(module, sinks.dtype, tensors.sinks!, scratch.sinks, H);
  return (b, h) => ({
    bias: bias
      ? tensors.bias! + (b * bias.operand.strides[0] + h * bias.operand.strides[1]) * bytesPerElement(bias.dtype)
      : 0,
    mask: mask ? tensors.mask! + b * mask.strides[0] + h * mask.strides[1] : 0,
    slope: alibi ? module.HEAPF32[scratch.slopes / 4 + (alibi.perBatch ? b * H + h : h)] : 0,
    sink: sinks ? module.HEAPF32[scratch.sinks / 4 + h] : -Infinity,
    dropoutHead: b * H + h,
  });
}

function toFloat32(module: FaWasmModule, dtype: FloatDType, from: number, to: number, elements: number): void {
  module._faCast(to, DTYPE_CODES.float32, from, DTYPE_CODES[dtype], elements);
}

function bandOf(program: AttentionProblem["program"]): Band {
  return step(program, "visibility")?.band ?? { lo: -Infinity, hi: Infinity };
}

/** A block of rows, and the keys that it sees, for the end of a struct. */
function block(problem: AttentionProblem, rowBegin: number, tile: Tile): number[] {
  const rowCount = Math.min(tile.q, problem.Sq - rowBegin);
  const { begin, fullBegin, fullEnd, end } = keyRange(
    bandOf(problem.program),
    rowBegin,
    rowBegin + rowCount,
    problem.Skv,
  );
  return blockWords({ rowBegin, rowCount, keyBegin: begin, fullBegin, fullEnd, keyEnd: end });
}

function blockWords(values: Values): number[] {
  return Object.keys(BLOCK).map((name) => values[name] ?? 0);
}
