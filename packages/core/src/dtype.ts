import { refuse, show } from "./errors.ts";

/** Element types, by the names that WebNN and ONNX Runtime use. `float8e4m3` is OCP E4M3 (finite, no infinities). */
export type DType = "float32" | "float16" | "bfloat16" | "float8e4m3" | "int32" | "bool";
/** The element types that q, k and v may have. */
export type FloatDType = Exclude<DType, "int32" | "bool">;

export const DTYPES: readonly DType[] = ["float32", "float16", "bfloat16", "float8e4m3", "int32", "bool"];
export const FLOAT_DTYPES: readonly FloatDType[] = ["float32", "float16", "bfloat16", "float8e4m3"];

const BYTES: Readonly<Record<DType, number>> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  float8e4m3: 1,
  int32: 4,
  bool: 1,
};

export function bytesPerElement(dtype: DType): number {
  return BYTES[dtype];
}

export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype !== "int32" && dtype !== "bool";
}

/**
 * The type of out, dq, dk and dv for inputs of a type: their own, except that float8 inputs give bfloat16,
 * since three bits of mantissa without a scale would throw most of the result away.
 */
export function resultDType(dtype: FloatDType): FloatDType {
  return dtype === "float8e4m3" ? "bfloat16" : dtype;
}

/** The typed arrays that tensors are made of and read back as. */
export type TensorData =
  | Float32Array<ArrayBufferLike>
  | Float16Array<ArrayBufferLike>
  | Uint16Array<ArrayBufferLike>
  | Uint8Array<ArrayBufferLike>
  | Int32Array<ArrayBufferLike>;

/** The `Float16Array` of this platform, where it has one (Node >= 24 and current browsers). */
const Float16 = (globalThis as { Float16Array?: Float16ArrayConstructor }).Float16Array;

/**
 * The bytes of a tensor as the typed array of its dtype: `float16` as `Float16Array` where the platform has it and as
 * `Uint16Array` of raw bits where not, `bfloat16` as `Uint16Array`, `float8e4m3` and `bool` as `Uint8Array`.
 */
export function typedArray(dtype: DType, bytes: Uint8Array<ArrayBuffer>): TensorData {
  const { buffer, byteOffset, byteLength } = bytes;
  const length = byteLength / BYTES[dtype];
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer, byteOffset, length);
    case "float16":
      return Float16 ? new Float16(buffer, byteOffset, length) : new Uint16Array(buffer, byteOffset, length);
    case "bfloat16":
      return new Uint16Array(buffer, byteOffset, length);
    case "int32":
      return new Int32Array(buffer, byteOffset, length);
    default:
      return bytes;
  }
}

/** Which dtypes a kind of typed array may be given as; the first is taken when none is named. */
const DTYPES_OF_ARRAY: Readonly<Record<string, { implied?: DType; accepts: readonly DType[] }>> = {
  Float32Array: { implied: "float32", accepts: ["float32"] },
  Float16Array: { implied: "float16", accepts: ["float16"] },
  Uint16Array: { accepts: ["float16", "bfloat16"] },
  Uint8Array: { implied: "bool", accepts: ["bool", "float8e4m3"] },
  Int32Array: { implied: "int32", accepts: ["int32"] },
};

/** "Float32Array" and so on by the getter that all typed arrays share, so arrays of other realms are known too. */
const typedArrayTag = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag)!;

/**
 * The dtype of data given to `fa.tensor`: from the array, or as named where the array leaves it open.
 * @throws FaError FA_DTYPE when the array is of no accepted kind or does not hold the dtype named
 */
export function dtypeOf(where: string, data: unknown, named: unknown): DType {
  const kind = typedArrayTag.get!.call(data) as string | undefined;
  const entry = kind === undefined ? undefined : DTYPES_OF_ARRAY[kind];
  if (!entry) {
    refuse("FA_DTYPE", {
      where: `${where}(data)`,
      rule: "data must be a Float32Array, Float16Array, Uint16Array, Uint8Array or Int32Array",
      got: show(data),
      fix: "Convert it, for example with Float32Array.from(data).",
    });
  }
  if (named === undefined) {
    if (entry.implied) return entry.implied;
    refuse("FA_DTYPE", {
      where: `${where}(dtype)`,
      rule: `a ${kind} needs a dtype, ${entry.accepts.map(show).join(" or ")}`,
      got: "none",
      fix: `Pass { shape, dtype: ${show(entry.accepts[0])} }.`,
    });
  }
  const dtype = checkDType(`${where}(dtype)`, named);
  if (!entry.accepts.includes(dtype)) {
    refuse("FA_DTYPE", {
      where: `${where}(dtype)`,
      rule: `a ${kind} holds ${entry.accepts.map(show).join(" or ")}`,
      got: show(dtype),
      fix: "Pass the array that belongs to the dtype, or make the tensor and use fa.cast.",
    });
  }
  return dtype;
}

/** @throws FaError FA_DTYPE unless the value is one of the dtype names */
export function checkDType(where: string, value: unknown): DType {
  if (DTYPES.includes(value as DType)) return value as DType;
  refuse("FA_DTYPE", {
    where,
    rule: `dtype must be one of ${DTYPES.join(", ")}`,
    got: show(value),
    fix: "Use one of these names.",
  });
}

/** A binary floating-point format narrower than float32. */
interface Format {
  readonly mantissaBits: number;
  /** Exponent of the smallest normal number: 2^minExponent. */
  readonly minExponent: number;
  readonly max: number;
  readonly overflow: "infinity" | "saturate";
}

const FORMATS: Readonly<Record<"float16" | "bfloat16" | "float8e4m3", Format>> = {
  float16: { mantissaBits: 10, minExponent: -14, max: 65504, overflow: "infinity" },
  bfloat16: { mantissaBits: 7, minExponent: -126, max: 2 ** 127 * (2 - 2 ** -7), overflow: "infinity" },
  float8e4m3: { mantissaBits: 3, minExponent: -6, max: 448, overflow: "saturate" },
};

/**
 * The number of a dtype that is nearest to x, ties to even, in one rounding from float64 (going through float32 first
 * would round twice). float8e4m3 saturates at +-448, as GPUs and ONNX convert; the others overflow to infinity.
 */
export function roundTo(dtype: FloatDType, x: number): number {
  if (dtype === "float32") return Math.fround(x);
  const { mantissaBits, minExponent, max, overflow } = FORMATS[dtype];
  if (x === 0 || Number.isNaN(x)) return x;
  const size = Math.abs(x);
  const exponent = Math.max(exponentOf(size), minExponent);
  const quantum = 2 ** (exponent - mantissaBits);
  const rounded = Number.isFinite(x) ? roundHalfEven(size / quantum) * quantum : size;
  const result = rounded <= max ? rounded : overflow === "saturate" ? max : Infinity;
  return x < 0 ? -result : result;
}

/** Adding and subtracting 2^52 leaves no bits below the ones, rounded half to even by the addition. */
function roundHalfEven(x: number): number {
  return x < 2 ** 52 ? x + 2 ** 52 - 2 ** 52 : x;
}

const scratch = new DataView(new ArrayBuffer(8));

/** floor(log2 x) of a positive finite normal number, exactly. */
function exponentOf(x: number): number {
  scratch.setFloat64(0, x);
  return ((scratch.getUint32(0) >>> 20) & 0x7ff) - 1023;
}

/** The bits of a value that the format represents exactly. */
function bitsOf(dtype: "float16" | "bfloat16" | "float8e4m3", value: number): number {
  const { mantissaBits, minExponent } = FORMATS[dtype];
  const width = dtype === "float8e4m3" ? 8 : 16;
  const exponentBits = width - 1 - mantissaBits;
  const sign = value < 0 || Object.is(value, -0) ? 2 ** (width - 1) : 0;
  const allOnes = 2 ** exponentBits - 1;
  if (Number.isNaN(value)) return dtype === "float8e4m3" ? 0x7f : allOnes * 2 ** mantissaBits + 2 ** (mantissaBits - 1);
  const size = Math.abs(value);
  if (size === Infinity) return sign + allOnes * 2 ** mantissaBits;
  if (size < 2 ** minExponent) return sign + size / 2 ** (minExponent - mantissaBits);
  const exponent = exponentOf(size);
  return sign + (exponent - minExponent + 1) * 2 ** mantissaBits + (size / 2 ** exponent - 1) * 2 ** mantissaBits;
}

function valueOf(dtype: "float16" | "bfloat16" | "float8e4m3", bits: number): number {
  const { mantissaBits, minExponent } = FORMATS[dtype];
  const width = dtype === "float8e4m3" ? 8 : 16;
  const allOnes = 2 ** (width - 1 - mantissaBits) - 1;
  const sign = bits >>> (width - 1) ? -1 : 1;
  const exponent = (bits >>> mantissaBits) & allOnes;
  const mantissa = bits & (2 ** mantissaBits - 1);
  if (dtype === "float8e4m3") {
    if ((bits & 0x7f) === 0x7f) return NaN;
  } else if (exponent === allOnes) return mantissa ? NaN : sign * Infinity;
  if (exponent === 0) return sign * mantissa * 2 ** (minExponent - mantissaBits);
  return sign * (1 + mantissa / 2 ** mantissaBits) * 2 ** (exponent - 1 + minExponent);
}

/** Reads the elements of a tensor's bytes as float64. */
export function decode(dtype: DType, bytes: Uint8Array<ArrayBuffer>): Float64Array {
  const narrow = narrowBits(dtype, bytes);
  if (narrow) return Float64Array.from(narrow.bits, (bits) => valueOf(narrow.dtype, bits));
  return Float64Array.from(typedArray(dtype, bytes) as Float32Array);
}

/** The bytes of values rounded once to a dtype. */
export function encode(dtype: DType, values: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(values.length * BYTES[dtype]);
  const narrow = narrowBits(dtype, bytes);
  if (narrow) {
    for (let n = 0; n < values.length; n++) narrow.bits[n] = bitsOf(narrow.dtype, roundTo(narrow.dtype, values[n]));
  } else if (dtype === "bool") {
    for (let n = 0; n < values.length; n++) bytes[n] = values[n] ? 1 : 0;
  } else {
    (typedArray(dtype, bytes) as Float32Array).set(values);
  }
  return bytes;
}

function narrowBits(dtype: DType, { buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>) {
  if (dtype === "float8e4m3") return { dtype, bits: new Uint8Array(buffer, byteOffset, byteLength) } as const;
  if (dtype === "float16" || dtype === "bfloat16") {
    return { dtype, bits: new Uint16Array(buffer, byteOffset, byteLength / 2) } as const;
  }
  return undefined;
}
