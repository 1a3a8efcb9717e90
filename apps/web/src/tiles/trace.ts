/** The tiled algorithm on small input, with what it held after each tile kept to be looked at. */
import { attentionProblem, EVERYTHING, philox4x32, step, tileInBand, type AttentionProblem } from "@fa/core";
import { naiveAttention, tiledAttention, type AttentionData, type TileEvent } from "@fa/core/reference";

export interface Settings {
  /** Sequence length of q, k and v. */
  readonly S: number;
  readonly Br: number;
  readonly Bc: number;
  readonly causal: boolean;
  /** Keys to the left and right of the diagonal that a row sees; -1 = unbounded. */
  readonly window: readonly [number, number];
  /** Names the numbers in q, k and v. */
  readonly seed: number;
}

/** Head dim of q, k and v. */
export const D = 4;

/** One tile of keys taken in by one block of rows. */
export interface Step extends Pick<TileEvent, "rows" | "keys" | "visibility" | "S" | "P" | "m" | "l" | "acc"> {
  /** [Br] m and l before this tile. */
  readonly before: { readonly m: Float64Array; readonly l: Float64Array };
  /** [Br] what acc and l were rescaled by. */
  readonly alpha: Float64Array;
  /** [Br, D] acc / l: attention over the keys seen so far. */
  readonly out: Float64Array;
  /** [Br] largest distance of a row of out from the exact one. */
  readonly error: Float64Array;
  /** Tiles of this block of rows are all taken in: out is the result. */
  readonly last: boolean;
}

export interface Trace {
  readonly settings: Settings;
  readonly steps: readonly Step[];
  /** [S, D] by the definition. */
  readonly exact: Float64Array;
  /** Whether row i sees key j. */
  readonly visible: (i: number, j: number) => boolean;
  /** Tiles of which no pair is visible: never touched. */
  readonly emptyTiles: number;
}

export function traceOf(settings: Settings): Trace {
  const { S, Br, Bc, causal, window, seed } = settings;
  const spec = { shape: [1, S, D], dtype: "float32" } as const;
  const problem = attentionProblem({ q: spec, k: spec, v: spec }, { causal, window });
  const data = numbersOf(S, seed);
  const exact = naiveAttention(problem, data).out;
  const steps: Step[] = [];
  tiledAttention(problem, data, { q: Br, kv: Bc }, (event) => steps.push(stepOf(event, steps.at(-1), exact)));
  const tiles = Math.ceil(S / Br) * Math.ceil(S / Bc);
  return {
    settings,
    steps: steps.map((one, n) => ({ ...one, last: steps[n + 1]?.rows[0] !== one.rows[0] })),
    exact,
    visible: visibleIn(problem),
    emptyTiles: tiles - steps.length,
  };
}

/** Multiples of 1/8 in [-2, 2): short enough to be read. */
function numbersOf(S: number, seed: number): AttentionData {
  const of = (stream: number): Float64Array =>
    Float64Array.from({ length: S * D }, (_, n) => ((philox4x32([n, stream, 0, 0], [seed, 0])[0] >>> 27) - 16) / 8);
  return { q: of(0), k: of(1), v: of(2) };
}

/** The event's arrays are live: what is kept is copied. */
function stepOf(event: TileEvent, previous: Step | undefined, exact: Float64Array): Step {
  const { rows, keys, visibility, S, P } = event;
  const m = event.m.slice();
  const l = event.l.slice();
  const acc = event.acc.slice();
  const Br = rows[1] - rows[0];
  const before =
    previous?.rows[0] === rows[0]
      ? { m: previous.m, l: previous.l }
      : { m: new Float64Array(Br).fill(-Infinity), l: new Float64Array(Br) };
  const out = acc.map((sum, n) => (l[Math.floor(n / D)] === 0 ? 0 : sum / l[Math.floor(n / D)]));
  return {
    rows,
    keys,
    visibility,
    S,
    P,
    m,
    l,
    acc,
    before,
    // -Infinity - -Infinity is NaN: a row that has seen nothing has nothing to rescale.
    alpha: m.map((max, r) => (before.m[r] === -Infinity ? 0 : Math.exp(before.m[r] - max))),
    out,
    error: m.map((_, r) => {
      const distances = Array.from({ length: D }, (__, d) => Math.abs(out[r * D + d] - exact[(rows[0] + r) * D + d]));
      return Math.max(...distances);
    }),
    last: false,
  };
}

function visibleIn({ program }: AttentionProblem): Trace["visible"] {
  const band = step(program, "visibility")?.band ?? EVERYTHING;
  return (i, j) => tileInBand(band, i, i + 1, j, j + 1) === "full";
}
