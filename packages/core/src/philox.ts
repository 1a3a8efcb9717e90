/**
 * Philox4x32, the counter-based generator behind dropout (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). Stateless, so every back end draws the same bits for the same element, whatever its tiling.
 */

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

/** Rounds that dropout uses: the fewest that pass the published statistical tests. */
export const DROPOUT_ROUNDS = 7;

/** High 32 bits of the 64-bit product of two unsigned 32-bit numbers. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(carry / 0x10000)) >>> 0;
}

/**
 * Four pseudo-random 32-bit words for a counter and a key, written to `out`.
 * @param counter four unsigned 32-bit words
 * @param key two unsigned 32-bit words
 */
export function philox4x32(
  counter: ArrayLike<number>,
  key: ArrayLike<number>,
  rounds: number = DROPOUT_ROUNDS,
  out: Uint32Array = new Uint32Array(4),
): Uint32Array {
  let c0 = counter[0];
  let c1 = counter[1];
  let c2 = counter[2];
  let c3 = counter[3];
  let k0 = key[0];
  let k1 = key[1];
  for (let round = 0; round < rounds; round++) {
    const high0 = mulHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const high1 = mulHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
  return out;
}

/** Dropout as the score program carries it: probability, the key and the offset, ready for a kernel. */
export interface DropoutKey {
  readonly p: number;
  readonly seedLow: number;
  readonly seedHigh: number;
  readonly offset: number;
}

/** An element is kept iff its 16-bit draw is at least this. */
export function keepThreshold(p: number): number {
  return Math.round(p * 65536);
}

/** What kept probabilities are multiplied with: 1 / (1 - p), and 0 when p = 1 keeps none. */
export function keepScale(p: number): number {
  return p < 1 ? 1 / (1 - p) : 0;
}

/**
 * The dropout mask of one (batch, head): `keep(i, j)` for query row i and key j.
 * Eight neighbouring keys share one Philox call, of which the last is remembered.
 */
export function dropoutMask(dropout: DropoutKey, batchHead: number): (i: number, j: number) => boolean {
  const threshold = keepThreshold(dropout.p);
  const key = [dropout.seedLow, dropout.seedHigh];
  const words = new Uint32Array(4);
  let group = -1;
  let row = -1;
  return (i, j) => {
    const wanted = Math.floor(j / 8);
    if (wanted !== group || i !== row) {
      [group, row] = [wanted, i];
      philox4x32([group, row, batchHead, dropout.offset], key, DROPOUT_ROUNDS, words);
    }
    const draw = j % 8;
    const word = words[draw >> 1];
    return (draw % 2 ? word >>> 16 : word & 0xffff) >= threshold;
  };
}
