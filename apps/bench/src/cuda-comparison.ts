/** What a contest of CUDA says, as rows of tables, wherever they are shown. */
import type { AttentionCase } from "./cases.ts";
import { CUDA_OURS, CUDA_PEER, CUDA_QUICK_SCALE, CUDA_SCALE, CudaProgramme, type Pair } from "./cuda-targets.ts";
import { errorTable, lacking, speedCell, tflops, type GpuTable } from "./gpu-comparison.ts";
import { gflopsOf, isMeasured, type ContestFile, type Entry } from "./results.ts";
import { keyBytes } from "./webgpu-targets.ts";

/** What the numbers of the tables mean. */
export const CUDA_NOTE: string =
  "TFLOP/s of visible pairs, and in brackets how many times faster than PyTorch's; median of turns taken in one run, each entry " +
  "verified against float64 on sampled rows first; errors are root mean squares, of the error over the result";

/** "780 TFLOP/s PyTorch's product of ..., copying 3010 GB/s, read and written" */
export function cudaRoofs({ roof, gpu }: Pick<ContestFile, "roof" | "gpu">): string {
  const product = roof ? [`${tflops(roof.gflops)} TFLOP/s, ${roof.what}`] : [];
  const copy = gpu?.copyGBs ? [`copying ${gpu.copyGBs.toFixed(0)} GB/s, read and written`] : [];
  return [...product, ...copy].join("; ");
}

/** Tables of the grid, one a head dim, of decode, other dtypes and shapes, and errors; what nobody played is left out. */
export function cudaTables(file: ContestFile): GpuTable[] {
  const played = file.entries.filter(({ outcome }) => outcome !== "skipped");
  const programmes = [CUDA_SCALE, CUDA_QUICK_SCALE].map((scale) => new CudaProgramme(scale));
  const programme = programmes.find(({ grid }) => played.some(({ id }) => id === grid[0].facts.id));
  if (!programme) return [];
  const names = new Map(file.contestants.map(({ id, name }) => [id, name]));
  const dims = Map.groupBy(programme.grid, ({ facts }) => facts.D);
  const tables = [
    ...[...dims.values()].map((cases) => gridTable(cases, played)),
    decodeTable(programme.decode, played, file),
    speedTable("float32", programme.float32, played, "memory-efficient attention"),
    shortTable(programme.callCase, played),
    pairTable("shapes", programme.ragged, played),
    pairTable("float16", programme.halves, played),
    errorTable(played, names, ["bfloat16", "float16", "float32"]),
  ];
  return tables.filter(({ rows }) => rows.length > 0);
}

/** The entry of a case that ours and the peer met on. */
function entryOf(played: readonly Entry[], contestant: string, { facts }: AttentionCase): Entry | undefined {
  return played.find((entry) => entry.contestant === contestant && entry.id === facts.id);
}

/** Ours and the peer's. */
function cellsOf(played: readonly Entry[], item: AttentionCase): string[] {
  const [own, peer] = [CUDA_OURS, CUDA_PEER].map((id) => entryOf(played, id, item));
  return [speedCell(own, peer), speedCell(peer, undefined)];
}

const wasPlayed =
  (played: readonly Entry[]) =>
  ({ facts }: AttentionCase): boolean =>
    played.some(({ id }) => id === facts.id);

function gridTable(cases: readonly AttentionCase[], played: readonly Entry[]): GpuTable {
  const { dtype, D, H, B, Sq } = cases[0].facts;
  const sizes = Map.groupBy(cases.filter(wasPlayed(played)), ({ facts }) => facts.Sq);
  const rows = [...sizes].map(([S, kinds]) => {
    const of = (causal: boolean): string[] => {
      const item = kinds.find(({ facts }) => facts.causal === causal);
      return item ? cellsOf(played, item) : ["-", "-"];
    };
    return [`S ${S}, B ${kinds[0].facts.B}`, ...of(false), ...of(true)];
  });
  return {
    heading: `${dtype}, H ${H}, D ${D}, B S ${B * Sq}`,
    head: ["case", "full", "cuDNN", "causal", "cuDNN"],
    rows,
  };
}

function speedTable(
  heading: string,
  cases: readonly AttentionCase[],
  played: readonly Entry[],
  peer: string,
): GpuTable {
  const rows = cases.filter(wasPlayed(played)).map((item) => {
    const { B, H, D, Sq } = item.facts;
    return [`S ${Sq}, B ${B}, H ${H}, D ${D}`, ...cellsOf(played, item)];
  });
  return { heading, head: ["case", "ours", peer], rows };
}

function decodeTable(cases: readonly AttentionCase[], played: readonly Entry[], { gpu }: ContestFile): GpuTable {
  const { dtype, H, Hkv, D } = cases[0].facts;
  const rows = cases.filter(wasPlayed(played)).map((item) => {
    const [own, peer] = [CUDA_OURS, CUDA_PEER].map((id) => entryOf(played, id, item));
    const rate = own && isMeasured(own) ? readGBs(own) : undefined;
    const share = rate && gpu?.copyGBs ? `${((100 * rate) / gpu.copyGBs).toFixed(0)} %` : "-";
    return [`B ${item.facts.B}, Skv ${item.facts.Skv}`, readCell(own, peer), share, readCell(peer, undefined)];
  });
  return {
    heading: `decode, ${dtype}, H ${H}, Hkv ${Hkv}, D ${D}`,
    head: ["case", "GB/s of keys and values", "of copying", "cuDNN, GB/s"],
    rows,
  };
}

function readGBs(entry: Extract<Entry, { outcome: "measured" }>): number {
  return keyBytes(entry) / entry.timing.medianMs / 1e6;
}

function readCell(entry: Entry | undefined, peer: Entry | undefined): string {
  if (!entry) return "-";
  if (!isMeasured(entry)) return lacking(entry);
  const times = peer && isMeasured(peer) ? ` (${(readGBs(entry) / readGBs(peer)).toFixed(2)}x)` : "";
  return `${readGBs(entry).toFixed(0)}${times}`;
}

/** One call after another: where the processor is slower than the GPU, what shows is the processor. */
function shortTable(item: AttentionCase, played: readonly Entry[]): GpuTable {
  const { B, H, Sq, D, dtype } = item.facts;
  const cells = [CUDA_OURS, CUDA_PEER].map((id) => {
    const entry = entryOf(played, id, item);
    if (!entry) return "-";
    return isMeasured(entry) ? `${(1000 * entry.timing.medianMs).toFixed(1)} µs` : lacking(entry);
  });
  const rows = wasPlayed(played)(item) ? [[`B ${B}, H ${H}, S ${Sq}, D ${D}, ${dtype}`, ...cells]] : [];
  return { heading: "short calls, one after another", head: ["case", "ours", "cuDNN"], rows };
}

/** A pair's first entry is followed by the one that it took turns with. */
function pairTable(heading: string, pairs: readonly Pair[], played: readonly Entry[]): GpuTable {
  const rows = pairs.flatMap(({ item, plain }) => {
    const at = played.findIndex(({ id }, n) => id === item.facts.id && played[n + 1]?.id === plain.facts.id);
    if (at === -1) return [];
    const [entry, beside] = [played[at], played[at + 1]];
    const share =
      isMeasured(entry) && isMeasured(beside) ? `${((100 * gflopsOf(entry)) / gflopsOf(beside)).toFixed(1)} %` : "-";
    return [[item.facts.title, speedCell(entry, undefined), plain.facts.title, speedCell(beside, undefined), share]];
  });
  return { heading, head: ["case", "ours", "beside", "ours", "of it"], rows };
}
