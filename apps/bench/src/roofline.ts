/**
 * Results under what the machine allows: its arithmetic, or what its memory moves a second times a case's arithmetic intensity.
 * @see Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009
 */
import type { Roof } from "@fa/core";
import { rate } from "./columns.ts";
import {
  gflopsOf,
  isMeasured,
  roofOf,
  type Bandwidth,
  type Entry,
  type Measured,
  type Outcome,
  type ResultsFile,
} from "./results.ts";
import { GPU_OURS } from "./webgpu-targets.ts";

export interface Roofs {
  /** Of arithmetic, the highest last. */
  readonly arithmetic: readonly Roof[];
  readonly bandwidth: Bandwidth | null;
}

/** A measured case in its place. */
export interface Point {
  readonly id: string;
  readonly title: string;
  /** Who: the back end, or the contestant. */
  readonly who: string;
  /** Flop a byte that has to be moved at least. */
  readonly intensity: number;
  readonly gflops: number;
  /** What the machine allows at that intensity, in GFLOP/s; null where no roof is known. */
  readonly bound: number | null;
  readonly boundBy: "arithmetic" | "memory" | "unknown";
}

export interface Roofline {
  readonly roofs: Roofs;
  readonly points: readonly Point[];
}

/** Every measured case of a file, in its place. */
export function rooflineOf(file: ResultsFile): Roofline {
  const roofs = roofsOf(file);
  const whoOf = runnersOf(file);
  const points = outcomesOf(file)
    .filter(isMeasured)
    .map((one): Point => {
      const { id, flops, bytes } = one;
      const intensity = flops / bytes;
      const arithmetic = arithmeticOf(file, one);
      const memory = roofs.bandwidth ? roofs.bandwidth.gbs * intensity : Infinity;
      const bound = Math.min(arithmetic ?? Infinity, memory);
      return {
        id,
        title: nameOf(one),
        who: whoOf(one),
        intensity,
        gflops: gflopsOf(one),
        bound: bound === Infinity ? null : bound,
        boundBy: bound === Infinity ? "unknown" : memory < (arithmetic ?? Infinity) ? "memory" : "arithmetic",
      };
    });
  return { roofs, points };
}

/** Every case of a file, with every contestant. */
export function outcomesOf(file: ResultsFile): readonly (Outcome | Entry)[] {
  return file.kind === "run" ? file.outcomes : file.entries;
}

/** Who ran a case: the back end, or the contestant with its threads. */
export function runnersOf(file: ResultsFile): (outcome: Outcome | Entry) => string {
  if (file.kind === "run") return () => file.backend.name;
  const names = new Map(
    file.contestants.map(({ id, name, threads }) => [id, threads > 1 ? `${name}, ${threads} threads` : name]),
  );
  return (entry) => names.get((entry as Entry).contestant) ?? (entry as Entry).contestant;
}

/** With the pass and the dtype, where headings would tell them. */
function nameOf({ group, title, pass, Sq, dtype }: Measured): string {
  return group === "run" ? [Sq === 1 ? "decode" : pass, dtype, title].join(", ") : title;
}

function roofsOf(file: ResultsFile): Roofs {
  if (file.kind === "run") {
    const { roof, matrixRoof, bandwidth } = file;
    return { arithmetic: [roof, ...(matrixRoof ? [matrixRoof] : [])], bandwidth };
  }
  const { roof, gpu, contestOf, contestants } = file;
  const threads =
    contestOf === "wasm" ? Math.max(1, ...contestants.filter((c) => c.takesPart).map((c) => c.threads)) : 1;
  const arithmetic: Roof[] = roof ? [roof] : [];
  if (roof && threads > 1) arithmetic.push({ gflops: roof.gflops * threads, what: `the same, ${threads} threads` });
  if (gpu?.matrixGflops) arithmetic.push({ gflops: gpu.matrixGflops, what: "matrix units" });
  const bandwidth = gpu?.copyGBs ? { gbs: gpu.copyGBs, what: "copying a buffer, read and written" } : null;
  return { arithmetic, bandwidth };
}

/** GFLOP/s of the units that a case may use; null where they were not measured. */
function arithmeticOf(file: ResultsFile, one: Outcome | Entry): number | null {
  if (file.kind === "run") return roofOf(file, one).gflops;
  const { roof, gpu, contestants } = file;
  const { contestant } = one as Entry;
  const usesMatrices = contestant === GPU_OURS.matrix || contestant === GPU_OURS.float16Scores;
  if (usesMatrices) return gpu?.matrixGflops ?? null;
  const threads = contestants.find(({ id }) => id === contestant)?.threads ?? 1;
  return roof && roof.gflops * threads;
}

export const ROOFLINE_COLUMNS = ["case", "flop/byte", "GFLOP/s", "bound", "of bound", "bound by"] as const;

export function rooflineCells({ title, intensity, gflops, bound, boundBy }: Point): string[] {
  return [
    title,
    String(Number(intensity.toPrecision(3))),
    rate(gflops),
    bound === null ? "-" : rate(bound),
    bound === null ? "-" : `${((100 * gflops) / bound).toFixed(0)} %`,
    boundBy,
  ];
}

/** What the numbers are of, for the lines under a table. */
export function rooflineNotes({ arithmetic, bandwidth }: Roofs): string[] {
  return [
    ...arithmetic.map(({ gflops, what }) => `arithmetic  ${rate(gflops)} GFLOP/s: ${what}`),
    bandwidth
      ? `memory      ${rate(bandwidth.gbs)} GB/s: ${bandwidth.what}`
      : "memory      its rate was not measured: every bound is that of arithmetic",
    "flop/byte   of what memory has to move at least; caches may spare more of it, and a case may then pass its bound",
  ];
}
