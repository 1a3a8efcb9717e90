/**
 * The structs of `c/params.h`: the same fields in the same order, 4 bytes each. A test compares the two.
 */
import type { FloatDType } from "@fa/core";

export type FieldType = "u32" | "i32" | "f32" | "pointer";
export type Fields = Readonly<Record<string, FieldType>>;
export type Values = Readonly<Record<string, number>>;

/** dtype codes of `c/dtype.h`. */
export const DTYPE_CODES: Readonly<Record<FloatDType, number>> = { float32: 0, float16: 1, bfloat16: 2, float8e4m3: 3 };

export const SCORE_PARAMS: Fields = {
  softcap: "f32",
  bias: "pointer",
  biasDtype: "u32",
  biasRowStride: "u32",
  biasKeyStride: "u32",
  slope: "f32",
  diagonal: "i32",
  bandLo: "i32",
  bandHi: "i32",
  mask: "pointer",
  maskRowStride: "u32",
  maskKeyStride: "u32",
  dropout: "u32",
  dropBelow: "u32",
  keepScale: "f32",
  seedLow: "u32",
  seedHigh: "u32",
  dropoutOffset: "u32",
  dropoutHead: "u32",
};

/** The block of rows, and what it sees: the fields that change from call to call, at the end of the structs. */
export const BLOCK: Fields = {
  rowBegin: "u32",
  rowCount: "u32",
  keyBegin: "u32",
  fullBegin: "u32",
  fullEnd: "u32",
  keyEnd: "u32",
};

const SIZES: Fields = {
  Skv: "u32",
  D: "u32",
  Dv: "u32",
  Br: "u32",
  Bc: "u32",
  blockRows: "u32",
  dtype: "u32",
  resultDtype: "u32",
  scale: "f32",
  sink: "f32",
};

export const FORWARD_PARAMS: Fields = {
  ...SCORE_PARAMS,
  ...SIZES,
  q: "pointer",
  k: "pointer",
  v: "pointer",
  out: "pointer",
  lse: "pointer",
  qStride: "u32",
  kStride: "u32",
  vStride: "u32",
  outStride: "u32",
  kColumns: "pointer",
  vPanels: "pointer",
  vFinite: "pointer",
  qRows: "pointer",
  scores: "pointer",
  scoresLow: "pointer",
  acc: "pointer",
  rowMax: "pointer",
  rowTop: "pointer",
  rowSum: "pointer",
  rowScale: "pointer",
  line: "pointer",
  heads: "u32",
  qHeadStride: "u32",
  outHeadStride: "u32",
  biasHeadStride: "u32",
  maskHeadStride: "u32",
  slopes: "pointer",
  sinks: "pointer",
  ...BLOCK,
};

export const BACKWARD_PARAMS: Fields = {
  ...SCORE_PARAMS,
  ...SIZES,
  q: "pointer",
  k: "pointer",
  v: "pointer",
  out: "pointer",
  lse: "pointer",
  dout: "pointer",
  dq: "pointer",
  dk: "pointer",
  dv: "pointer",
  dsink: "pointer",
  dbias: "pointer",
  dbiasDouble: "u32",
  dbiasRowStride: "u32",
  dbiasKeyStride: "u32",
  qStride: "u32",
  kStride: "u32",
  vStride: "u32",
  outStride: "u32",
  kColumns: "pointer",
  vColumns: "pointer",
  kPanels: "pointer",
  kFinite: "pointer",
  dkAcc: "pointer",
  dvAcc: "pointer",
  parts: "u32",
  dkPart: "u32",
  dvPart: "u32",
  qRows: "pointer",
  qPanels: "pointer",
  doutRows: "pointer",
  doutPanels: "pointer",
  outRows: "pointer",
  dqAcc: "pointer",
  probs: "pointer",
  grads: "pointer",
  probsLow: "pointer",
  capGrads: "pointer",
  rowLse: "pointer",
  rowLseLow: "pointer",
  rowTotal: "pointer",
  delta: "pointer",
  line: "pointer",
  ...BLOCK,
};

/** The part of the result that a call computes. */
export const LINEAR_BLOCK: Fields = {
  rowBegin: "u32",
  rowEnd: "u32",
  columnBegin: "u32",
  columnEnd: "u32",
};

export const LINEAR_PARAMS: Fields = {
  M: "u32",
  N: "u32",
  K: "u32",
  Mc: "u32",
  Nc: "u32",
  Kc: "u32",
  blockRows: "u32",
  dtype: "u32",
  x: "pointer",
  weight: "pointer",
  bias: "pointer",
  y: "pointer",
  parts: "u32",
  dx: "pointer",
  dweight: "pointer",
  dbias: "pointer",
  aBlock: "pointer",
  bBlock: "pointer",
  cBlock: "pointer",
  line: "pointer",
  sums: "pointer",
  ...LINEAR_BLOCK,
};

export const PART: Fields = { data: "pointer", width: "u32" };

/** Bytes of a struct. */
export function sizeOf(fields: Fields): number {
  return layoutOf(fields).size * 4;
}

/**
 * Writes fields of a struct, given as its words; the others keep their values.
 * @throws RangeError for a name that the struct does not have
 */
export function writeFields(words: Int32Array, fields: Fields, values: Values): void {
  const { places, floats } = layoutOf(fields);
  for (const name in values) {
    const at = places.get(name);
    if (at === undefined) throw new RangeError(`no field ${name}`);
    words[at] = floats.has(at) ? bitsOf(values[name]) : values[name];
  }
}

const asFloat = new Float32Array(1);
const asBits = new Int32Array(asFloat.buffer);

function bitsOf(x: number): number {
  asFloat[0] = x;
  return asBits[0];
}

/** Words of a struct, where each field is, and which of the words are floats. */
interface StructLayout {
  readonly size: number;
  readonly places: ReadonlyMap<string, number>;
  readonly floats: ReadonlySet<number>;
}

/** Calls write hundreds of fields, so what does not change is kept. */
const layouts = new WeakMap<Fields, StructLayout>();

function layoutOf(fields: Fields): StructLayout {
  let layout = layouts.get(fields);
  if (!layout) {
    const names = Object.keys(fields);
    const places = new Map(names.map((name, n) => [name, n]));
    layout = {
      size: names.length,
      places,
      floats: new Set([...places.values()].filter((n) => fields[names[n]] === "f32")),
    };
    layouts.set(fields, layout);
  }
  return layout;
}
