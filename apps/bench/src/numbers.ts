import { philox4x32, type FloatDType, decode, encode } from "@fa/core";

/** Names one array of pseudo-random numbers: the same on every machine, in any order of asking. */
export interface Stream {
  readonly key: readonly [number, number];
  readonly stream: number;
  readonly factor: number;
}

/**
 * After so many elements the numbers of a stream begin again, so that tensors of a gigabyte are made by copying. A prime,
 * so that no row, head or batch is another one's twin.
 */
export const PERIOD: number = 2 ** 24 + 43;

/**
 * Multiples of 2^-8 in [-1, 1), times the factor: with a power of two exact in every dtype but float8. The formula that
 * the golden data is made by (golden/mha.json), so that neither side stores its inputs.
 * @param from the place in the stream of the first element
 */
export function generate(elements: number, { key, stream, factor }: Stream, from = 0): Float64Array {
  const values = new Float64Array(elements);
  const words = new Uint32Array(4);
  for (let n = 0, at = from % PERIOD; n < elements; n++, at++) {
    if (at === PERIOD) at = 0;
    if (at % 4 === 0 || n === 0) philox4x32([Math.floor(at / 4), stream, 0, 0], key, undefined, words);
    values[n] = ((words[at % 4] | 0) >> 23) * 2 ** -8 * factor;
  }
  return values;
}

/**
 * The bytes of numbers that the dtype holds exactly: what core's `encode` gives, in a twentieth of its time where it
 * counts, in float16 and bfloat16.
 */
export function bytesOf(dtype: FloatDType, values: Float64Array): Uint8Array<ArrayBuffer> {
  if (dtype === "bfloat16") return bytesOfBfloat16(values);
  if (dtype !== "float16") return encode(dtype, values);
  const words = new Uint32Array(new Float32Array(values).buffer);
  const bits = new Uint16Array(words.length);
  for (let n = 0; n < words.length; n++) {
    const word = words[n];
    const exponent = ((word >>> 23) & 0xff) - 112;
    const isZero = word << 1 === 0;
    if ((exponent <= 0 || exponent > 30) && !isZero) return encode(dtype, values);
    bits[n] = ((word >>> 16) & 0x8000) | (isZero ? 0 : (exponent << 10) | ((word >>> 13) & 0x3ff));
  }
  return new Uint8Array(bits.buffer);
}

/** The upper halves of float32. */
function bytesOfBfloat16(values: Float64Array): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(new Float32Array(values).buffer);
  const bits = new Uint16Array(words.length);
  for (let n = 0; n < words.length; n++) {
    const word = words[n];
    if ((word & 0xffff) !== 0 || (word & 0x7fffffff) > 0x7f800000) return encode("bfloat16", values);
    bits[n] = word >>> 16;
  }
  return new Uint8Array(bits.buffer);
}

/** The nearest number of 11 significant bits, which float16 holds unless it is very small or large (Veltkamp's split). */
export function toElevenBits(x: number): number {
  const scaled = x * (2 ** 42 + 1);
  return scaled - (scaled - x);
}

/** The values as a tensor of the dtype would hold them. */
export function rounded(dtype: FloatDType, values: Float64Array): Float64Array {
  return dtype === "float32" ? Float64Array.from(values, Math.fround) : decode(dtype, encode(dtype, values));
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** The value a fraction q of the way through the sorted numbers. */
export function quantile(sorted: readonly number[], q: number): number {
  const at = q * (sorted.length - 1);
  const below = sorted[Math.floor(at)];
  const above = sorted[Math.ceil(at)];
  return below + (above - below) * (at - Math.floor(at));
}
