/** What the wasm back end is required to reach, and the matches that tell. Shares are of the roof of the same run. */
import { attentionCase, type AttentionCase, type CaseOptions } from "./cases.ts";
import type { Match, MatchResult } from "./contest.ts";
import { byTitle, Findings, judgedBy, Lack, lackOf, median, type Rule } from "./findings.ts";
import { GRID, gridCase, gridMatches, matchOf, merged, OURS, PEERS } from "./matches.ts";
import type { Entry } from "./results.ts";
import type { TargetOutcome } from "./target.ts";

const H = GRID.heads;
const [D] = GRID.dims;

/** Measured outside any match, each in a way of its own. */
export interface Extras {
  /** Milliseconds from opening the back end to the end of its first call, each started afresh, by threads asked for. */
  readonly startUps: { readonly one: readonly number[]; readonly byDefault: readonly number[] };
  /** Of every `.wasm` file, compressed by gzip. */
  readonly gzippedBytes: Readonly<Record<string, number>>;
}

// ---- cases

const LONGEST = 16384;
const longest: AttentionCase = attentionCase({
  group: "contest",
  name: `${LONGEST}/${D}/causal`,
  title: `S ${LONGEST}, D ${D}, causal`,
  q: [1, H, LONGEST, D],
  options: { causal: true },
});

const backward = GRID.dims.map((dim) =>
  attentionCase({
    group: "contest",
    name: `backward/1024/${dim}`,
    title: `backward, S 1024, D ${dim}`,
    pass: "backward",
    q: [1, H, 1024, dim],
  }),
);

/** One query row of 32 heads over a cache of 4096 keys in 8. */
const decode = GRID.dims.map((dim) =>
  attentionCase({
    group: "contest",
    name: `decode/4096/${dim}`,
    title: `decode, Skv 4096, H 32, Hkv 8, D ${dim}`,
    q: [1, 32, 1, dim],
    kv: [1, 8, 4096, dim],
  }),
);

const special = (name: string, title: string, S: number, options: CaseOptions = {}): AttentionCase =>
  attentionCase({ group: "contest", name, title, q: [1, H, S, D], options });

const WINDOWED = 8192;
const whole = special(`${WINDOWED}/${D}/full`, `S ${WINDOWED}, D ${D}, full`, WINDOWED);
const windowed = special(`${WINDOWED}/${D}/window`, `S ${WINDOWED}, window 256`, WINDOWED, { window: [255, 0] });

const plainCase = gridCase(1024, D, false);
const optional = [
  special(`1024/${D}/bias`, "bias [1, H, S, S]", 1024, { bias: { shape: [1, H, 1024, 1024], dtype: "float32" } }),
  special(`1024/${D}/softcap`, "softcap 30", 1024, { softcap: 30 }),
  special(`1024/${D}/alibi`, "ALiBi", 1024, { alibiSlopes: { shape: [H], dtype: "float32" } }),
  special(`1024/${D}/dropout`, "dropout 0.1", 1024, { dropout: { p: 0.1, seed: 42 } }),
];
const halves = (["float16", "bfloat16"] as const).map((dtype) =>
  attentionCase({ group: "contest", name: `1024/${D}/${dtype}`, title: dtype, q: [1, H, 1024, D], dtype }),
);

const ours = (item: AttentionCase) => ({ contestant: OURS.one, item });

/** The case that is run once, for its memory; its time does not matter. */
export const MEMORY_CASE: AttentionCase = longest;
export const START_UP_CASE: AttentionCase = gridCase(256, D, false);

export function wasmMatches(): Match[] {
  return merged([
    ...gridMatches({ ...GRID, contestants: () => [OURS.one, OURS.two, PEERS.onnx] }),
    ...GRID.dims.map((dim) => {
      const item = gridCase(1024, dim, false);
      return matchOf([{ contestant: OURS.plain, item }], ["relaxed", "plain"]);
    }),
    ...backward.map((item) => matchOf([ours(item)])),
    ...decode.map((item) => matchOf([ours(item)], ["relaxed", "read"])),
    { ...matchOf([ours(windowed), ours(whole)]), title: "window 256 beside full" },
    ...[...optional, ...halves].map((item) => ({
      ...matchOf([ours(item), ours(plainCase)]),
      title: `${item.facts.title} beside plain, S 1024`,
    })),
  ]);
}

// ---- what was measured, by name

class WasmFindings extends Findings {
  readonly #memory: Entry;
  readonly extras: Extras;

  constructor(results: readonly MatchResult[], memory: Entry, extras: Extras) {
    super(results);
    this.#memory = memory;
    this.extras = extras;
  }

  memoryBytes(): number {
    const entry = this.#memory;
    if (entry.outcome !== "measured") throw lackOf(entry);
    if (entry.peakBytes === null) throw new Lack("skipped", "memory is not told");
    return entry.peakBytes;
  }
}

// ---- the targets

type WasmRule = Rule<WasmFindings>;

const LONG = [1024, 2048, 4096];

function grid(
  sizes: readonly number[],
  kinds: readonly boolean[],
  value: (found: WasmFindings, item: AttentionCase) => number,
) {
  const cases = GRID.dims.flatMap((dim) => sizes.flatMap((S) => kinds.map((causal) => gridCase(S, dim, causal))));
  return byTitle(cases, value);
}

const share =
  (threads: 1 | 2) =>
  (found: WasmFindings, item: AttentionCase): number =>
    found.gflops(threads === 1 ? OURS.one : OURS.two, item) / found.roof("relaxed") / threads;

const overOnnxruntime = (found: WasmFindings, item: AttentionCase): number =>
  found.ms(PEERS.onnx, item) / found.ms(OURS.one, item);

/** Bytes of keys and values over the time of a call. */
const readShare = (found: WasmFindings, item: AttentionCase): number =>
  readBytes(item) / (found.ms(OURS.one, item) / 1000) / found.rate("read", item);

const readBytes = ({ facts: { B, Hkv, Skv, D: dim } }: AttentionCase): number => 2 * B * Hkv * Skv * dim * 4;

/** The least time that reading and arithmetic allow, over the time of a call. */
const rooflineShare = (found: WasmFindings, item: AttentionCase): number =>
  Math.max(...leastMs(found, item)) / found.ms(OURS.one, item);

/** Of reading the keys and values, and of the arithmetic. */
const leastMs = (found: WasmFindings, item: AttentionCase): [number, number] => [
  (readBytes(item) / found.rate("read", item)) * 1000,
  item.facts.flops / found.roof("relaxed") / 1e6,
];

const times =
  (match: AttentionCase | undefined, beside: AttentionCase) =>
  (found: WasmFindings, item: AttentionCase): number =>
    found.ms(OURS.one, item, match ?? item) / found.ms(OURS.one, beside, match ?? item);

const OF_ROOF = "operations of visible pairs over the median time, over the roof of one thread";
const RULES: readonly WasmRule[] = [
  {
    id: "full",
    title: "one thread, S >= 1024, full: of the roof",
    required: 0.85,
    how: OF_ROOF,
    readings: grid(LONG, [false], share(1)),
  },
  {
    id: "causal",
    title: "one thread, S >= 1024, causal: of the roof",
    required: 0.78,
    how: OF_ROOF,
    readings: grid(LONG, [true], share(1)),
  },
  {
    id: "short",
    title: "one thread, S 256: of the roof",
    required: 0.7,
    how: OF_ROOF,
    readings: grid([256], [false, true], share(1)),
  },
  {
    id: "onnx-full",
    title: "one thread, S >= 512, full: faster than onnxruntime-web",
    required: 2.2,
    unit: "times",
    how: "its median time over ours, taking turns; where it fails there is no ratio",
    readings: grid([512, ...LONG], [false], overOnnxruntime),
  },
  {
    id: "onnx-causal",
    title: "one thread, S >= 512, causal: faster than onnxruntime-web",
    required: 4,
    unit: "times",
    how: "its median time over ours, taking turns; where it fails there is no ratio",
    readings: grid([512, ...LONG], [true], overOnnxruntime),
  },
  {
    id: "threads",
    title: "two threads, S >= 1024, full: of twice the roof",
    required: 0.8,
    how: OF_ROOF.replace("the roof", "twice the roof"),
    readings: grid(LONG, [false], share(2)),
  },
  {
    id: "threads-causal",
    title: "two threads, S >= 1024, causal: of twice the roof",
    required: 0.8,
    how: OF_ROOF.replace("the roof", "twice the roof"),
    readings: grid(LONG, [true], share(2)),
  },
  {
    id: "plain",
    title: "plain SIMD, S 1024, full: of the multiply and add roof",
    required: 0.8,
    how: "as above; the roof multiplies, then adds, in registers",
    readings: byTitle(
      GRID.dims.map((dim) => gridCase(1024, dim, false)),
      (found, item) => found.gflops(OURS.plain, item) / found.roof("plain"),
    ),
  },
  {
    id: "backward",
    title: "backward, one thread, S 1024: of the roof",
    required: 0.7,
    how: "2.5 times the operations of the forward",
    readings: byTitle(backward, share(1)),
  },
  {
    id: "decode",
    title: "decode: of the read bandwidth",
    required: 0.8,
    how: "bytes of keys and values over the median time, over the rate of a sum of as many bytes in place",
    readings: byTitle(decode, readShare),
  },
  {
    id: "decode-roofline",
    title: "decode: of the lower of read bandwidth and roof",
    required: 0.8,
    how: "the longer of the least times of reading and of the arithmetic, over the median time",
    readings: byTitle(decode, rooflineShare),
  },
  {
    id: "window",
    title: `window 256 at S ${WINDOWED}: of the time of full`,
    required: 0.1,
    bound: "at most",
    how: "median times, taking turns; window [255, 0] sees 3.1 % of the pairs",
    readings: byTitle([windowed], times(windowed, whole)),
  },
  {
    id: "options",
    title: "options at S 1024: times plain",
    required: 1.35,
    bound: "at most",
    unit: "times",
    how: "median times, taking turns",
    readings: byTitle(optional, times(undefined, plainCase)),
  },
  {
    id: "half",
    title: "half types at S 1024: times float32",
    required: 1.1,
    bound: "at most",
    unit: "times",
    how: "median times, taking turns",
    readings: byTitle(halves, times(undefined, plainCase)),
  },
  {
    id: "memory",
    title: `S ${LONGEST}: tensors and workspace`,
    required: 300e6,
    bound: "at most",
    unit: "bytes",
    how: "the most that the back end held in a call of its own; float32, H 8, D 64",
    readings: { [longest.facts.title]: (found) => found.memoryBytes() },
  },
  {
    id: "start-up",
    title: "start-up: instantiate and first call",
    required: 50,
    bound: "at most",
    unit: "ms",
    how: "median of fresh starts of Node, from opening the back end, modules loaded, to the end of the call",
    readings: {
      [`${START_UP_CASE.facts.title}, one thread`]: ({ extras }) => median(extras.startUps.one),
      [`${START_UP_CASE.facts.title}, threads by default`]: ({ extras }) => median(extras.startUps.byDefault),
    },
  },
  {
    id: "size",
    title: "size of the .wasm files together, gzipped",
    required: 64 * 1024,
    bound: "at most",
    unit: "bytes",
    how: "sum over the package's files",
    readings: {
      "all files": ({ extras: { gzippedBytes } }) => Object.values(gzippedBytes).reduce((sum, n) => sum + n, 0),
    },
  },
];

/** Every target with what was read for it. */
export function wasmTargets(results: readonly MatchResult[], memory: Entry, extras: Extras): TargetOutcome[] {
  const found = new WasmFindings(results, memory, extras);
  const rules = RULES.map((rule) =>
    rule.id.startsWith("decode") ? { ...rule, how: `${rule.how}; ${binding(found)}` } : rule,
  );
  return judgedBy(rules, found);
}

/** Which of the two limits binds decode: at group 4 in float32 it may be the arithmetic. */
function binding(found: WasmFindings): string {
  return decode
    .map((item) => {
      try {
        const [read, arithmetic] = leastMs(found, item);
        const binds = read > arithmetic ? "reading" : "the arithmetic";
        return `D ${item.facts.D}: reading takes ${read.toFixed(2)} ms, arithmetic ${arithmetic.toFixed(2)}: ${binds} binds`;
      } catch (error) {
        if (!(error instanceof Lack)) throw error;
        return `D ${item.facts.D}: ${error.message}`;
      }
    })
    .join("; ");
}
