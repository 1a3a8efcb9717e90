/** Runs plans: the loops over batches, heads and blocks of rows, around one call of a kernel each. */
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
  type LinearProblem,
  type RowStrides,
  type Tile,
} from "@fa/core";
import {
  BACKWARD_PARAMS,
  DTYPE_CODES,
  FORWARD_PARAMS,
  LINEAR_PARAMS,
  PART,
  sizeOf,
  writeFields,
  type Fields,
  type Values,
} from "./abi.ts";
import type { FaWasmModule } from "./module.ts";
import {
  backwardPieces,
  biasGradient,
  decodePieces,
  forwardPieces,
  layOut,
  linearPieces,
  LINEAR_DEPTH,
  totalBytes,
  type Pieces,
} from "./workspace.ts";

/** Address of each tensor of the call; a tensor that is not there is undefined. */
export type Addresses = Readonly<Record<string, number | undefined>>;

export function runForward(module: FaWasmModule, problem: AttentionProblem, tile: Tile, tensors: Addresses): void {
  const { B, H, Hkv, Sq } = problem;
  const group = H / Hkv;
  withWorkspace(module, forwardPieces(problem, tile), ({ params, slopes, sinks, ...pointers }) => {
    const write = writer(module, params, FORWARD_PARAMS);
    const at = rowAddresses(problem, tensors);
    const head = headFields(module, problem, tensors, { slopes: slopes, sinks: sinks });
    write({ ...sizeFields(problem, tile), ...pointers });
    for (let b = 0; b < B; b++) {
      for (let hkv = 0; hkv < Hkv; hkv++) {
        write({ k: at("k", b, hkv), v: at("v", b, hkv) });
        module._faForwardPack(params);
        for (let h = hkv * group; h < (hkv + 1) * group; h++) {
          write({ ...head(b, h), q: at("q", b, h), out: at("out", b, h), lse: lseAddress(problem, tensors, b, h) });
          for (let row = 0; row < Sq; row += tile.q) {
            write(block(problem, row, Math.min(tile.q, Sq - row)));
            module._faForwardRows(params);
          }
        }
      }
    }
  });
}

/** Few query rows: one call for all heads of a group. */
export function runDecode(module: FaWasmModule, problem: AttentionProblem, tile: Tile, tensors: Addresses): void {
  const { B, H, Hkv, Sq, program } = problem;
  const heads = H / Hkv;
  const { q, out } = stridesOf(problem);
  withWorkspace(module, decodePieces(problem, tile), ({ params, slopes, sinks, ...pointers }) => {
    const write = writer(module, params, FORWARD_PARAMS);
    const at = rowAddresses(problem, tensors);
    const head = headFields(module, problem, tensors, { slopes, sinks });
    const alibi = step(program, "alibi");
    write({ ...sizeFields(problem, tile), ...pointers, ...block(problem, 0, Sq), heads });
    write({
      qHeadStride: q.head,
      outHeadStride: out.head,
      biasHeadStride: step(program, "bias")?.operand.strides[1] ?? 0,
      maskHeadStride: step(program, "visibility")?.mask?.strides[1] ?? 0,
    });
    for (let b = 0; b < B; b++) {
      for (let hkv = 0; hkv < Hkv; hkv++) {
        const h = hkv * heads;
        write({ ...head(b, h), q: at("q", b, h), k: at("k", b, hkv), v: at("v", b, hkv) });
        write({ out: at("out", b, h), lse: lseAddress(problem, tensors, b, h) });
        write({
          slopes: alibi ? slopes + (alibi.perBatch ? b * H + h : h) * 4 : 0,
          sinks: step(program, "sinks") ? sinks + h * 4 : 0,
        });
        module._faDecode(params);
      }
    }
  });
}

export function runBackward(module: FaWasmModule, problem: AttentionProblem, tile: Tile, tensors: Addresses): void {
  const { B, H, Hkv, Sq, program } = problem;
  const group = H / Hkv;
  const sinkStep = step(program, "sinks");
  const bias = biasGradient(problem);
  withWorkspace(module, backwardPieces(problem, tile), (work) => {
    const { params, slopes, sinks, dsinks, dbias: dbiasWork, ...pointers } = work;
    const write = writer(module, params, BACKWARD_PARAMS);
    const at = rowAddresses(problem, tensors);
    const head = headFields(module, problem, tensors, { slopes: slopes, sinks: sinks });
    const dbias = bias?.inPlace ? tensors.dbias! : dbiasWork;
    const dbiasBytes = bias?.double ? 8 : 4;
    if (bias) module.HEAPU8.fill(0, dbias, dbias + bias.elements * dbiasBytes);
    if (sinkStep) module.HEAPU8.fill(0, dsinks, dsinks + H * 8);
    const gradientFields = (b: number, h: number): Values => ({
      dsink: sinkStep ? dsinks + h * 8 : 0,
      dbias: bias ? dbias + (b * bias.operand.strides[0] + h * bias.operand.strides[1]) * dbiasBytes : 0,
    });

    write({
      ...sizeFields(problem, tile),
      ...pointers,
      dbiasDouble: bias?.double ? 1 : 0,
      dbiasRowStride: bias?.operand.strides[2] ?? 0,
      dbiasKeyStride: bias?.operand.strides[3] ?? 0,
    });
    for (let b = 0; b < B; b++) {
      for (let hkv = 0; hkv < Hkv; hkv++) {
        write({ k: at("k", b, hkv), v: at("v", b, hkv), dk: at("dk", b, hkv), dv: at("dv", b, hkv) });
        module._faBackwardPack(params);
        for (let h = hkv * group; h < (hkv + 1) * group; h++) {
          write({
            ...head(b, h),
            ...gradientFields(b, h),
            q: at("q", b, h),
            dq: at("dq", b, h),
            out: at("out", b, h),
            dout: at("dout", b, h),
            lse: lseAddress(problem, tensors, b, h),
          });
          for (let row = 0; row < Sq; row += tile.q) {
            write(block(problem, row, Math.min(tile.q, Sq - row)));
            module._faBackwardRows(params);
          }
        }
        module._faBackwardFinish(params);
      }
    }

    if (sinkStep) module._faRound(tensors.dsinks!, DTYPE_CODES[sinkStep.dtype], dsinks, H);
    if (bias && !bias.inPlace) {
      const dtype = DTYPE_CODES[bias.dtype];
      if (bias.double) module._faRound(tensors.dbias!, dtype, dbias, bias.elements);
      else module._faCast(tensors.dbias!, dtype, dbias, DTYPE_CODES.float32, bias.elements);
    }
  });
}

export function runLinear(module: FaWasmModule, problem: LinearProblem, tile: Tile, tensors: Addresses): void {
  const { op, M, N, K, split } = problem;
  const forward = op === "linear";
  withWorkspace(module, linearPieces(problem, tile), ({ params, ...pointers }) => {
    split.forEach((width, n) => {
      const data = tensors[forward ? `y${n}` : `dy${n}`]!;
      writeFields(module.wasmMemory, pointers.y + n * sizeOf(PART), PART, { data, width });
    });
    const { x, weight, bias = 0, dx = 0, dweight = 0, dbias = 0 } = tensors;
    const write = writer(module, params, LINEAR_PARAMS);
    write({ M, N, K, Mc: tile.q, Nc: tile.kv, Kc: LINEAR_DEPTH, parts: split.length });
    write({ dtype: DTYPE_CODES[problem.dtype], x: x!, weight: weight!, bias, dx, dweight, dbias, ...pointers });
    if (forward) module._faLinear(params);
    else module._faLinearBackward(params);
  });
}

export function runCast(module: FaWasmModule, { dtype, resultDType, elements }: CastProblem, tensors: Addresses): void {
  const [from, to] = [DTYPE_CODES[dtype], DTYPE_CODES[resultDType]];
  module._faCast(tensors.y!, to, tensors.x!, from, elements);
}

/** Calls `use` with the address of each piece, in memory that is given back afterwards. */
function withWorkspace(module: FaWasmModule, pieces: Pieces, use: (addresses: Values) => void): void {
  const address = module.arena.allocate(totalBytes(pieces));
  try {
    use(layOut(pieces, address));
  } finally {
    module.arena.free(address);
  }
}

/** Writes to a struct that starts out as zeros: every step off, every pointer null. */
function writer(module: FaWasmModule, params: number, fields: Fields): (values: Values) => void {
  module.HEAPU8.fill(0, params, params + sizeOf(fields));
  return (values) => writeFields(module.wasmMemory, params, fields, values);
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

/** The score program of a (batch, head). Slopes and sinks are few: they become float32 once and are passed by value. */
function headFields(
  module: FaWasmModule,
  problem: AttentionProblem,
  tensors: Addresses,
  scratch: { readonly slopes: number; readonly sinks: number },
): (b: number, h: number) => Values {
  const { B, H, Sq, Skv, program } = problem;
  const cap = step(program, "softcap")?.cap ?? 0;
  const bias = step(program, "bias");
  const alibi = step(program, "alibi");
  const sinks = step(program, "sinks");
  const dropout = step(program, "dropout");
  const { lo, hi } = bandOf(problem);
  const mask = step(program, "visibility")?.mask;
  if (alibi) toFloat32(module, alibi.dtype, tensors.alibiSlopes!, scratch.slopes, alibi.perBatch ? B * H : H);
  if (sinks) toFloat32(module, sinks.dtype, tensors.sinks!, scratch.sinks, H);
  const fixed = {
    softcap: cap,
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
  return (b, h) => ({
    ...fixed,
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

function bandOf({ program }: AttentionProblem): Band {
  return step(program, "visibility")?.band ?? { lo: -Infinity, hi: Infinity };
}

function block(problem: AttentionProblem, rowBegin: number, rowCount: number): Values {
  const { begin, fullBegin, fullEnd, end } = keyRange(bandOf(problem), rowBegin, rowBegin + rowCount, problem.Skv);
  return { rowBegin, rowCount, keyBegin: begin, fullBegin, fullEnd, keyEnd: end };
}
