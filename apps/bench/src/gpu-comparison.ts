/** What a contest on a GPU says, as rows of tables, wherever they are shown. */
import { gflopsOf, isMeasured, type ContestFile, type Entry, type GpuIdentity, type MeasuredEntry } from "./results.ts";
import { GPU_PEER, keyBytes } from "./webgpu-targets.ts";

export interface GpuTable {
  readonly heading: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** What the numbers of the tables mean. */
export const GPU_NOTE: string =
  "TFLOP/s of visible pairs, and in brackets how many times faster than onnxruntime; median of turns taken in one run, each entry " +
  "verified against float64 on sampled rows first; errors are root mean squares, of the error over the result";

/** "62.9 TFLOP/s float32 multiply-add, 640 TFLOP/s subgroup matrices, copying 2755 GB/s" */
export function gpuRoofs({ roof, gpu }: Pick<ContestFile, "roof" | "gpu">): string {
  const matrix = gpu?.matrixGflops ? [`${tflops(gpu.matrixGflops)} TFLOP/s subgroup matrices`] : [];
  const copy = gpu?.copyGBs ? [`copying a buffer ${gpu.copyGBs.toPrecision(4)} GB/s, read and written`] : [];
  const multiplyAdd = roof ? [`${tflops(roof.gflops)} TFLOP/s float32 multiply-add`] : [];
  return [...multiplyAdd, ...matrix, ...copy].join(", ");
}

export function gpuName({ adapter, driver, webgpu, cuda }: GpuIdentity): string {
  return [adapter, `driver ${driver}`, webgpu, cuda].filter(Boolean).join(", ");
}

/** One table a dtype and head dim, one of ramped keys, one of decode; what nobody played is left out. */
export function gpuTables(file: ContestFile): GpuTable[] {
  const names = new Map(file.contestants.map(({ id, name }) => [id, name]));
  const played = file.entries.filter(({ outcome }) => outcome !== "skipped");
  const whole = played.filter(({ id, Sq, Skv }) => Sq === Skv && !isRamped(id));
  const groups = Map.groupBy(whole, ({ dtype, H, D }) => `${dtype}, H ${H}, D ${D}`);
  const speeds = [...groups].map(([heading, group]) => speedTable(heading, group, names));
  const tables = [
    ...speeds,
    rampedTable(played),
    decodeTable(file, played, names),
    errorTable(played, names, ["float16", "float32"]),
  ];
  return tables.filter(({ rows }) => rows.length > 0);
}

const isRamped = (id: string): boolean => id.endsWith("/ramped");

function speedTable(heading: string, group: readonly Entry[], names: ReadonlyMap<string, string>): GpuTable {
  const contestants = [...new Set(group.map(({ contestant }) => contestant))].toSorted(peersLast);
  const cases = [...Map.groupBy(group, ({ id }) => id).values()];
  const ordered = cases.toSorted(([a], [b]) => a.Sq - b.Sq || Number(a.causal) - Number(b.causal));
  const rows = ordered.map((members) => {
    const of = (id: string): Entry | undefined => members.find(({ contestant }) => contestant === id);
    const [{ Sq, causal }] = members;
    return [`S ${Sq}, ${causal ? "causal" : "full"}`, ...contestants.map((id) => speedCell(of(id), of(GPU_PEER)))];
  });
  return { heading, head: ["case", ...contestants.map((id) => names.get(id)!)], rows };
}

const peersLast = (a: string, b: string): number => Number(a === GPU_PEER) - Number(b === GPU_PEER);

/** "231 (1.1x)": TFLOP/s, and how many times faster than the peer. */
export function speedCell(entry: Entry | undefined, peer: Entry | undefined): string {
  if (!entry) return "-";
  if (!isMeasured(entry)) return lacking(entry);
  const rate = tflops(gflopsOf(entry));
  if (!peer || peer === entry || !isMeasured(peer)) return rate;
  const times = peer.timing.medianMs / entry.timing.medianMs;
  return `${rate} (${peer.contestant === GPU_PEER ? times.toPrecision(2) : times.toFixed(2)}x)`;
}

/** A ramped entry is followed by the plain one that it took turns with. */
function rampedTable(played: readonly Entry[]): GpuTable {
  const rows = played.flatMap((ramped, n) => {
    if (!isRamped(ramped.id)) return [];
    const plain = played[n + 1];
    const name = `S ${ramped.Sq}, D ${ramped.D}`;
    return [[name, speedCell(plain, undefined), speedCell(ramped, undefined), errorCell(plain), errorCell(ramped)]];
  });
  return {
    heading: "float16, tier matrix, keys ramped 1 to 10 times",
    head: ["case", "plain", "ramped", "error, plain", "error, ramped"],
    rows,
  };
}

function decodeTable({ gpu }: ContestFile, played: readonly Entry[], names: ReadonlyMap<string, string>): GpuTable {
  const entries = played.filter(({ Sq, Skv }) => Sq === 1 && Skv > 1);
  const rows = entries.map((entry) => {
    const name = names.get(entry.contestant)!;
    if (!isMeasured(entry)) return [name, lacking(entry), "-", "-"];
    const gbs = keyBytes(entry) / entry.timing.medianMs / 1e6;
    const share = gpu?.copyGBs ? `${((100 * gbs) / gpu.copyGBs).toFixed(0)} %` : "-";
    return [name, `${(1000 * entry.timing.medianMs).toFixed(1)} µs`, gbs.toFixed(0), share];
  });
  return {
    heading: entries[0]?.title ?? "decode",
    head: ["", "on the device", "GB/s of keys and values", "of copying"],
    rows,
  };
}

/** What ran, and how far from the truth its worst case was; without ramped keys. */
export function errorTable(
  played: readonly Entry[],
  names: ReadonlyMap<string, string>,
  dtypes: readonly Entry["dtype"][],
): GpuTable {
  const plain = played.filter(isMeasured).filter(({ id }) => !isRamped(id));
  const rows = [...Map.groupBy(plain, ({ contestant }) => contestant)].map(([contestant, entries]) => {
    const kernels = [...new Set(entries.map(({ kernel = "-" }) => kernel))].join(", ");
    const worst = (dtype: Entry["dtype"]): string => {
      const errors = entries
        .filter((entry) => entry.dtype === dtype)
        .map((entry) => entry.verification.meanSquareError);
      return errors.length === 0 ? "-" : Math.sqrt(Math.max(...errors)).toExponential(1);
    };
    return [names.get(contestant)!, kernels, ...dtypes.map(worst)];
  });
  return { heading: "largest error", head: ["", "kernels", ...dtypes], rows };
}

function errorCell(entry: Entry | undefined): string {
  return entry && isMeasured(entry) ? Math.sqrt(entry.verification.meanSquareError).toExponential(1) : "-";
}

const LONGEST_REASON = 32;

/** "WRONG", or "fails" and the beginning of the reason. */
export function lacking(entry: Exclude<Entry, MeasuredEntry>): string {
  if (entry.outcome === "wrong") return "WRONG";
  const [reason] = entry.reason.split(/[:;,(.]/, 1);
  return `fails: ${reason.length > LONGEST_REASON ? `${reason.slice(0, LONGEST_REASON).trimEnd()}...` : reason.trim()}`;
}

export function tflops(gflops: number): string {
  const value = gflops / 1000;
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
