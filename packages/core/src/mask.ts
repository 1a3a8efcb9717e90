/**
 * Which keys a query row sees. Causal (both alignments) and window all lower to one band; the user's mask comes on top.
 */

/** Key j is inside the band of row i iff i + lo <= j <= i + hi. Unbounded sides are -Infinity and Infinity. */
export interface Band {
  readonly lo: number;
  readonly hi: number;
}

export const EVERYTHING: Band = { lo: -Infinity, hi: Infinity };

export type Causal = false | "bottom-right" | "top-left";

/**
 * The band of causal and window together. Both count from i' = i + Skv - Sq, the bottom-right diagonal, except causal
 * "top-left", which counts from i.
 * @param window [left, right] in keys, -1 = unbounded
 */
export function bandOf(Sq: number, Skv: number, causal: Causal, window: readonly [number, number]): Band {
  const diagonal = Skv - Sq;
  const [left, right] = window;
  const causalHi = causal === "top-left" ? 0 : causal === "bottom-right" ? diagonal : Infinity;
  return {
    lo: left === -1 ? -Infinity : diagonal - left,
    hi: Math.min(causalHi, right === -1 ? Infinity : diagonal + right),
  };
}

export function inBand(band: Band, i: number, j: number): boolean {
  return j >= i + band.lo && j <= i + band.hi;
}

/** Keys of a block of rows: `[begin, end)` are seen by some row, of which `[fullBegin, fullEnd)` by every row. */
export interface VisibleRange {
  readonly begin: number;
  readonly fullBegin: number;
  readonly fullEnd: number;
  readonly end: number;
}

const NOTHING: VisibleRange = { begin: 0, fullBegin: 0, fullEnd: 0, end: 0 };

/** The keys that rows `[rowBegin, rowEnd)` see, of `keys` in all. Outside `[begin, end)` nothing need be touched. */
export function keyRange(band: Band, rowBegin: number, rowEnd: number, keys: number): VisibleRange {
  const first = rowBegin;
  const last = rowEnd - 1;
  if (last < first || band.lo > band.hi) return NOTHING;
  return range(first + band.lo, last + band.lo, first + band.hi, last + band.hi, keys);
}

/** The rows that see some key of `[keyBegin, keyEnd)`, of `rows` in all: `keyRange` seen from the other side. */
export function rowRange(band: Band, keyBegin: number, keyEnd: number, rows: number): VisibleRange {
  const first = keyBegin;
  const last = keyEnd - 1;
  if (last < first || band.lo > band.hi) return NOTHING;
  return range(first - band.hi, last - band.hi, first - band.lo, last - band.lo, rows);
}

function range(anyLo: number, allLo: number, allHi: number, anyHi: number, size: number): VisibleRange {
  const clamp = (x: number): number => Math.min(Math.max(x, 0), size);
  const begin = clamp(anyLo);
  const end = Math.max(begin, clamp(anyHi + 1));
  const fullBegin = Math.min(Math.max(clamp(allLo), begin), end);
  const fullEnd = Math.min(Math.max(clamp(allHi + 1), fullBegin), end);
  return { begin, fullBegin, fullEnd, end };
}

/** How much of a tile of scores is visible: nothing, something, or all of it. */
export type TileVisibility = "empty" | "partial" | "full";

/** Rows `[i0, i1)` by keys `[j0, j1)`, as far as the band alone decides. */
export function tileInBand(band: Band, i0: number, i1: number, j0: number, j1: number): TileVisibility {
  const { begin, fullBegin, fullEnd, end } = keyRange(band, i0, i1, j1);
  if (Math.max(begin, j0) >= Math.min(end, j1)) return "empty";
  return fullBegin <= j0 && j1 <= fullEnd ? "full" : "partial";
}

/** A tensor that broadcasts over [B, H, Sq, Skv]: its strides in elements, 0 along a dimension of size 1. */
export interface Broadcast {
  /** The tensor's own shape: each dimension is the problem's or 1. */
  readonly shape: readonly [number, number, number, number];
  readonly strides: readonly [number, number, number, number];
}

export function broadcast(shape: readonly [number, number, number, number]): Broadcast {
  const [b, h, i, j] = shape;
  const strides = [b === 1 ? 0 : h * i * j, h === 1 ? 0 : i * j, i === 1 ? 0 : j, j === 1 ? 0 : 1] as const;
  return { shape, strides };
}

export function offsetIn({ strides }: Broadcast, b: number, h: number, i: number, j: number): number {
  return b * strides[0] + h * strides[1] + i * strides[2] + j * strides[3];
}

/** What a tile shows once the user's mask is looked at too. `mask` holds one byte an element, not 0 = may attend. */
export function tileVisibility(
  { band, mask }: { readonly band: Band; readonly mask?: Broadcast | undefined },
  bytes: Uint8Array | undefined,
  [b, h]: readonly [number, number],
  [i0, i1]: readonly [number, number],
  [j0, j1]: readonly [number, number],
): TileVisibility {
  const inside = tileInBand(band, i0, i1, j0, j1);
  if (inside === "empty" || !mask || !bytes) return inside;
  let some = false;
  let all = true;
  for (let i = i0; i < i1; i++) {
    for (let j = j0; j < j1; j++) {
      const visible = inBand(band, i, j) && bytes[offsetIn(mask, b, h, i, j)] !== 0;
      some ||= visible;
      all &&= visible;
    }
  }
  if (!some) return "empty";
  return all ? "full" : "partial";
}

/** How many (i, j) pairs the band lets through: what attention's arithmetic is counted by. */
export function visiblePairs(band: Band, Sq: number, Skv: number): number {
  let pairs = 0;
  for (let i = 0; i < Sq; i++) {
    const { begin, end } = keyRange(band, i, i + 1, Skv);
    pairs += end - begin;
  }
  return pairs;
}
